//! The layout of `/var/lib/deptool` on a host.

use std::{
    fs::{self, DirBuilder, Permissions},
    io,
    os::{
        fd::{AsFd, OwnedFd},
        unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt},
    },
    path::{Path, PathBuf},
    time::Duration,
};

use rustix::{
    fs::{Mode, OFlags},
    io::Errno,
};

use crate::{
    host::{
        connection::heartbeat::{HEARTBEAT, Heartbeat},
        state::{
            error::{Context, Damage, HostError},
            kind::Kind,
        },
    },
    shared::{name::AppName, path::STATE_DIR, text::printable},
};

/// The root directory of a host, and deptool's directory below it.
#[derive(Debug, Clone)]
pub struct Home {
    root: PathBuf,
    directory: PathBuf,
    heartbeat: Heartbeat,
}

/// The pause between two heartbeats. Unit tests do not wait for seconds.
const PERIOD: Duration = if cfg!(test) { Duration::from_millis(10) } else { HEARTBEAT };

/// What is wrong with a directory that was [moved away](Home::moved_away).
pub const MOVED_AWAY: &str =
    "is a symlink, and the links in it lead nowhere: remove it, and move back what it leads to";

const REPAIR: &str = "put back what was there, or remove it and run 'git deptool repair'";

impl Home {
    /// The home below `root`: `/` for a live host, or another directory for a local root.
    pub fn new(root: &Path) -> Home {
        Home { root: root.to_owned(), directory: root.join(&STATE_DIR[1..]), heartbeat: Heartbeat::default() }
    }

    /// Refuse to work if another user can write to deptool's directory, because everything in it is trusted. Also if something else
    /// is in its place, or in that of `state/`.
    pub fn check_ownership(&self) -> Result<(), HostError> {
        let (link, directory) = match (fs::symlink_metadata(&self.directory), fs::metadata(&self.directory)) {
            (Err(error), _) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            (link, directory) => {
                (link.during("look at", &self.directory)?, directory.during("look at", &self.directory)?)
            }
        };
        let is_ours = |uid| uid == 0 || uid == rustix::process::geteuid().as_raw();
        if !is_ours(link.uid()) || !is_ours(directory.uid()) || directory.mode() & 0o022 != 0 {
            let path = printable(self.directory.as_os_str().as_encoded_bytes());
            let why =
                format!("users other than root can write to '{path}': inspect it, then change its owner and mode");
            return Err(HostError::refused(why));
        }
        check_directory(&self.directory, REPAIR)?;
        check_directory(&self.state(), REPAIR)?;
        match Kind::of(&self.state()) {
            // Nobody may send the agent's private records elsewhere.
            Kind::Symlink => Err(Damage::of(&self.state(), "is a symlink").with_advice(REPAIR).into()),
            _ => Ok(()),
        }
    }

    /// Refuse to work if something else is in the place of a directory. Other disks may be linked to; early at boot, these may be
    /// missing.
    pub fn check_directories(&self) -> Result<(), HostError> {
        check_directory(&self.store(), "put back what was there, or remove it and push another commit")?;
        [self.trees(), self.generations(), self.apps()].iter().try_for_each(|path| check_directory(path, REPAIR))
    }

    /// Create all directories that are missing, and make `state/` private.
    pub fn create(&self) -> Result<(), HostError> {
        for directory in [self.directory.clone(), self.trees(), self.generations(), self.apps()] {
            fs::create_dir_all(&directory).during("create", &directory)?;
        }
        self.create_state()
    }

    /// Create `state/` if it is missing, and make it private.
    pub fn create_state(&self) -> Result<(), HostError> {
        let state = self.state();
        make_directory(&state, 0o700)?;
        set_mode(&state, 0o700)
    }

    /// Directories that were moved away and replaced by symlinks: the relative links in them lead nowhere from where they are.
    pub fn moved_away(&self) -> impl Iterator<Item = PathBuf> {
        let id = |path: &Path| fs::metadata(path).map(|meta| (meta.dev(), meta.ino())).ok();
        let own = id(&self.directory);
        let is_elsewhere = move |path: &PathBuf| id(&path.join("..")).is_some_and(|above| Some(above) != own);
        [self.apps(), self.generations()].into_iter().filter(is_elsewhere)
    }

    pub fn heartbeat(&self) -> &Heartbeat {
        &self.heartbeat
    }

    /// Run `work`, which waits for a disk or a program, and send heartbeats meanwhile.
    pub fn wait_for<T>(&self, work: impl FnOnce() -> T) -> T {
        self.heartbeat.during(PERIOD, work)
    }

    /// Sync the file system of `path`.
    pub fn sync_file_system(&self, path: &Path) -> Result<(), HostError> {
        self.wait_for(|| sync_file_system(path))
    }

    /// Sync the file system of deptool's directory.
    pub fn sync_own(&self) -> Result<(), HostError> {
        self.sync_file_system(&self.directory)
    }

    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Whether this is the running system, and not a local root.
    pub fn is_live(&self) -> bool {
        self.root == Path::new("/")
    }

    /// deptool's directory.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// The directory for the agent's records. Only this user can enter it.
    pub fn state(&self) -> PathBuf {
        self.directory.join("state")
    }

    pub fn bin(&self) -> PathBuf {
        self.directory.join("bin")
    }

    pub fn store(&self) -> PathBuf {
        self.directory.join("store")
    }

    pub fn trees(&self) -> PathBuf {
        self.directory.join("trees")
    }

    pub fn generations(&self) -> PathBuf {
        self.directory.join("generations")
    }

    pub fn generation(&self, number: u32) -> PathBuf {
        self.generations().join(number.to_string())
    }

    /// The name below `trees/` of the checkout of `app` in generation `number`.
    pub fn tree_of(&self, number: u32, app: &AppName) -> Option<String> {
        let target = fs::read_link(self.generation(number).join(app.as_str())).ok()?;
        Some(target.file_name()?.to_str()?.to_owned())
    }

    pub fn apps(&self) -> PathBuf {
        self.directory.join("apps")
    }

    /// The stable path of `app`, as a path on the host: other configuration can refer to it.
    pub fn stable_path(app: &AppName) -> String {
        format!("{STATE_DIR}/apps/{app}/current")
    }

    /// Whether the stable path of `app` is the link that was made.
    pub fn has_stable_path(&self, app: &AppName) -> bool {
        let link = self.apps().join(app.as_str()).join("current");
        fs::read_link(link).is_ok_and(|target| target == Path::new(&format!("../../current/{app}")))
    }

    pub fn current(&self) -> PathBuf {
        self.directory.join("current")
    }

    pub fn previous(&self) -> PathBuf {
        self.directory.join("previous")
    }

    pub fn journal(&self) -> PathBuf {
        self.state().join("journal")
    }

    pub fn claims(&self) -> PathBuf {
        self.state().join("claims")
    }

    pub fn attempts(&self) -> PathBuf {
        self.state().join("attempts")
    }

    /// The record of [`crate::host::state::failed_units`].
    pub fn failed_units(&self) -> PathBuf {
        self.state().join("failed-units")
    }

    /// The record of [`crate::host::state::untidy`].
    pub fn untidy(&self) -> PathBuf {
        self.state().join("untidy")
    }

    pub fn lock(&self) -> PathBuf {
        self.state().join("lock")
    }

    pub fn instance(&self) -> PathBuf {
        self.state().join("instance")
    }

    /// The age identity that this host's secrets are encrypted to, see [`crate::host::secrets::identity`].
    pub fn age_identity(&self) -> PathBuf {
        self.state().join("identity")
    }

    /// The name of the directory in the config tree that this host is deployed from.
    pub fn host_name(&self) -> PathBuf {
        self.state().join("host")
    }

    /// The attributes of external copies, see [`crate::host::external::stamps`].
    pub fn stamps(&self) -> PathBuf {
        self.state().join("stamps")
    }

    /// Backups of what was at external paths before the first deployment.
    pub fn backups(&self) -> PathBuf {
        self.state().join("backups")
    }

    /// Files that replaced deployed ones, and that the agent moved out of the way.
    pub fn kept(&self) -> PathBuf {
        self.state().join("kept")
    }

    /// Blobs that are too large for the store, until they are checked out.
    pub fn incoming(&self) -> PathBuf {
        self.state().join("incoming")
    }

    /// The directory for takeover sockets, which exists only during a deployment. A local root has no `/run` of its own, so the
    /// directory is in its `state/`.
    pub fn run(&self) -> PathBuf {
        if self.is_live() { self.own_run().join("sockets") } else { self.state().join("run") }
    }

    /// The directory for decrypted secrets, see [`crate::host::secrets`].
    pub fn secrets(&self) -> PathBuf {
        self.own_run().join("secrets")
    }

    fn own_run(&self) -> PathBuf {
        self.root.join("run/deptool")
    }

    /// Create deptool's directory in `/run`, and let services pass through it to their secrets.
    pub fn create_run(&self) -> Result<(), HostError> {
        let directory = self.own_run();
        fs::create_dir_all(&directory).during("create", &directory)?;
        set_mode(&directory, 0o711)
    }

    /// The generation to which `link` (`current` or `previous`) points. `None` if there is no link.
    pub fn linked_generation(&self, link: &Path) -> Result<Option<u32>, HostError> {
        match fs::read_link(link) {
            Ok(target) => {
                // Somebody who changes it by hand may make it absolute.
                let target = target.strip_prefix(self.directory()).unwrap_or(&target);
                let number = target.strip_prefix("generations").ok().and_then(|n| n.to_str()?.parse().ok());
                let strange = || Damage::of(link, "does not point to a generation").into();
                number.map(Some).ok_or_else(strange)
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) if error.kind() == io::ErrorKind::InvalidInput => {
                Err(Damage::of(link, format!("is {}, not a link", Kind::of(link))).into())
            }
            Err(error) => Err(error).during("read", link),
        }
    }

    /// Like [`Home::linked_generation`], but `None` if the link is damaged.
    pub fn generation_of(&self, link: &Path) -> Result<Option<u32>, HostError> {
        match self.linked_generation(link) {
            Err(HostError::Damaged(_)) => Ok(None),
            result => result,
        }
    }
}

/// Refuse to work if there is something at `path` that is no directory, and leads to none.
fn check_directory(path: &Path, advice: &'static str) -> Result<(), HostError> {
    let what = match (fs::metadata(path), Kind::of(path)) {
        (Ok(meta), _) if meta.is_dir() => return Ok(()),
        (Ok(_), kind) => format!("is {kind}, not a directory"),
        (Err(error), kind) if error.kind() == io::ErrorKind::NotFound => match kind {
            Kind::Symlink => "is a symlink that leads nowhere".into(),
            _ => return Ok(()),
        },
        (Err(error), _) => return Err(error).during("look at", path),
    };
    Err(Damage::of(path, what).with_advice(advice).into())
}

/// Open a directory for reading and syncing.
pub fn open_directory(path: &Path) -> Result<OwnedFd, HostError> {
    rustix::fs::open(path, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()).during("open", path)
}

/// The names in a directory. There are none if it does not exist.
pub fn names(directory: &Path) -> Result<Vec<String>, HostError> {
    let entries = match fs::read_dir(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        result => result.during("read", directory)?,
    };
    let names = entries.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()));
    names.collect::<io::Result<_>>().during("read", directory)
}

/// Create a directory with this mode, if nothing is there.
pub fn make_directory(path: &Path, mode: u32) -> Result<(), HostError> {
    match DirBuilder::new().mode(mode).create(path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error).during("create", path),
        _ => Ok(()),
    }
}

/// Change the mode of a file or directory, if it has another one.
pub fn set_mode(path: &Path, mode: u32) -> Result<(), HostError> {
    match fs::symlink_metadata(path).during("look at", path)?.mode() & 0o7777 == mode {
        true => Ok(()),
        false => fs::set_permissions(path, Permissions::from_mode(mode)).during("change the mode of", path),
    }
}

/// Sync a file or directory. A read-only file system has nothing to write, and may not even know how.
pub fn fsync(file: impl AsFd) -> Result<(), Errno> {
    match rustix::fs::fsync(file) {
        Err(Errno::INVAL | Errno::ROFS) => Ok(()),
        result => result,
    }
}

/// Make the entries of a directory durable.
pub fn sync_directory(path: &Path) -> Result<(), HostError> {
    fsync(open_directory(path)?).during("sync", path)
}

fn sync_file_system(path: &Path) -> Result<(), HostError> {
    let directory = open_directory(path)?;
    #[cfg(target_os = "linux")]
    rustix::fs::syncfs(directory).during("sync", path)?;
    // Agents run on Linux. Elsewhere this only has to compile.
    #[cfg(not(target_os = "linux"))]
    {
        drop(directory);
        rustix::fs::sync();
    }
    Ok(())
}
