//! The root file system of a host: its own copy of everything that changes, with `/usr` as an overlay over the base.
//!
//! `/etc`, `/var`, `/home` and `/root` are ordinary directories on this computer's disk, so that renames, inode
//! numbers, fsync and openat2 behave as on a real host, unlike on an overlay.

use std::path::Path;

use anyhow::{Context as _, Result};

use super::HostSpec;
use crate::process::Cmd;

/// What `/var/lib/deptool` is on a host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum State {
    /// It does not exist. Whoever creates it gets a directory on the root file system.
    #[default]
    Plain,
    /// An empty ext4 file system of this many MiB (at least 2), to be filled.
    Disk { mib: u32 },
    /// A file system that is mounted noexec.
    NoExec,
    /// A file system that is mounted read-only.
    ReadOnly,
}

/// Creates `dir/root` for a host. To undo that, unmount everything in `dir` and remove it.
pub fn create(spec: &HostSpec, base: &Path, dir: &Path) -> Result<()> {
    let root = dir.join("root");
    std::fs::create_dir_all(&root)?;
    for entry in std::fs::read_dir(base)? {
        let name = entry?.file_name();
        match name.to_str() {
            Some("usr") => usr(&base.join("usr"), dir)?,
            Some("proc" | "sys" | "dev" | "run" | "tmp") => std::fs::create_dir(root.join(&name))?,
            _ => copy(&base.join(&name), &root)?,
        }
    }
    if spec.var_is_mount {
        var_mount(&root)?;
    }
    let state = host_path(spec, &root, "/var/lib/deptool");
    mount_state(spec.state, &state, &dir.join("state.img"))
}

/// The path on this computer of a path on the host, which may be off. Symlinks are not followed.
pub fn host_path(spec: &HostSpec, root: &Path, path: &str) -> std::path::PathBuf {
    let path = path.trim_start_matches('/');
    match path.strip_prefix("var") {
        Some(rest) if spec.var_is_mount && (rest.is_empty() || rest.starts_with('/')) => {
            root.join(format!(".var{rest}"))
        }
        _ => root.join(path),
    }
}

/// An overlay, or a copy if this computer has no overlays (because it is a container itself, for example).
fn usr(base: &Path, dir: &Path) -> Result<()> {
    let (upper, work, usr) = (dir.join("usr.upper"), dir.join("usr.work"), dir.join("root/usr"));
    for made in [&upper, &work, &usr] {
        std::fs::create_dir(made)?;
    }
    let options = format!("lowerdir={},upperdir={},workdir={}", base.display(), upper.display(), work.display());
    let mounted = Cmd::new("mount").args(["-t", "overlay", "overlay", "-o", &options]).arg(&usr).run()?;
    if mounted.success() {
        return Ok(());
    }
    std::fs::remove_dir(&usr)?;
    copy(base, &dir.join("root"))
}

fn copy(from: &Path, into: &Path) -> Result<()> {
    Cmd::new("cp").args(["-a", "--reflink=auto", "--"]).arg(from).arg(into).check()?;
    Ok(())
}

/// Has systemd mount `/var` during boot, from `/etc/fstab`.
fn var_mount(root: &Path) -> Result<()> {
    std::fs::rename(root.join("var"), root.join(".var"))?;
    std::fs::create_dir(root.join("var"))?;
    std::fs::write(root.join("etc/fstab"), "/.var /var none bind 0 0\n")?;
    Ok(())
}

fn mount_state(state: State, dir: &Path, image: &Path) -> Result<()> {
    let (mib, options) = match state {
        State::Plain => return Ok(()),
        State::Disk { mib } => (mib, "loop"),
        State::NoExec => (64, "loop,noexec"),
        State::ReadOnly => (64, "loop,ro"),
    };
    std::fs::create_dir_all(dir)?;
    let file = std::fs::File::create(image)?;
    file.set_len(u64::from(mib) << 20)?;
    // No reserved blocks: full is full, for root too.
    Cmd::new("mkfs.ext4").args(["-q", "-m", "0", "-E", "nodiscard"]).arg(image).check()?;
    let mount = Cmd::new("mount").args(["-o", options]).arg(image).arg(dir).check();
    mount.with_context(|| format!("cannot mount {}", image.display()))?;
    Ok(())
}
