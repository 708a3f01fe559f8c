//! Makes projections.

use std::collections::{HashMap, HashSet};

use deptool_agent::shared::{id::CommitId, name::HostName};
use gix_hash::{Kind as HashKind, ObjectId};
use gix_object::{Kind, tree::EntryKind};

use super::{ResolveError, Wanted, complete::Completeness};
use crate::repo::history::{HistoryError, Objects};
use crate::state::pairs::Pair;

/// The objects to store for a projection.
pub(super) struct Work {
    /// The commit that the host runs, and the one that represents it.
    pub tip: Pair,
    /// All projected commits, oldest first.
    pub pairs: Vec<Pair>,
    /// New commits and root trees.
    pub objects: Vec<(Kind, Vec<u8>)>,
    /// Objects of the host's directories that are only in the quarantine.
    pub needed: Vec<ObjectId>,
}

pub(super) struct Projector<'a> {
    pub objects: &'a Objects,
    pub wanted: &'a Wanted<'a>,
    pub complete: &'a Completeness,
}

impl Projector<'_> {
    /// Project `tip`, and those of its ancestors that are not complete here and whose host directory is.
    pub fn project(&self, tip: CommitId) -> Result<Work, ResolveError> {
        let commits = self.ancestors_first(tip)?;
        let incomplete: HashSet<CommitId> = commits.iter().copied().collect();
        let mut stands_for: HashMap<CommitId, CommitId> = HashMap::new();
        let mut work = Making { objects: Vec::new(), made: HashSet::new(), needed: Vec::new(), seen: HashSet::new() };
        let mut pairs = Vec::new();
        for id in commits {
            let Some(tree) = self.host_part(id, id == tip, &mut work)? else { continue };
            let data = self.objects.expect(&id.0, Kind::Commit)?;
            let parents = self.objects.commit(&id)?.parents;
            let parents: Vec<CommitId> = parents
                .iter()
                .filter_map(|parent| match incomplete.contains(parent) {
                    true => stands_for.get(parent).copied(),
                    false => self.known(parent),
                })
                .collect();
            let projected = CommitId(work.make(Kind::Commit, rewrite(&data, tree, &parents)));
            stands_for.insert(id, projected);
            pairs.push(Pair { host: self.wanted.host.clone(), real: id, projected });
        }
        match pairs.last().cloned() {
            Some(pair) if pair.real == tip => Ok(Work { tip: pair, pairs, objects: work.objects, needed: work.needed }),
            Some(_) | None => Err(ResolveError::Incomplete { commit: tip, missing: tip.0 }),
        }
    }

    /// The commit that represents one that need not be projected: itself if it is complete, else its projection.
    fn known(&self, id: &CommitId) -> Option<CommitId> {
        if self.objects.is_ours(&id.0) {
            return Some(*id);
        }
        self.wanted.projection_of(*id).map(|pair| pair.projected)
    }

    /// The commits to project, parents first.
    fn ancestors_first(&self, tip: CommitId) -> Result<Vec<CommitId>, ResolveError> {
        let open: HashSet<CommitId> = self.complete.unreferenced(tip)?.into_iter().collect();
        let mut ordered = Vec::new();
        let mut seen = HashSet::new();
        let mut stack = vec![(tip, false)];
        while let Some((id, parents_done)) = stack.pop() {
            if parents_done {
                ordered.push(id);
                continue;
            }
            let known = id != tip && self.wanted.projection_of(id).is_some();
            if known || !open.contains(&id) || !seen.insert(id) {
                continue;
            }
            stack.push((id, true));
            stack.extend(self.objects.commit(&id)?.parents.into_iter().map(|parent| (parent, false)));
        }
        Ok(ordered)
    }

    /// The root tree of a projection. `None` if objects of an older commit are missing, so that the history ends there.
    fn host_part(&self, id: CommitId, is_tip: bool, work: &mut Making) -> Result<Option<ObjectId>, ResolveError> {
        match missing_of_host(self.objects, self.wanted.directory, id)?.first() {
            Some(missing) if is_tip => return Err(ResolveError::Incomplete { commit: id, missing: *missing }),
            Some(_) => return Ok(None),
            None => {}
        }
        let mut data = Vec::new();
        if let Some(tree) = self.objects.host_tree(&id, self.wanted.directory)? {
            let mut found = Walked { objects: self.objects, seen: &mut work.seen, missing: Vec::new() };
            found.tree(tree.0, &mut |id| {
                if !self.objects.is_ours(&id) {
                    work.needed.push(id);
                }
            })?;
            data.extend_from_slice(format!("40000 {}\0", self.wanted.directory).as_bytes());
            data.extend_from_slice(tree.0.as_slice());
        }
        Ok(Some(work.make(Kind::Tree, data)))
    }
}

/// The first object that is missing in the host's directory of a commit.
pub(super) fn missing_of_host(objects: &Objects, host: &HostName, id: CommitId) -> Result<Vec<ObjectId>, HistoryError> {
    if !objects.has(&id.0) {
        return Ok(vec![id.0]);
    }
    let root = objects.commit(&id)?.tree.0;
    if !objects.has(&root) {
        return Ok(vec![root]);
    }
    let mut seen = HashSet::new();
    let mut walked = Walked { objects, seen: &mut seen, missing: Vec::new() };
    if let Some(tree) = objects.host_tree(&id, host)? {
        walked.tree(tree.0, &mut |_| {})?;
    }
    Ok(walked.missing)
}

/// A walk over trees that tolerates missing objects.
struct Walked<'a> {
    objects: &'a Objects,
    seen: &'a mut HashSet<ObjectId>,
    missing: Vec<ObjectId>,
}

impl Walked<'_> {
    fn tree(&mut self, tree: ObjectId, each: &mut dyn FnMut(ObjectId)) -> Result<(), HistoryError> {
        let mut todo = vec![(tree, EntryKind::Tree)];
        while let Some((id, kind)) = todo.pop() {
            if kind == EntryKind::Commit || !self.seen.insert(id) {
                continue;
            }
            if !self.objects.has(&id) {
                self.missing.push(id);
                continue;
            }
            each(id);
            if kind == EntryKind::Tree {
                todo.extend(self.objects.entries(&id)?.into_iter().map(|entry| (entry.id, entry.kind)));
            }
        }
        Ok(())
    }
}

struct Making {
    objects: Vec<(Kind, Vec<u8>)>,
    made: HashSet<ObjectId>,
    needed: Vec<ObjectId>,
    seen: HashSet<ObjectId>,
}

impl Making {
    fn make(&mut self, kind: Kind, data: Vec<u8>) -> ObjectId {
        let mut hasher = gix_hash::hasher(HashKind::Sha1);
        hasher.update(&gix_object::encode::loose_header(kind, data.len() as u64));
        hasher.update(&data);
        // An object of our own is not a collision attack.
        let id = hasher.try_finalize().unwrap_or_else(|_| ObjectId::null(HashKind::Sha1));
        if self.made.insert(id) {
            self.objects.push((kind, data));
        }
        id
    }
}

/// The commit with another tree and other parents. Author, committer, encoding and message are copied without control
/// characters. Other headers (signatures, merged tags) would no longer be valid and are omitted.
fn rewrite(commit: &[u8], tree: ObjectId, parents: &[CommitId]) -> Vec<u8> {
    let mut out = format!("tree {tree}\n").into_bytes();
    for parent in parents {
        out.extend_from_slice(format!("parent {parent}\n").as_bytes());
    }
    let end = commit.windows(2).position(|pair| pair == b"\n\n").map_or(commit.len(), |at| at + 1);
    let (headers, message) = commit.split_at(end);
    for line in headers.split_inclusive(|byte| *byte == b'\n') {
        if [&b"author "[..], b"committer ", b"encoding "].iter().any(|kept| line.starts_with(kept)) {
            harmless(line, &mut out);
        }
    }
    harmless(message, &mut out);
    out
}

/// Append `text` to `out`, with question marks in place of control characters other than tabs and line feeds. The text
/// comes from a host, and `git log` shows it as it is.
fn harmless(text: &[u8], out: &mut Vec<u8>) {
    for chunk in text.utf8_chunks() {
        let mut chars = chunk.valid().chars().peekable();
        while let Some(c) = chars.next() {
            let is_fine = !c.is_control() || c == '\n' || c == '\t' || c == '\r' && chars.peek() == Some(&'\n');
            out.extend_from_slice(if is_fine { c } else { '?' }.encode_utf8(&mut [0; 4]).as_bytes());
        }
        // Another encoding than UTF-8 is left to the program that shows the text.
        out.extend_from_slice(chunk.invalid());
    }
}
