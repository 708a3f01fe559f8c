//! The takeover socket of a running deployment: through it another connection can take the deployment over.
//!
//! The socket is named after the deployment's id and lies in a directory that only root can enter. It exists from the
//! moment at which the deployment outlives its connection. The connection that came last is the current one.
//!
//! The same directory has tombstones. When a helper asks for a deployment that is not known here, it is told that the
//! deployment is not running. The tombstone makes sure that this stays true if the request arrives late.

use std::{
    fs, io,
    os::{
        fd::{AsRawFd, OwnedFd},
        unix::{
            fs::MetadataExt,
            net::{UnixListener, UnixStream},
        },
    },
    path::{Path, PathBuf},
    time::Duration,
};

use crate::{
    host::state::{
        durable,
        error::{Context, HostError},
        layout::{self, Home, open_directory},
    },
    shared::id::DeploymentId,
};

/// The suffix of tombstones: a deployment with a tombstone must not begin any more.
const BLOCKED: &str = ".blocked";
/// The minimum age at which a tombstone is removed.
const BLOCKED_FOR: Duration = Duration::from_secs(24 * 60 * 60);

/// The socket through which other connections take over. Dropping it refuses further connections, but leaves the socket's
/// file for the next agent to remove.
pub struct TakeoverSocket {
    listener: UnixListener,
    path: PathBuf,
}

impl TakeoverSocket {
    /// Open the socket of deployment `id`. The caller holds the host lock, so all other sockets were left by agents that
    /// were killed. They are removed.
    pub fn open(home: &Home, id: DeploymentId) -> Result<TakeoverSocket, HostError> {
        let directory = make_directory(home)?;
        remove_stale_files(&directory)?;
        let path = directory.join(id.to_string());
        let opened = open_directory(&directory)?;
        let listener = UnixListener::bind(short_path(&opened, id)).during("listen at", &path)?;
        listener.set_nonblocking(true).during("listen at", &path)?;
        Ok(TakeoverSocket { listener, path })
    }

    /// Accept the connections that are waiting and return the latest. Does not block.
    pub fn accept(&self) -> Option<UnixStream> {
        let mut last = None;
        while let Ok((stream, _)) = self.listener.accept() {
            last = Some(stream);
        }
        last
    }

    /// Close the socket and remove its file.
    pub fn close(self) -> Result<(), HostError> {
        durable::remove(&self.path)?;
        self.path.parent().map_or(Ok(()), durable::remove_if_empty)
    }

    pub fn listener(&self) -> &UnixListener {
        &self.listener
    }
}

/// Remove the sockets of agents that were killed. The caller holds the host lock.
pub fn remove_stale_sockets(home: &Home) -> Result<(), HostError> {
    let directory = home.run();
    if !directory.exists() {
        return Ok(());
    }
    remove_stale_files(&directory)?;
    durable::remove_if_empty(&directory)
}

/// Connect to the socket of deployment `id`. `None` if no agent listens there.
pub fn connect(home: &Home, id: DeploymentId) -> Result<Option<UnixStream>, HostError> {
    let directory = home.run();
    let opened = match open_directory(&directory) {
        Ok(opened) => opened,
        Err(HostError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    check_private(&directory)?;
    match UnixStream::connect(short_path(&opened, id)) {
        Ok(stream) => Ok(Some(stream)),
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused) => Ok(None),
        Err(error) => Err(error).during("connect to", &directory.join(id.to_string())),
    }
}

/// Write a tombstone for deployment `id`, which is not known here, so that it is not carried out if it arrives late.
///
/// If the deployment does not hold the lock afterwards, it never will.
pub fn block(home: &Home, id: DeploymentId) -> Result<(), HostError> {
    home.create()?;
    let path = tombstone(&make_directory(home)?, id);
    fs::write(&path, b"").during("write", &path)
}

/// Whether there is a tombstone for deployment `id`. The caller holds the host lock.
pub fn is_blocked(home: &Home, id: DeploymentId) -> Result<bool, HostError> {
    let path = tombstone(&home.run(), id);
    path.try_exists().during("look at", &path)
}

fn tombstone(directory: &Path, id: DeploymentId) -> PathBuf {
    directory.join(format!("{id}{BLOCKED}"))
}

fn make_directory(home: &Home) -> Result<PathBuf, HostError> {
    let directory = home.run();
    if home.is_live() {
        home.create_run()?;
    }
    layout::make_directory(&directory, 0o700)?;
    check_private(&directory)?;
    Ok(directory)
}

/// Remove all sockets, and tombstones that are too old to matter.
fn remove_stale_files(directory: &Path) -> Result<(), HostError> {
    for entry in fs::read_dir(directory).during("read", directory)? {
        let path = entry.during("read", directory)?.path();
        let is_tombstone = path.as_os_str().as_encoded_bytes().ends_with(BLOCKED.as_bytes());
        let age = || fs::symlink_metadata(&path).and_then(|meta| meta.modified()).map(|time| time.elapsed());
        if !is_tombstone || age().is_ok_and(|age| age.is_ok_and(|age| age > BLOCKED_FOR)) {
            durable::remove(&path)?;
        }
    }
    Ok(())
}

/// A short path to the socket. The kernel allows only 108 bytes, and the path of a root directory may be longer.
fn short_path(directory: &OwnedFd, id: DeploymentId) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}/{id}", directory.as_raw_fd()))
}

/// Refuse a directory in which another user could have put a socket.
fn check_private(directory: &Path) -> Result<(), HostError> {
    let meta = fs::symlink_metadata(directory).during("look at", directory)?;
    if meta.is_dir() && meta.uid() == rustix::process::geteuid().as_raw() && meta.mode() & 0o077 == 0 {
        return Ok(());
    }
    Err(HostError::refused(format!("'{}' is not a directory that only this user can enter", directory.display())))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{
        io::{Read, Write},
        os::unix::fs::PermissionsExt,
    };

    #[test]
    fn the_latest_connection_takes_over_however_long_the_path_of_the_root_is() {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path().join("long/".repeat(30));
        let home = Home::new(&root);
        home.create().unwrap();
        let id = DeploymentId::random().unwrap();
        assert!(connect(&home, id).unwrap().is_none());
        let socket = TakeoverSocket::open(&home, id).unwrap();
        assert!(socket.accept().is_none());
        assert!(connect(&home, DeploymentId::random().unwrap()).unwrap().is_none());
        let (mut first, mut second) = (connect(&home, id).unwrap().unwrap(), connect(&home, id).unwrap().unwrap());
        socket.accept().unwrap().write_all(b"x").unwrap();
        let mut text = String::new();
        second.read_to_string(&mut text).unwrap();
        assert_eq!(text, "x");
        assert_eq!(first.read(&mut [0]).unwrap(), 0);
        socket.close().unwrap();
        assert!(connect(&home, id).unwrap().is_none());
        assert!(!home.run().exists());
    }

    #[test]
    fn the_socket_of_a_killed_agent_does_not_get_in_the_way() {
        let directory = tempfile::tempdir().unwrap();
        let home = Home::new(directory.path());
        home.create().unwrap();
        let id = DeploymentId::random().unwrap();
        drop(TakeoverSocket::open(&home, id).unwrap());
        assert!(connect(&home, id).unwrap().is_none());
        let _socket = TakeoverSocket::open(&home, id).unwrap();
        let other = TakeoverSocket::open(&home, DeploymentId::random().unwrap()).unwrap();
        assert!(connect(&home, id).unwrap().is_none());
        drop(other);
        remove_stale_sockets(&home).unwrap();
        assert!(!home.run().exists());
    }

    #[test]
    fn a_tombstone_lasts_for_a_day() {
        let directory = tempfile::tempdir().unwrap();
        let home = Home::new(directory.path());
        let [id, other] = [(); 2].map(|()| DeploymentId::random().unwrap());
        assert!(!is_blocked(&home, id).unwrap());
        block(&home, id).unwrap();
        block(&home, id).unwrap();
        drop(TakeoverSocket::open(&home, other).unwrap());
        assert!(is_blocked(&home, id).unwrap() && !is_blocked(&home, other).unwrap());
        let file = fs::File::open(tombstone(&home.run(), id)).unwrap();
        file.set_modified(std::time::SystemTime::now() - BLOCKED_FOR - Duration::from_secs(60)).unwrap();
        drop(TakeoverSocket::open(&home, other).unwrap());
        assert!(!is_blocked(&home, id).unwrap());
    }

    #[test]
    fn a_directory_that_others_can_enter_is_not_used() {
        let directory = tempfile::tempdir().unwrap();
        let home = Home::new(directory.path());
        home.create().unwrap();
        fs::create_dir(home.run()).unwrap();
        fs::set_permissions(home.run(), fs::Permissions::from_mode(0o755)).unwrap();
        assert!(TakeoverSocket::open(&home, DeploymentId::random().unwrap()).is_err());
        assert!(connect(&home, DeploymentId::random().unwrap()).is_err());
    }
}
