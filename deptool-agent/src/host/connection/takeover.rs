//! The door of a deployment that is under way: a socket through which another connection can take it over.
//!
//! It is named after the deployment's id, in a directory that only root can enter, and is there from the moment on at
//! which the deployment outlives its connection. Whoever comes last is the one to talk to; bytes are passed on unchanged.

use std::{
    fs, io,
    os::{
        fd::{AsRawFd, OwnedFd},
        unix::{
            fs::{DirBuilderExt, MetadataExt},
            net::{UnixListener, UnixStream},
        },
    },
    path::{Path, PathBuf},
    time::Duration,
};

use crate::{
    host::state::{
        error::{Context, HostError},
        layout::{Home, open_directory, remove_if_there},
    },
    shared::id::DeploymentId,
};

/// The end of the name of a file that says that a deployment must not begin any more.
const BARRED: &str = ".barred";
/// How long at least.
const BARRED_FOR: Duration = Duration::from_secs(24 * 60 * 60);

/// Where others can come in. One that is dropped refuses connections; its name stays for the next agent to remove.
pub struct Door {
    listener: UnixListener,
    path: PathBuf,
}

impl Door {
    /// Open the door of deployment `id`. The caller holds the host's lock: other doors that are there were left by
    /// agents that were killed, and go.
    pub fn open(home: &Home, id: DeploymentId) -> Result<Door, HostError> {
        let directory = make_directory(home)?;
        clean(&directory)?;
        let path = directory.join(id.to_string());
        let opened = open_directory(&directory)?;
        let listener = UnixListener::bind(short(&opened, id)).during("listen at", &path)?;
        listener.set_nonblocking(true).during("listen at", &path)?;
        Ok(Door { listener, path })
    }

    /// Whoever has come in last, if anybody has since this was last called. Does not wait.
    pub fn newcomer(&self) -> Option<UnixStream> {
        let mut last = None;
        while let Ok((stream, _)) = self.listener.accept() {
            last = Some(stream);
        }
        last
    }

    /// Nobody comes in any more.
    pub fn close(self) -> Result<(), HostError> {
        remove_if_there(&self.path)?;
        self.path.parent().map_or(Ok(()), remove_if_empty)
    }

    pub fn listener(&self) -> &UnixListener {
        &self.listener
    }
}

/// Remove the doors of agents that were killed. The caller holds the host's lock.
pub fn clear(home: &Home) -> Result<(), HostError> {
    let directory = home.run();
    if !directory.exists() {
        return Ok(());
    }
    clean(&directory)?;
    remove_if_empty(&directory)
}

fn remove_if_empty(directory: &Path) -> Result<(), HostError> {
    match fs::remove_dir(directory) {
        Err(error) if !matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::DirectoryNotEmpty) => {
            Err(error).during("remove", directory)
        }
        _ => Ok(()),
    }
}

/// Go in at the door of deployment `id`; `None` if there is none.
pub fn enter(home: &Home, id: DeploymentId) -> Result<Option<UnixStream>, HostError> {
    let directory = home.run();
    let opened = match open_directory(&directory) {
        Ok(opened) => opened,
        Err(HostError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    check_private(&directory)?;
    match UnixStream::connect(short(&opened, id)) {
        Ok(stream) => Ok(Some(stream)),
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused) => Ok(None),
        Err(error) => Err(error).during("connect to", &directory.join(id.to_string())),
    }
}

/// See to it that deployment `id`, of which nothing is known here, is not carried out if it should still arrive.
///
/// Whoever looks whether it is under way after this, and does not see it hold the lock, can be sure.
pub fn bar(home: &Home, id: DeploymentId) -> Result<(), HostError> {
    home.create()?;
    let path = barred(&make_directory(home)?, id);
    fs::write(&path, b"").during("write", &path)
}

/// Whether deployment `id` was barred. Asked by whoever holds the lock for it.
pub fn is_barred(home: &Home, id: DeploymentId) -> Result<bool, HostError> {
    let path = barred(&home.run(), id);
    path.try_exists().during("look at", &path)
}

fn barred(directory: &Path, id: DeploymentId) -> PathBuf {
    directory.join(format!("{id}{BARRED}"))
}

fn make_directory(home: &Home) -> Result<PathBuf, HostError> {
    let directory = home.run();
    match fs::DirBuilder::new().mode(0o700).create(&directory) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error).during("create", &directory)?,
        _ => check_private(&directory)?,
    }
    Ok(directory)
}

/// Remove doors that nobody is behind, and bars against what no network still carries.
fn clean(directory: &Path) -> Result<(), HostError> {
    for entry in fs::read_dir(directory).during("read", directory)? {
        let path = entry.during("read", directory)?.path();
        let is_bar = path.as_os_str().as_encoded_bytes().ends_with(BARRED.as_bytes());
        let age = || fs::symlink_metadata(&path).and_then(|meta| meta.modified()).map(|time| time.elapsed());
        if !is_bar || age().is_ok_and(|age| age.is_ok_and(|age| age > BARRED_FOR)) {
            remove_if_there(&path)?;
        }
    }
    Ok(())
}

/// A socket's path has 108 bytes, which the path of a root directory may exceed.
fn short(directory: &OwnedFd, id: DeploymentId) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}/{id}", directory.as_raw_fd()))
}

/// Nobody but us may have put a socket there.
fn check_private(directory: &Path) -> Result<(), HostError> {
    let meta = fs::symlink_metadata(directory).during("look at", directory)?;
    if meta.is_dir() && meta.uid() == rustix::process::geteuid().as_raw() && meta.mode() & 0o077 == 0 {
        return Ok(());
    }
    Err(HostError::Unfit(format!("'{}' is not a directory of our own", directory.display())))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{
        io::{Read, Write},
        os::unix::fs::PermissionsExt,
    };

    #[test]
    fn the_last_to_come_in_is_the_one_to_talk_to_however_long_the_path_is() {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path().join("long/".repeat(30));
        let home = Home::new(&root);
        home.create().unwrap();
        let id = DeploymentId::random().unwrap();
        assert!(enter(&home, id).unwrap().is_none());
        let door = Door::open(&home, id).unwrap();
        assert!(door.newcomer().is_none());
        assert!(enter(&home, DeploymentId::random().unwrap()).unwrap().is_none());
        let (mut first, mut second) = (enter(&home, id).unwrap().unwrap(), enter(&home, id).unwrap().unwrap());
        door.newcomer().unwrap().write_all(b"x").unwrap();
        let mut text = String::new();
        second.read_to_string(&mut text).unwrap();
        assert_eq!(text, "x");
        assert_eq!(first.read(&mut [0]).unwrap(), 0);
        door.close().unwrap();
        assert!(enter(&home, id).unwrap().is_none());
        assert!(!home.run().exists());
    }

    #[test]
    fn what_a_killed_agent_left_is_in_nobodys_way() {
        let directory = tempfile::tempdir().unwrap();
        let home = Home::new(directory.path());
        home.create().unwrap();
        let id = DeploymentId::random().unwrap();
        drop(Door::open(&home, id).unwrap());
        assert!(enter(&home, id).unwrap().is_none());
        let _door = Door::open(&home, id).unwrap();
        let other = Door::open(&home, DeploymentId::random().unwrap()).unwrap();
        assert!(enter(&home, id).unwrap().is_none());
        drop(other);
        clear(&home).unwrap();
        assert!(!home.run().exists());
    }

    #[test]
    fn a_barred_deployment_stays_barred_for_a_day() {
        let directory = tempfile::tempdir().unwrap();
        let home = Home::new(directory.path());
        let [id, other] = [(); 2].map(|()| DeploymentId::random().unwrap());
        assert!(!is_barred(&home, id).unwrap());
        bar(&home, id).unwrap();
        bar(&home, id).unwrap();
        drop(Door::open(&home, other).unwrap());
        assert!(is_barred(&home, id).unwrap() && !is_barred(&home, other).unwrap());
        let file = fs::File::open(barred(&home.run(), id)).unwrap();
        file.set_modified(std::time::SystemTime::now() - BARRED_FOR - Duration::from_secs(60)).unwrap();
        drop(Door::open(&home, other).unwrap());
        assert!(!is_barred(&home, id).unwrap());
    }

    #[test]
    fn a_directory_that_others_can_enter_is_not_used() {
        let directory = tempfile::tempdir().unwrap();
        let home = Home::new(directory.path());
        home.create().unwrap();
        fs::create_dir(home.run()).unwrap();
        fs::set_permissions(home.run(), fs::Permissions::from_mode(0o755)).unwrap();
        assert!(Door::open(&home, DeploymentId::random().unwrap()).is_err());
        assert!(enter(&home, DeploymentId::random().unwrap()).is_err());
    }
}
