//! The refs of one push.

use gix::bstr::{BStr, BString, ByteSlice};

/// One ref that Git wants to change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PushCommand {
    /// Whether the new commit must descend from the one that the host runs.
    pub ancestry: Ancestry,
    /// What to put there.
    pub src: Source,
    /// The full name of the ref, exactly as Git wrote it, because the answer must repeat it.
    pub dst: BString,
}

/// Whether the new commit may go back or aside, as with a `+` before the refspec. This never waives the lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ancestry {
    /// The new commit must descend from the old one.
    Required,
    /// It need not descend: `-f`.
    Waived,
}

/// The left side of a refspec.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// Nothing: delete the ref.
    Delete,
    /// Text that names an object: `refs/heads/prod`, `HEAD`, `prod~3`, an id, a tag, a tree.
    Revision(BString),
}

/// A branch that is listed but that nobody would delete by name. A request to delete it reveals `--prune` or
/// `--mirror`.
pub const GUARD: &str = "refs/heads/deptool-prune-guard";

/// The kind of ref that a destination is. Only a branch can be a cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Destination<'a> {
    /// `refs/heads/<name>`.
    Branch(&'a BStr),
    /// [`GUARD`].
    Guard,
    /// `refs/tags/<name>`.
    Tag(&'a BStr),
    /// Anything else.
    Other,
}

impl PushCommand {
    /// The kind of ref that this command changes.
    pub fn destination(&self) -> Destination<'_> {
        if self.dst == GUARD {
            Destination::Guard
        } else if let Some(branch) = self.dst.strip_prefix(b"refs/heads/") {
            Destination::Branch(branch.as_bstr())
        } else if let Some(tag) = self.dst.strip_prefix(b"refs/tags/") {
            Destination::Tag(tag.as_bstr())
        } else {
            Destination::Other
        }
    }

    /// Whether the command deletes the ref.
    pub fn is_delete(&self) -> bool {
        self.src == Source::Delete
    }
}

/// All refs of one push to one url, in Git's order. Each destination occurs once.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PushBatch {
    commands: Vec<PushCommand>,
}

/// Git asked for two changes of the same ref.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("'{}' is pushed to twice", deptool_agent::shared::text::printable(.0))]
pub struct Duplicate(pub BString);

impl PushBatch {
    /// Add a line of the batch.
    pub fn add(&mut self, command: PushCommand) -> Result<(), Duplicate> {
        if self.commands.iter().any(|known| known.dst == command.dst) {
            return Err(Duplicate(command.dst));
        }
        self.commands.push(command);
        Ok(())
    }

    /// The commands, in Git's order.
    pub fn commands(&self) -> &[PushCommand] {
        &self.commands
    }

    /// The commands that change branches. Hosts have nothing else.
    pub fn branches(&self) -> impl Iterator<Item = (&PushCommand, &BStr)> {
        self.commands.iter().filter_map(|command| match command.destination() {
            Destination::Branch(name) => Some((command, name)),
            Destination::Guard | Destination::Tag(_) | Destination::Other => None,
        })
    }

    /// Why the batch contains deletions. Git does not say.
    ///
    /// Only `git push <host> :<cluster>`, with no other ref, counts as a request to remove everything.
    pub fn deletions_are(&self) -> Deletions {
        let is_pruning = self.commands.iter().any(|command| command.destination() == Destination::Guard);
        match (is_pruning, self.commands.len()) {
            (true, _) => Deletions::Pruned,
            (false, 0 | 1) => Deletions::Typed,
            (false, _) => Deletions::Accompanied,
        }
    }

    /// Why the batch contains tags. Git does not say: `--follow-tags` is not passed to helpers.
    ///
    /// A tag next to a branch is assumed to follow it and is ignored. A push of tags alone must fail, or Git would
    /// print *Everything up-to-date*. The other case of tags alone is `push.followTags` with a branch that is up to
    /// date, so `follow_tags` is the configuration.
    pub fn tags_are(&self, follow_tags: FollowTags) -> Tags {
        match (follow_tags, self.branches().next()) {
            (FollowTags::Configured, _) | (FollowTags::NotConfigured, Some(_)) => Tags::Followed,
            (FollowTags::NotConfigured, None) => Tags::Asked,
        }
    }
}

/// The value of `push.followTags`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FollowTags {
    /// Git adds annotated tags to every push.
    Configured,
    /// Git adds tags only with `--follow-tags`.
    NotConfigured,
}

/// Why a batch contains deletions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Deletions {
    /// The operator asked for a single deletion.
    Typed,
    /// `--prune` or `--mirror`: Git deletes refs that do not exist in this repository.
    Pruned,
    /// Other refs are pushed at the same time.
    Accompanied,
}

/// Why a batch contains tags.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tags {
    /// Git added them. They are ignored.
    Followed,
    /// The operator asked for them. They are refused.
    Asked,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn push(dst: &str) -> PushCommand {
        PushCommand { ancestry: Ancestry::Required, src: Source::Revision("HEAD".into()), dst: dst.into() }
    }

    fn batch(dsts: &[&str]) -> PushBatch {
        let mut batch = PushBatch::default();
        for dst in dsts {
            batch.add(push(dst)).unwrap();
        }
        batch
    }

    #[test]
    fn a_destination_can_not_be_given_twice() {
        let mut batch = batch(&["refs/heads/prod"]);
        assert!(batch.add(push("refs/heads/prod")).is_err());
        assert_eq!(batch.commands().len(), 1);
    }

    #[test]
    fn a_deletion_is_typed_if_it_is_alone() {
        let delete = |dst: &str| PushCommand { src: Source::Delete, ..push(dst) };
        let of = |commands: Vec<PushCommand>| {
            let mut batch = PushBatch::default();
            commands.into_iter().for_each(|command| batch.add(command).unwrap());
            batch.deletions_are()
        };
        assert_eq!(of(vec![delete("refs/heads/prod")]), Deletions::Typed);
        assert_eq!(of(vec![delete("refs/heads/prod"), push("refs/heads/main")]), Deletions::Accompanied);
        assert_eq!(of(vec![delete("refs/heads/prod"), delete(GUARD)]), Deletions::Pruned);
    }

    #[test]
    fn a_tag_beside_a_branch_followed_it() {
        let no = FollowTags::NotConfigured;
        assert_eq!(batch(&["refs/tags/v1", "refs/heads/prod"]).tags_are(no), Tags::Followed);
        assert_eq!(batch(&["refs/tags/v1"]).tags_are(no), Tags::Asked);
        assert_eq!(batch(&["refs/tags/v1"]).tags_are(FollowTags::Configured), Tags::Followed);
    }
}
