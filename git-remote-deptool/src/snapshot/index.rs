//! Has Git make a tree of the rendered directory, with an index of our own.
//!
//! From the index, Git knows which files have not changed, and Git is fast at writing many objects. To Git, the
//! directory is the work tree of a Git directory that has nothing but an attributes file. That file takes precedence
//! over those in the rendered directory, and prevents any conversion.
//!
//! Each run works on a copy of the index, which then replaces the old one unless it is a dry run. So simultaneous
//! snapshots do not disturb each other, and a dry run leaves no trace. A damaged index, or one that names pruned
//! objects, only costs time.

use std::{
    fs::{self, File},
    io,
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

/// The number of indexes that are kept. Without this limit, rendering into a new directory each time would fill the
/// disk.
const INDEXES: usize = 4;
/// From this many new files on, objects are written to packs of about this many files each. While Git writes a pack, it
/// searches the pack's objects one by one.
const PACKED: usize = 4000;
/// Overrides all attributes that convert content.
const ATTRIBUTES: &str = "* -text !eol -filter -ident !working-tree-encoding\n";
/// Overrides settings that would make Git see other files than the existing ones.
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

/// For each file that it compresses, Git takes memory from the system and gives it back, which takes longer than all the
/// rest. These have glibc keep it. Other systems ignore them.
const KEEP_MEMORY: [(&str, &str); 2] = [("MALLOC_TRIM_THRESHOLD_", "67108864"), ("MALLOC_TOP_PAD_", "16777216")];

/// One run.
pub(super) struct Index<'a> {
    repo: &'a Repo,
    interrupt: &'a Interrupt,
    directory: PathBuf,
    git_dir: PathBuf,
    /// The index that is kept.
    kept: PathBuf,
    /// The directory of this run, deleted at its end: the index, and the objects of a dry run.
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

    /// The tree of all files in the directory. Unless this is a dry run, its objects are in the repository.
    pub fn tree(&self, tops: &[Top]) -> Result<TreeId, SnapshotError> {
        if self.copy_kept().is_ok()
            && let Ok(tree) = self.add_and_write(&[])
        {
            return Ok(tree);
        }
        let _ = fs::remove_file(self.index());
        Ok(self.add_and_write(&batches(tops))?)
    }

    /// Copy the kept index with its modification time. Git reads a file again if it may have changed after the index was
    /// written, which it tells by that time. With a later time, a change in the same second would be missed.
    fn copy_kept(&self) -> io::Result<()> {
        let written = fs::metadata(&self.kept)?.modified()?;
        fs::copy(&self.kept, self.index())?;
        File::options().write(true).open(self.index())?.set_modified(written)
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

    /// The hosts in a tree that [`Index::tree`] has made.
    pub fn hosts(&self, tree: TreeId) -> Result<Hosts, SnapshotError> {
        let printed = self.git("ls-tree", &[]).args(["-d", "-z", &tree.to_string()]).run(b"")?;
        Ok(super::branch::listed_hosts(&printed))
    }

    /// Keep the index for the next run. If that fails, the next snapshot takes longer.
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
        command.envs(KEEP_MEMORY);
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
        // A leftover is small, and is overwritten by a process with the same id.
        let _ = fs::remove_dir_all(&self.own);
    }
}

/// The top-level entries in batches of about [`PACKED`] files, or a single batch if there are few files.
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

/// Delete old indexes.
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
