//! Objects from a host: first into quarantine, then, what is wanted and complete, into the repository.

use std::{
    fs,
    io::{self, BufRead, Read, Write},
    path::PathBuf,
    process::Stdio,
    rc::Rc,
    sync::atomic::{AtomicU32, Ordering},
};

use deptool_agent::shared::{
    store::{Store, StoreError, pack::Limits},
    text::printable,
};
use gix_hash::ObjectId;
use gix_object::{Kind, Write as _};

use crate::repo::{
    fsck::HARMLESS,
    history::{Objects, git},
    pack::{WriteError, write_from},
};

/// Why what a host gave did not get into the repository.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    /// The pack is invalid, or there is no place for it.
    #[error("could not take in what the host sent")]
    Quarantine(#[source] StoreError),
    /// The place for it could not be made.
    #[error("could not make '{}'", path.display())]
    Place {
        /// Where.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// Git could not be started, or be written to.
    #[error("could not run 'git {command}'")]
    Git {
        /// Its subcommand.
        command: &'static str,
        /// What went wrong.
        #[source]
        source: io::Error,
    },
    /// Git refused the objects.
    #[error("'git {command}' failed: {stderr}")]
    Refused {
        /// Its subcommand.
        command: &'static str,
        /// What it said, safe to show.
        stderr: String,
    },
    /// An object could not be read back.
    #[error(transparent)]
    Write(#[from] WriteError),
    /// A large blob could not be stored.
    #[error("could not store blob {id}")]
    Blob {
        /// Which.
        id: ObjectId,
        /// What the object database said.
        #[source]
        source: gix_error::Error,
    },
}

/// A store beside the repository's objects that Git does not look into, gone when dropped.
pub(super) struct Quarantine {
    store: Rc<Store>,
    dir: PathBuf,
}

impl Quarantine {
    /// Take in a pack: hashed, without deltas, within limits.
    pub fn receive(repo: &gix::Repository, pack: &mut dyn BufRead) -> Result<Self, ImportError> {
        // Git removes what has such a name and was left behind.
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("tmp_objdir-deptool-{}-{count}", std::process::id());
        let dir = repo.objects.store_ref().path().join(name);
        match fs::remove_dir_all(&dir) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(ImportError::Place { path: dir, source: error });
            }
            Ok(()) | Err(_) => {}
        }
        let store = Store::open_or_init(&dir).map_err(ImportError::Quarantine);
        let received = store.and_then(|mut store| {
            store.add_pack(pack, &Limits::default()).map_err(ImportError::Quarantine)?;
            Ok(store)
        });
        match received {
            Ok(store) => Ok(Quarantine { store: Rc::new(store), dir }),
            Err(error) => {
                let _ = fs::remove_dir_all(&dir);
                Err(error)
            }
        }
    }

    pub fn store(&self) -> Rc<Store> {
        self.store.clone()
    }
}

impl Drop for Quarantine {
    fn drop(&mut self) {
        // Nobody can be told; Git's own housekeeping gets what stays.
        let _ = fs::remove_dir_all(&self.dir);
    }
}

/// Up to how many objects are stored one by one, as with `fetch.unpackLimit`.
const UNPACK: usize = 100;

/// Give `ids`, and the objects that were `made`, to Git to store: it hashes them again, and keeps to the repository's
/// own configuration for permissions and durability. What `git fsck` would complain of does not get in, as with
/// `fetch.fsckObjects`, unless that is off: a host is trusted less than a Git server.
pub(super) fn write(
    repo: &gix::Repository,
    objects: &Objects,
    ids: &[ObjectId],
    made: &[(Kind, Vec<u8>)],
) -> Result<(), ImportError> {
    let config = repo.config_snapshot();
    let check = config.boolean("fetch.fsckObjects").or_else(|| config.boolean("transfer.fsckObjects"));
    let strict = format!("--strict={HARMLESS}");
    let (name, arguments): (_, &[&str]) = match (ids.len() + made.len() < UNPACK, check.unwrap_or(true)) {
        (true, false) => ("unpack-objects", &["-q"]),
        (true, true) => ("unpack-objects", &["-q", &strict]),
        (false, false) => ("index-pack", &["--stdin"]),
        (false, true) => ("index-pack", &["--stdin", &strict]),
    };
    let failed = |source| ImportError::Git { command: name, source };
    let mut command = git(repo.git_dir());
    command.arg(name).args(arguments);
    command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut child = command.spawn().map_err(failed)?;
    let stdin = child.stdin.take().ok_or_else(|| failed(io::Error::other("no pipe")))?;
    let mut stdin = io::BufWriter::with_capacity(1 << 16, stdin);
    let written = write_from(objects, ids, made, &mut stdin);
    let flushed = stdin.flush();
    // Not `into_inner`, which would write again what could not be written.
    drop(stdin.into_parts());
    let output = child.wait_with_output().map_err(failed)?;
    if !output.status.success() {
        let stderr = printable(output.stderr.trim_ascii());
        return Err(ImportError::Refused { command: name, stderr });
    }
    written?;
    flushed.map_err(failed)
}

/// Store one large blob, never holding it whole.
pub(super) fn write_large(
    repo: &gix::Repository,
    wanted: ObjectId,
    size: u64,
    content: &mut dyn Read,
) -> Result<(), ImportError> {
    let mut hash = gix_hash::hasher(gix_hash::Kind::Sha1);
    hash.update(&gix_object::encode::loose_header(Kind::Blob, size));
    let mut content = Checked { content, hash: Some(hash), wanted, left: size };
    let stored = repo.objects.write_stream(Kind::Blob, size, &mut content);
    stored.map(drop).map_err(|source| ImportError::Blob { id: wanted, source })
}

/// A blob's content that ends in an error if it is not what was wanted, so that no other one is stored.
struct Checked<'a> {
    content: &'a mut dyn Read,
    hash: Option<gix_hash::Hasher>,
    wanted: ObjectId,
    left: u64,
}

impl Read for Checked<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let count = self.content.read(into)?;
        self.left = self.left.saturating_sub(count as u64);
        if let Some(hash) = &mut self.hash {
            hash.update(&into[..count]);
        }
        if self.left == 0
            && let Some(hash) = self.hash.take()
            && hash.try_finalize().ok() != Some(self.wanted)
        {
            return Err(io::Error::other("the host sent another blob than was asked for"));
        }
        Ok(count)
    }
}
