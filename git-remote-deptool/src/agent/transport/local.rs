//! Starts the agent on this machine for a local root.

use std::{
    fs, io,
    os::unix::{ffi::OsStrExt, process::CommandExt},
    path::{Path, PathBuf},
    process::Command,
};

use super::{ConnectError, Environment};

/// The variable that tells the agent which directory to treat as `/`.
pub const ROOT_VARIABLE: &str = "DEPTOOL_ROOT";

/// The absolute path of the local root `path`. It is created if its parent exists.
pub fn root(path: &Path) -> Result<PathBuf, ConnectError> {
    let failed = |source: io::Error| ConnectError::LocalRoot { path: path.to_owned(), source };
    match fs::create_dir(path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(failed(error)),
        Ok(()) | Err(_) => {}
    }
    if !fs::metadata(path).map_err(failed)?.is_dir() {
        return Err(failed(io::ErrorKind::NotADirectory.into()));
    }
    // Resolve symlinks, so that the agent's directory is the same for all spellings.
    fs::canonicalize(path).map_err(failed)
}

/// A command that runs `agent` on `root`, an absolute path.
///
/// The agent gets a process group of its own, so Ctrl-C does not reach it. As on a host, we tell it about the
/// interrupt.
pub fn command(agent: &Path, root: &Path, environment: &Environment) -> Command {
    let mut command = Command::new(agent);
    let kept = |name: &[u8]| matches!(name, b"PATH" | b"TMPDIR") || name.starts_with(b"DEPTOOL_");
    command.env_clear().envs(environment.iter().filter(|(name, _)| kept(name.as_bytes())));
    command.env(ROOT_VARIABLE, root).env("LC_ALL", "C").current_dir("/").process_group(0);
    command
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_root_is_made_if_its_parent_is_there() {
        let dir = tempfile::tempdir().unwrap();
        let new = dir.path().join("new");
        assert_eq!(root(&new).unwrap(), fs::canonicalize(dir.path()).unwrap().join("new"));
        assert!(root(&new).is_ok(), "it is there now");
        assert!(matches!(root(&dir.path().join("a/b")), Err(ConnectError::LocalRoot { .. })));
        fs::write(dir.path().join("file"), "").unwrap();
        assert!(matches!(root(&dir.path().join("file")), Err(ConnectError::LocalRoot { .. })));
    }
}
