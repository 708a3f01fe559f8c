//! Where things are on a host, and errors that name them.

use std::{
    fs, io,
    os::{fd::OwnedFd, unix::fs::MetadataExt},
    path::{Path, PathBuf},
};

use rustix::fs::{Mode, OFlags};

use crate::{
    host::{
        connection::heartbeat::{HEARTBEAT, Heartbeat},
        state::error::{Context, HostError},
    },
    shared::{name::AppName, path::STATE_DIR, text::printable},
};

/// The root directory of a host, and what we keep below it.
#[derive(Debug, Clone)]
pub struct Home {
    root: PathBuf,
    state: PathBuf,
    heartbeat: Heartbeat,
}

impl Home {
    /// The home of the host whose root directory is `root`: `/`, or a directory for a local root.
    pub fn new(root: &Path) -> Home {
        Home { root: root.to_owned(), state: root.join(&STATE_DIR[1..]), heartbeat: Heartbeat::default() }
    }

    /// Refuse to work where another user of the host could put things in our place: what is below our directory is
    /// trusted.
    pub fn check_ownership(&self) -> Result<(), HostError> {
        let (link, directory) = match (fs::symlink_metadata(&self.state), fs::metadata(&self.state)) {
            (Err(error), _) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            (link, directory) => (link.during("look at", &self.state)?, directory.during("look at", &self.state)?),
        };
        let is_ours = |uid| uid == 0 || uid == rustix::process::geteuid().as_raw();
        if is_ours(link.uid()) && is_ours(directory.uid()) && directory.mode() & 0o022 == 0 {
            return Ok(());
        }
        let path = printable(self.state.as_os_str().as_encoded_bytes());
        Err(HostError::Unfit(format!("others than root can write to '{path}': look what is there, and make it root's")))
    }

    /// Create our directories where they are missing.
    pub fn create(&self) -> Result<(), HostError> {
        for directory in [self.state.clone(), self.trees(), self.generations(), self.apps()] {
            fs::create_dir_all(&directory).during("create", &directory)?;
        }
        Ok(())
    }

    /// Whom to tell that we are alive while the disk is waited for.
    pub fn heartbeat(&self) -> &Heartbeat {
        &self.heartbeat
    }

    /// Do what may take long because of a disk, and let the peer know that we are alive meanwhile. Not for what is over
    /// in a moment: it takes a fork, which has to wait while systemd moves us out of the login session.
    pub fn wait_for_disk<T>(&self, work: impl FnOnce() -> T) -> T {
        self.heartbeat.during(HEARTBEAT, work)
    }

    /// Make everything on the file system of `path` durable.
    pub fn sync_file_system(&self, path: &Path) -> Result<(), HostError> {
        self.wait_for_disk(|| sync_file_system(path))
    }

    /// The same for the file system of our own directory.
    pub fn sync_state(&self) -> Result<(), HostError> {
        self.sync_file_system(&self.state)
    }

    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Whether this is the running system, not a directory made to look like one.
    pub fn is_live(&self) -> bool {
        self.root == Path::new("/")
    }

    pub fn state(&self) -> &Path {
        &self.state
    }

    pub fn bin(&self) -> PathBuf {
        self.state.join("bin")
    }

    pub fn store(&self) -> PathBuf {
        self.state.join("store")
    }

    pub fn trees(&self) -> PathBuf {
        self.state.join("trees")
    }

    pub fn generations(&self) -> PathBuf {
        self.state.join("generations")
    }

    pub fn generation(&self, number: u32) -> PathBuf {
        self.generations().join(number.to_string())
    }

    pub fn apps(&self) -> PathBuf {
        self.state.join("apps")
    }

    /// Where `app` is for configuration to refer to, as a path on the host.
    pub fn stable_path(app: &AppName) -> String {
        format!("{STATE_DIR}/apps/{app}/current")
    }

    /// Whether that is there, as it was made.
    pub fn has_stable_path(&self, app: &AppName) -> bool {
        let link = self.apps().join(app.as_str()).join("current");
        fs::read_link(link).is_ok_and(|target| target == Path::new(&format!("../../current/{app}")))
    }

    pub fn current(&self) -> PathBuf {
        self.state.join("current")
    }

    pub fn previous(&self) -> PathBuf {
        self.state.join("previous")
    }

    pub fn journal(&self) -> PathBuf {
        self.state.join("journal")
    }

    pub fn claims(&self) -> PathBuf {
        self.state.join("claims")
    }

    pub fn attempts(&self) -> PathBuf {
        self.state.join("attempts")
    }

    /// Units that a failed deployment left down.
    pub fn broken(&self) -> PathBuf {
        self.state.join("broken")
    }

    pub fn lock(&self) -> PathBuf {
        self.state.join("lock")
    }

    pub fn instance(&self) -> PathBuf {
        self.state.join("instance")
    }

    /// The name of the directory in the config tree that this host is deployed from.
    pub fn host_name(&self) -> PathBuf {
        self.state.join("host")
    }

    /// Blobs that are too large for the store, until they are checked out.
    pub fn incoming(&self) -> PathBuf {
        self.state.join("incoming")
    }

    /// What exists only while a deployment is under way. A root directory that is no running system is not for sockets.
    pub fn run(&self) -> PathBuf {
        if self.is_live() { PathBuf::from("/run/deptool") } else { self.state.join("run") }
    }

    /// The generation that `link` (`current` or `previous`) names.
    pub fn linked_generation(&self, link: &Path) -> Result<Option<u32>, HostError> {
        match fs::read_link(link) {
            Ok(target) => {
                let number = target.strip_prefix("generations").ok().and_then(|n| n.to_str()?.parse().ok());
                let strange = || {
                    HostError::Unfit(format!(
                        "'{}' is not a link of ours: move it away, and the next push makes it anew",
                        link.display()
                    ))
                };
                number.map(Some).ok_or_else(strange)
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error).during("read", link),
        }
    }
}

/// Open a directory for reading and syncing.
pub fn open_directory(path: &Path) -> Result<OwnedFd, HostError> {
    rustix::fs::open(path, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()).during("open", path)
}

/// Make the entries of a directory durable.
pub fn sync_directory(path: &Path) -> Result<(), HostError> {
    rustix::fs::fsync(open_directory(path)?).during("sync", path)
}

fn sync_file_system(path: &Path) -> Result<(), HostError> {
    let directory = open_directory(path)?;
    #[cfg(target_os = "linux")]
    rustix::fs::syncfs(directory).during("sync", path)?;
    // Only for building elsewhere: agents run on Linux.
    #[cfg(not(target_os = "linux"))]
    {
        drop(directory);
        rustix::fs::sync();
    }
    Ok(())
}

/// Replace the file at `path` by one with `content`, by one rename. Durable after the next sync of the file system.
pub fn replace_file(path: &Path, content: &[u8]) -> Result<(), HostError> {
    let mut temporary = path.as_os_str().to_owned();
    temporary.push(".new");
    let temporary = PathBuf::from(temporary);
    let written = fs::write(&temporary, content).during("write", &temporary);
    or_nothing(written.and_then(|()| fs::rename(&temporary, path).during("replace", path)), &temporary)
}

/// Point the symlink `link` at `target` by one rename.
pub fn replace_link(link: &Path, target: &str) -> Result<(), HostError> {
    let temporary = link.with_extension("new");
    remove_if_there(&temporary)?;
    std::os::unix::fs::symlink(target, &temporary).during("make", &temporary)?;
    or_nothing(fs::rename(&temporary, link).during("replace", link), &temporary)
}

/// What could not be put in place goes. Nobody can be told if it does not: the next agent tidies up.
fn or_nothing(result: Result<(), HostError>, temporary: &Path) -> Result<(), HostError> {
    if result.is_err() {
        let _ = fs::remove_file(temporary);
    }
    result
}

/// Remove a file or link; one that is not there is fine.
pub fn remove_if_there(path: &Path) -> Result<(), HostError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error).during("remove", path),
        _ => Ok(()),
    }
}

/// The content of a file of ours, `None` if it is not there or empty.
pub fn read_if_there(path: &Path) -> Result<Option<Vec<u8>>, HostError> {
    match fs::read(path) {
        Ok(bytes) if bytes.is_empty() => Ok(None),
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).during("read", path),
    }
}
