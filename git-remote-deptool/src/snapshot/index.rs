//! The rendered directory as a tree, made by Git with an index of our own.
//!
//! Git knows by the index what has not changed since, and how to write many objects. It sees the directory as the work
//! tree of a Git directory that has nothing but attributes: those stand above any that the rendered files contain, and
//! keep Git from converting anything.
//!
//! The index is copied for each run, and takes the place of the old one if the run is real: two snapshots at a time do
//! not disturb each other, and a dry run leaves nothing. An index that is broken, or names objects that were pruned,
//! costs time and nothing else.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use deptool_agent::shared::id::TreeId;
use gix::hash::Kind as HashKind;

use super::{
    Run, SnapshotError,
    branch::Hosts,
    walk::{Top, total},
};
use crate::{
    model::interrupt::Interrupt,
    repo::{
        Repo,
        git::{Git, GitError},
    },
};

/// How many indexes are kept: rendering into a new directory each time would fill the disk with them.
const INDEXES: usize = 4;
/// From so many new files on they are written as packs, each of about this many files: Git looks through a pack's
/// objects one by one while it is writing it.
const PACKED: usize = 4000;
/// Overrides whatever says that a file's bytes are not what is to be stored.
const ATTRIBUTES: &str = "* -text !eol -filter -ident !working-tree-encoding\n";
/// Configuration that would make Git see other files than there are.
const SETTINGS: [&str; 11] = [
    "core.fileMode=true",
    "core.symlinks=true",
    "core.ignoreCase=false",
    "core.precomposeUnicode=false",
    "core.protectNTFS=false",
    "core.protectHFS=false",
    "core.trustctime=true",
    "core.checkStat=default",
    "core.fsmonitor=false",
    "core.sparseCheckout=false",
    "core.splitIndex=false",
];

/// One run.
pub(super) struct Index<'a> {
    repo: &'a Repo,
    interrupt: &'a Interrupt,
    directory: PathBuf,
    git_dir: PathBuf,
    /// Where the index is kept.
    kept: PathBuf,
    /// Used by this run alone, and gone after it: the index, and in a dry run the objects.
    own: PathBuf,
    run: Run,
}

impl<'a> Index<'a> {
    pub fn open(repo: &'a Repo, directory: &Path, run: Run, interrupt: &'a Interrupt) -> Result<Self, SnapshotError> {
        let directory = directory.canonicalize().map_err(|source| io_error(directory, source))?;
        let name =
            gix::objs::compute_hash(HashKind::Sha1, gix::objs::Kind::Blob, directory.as_os_str().as_encoded_bytes());
        let name = name.map_err(SnapshotError::Object)?.to_hex_with_len(16).to_string();
        let ours = repo.common_dir().join("deptool");
        let git_dir = ours.join("snapshot.git");
        let own = ours.join(format!("snapshot-{}", std::process::id()));
        let index = Index { repo, interrupt, directory, git_dir, kept: ours.join("snapshot").join(name), own, run };
        index.prepare().map_err(|source| io_error(&index.git_dir, source))?;
        Ok(index)
    }

    fn prepare(&self) -> io::Result<()> {
        for directory in [self.git_dir.join("refs"), self.git_dir.join("info"), self.own.join("objects")] {
            fs::create_dir_all(directory)?;
        }
        fs::create_dir_all(self.kept.parent().unwrap_or(&self.own))?;
        fs::write(self.git_dir.join("HEAD"), "ref: refs/heads/none\n")?;
        fs::write(self.git_dir.join("info/attributes"), ATTRIBUTES)
    }

    /// The tree of all files in the directory. Its objects are in the repository if the run is real.
    pub fn tree(&self, tops: &[Top]) -> Result<TreeId, SnapshotError> {
        if fs::copy(&self.kept, self.index()).is_ok()
            && let Ok(tree) = self.add_and_write(&[])
        {
            return Ok(tree);
        }
        let _ = fs::remove_file(self.index());
        Ok(self.add_and_write(&batches(tops))?)
    }

    fn add_and_write(&self, batches: &[Vec<&Top>]) -> Result<TreeId, GitError> {
        for batch in batches {
            self.git("add", &["core.bigFileThreshold=1"])
                .args(["--all", "--force", "--"])
                .args(batch.iter().map(|top| top.name()))
                .run(b"")?;
        }
        self.git("add", &[]).args(["--all", "--force", "--", "."]).run(b"")?;
        let printed = self.git("write-tree", &[]).run(b"")?;
        let id = std::str::from_utf8(&printed).ok().and_then(|id| id.trim().parse().ok());
        id.ok_or(GitError::Failed { command: "write-tree", stderr: "it printed no id".into() })
    }

    /// The directories of hosts in a tree that [`Index::tree`] has made.
    pub fn hosts(&self, tree: TreeId) -> Result<Hosts, SnapshotError> {
        let printed = self.git("ls-tree", &[]).args(["-d", "-z", &tree.to_string()]).run(b"")?;
        Ok(super::branch::listed_hosts(&printed))
    }

    /// Keep the index for the next run. That it can't be kept is no error: the next snapshot takes longer.
    pub fn keep(self) {
        if self.run == Run::Real {
            let _ = fs::rename(self.index(), &self.kept).and_then(|()| prune(&self.kept));
        }
    }

    fn index(&self) -> PathBuf {
        self.own.join("index")
    }

    fn git(&self, name: &'static str, settings: &[&str]) -> Git {
        let mut command = self.repo.git();
        for setting in SETTINGS.iter().chain(settings) {
            command.args(["-c", setting]);
        }
        let objects = self.repo.gix().objects.store_ref().path();
        command.env("GIT_DIR", &self.git_dir).env("GIT_WORK_TREE", &self.directory).env("GIT_INDEX_FILE", self.index());
        command.env("GIT_LITERAL_PATHSPECS", "1").current_dir(&self.directory);
        match self.run {
            Run::Real => command.env("GIT_OBJECT_DIRECTORY", objects),
            Run::Dry => command
                .env("GIT_OBJECT_DIRECTORY", self.own.join("objects"))
                .env("GIT_ALTERNATE_OBJECT_DIRECTORIES", objects),
        };
        Git::new(command, name, self.interrupt.clone())
    }
}

impl Drop for Index<'_> {
    fn drop(&mut self) {
        // What stays is small, and goes with the next process of that number.
        let _ = fs::remove_dir_all(&self.own);
    }
}

/// Entries at the top in groups of about [`PACKED`] files; none if all of them are few.
fn batches(tops: &[Top]) -> Vec<Vec<&Top>> {
    let mut batches: Vec<Vec<&Top>> = Vec::new();
    if total(tops) < PACKED {
        return batches;
    }
    let mut files = PACKED;
    for top in tops.iter().filter(|top| top.files > 0) {
        if files >= PACKED {
            batches.push(Vec::new());
            files = 0;
        }
        files += top.files;
        if let Some(batch) = batches.last_mut() {
            batch.push(top);
        }
    }
    batches
}

/// Remove indexes, the oldest first.
fn prune(kept: &Path) -> io::Result<()> {
    let directory = kept.parent().ok_or(io::ErrorKind::NotFound)?;
    let mut files = Vec::new();
    for entry in directory.read_dir()? {
        let entry = entry?;
        files.push((entry.metadata()?.modified()?, entry.path()));
    }
    files.sort();
    let too_many = files.len().saturating_sub(INDEXES);
    files.iter().take(too_many).try_for_each(|(_, path)| fs::remove_file(path))
}

fn io_error(path: &Path, source: io::Error) -> SnapshotError {
    SnapshotError::Io { path: path.to_owned(), source }
}
