//! Real repositories for tests, made by real Git, with nothing of the surroundings in them.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Output},
};

use deptool_agent::shared::{
    id::CommitId,
    name::{ClusterName, HostName},
    store::{Expected, LogEntry, Store, StoreError, pack::Limits},
    tree::{entries, host_directory},
};

use super::{Base, Objects, Selection, select, write};

/// Both versions that are supported, where they are installed.
pub(crate) fn gits() -> Vec<&'static str> {
    let all = ["/usr/bin/git", "/usr/local/bin/git"];
    all.into_iter().filter(|git| Path::new(git).exists()).collect()
}

pub(crate) fn run(git: &str, dir: &Path, args: &[&str]) -> Output {
    command(git, dir, args).output().unwrap()
}

fn command(git: &str, dir: &Path, args: &[&str]) -> Command {
    let at = "1700000000 +0000";
    let mut command = Command::new(git);
    command
        .args(args)
        .current_dir(dir)
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap_or_default())
        .envs([("HOME", "/nonexistent"), ("GIT_CONFIG_NOSYSTEM", "1"), ("GIT_CONFIG_GLOBAL", "/dev/null")])
        .envs([("GIT_AUTHOR_NAME", "A"), ("GIT_AUTHOR_EMAIL", "a@b"), ("GIT_AUTHOR_DATE", at)])
        .envs([("GIT_COMMITTER_NAME", "C"), ("GIT_COMMITTER_EMAIL", "c@d"), ("GIT_COMMITTER_DATE", at)]);
    command
}

/// Run `git` and return what it said, trimmed.
pub(crate) fn git(dir: &Path, args: &[&str]) -> String {
    let output = run(gits()[0], dir, args);
    assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

/// `git fsck --full` with every Git.
pub(crate) fn fsck(dir: &Path) {
    for version in gits() {
        let output = run(version, dir, &["fsck", "--full"]);
        let said = [output.stdout, output.stderr].concat();
        let said = String::from_utf8_lossy(&said);
        assert!(output.status.success() && !said.contains("missing") && !said.contains("broken"), "{version}: {said}");
    }
}

/// An operator's repository with a work tree.
pub(crate) struct Operator {
    pub dir: PathBuf,
    _temporary: tempfile::TempDir,
}

impl Operator {
    pub fn new() -> Self {
        let temporary = tempfile::tempdir().unwrap();
        let dir = temporary.path().join("config");
        fs::create_dir(&dir).unwrap();
        git(&dir, &["init", "-q", "-b", "prod", "."]);
        Operator::at(dir, temporary)
    }

    /// Another operator, who has what this one has now, with `origin` to get more.
    pub fn colleague(&self) -> Self {
        let temporary = tempfile::tempdir().unwrap();
        let dir = temporary.path().join("config");
        git(temporary.path(), &["clone", "-q", "-b", "prod", self.dir.to_str().unwrap(), dir.to_str().unwrap()]);
        Operator::at(dir, temporary)
    }

    fn at(dir: PathBuf, temporary: tempfile::TempDir) -> Self {
        // No housekeeping behind our back, and no waiting for the disk.
        git(&dir, &["config", "gc.auto", "0"]);
        git(&dir, &["config", "core.fsync", "none"]);
        Operator { dir, _temporary: temporary }
    }

    /// The id of a blob with this content.
    pub fn blob_id(content: &[u8]) -> String {
        let id = gix_object::compute_hash(gix_hash::Kind::Sha1, gix_object::Kind::Blob, content);
        id.unwrap().to_string()
    }

    pub fn repo(&self) -> gix::Repository {
        gix::open_opts(&self.dir, gix::open::Options::isolated()).unwrap()
    }

    pub fn git(&self, args: &[&str]) -> String {
        git(&self.dir, args)
    }

    pub fn write(&self, path: &str, content: impl AsRef<[u8]>) {
        let path = self.dir.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }

    pub fn commit(&self, message: &str) -> CommitId {
        self.git(&["add", "-A"]);
        self.git(&["commit", "-q", "--allow-empty", "-m", message]);
        self.id("HEAD")
    }

    /// Make commits on `prod`, each with some files (path, content) on top of the last, packed at once.
    pub fn import(&self, commits: impl IntoIterator<Item = Vec<(String, String)>>) {
        let mut stream = String::new();
        for (n, files) in commits.into_iter().enumerate() {
            let who = format!("A <a@b> {} +0000", 1_700_000_000 + n);
            stream.push_str(&format!("commit refs/heads/prod\ncommitter {who}\ndata 1\nx\n"));
            for (path, content) in files {
                stream.push_str(&format!("M 644 inline {path}\ndata {}\n{content}\n", content.len()));
            }
        }
        let file = self.dir.join("stream");
        fs::write(&file, stream).unwrap();
        let mut import = command(gits()[0], &self.dir, &["fast-import", "--quiet"]);
        import.stdin(fs::File::open(&file).unwrap());
        assert!(import.status().unwrap().success());
    }

    pub fn id(&self, name: &str) -> CommitId {
        self.git(&["rev-parse", name]).parse().unwrap()
    }
}

/// A host and its store.
pub(crate) struct Host {
    pub name: HostName,
    pub store: Store,
    _temporary: tempfile::TempDir,
}

impl Host {
    pub fn new(name: &str) -> Self {
        let temporary = tempfile::tempdir().unwrap();
        let store = Store::open_or_init(&temporary.path().join("store")).unwrap();
        Host { name: HostName::parse(name.as_bytes()).unwrap(), store, _temporary: temporary }
    }

    /// What a push does to the store.
    pub fn deploy(&mut self, repo: &gix::Repository, target: CommitId) -> Selection {
        let old = self.store.deployed().unwrap().map(|(_, id)| id);
        let base = old.map_or(Base::Nothing, Base::HostSubtreeOf);
        let selection = select(&Objects::of(repo), &self.name, base, old, target).unwrap();
        self.receive(repo, &selection).unwrap();
        let log = LogEntry { name: "A", email: "a@b", seconds: 1_700_000_000, message: "deploy" };
        let expected = old.map_or(Expected::Absent, Expected::At);
        self.store.set_deployed(&prod(), expected, &target, log).unwrap();
        selection
    }

    pub fn receive(&mut self, repo: &gix::Repository, selection: &Selection) -> Result<(), StoreError> {
        let mut pack = Vec::new();
        write(&Objects::of(repo), &selection.objects, &mut pack).unwrap();
        self.store.add_pack(&mut &pack[..], &Limits::default()).map(drop)
    }

    /// How many of the objects that a checkout of the host's directory needs are not in the store.
    pub fn missing(&self, target: CommitId) -> usize {
        let mut missing = 0;
        if !self.store.has(&target.0) {
            return 1;
        }
        let root = self.store.commit(&target).unwrap().tree;
        let directory = host_directory(&self.store, root, &self.name).unwrap();
        let mut todo: Vec<_> = directory.into_iter().map(|id| id.0).collect();
        while let Some(id) = todo.pop() {
            match self.store.has(&id) {
                false => missing += 1,
                true => todo.extend(entries(&self.store, id).into_iter().flatten().map(|(_, _, id)| id)),
            }
        }
        missing
    }

    pub fn git(&self, args: &[&str]) -> String {
        git(self.store.path(), args)
    }
}

pub(crate) fn prod() -> ClusterName {
    ClusterName::parse(b"prod").unwrap()
}
