//! Stores objects from a host: first in a quarantine, then the complete and requested ones in the repository.

use std::{
    fs,
    io::{self, BufRead, Read, Write},
    path::PathBuf,
    rc::Rc,
    sync::atomic::{AtomicU32, Ordering},
};

use deptool_agent::shared::{
    store::{Store, StoreError, pack::Limits},
    text::printable,
};
use gix_hash::ObjectId;
use gix_object::{Kind, Write as _};

use crate::{
    model::interrupt::Interrupt,
    repo::{
        fsck::HARMLESS,
        git::{Git, GitError},
        history::{Objects, git},
        pack::{WriteError, write_from},
    },
};

/// Why objects from a host were not stored.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    /// The pack is invalid or could not be stored.
    #[error("could not take in what the host sent")]
    Quarantine(#[source] StoreError),
    /// The quarantine could not be created.
    #[error("could not make '{}'", path.display())]
    Place {
        /// Its path.
        path: PathBuf,
        /// The error of the system call.
        #[source]
        source: io::Error,
    },
    /// Git refused the objects, could not be run, or was interrupted.
    #[error(transparent)]
    Git(GitError),
    /// An object could not be read from the quarantine.
    #[error(transparent)]
    Write(#[from] WriteError),
    /// A large blob could not be stored.
    #[error("could not store blob {id}")]
    Blob {
        /// The id of the blob.
        id: ObjectId,
        /// The error of the object database.
        #[source]
        source: gix_error::Error,
    },
}

/// A temporary store next to the repository's objects, which Git does not read. It is deleted on drop.
pub(super) struct Quarantine {
    store: Rc<Store>,
    dir: PathBuf,
}

impl Quarantine {
    /// Receive a pack: hashed, without deltas, within limits.
    pub fn receive(repo: &gix::Repository, pack: &mut dyn BufRead) -> Result<Self, ImportError> {
        // Git removes stale files with such names.
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
        // There is nobody to report an error to. `git gc` removes the leftovers.
        let _ = fs::remove_dir_all(&self.dir);
    }
}

/// The largest number of objects that are stored as loose objects, like `fetch.unpackLimit`.
const UNPACK: usize = 100;

/// Have Git store `ids` from the quarantine, and the objects in `made`. Git hashes them again and applies the
/// repository's settings for permissions and durability. As with `fetch.fsckObjects`, objects that `git fsck` would
/// complain about are refused, unless that setting is false: a host is trusted less than a Git server.
pub(super) fn write(
    repo: &gix::Repository,
    objects: &Objects,
    ids: &[ObjectId],
    made: &[(Kind, Vec<u8>)],
    interrupt: &Interrupt,
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
    let fed = Git::new(git(repo.git_dir()), name, interrupt.clone()).args(arguments).run_fed(|stdin| {
        let mut stdin = io::BufWriter::with_capacity(1 << 16, stdin);
        let written = write_from(objects, ids, made, &mut stdin).map(drop);
        let flushed = stdin.flush().map_err(WriteError::Write);
        // Not `into_inner`, which would retry a failed write.
        drop(stdin.into_parts());
        written.and(flushed)
    });
    let (_, written) = fed.map_err(|error| match error {
        // The findings of `git fsck`, in one line.
        GitError::Failed { command, stderr } => {
            ImportError::Git(GitError::Failed { command, stderr: printable(stderr.as_bytes()) })
        }
        error => ImportError::Git(error),
    })?;
    Ok(written?)
}

/// Store one large blob without holding all of it in memory.
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

/// The content of a blob. Reading it fails at the end if it is not the requested blob, so no other blob is stored.
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
            return Err(io::Error::other("the host sent another blob than the requested one"));
        }
        Ok(count)
    }
}
