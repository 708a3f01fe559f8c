//! Generations: `generations/<n>/` has a link to the checkout of each app, and a note.
//!
//! The note (`.commit`) repeats what the store and `state/` record about the deployment, one fact per line. If those are
//! damaged, they are restored from the note.

use std::{collections::BTreeSet, fs, os::unix::fs::symlink, path::Path};

use crate::{
    host::state::{
        checkout,
        durable::{self, NOTE},
        error::{Context, HostError},
        layout::{Home, names, set_mode},
    },
    shared::{
        name::{AppName, ClusterName, HostName},
        ordered::Ordered as _,
        outcome::Goal,
        store::Store,
    },
};

/// How many generations are kept, including the current one.
const KEPT: usize = 5;
const NOTE_NAME: &str = ".commit";
/// The link to the decrypted secrets of a generation, see [`crate::host::secrets`].
pub const SECRETS: &str = ".secrets";

/// The facts about a generation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Note {
    pub commit: Goal,
    pub host: HostName,
    pub cluster: ClusterName,
    /// The host's own id.
    pub instance: String,
}

impl Note {
    fn text(&self) -> String {
        let commit = match self.commit {
            Goal::Commit(id) => id.to_string(),
            Goal::Nothing => "none".into(),
        };
        let Note { host, cluster, instance, .. } = self;
        format!("{commit}\nhost {host}\ncluster {cluster}\ninstance {instance}\n")
    }

    fn parse(text: &str) -> Option<Note> {
        let mut lines = text.lines();
        let commit = match lines.next()? {
            "none" => Goal::Nothing,
            id => Goal::Commit(id.parse().ok()?),
        };
        let host = HostName::parse(lines.next()?.strip_prefix("host ")?.as_bytes()).ok()?;
        let cluster = ClusterName::parse(lines.next()?.strip_prefix("cluster ")?.as_bytes()).ok()?;
        let instance = lines.next()?.strip_prefix("instance ")?.to_owned();
        Some(Note { commit, host, cluster, instance })
    }

    /// The note of generation `number`. `None` if it is missing or can't be parsed.
    pub fn read(home: &Home, number: u32) -> Option<Note> {
        let bytes = durable::read(&home.generation(number).join(NOTE_NAME), NOTE).ok()??;
        Note::parse(std::str::from_utf8(&bytes).ok()?)
    }

    /// The note of the current generation.
    pub fn current(home: &Home) -> Option<Note> {
        Note::read(home, current(home).ok()??)
    }
}

/// Write the directory of generation `number`. `secrets` is the target of the link to its decrypted secrets, if it has any.
pub fn write(
    home: &Home,
    number: u32,
    note: &Note,
    apps: &[(AppName, String)],
    secrets: Option<&str>,
) -> Result<(), HostError> {
    let directory = home.generation(number);
    durable::remove_all(&directory)?;
    fs::create_dir(&directory).during("create", &directory)?;
    set_mode(&directory, 0o755)?;
    for (app, tree) in apps {
        let link = directory.join(app.as_str());
        symlink(format!("../../trees/{tree}"), &link).during("make", &link)?;
    }
    if let Some(target) = secrets {
        let link = directory.join(SECRETS);
        symlink(target, &link).during("make", &link)?;
    }
    let path = directory.join(NOTE_NAME);
    fs::write(&path, note.text()).during("write", &path)
}

/// The generation that runs. If `current` is missing or damaged, the newest one of the deployed commit: it runs again as
/// soon as the link is put right.
pub fn current(home: &Home) -> Result<Option<u32>, HostError> {
    if let Some(number) = home.generation_of(&home.current())? {
        return Ok(Some(number));
    }
    let Some((_, commit)) = Store::deployed_at(&home.store())? else { return Ok(None) };
    let is_deployed = |number: &u32| Note::read(home, *number).is_some_and(|note| note.commit == Goal::Commit(commit));
    Ok(numbered(home)?.into_iter().filter(is_deployed).max())
}

/// The number for the next generation: one more than the highest.
pub fn next(home: &Home) -> Result<u32, HostError> {
    Ok(numbered(home)?.into_iter().max().unwrap_or(0) + 1)
}

/// Remove old generations, checkouts that no generation uses, and received blobs. Returns what could not be removed.
pub fn prune(home: &Home) -> Result<Vec<HostError>, HostError> {
    let in_use = [current(home)?, home.generation_of(&home.previous())?];
    let numbers = numbered(home)?.into_iter().into_set();
    // A generation that is newer than the current one was never kept.
    let current = in_use[0].unwrap_or(0);
    let kept: BTreeSet<u32> = numbers.iter().rev().filter(|n| **n <= current).take(KEPT).copied().into_set();
    let (mut trees, mut left) = (BTreeSet::new(), Vec::new());
    for number in numbers.into_iter().rev() {
        let directory = home.generation(number);
        if kept.contains(&number) || in_use.contains(&Some(number)) {
            trees.extend(trees_of(&directory)?);
        } else {
            left.extend(durable::remove_all(&directory).err());
        }
    }
    for name in names(&home.trees())? {
        let tree = name.trim_end_matches(".new").trim_end_matches(".files");
        if !trees.contains(tree) {
            let removed = checkout::remove(home, tree).and_then(|()| durable::remove_all(&home.trees().join(&name)));
            left.extend(removed.err());
        }
    }
    left.extend(durable::remove_all(&home.incoming()).err());
    Ok(left)
}

fn numbered(home: &Home) -> Result<Vec<u32>, HostError> {
    Ok(names(&home.generations())?.iter().filter_map(|name| name.parse().ok()).collect())
}

/// The names of the checkouts that a generation uses.
fn trees_of(generation: &Path) -> Result<Vec<String>, HostError> {
    let mut trees = Vec::new();
    for name in names(generation)?.into_iter().filter(|name| !name.starts_with('.')) {
        if let Ok(target) = fs::read_link(generation.join(name)) {
            trees.extend(target.file_name().map(|tree| tree.to_string_lossy().into_owned()));
        }
    }
    Ok(trees)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_note_is_read_back_and_an_incomplete_one_is_ignored() {
        let note = Note {
            commit: Goal::Commit("0123456789abcdef0123456789abcdef01234567".parse().unwrap()),
            host: HostName::parse(b"web1").unwrap(),
            cluster: ClusterName::parse(b"prod").unwrap(),
            instance: "0123456789abcdef0123456789abcdef".into(),
        };
        assert_eq!(Note::parse(&note.text()), Some(note.clone()));
        let removed = Note { commit: Goal::Nothing, ..note };
        assert_eq!(Note::parse(&removed.text()), Some(removed));
        assert_eq!(Note::parse("0123456789abcdef0123456789abcdef01234567\n"), None);
    }
}
