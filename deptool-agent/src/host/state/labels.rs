//! SELinux labels, which are kept in an extended attribute. Neither libselinux nor a policy of our own is needed.
//!
//! The policies of distributions know nothing of deptool: for them, everything below `/var/lib` is private data of some
//! daemon, which systemd must not run and other daemons must not read. So programs get the label of the programs in
//! `/usr/bin`, which systemd may run, and all else that is deployed that of `/etc`, which every daemon may read. What is
//! put elsewhere gets the label that the policy has for its path. A program of the host knows it.
//!
//! A relabelling of the host resets our own labels. So each contact looks at them, and so does a unit at each boot.

use std::{
    collections::BTreeMap,
    ffi::OsStr,
    fs, io,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    time::Duration,
};

use rustix::{
    fs::{XattrFlags, lgetxattr, lsetxattr},
    io::Errno,
};

use crate::{
    host::state::{
        boot::BootUnit,
        durable,
        error::{Context, HostError},
        layout::Home,
    },
    shared::{path::ExternalPath, text::printable},
    system::program,
};

const ATTRIBUTE: &str = "security.selinux";
/// Contexts are shorter, but a policy may have any number of categories.
const LONGEST: usize = 4096;
/// Tells the label that the policy has for a path, see matchpathcon(8).
const PROGRAM: &str = "matchpathcon";
const PATIENCE: Duration = Duration::from_secs(30);

/// What a file or directory of ours is, to SELinux.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Everybody may read it.
    Readable,
    /// Everybody may read it, and systemd may run it.
    Program,
    /// As all in `/var/lib`.
    Private,
}

/// What is at `path` below deptool's directory.
fn kind_of(path: &Path, is_program: bool) -> Kind {
    match path.iter().next().and_then(OsStr::to_str) {
        Some("state" | "store") => Kind::Private,
        _ if is_program => Kind::Program,
        _ => Kind::Readable,
    }
}

/// The labels of this host for our files.
struct Labels<'a> {
    home: &'a Home,
    readable: String,
}

impl<'a> Labels<'a> {
    /// None if SELinux is off.
    fn of(home: &'a Home) -> Option<Labels<'a>> {
        if !home.root().join("sys/fs/selinux/enforce").exists() {
            return None;
        }
        Some(Labels { home, readable: of(&home.root().join("etc"))? })
    }

    /// User, role and level are those of `/etc`: not every policy has levels.
    fn label(&self, kind: Kind) -> String {
        let kind = match kind {
            Kind::Readable => "etc_t",
            Kind::Program => "bin_t",
            Kind::Private => "var_lib_t",
        };
        with_type(&self.readable, kind)
    }

    fn set(&self, path: &Path, is_program: bool) -> io::Result<()> {
        let below = path.strip_prefix(self.home.directory()).unwrap_or(path);
        let label = self.label(kind_of(below, is_program));
        if of(path).as_ref() == Some(&label) { Ok(()) } else { set(path, &label) }
    }

    /// Label what is in a directory, and the directory last: its label tells that everything below it has been labelled.
    fn set_all(&self, path: &Path) -> io::Result<()> {
        let meta = fs::symlink_metadata(path)?;
        if meta.is_dir() {
            for entry in fs::read_dir(path)? {
                self.set_all(&entry?.path())?;
            }
        }
        self.set(path, meta.is_file() && meta.permissions().mode() & 0o111 != 0)
    }
}

/// The type is the third part of a context: `system_u:object_r:etc_t:s0`.
fn with_type(context: &str, kind: &str) -> String {
    let mut parts: Vec<&str> = context.splitn(4, ':').collect();
    if let Some(part) = parts.get_mut(2) {
        *part = kind;
    }
    parts.join(":")
}

/// The label of a file, directory or symlink. None if it has none.
pub fn of(path: &Path) -> Option<String> {
    let mut value = vec![0; LONGEST];
    let length = lgetxattr(path, ATTRIBUTE, &mut value[..]).ok()?;
    value.truncate(length);
    while value.last() == Some(&0) {
        value.pop();
    }
    String::from_utf8(value).ok()
}

/// Label a file, directory or symlink.
pub fn set(path: &Path, label: &str) -> io::Result<()> {
    Ok(lsetxattr(path, ATTRIBUTE, &[label.as_bytes(), b"\0"].concat(), XattrFlags::empty())?)
}

/// Whether the file system has no labels.
pub fn is_unsupported(error: &io::Error) -> bool {
    error.raw_os_error() == Some(Errno::OPNOTSUPP.raw_os_error())
}

/// Label what is ours, if SELinux is on. Returns the reason why that is not possible, if so: the host may work without.
pub fn mend(home: &Home) -> Option<String> {
    let labels = Labels::of(home)?;
    let result = try_to_mend(home, &labels).err().filter(|error| error.kind() != io::ErrorKind::NotFound)?;
    let directory = printable(home.directory().as_os_str().as_encoded_bytes());
    Some(match is_unsupported(&result) {
        true => format!(
            "the file system of '{directory}' can't have SELinux labels: what is deployed has the usual one there"
        ),
        false => format!("can't set SELinux labels in '{directory}': {result}"),
    })
}

fn try_to_mend(home: &Home, labels: &Labels<'_>) -> io::Result<()> {
    // Below `state/`, there are files that are put back where they came from, with their labels.
    let is_file = |path: &PathBuf| fs::symlink_metadata(path).is_ok_and(|meta| meta.is_file());
    for record in entries(&home.state()).into_iter().filter(is_file) {
        labels.set(&record, false)?;
    }
    for path in [home.state(), home.store(), home.current(), home.previous(), home.directory().to_owned()] {
        if fs::symlink_metadata(&path).is_ok() {
            labels.set(&path, false)?;
        }
    }
    for directory in [home.bin(), home.trees(), home.generations(), home.apps()] {
        let itself = Some(directory.clone()).filter(|directory| directory.exists());
        for entry in entries(&directory).into_iter().chain(itself) {
            // An agent is a file. For a checkout, its own label is enough to look at.
            if is_file(&entry) || of(&entry).as_ref() != Some(&labels.readable) {
                labels.set_all(&entry)?;
            }
        }
    }
    Ok(())
}

/// What is in a directory: nothing, if it can't be read.
fn entries(directory: &Path) -> Vec<PathBuf> {
    fs::read_dir(directory).into_iter().flatten().flatten().map(|entry| entry.path()).collect()
}

/// Label a new checkout, if SELinux is on and there can be labels.
pub fn label_checkout(home: &Home, directory: &Path) -> Result<(), HostError> {
    let Some(labels) = Labels::of(home) else { return Ok(()) };
    match labels.set_all(directory) {
        Err(error) if is_unsupported(&error) => Ok(()),
        result => result.during("label", directory),
    }
}

/// The end of the options for mounting memory for secrets: everything in it gets the label. Not every such file system can
/// have labels of its own. Empty if SELinux is off.
pub fn mount_option(home: &Home) -> String {
    Labels::of(home).map_or_else(String::new, |labels| format!(",context=\"{}\"", labels.label(Kind::Readable)))
}

/// What is put at a path, for [`of_paths`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Put {
    File,
    Link,
}

/// The labels that the host's policy has for paths at which something is put. Empty if SELinux is off, or if the host lacks the
/// program: then the kernel gives each its directory's.
pub fn of_paths(home: &Home, paths: &[(&ExternalPath, Put)]) -> Result<BTreeMap<ExternalPath, String>, HostError> {
    let mut found = BTreeMap::new();
    if paths.is_empty() || !home.is_live() || Labels::of(home).is_none() || !program::exists(PROGRAM) {
        return Ok(found);
    }
    for (put, mode) in [(Put::File, "file"), (Put::Link, "link")] {
        let of_kind: Vec<&ExternalPath> = paths.iter().filter(|one| one.1 == put).map(|one| one.0).collect();
        if of_kind.is_empty() {
            continue;
        }
        let options = ["-N", "-n", "-m", mode, "--"].into_iter();
        let arguments: Vec<&OsStr> = options.chain(of_kind.iter().map(|path| path.as_str())).map(OsStr::new).collect();
        let mut lines = Vec::new();
        let status =
            home.wait_for(|| program::lines(PROGRAM, &arguments, PATIENCE, &mut |line| lines.push(line.to_vec())));
        let status = status.map_err(|error| HostError::refused(format!("can't run '{PROGRAM}': {error}")))?;
        if !status.success() || lines.len() != of_kind.len() {
            let asked = format!("'{PROGRAM}' does not tell the SELinux labels of what is to be deployed ({status})");
            return Err(HostError::refused(asked));
        }
        let labels = lines.into_iter().map(|line| String::from_utf8_lossy(&line).into_owned());
        // The policy leaves some paths to others.
        found.extend(of_kind.into_iter().cloned().zip(labels).filter(|(_, label)| label != "<<none>>"));
    }
    Ok(found)
}

/// Install the unit that labels at boot, durably, if SELinux is on.
pub fn install_unit(home: &Home) -> Result<(), HostError> {
    if Labels::of(home).is_none() {
        return Ok(());
    }
    let written = BootUnit::Labels.install(home)?;
    if written.is_empty() { Ok(()) } else { durable::sync(home, &written) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_can_be_run_all_else_that_is_deployed_can_be_read_and_records_are_private() {
        let kind = |path: &str, is_program| kind_of(Path::new(path), is_program);
        for (path, is_program, expected) in [
            ("", false, Kind::Readable),
            ("bin/deptool-agent-1-x", true, Kind::Program),
            ("trees/0123.1/bin/server", true, Kind::Program),
            ("trees/0123.1/conf", false, Kind::Readable),
            ("trees/state", false, Kind::Readable),
            ("generations/1/.commit", false, Kind::Readable),
            ("apps/web/current", false, Kind::Readable),
            ("state", false, Kind::Private),
            ("state/identity", false, Kind::Private),
            ("store", false, Kind::Private),
        ] {
            assert_eq!(kind(path, is_program), expected, "{path}");
        }
    }

    #[test]
    fn what_a_relabelling_has_reset_is_labelled_again_and_nothing_else_is_touched() {
        let root = tempfile::tempdir().unwrap();
        let home = Home::new(root.path());
        let (etc, enforce) = (root.path().join("etc"), root.path().join("sys/fs/selinux/enforce"));
        fs::create_dir(&etc).unwrap();
        if let Err(why) = set(&etc, "system_u:object_r:etc_t:s0") {
            eprintln!("skipped: a label can't be set here: {why}");
            return;
        }
        let tree = home.trees().join("0123.1");
        let at = |path: &str| home.directory().join(path);
        fs::create_dir_all(&tree).unwrap();
        fs::create_dir_all(home.backups()).unwrap();
        for (path, mode) in [
            ("trees/0123.1/run", 0o755),
            ("trees/0123.1/conf", 0o644),
            ("state/identity", 0o600),
            ("state/backups/x", 0o644),
        ] {
            fs::write(at(path), "").unwrap();
            fs::set_permissions(at(path), fs::Permissions::from_mode(mode)).unwrap();
        }
        std::os::unix::fs::symlink("trees", home.current()).unwrap();
        assert_eq!((mend(&home), of(&tree)), (None, None), "without SELinux, there are no labels");

        fs::create_dir_all(enforce.parent().unwrap()).unwrap();
        fs::write(&enforce, "1").unwrap();
        let check = || {
            assert_eq!(mend(&home), None);
            for (path, kind) in [
                ("", "etc_t"),
                ("current", "etc_t"),
                ("trees/0123.1", "etc_t"),
                ("trees/0123.1/conf", "etc_t"),
                ("trees/0123.1/run", "bin_t"),
                ("state", "var_lib_t"),
                ("state/identity", "var_lib_t"),
            ] {
                assert_eq!(of(&at(path)), Some(format!("system_u:object_r:{kind}:s0")), "{path}");
            }
            assert_eq!(of(&at("state/backups/x")), None, "it is put back with the label that it had");
        };
        check();
        let changed = || std::os::unix::fs::MetadataExt::ctime_nsec(&fs::metadata(at("trees/0123.1/run")).unwrap());
        let before = changed();
        check();
        assert_eq!(changed(), before);
        for path in ["", "current", "trees/0123.1", "trees/0123.1/run", "trees/0123.1/conf"] {
            set(&at(path), "system_u:object_r:var_lib_t:s0").unwrap();
        }
        check();
    }

    #[test]
    fn a_context_keeps_user_role_and_level_of_the_host_if_it_has_one() {
        assert_eq!(with_type("system_u:object_r:etc_t:s0", "bin_t"), "system_u:object_r:bin_t:s0");
        assert_eq!(with_type("system_u:object_r:etc_t:s0:c1,c2", "bin_t"), "system_u:object_r:bin_t:s0:c1,c2");
        assert_eq!(with_type("root:object_r:etc_t", "bin_t"), "root:object_r:bin_t");
    }
}
