//! The files of the store: created so that stock Git can read the store, and cleaned up after a crash.

use std::{
    collections::HashSet,
    fs::{self, DirBuilder, File, OpenOptions, Permissions},
    io::{self, Read, Seek, SeekFrom, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
    time::SystemTime,
};

use gix_hash::Hasher;

use crate::shared::store::error::{At, Result};

/// With this configuration stock Git (2.39 and later) accepts that objects are missing. The url is a path that does not
/// exist: an attempt to fetch a missing object fails at once, on this machine, and the error message shows the reason.
const CONFIG: &str = "\
# Written by deptool-agent. This repository has the history of this host, and nothing of other hosts.
[core]
\trepositoryformatversion = 1
\tfilemode = true
\tbare = true
\tlogAllRefUpdates = always
[extensions]
\tpartialClone = operator
[remote \"operator\"]
\turl = /nonexistent/only-operators-have-files-of-other-hosts-and-those-of-4-MiB-and-more
\tpromisor = true
[gc]
\tauto = 0
[maintenance]
\tauto = false
";

/// HEAD before the first deployment: it names a branch that does not exist.
const UNBORN: &str = "ref: refs/heads/main\n";

const DIRECTORIES: [&str; 7] = ["", "objects", "objects/pack", "objects/info", "refs", "refs/heads", "refs/deptool"];

/// The suffixes of the three files of a pack.
pub(super) const PACK_FILES: [&str; 3] = ["pack", "promisor", "idx"];

/// Create whatever is missing of a store at `dir`. HEAD comes last: without it Git does not see a repository.
pub(super) fn complete(dir: &Path) -> Result<()> {
    for name in DIRECTORIES {
        let path = dir.join(name);
        match DirBuilder::new().mode(0o700).create(&path) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            result => result.at("make", &path)?,
        }
    }
    if fs::metadata(dir).at("look at", dir)?.permissions().mode() & 0o777 != 0o700 {
        fs::set_permissions(dir, Permissions::from_mode(0o700)).at("close", dir)?;
    }
    for (name, content) in [("config", CONFIG), ("HEAD", UNBORN)] {
        let path = dir.join(name);
        if !path.try_exists().at("look at", &path)? {
            replace(&path, content.as_bytes())?;
        }
    }
    Ok(())
}

/// The limit for files of the store other than packs, in bytes.
const LONGEST: u64 = 64 << 20;

/// Open a file of the store. It must be a regular file; links are not followed.
pub(super) fn open_file(path: &Path, options: &mut OpenOptions) -> io::Result<File> {
    let not_ours = || io::Error::new(io::ErrorKind::InvalidData, "it is not a regular file");
    let file = match options.custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK | libc::O_NOCTTY).open(path) {
        Err(error) if error.raw_os_error() == Some(libc::ELOOP) => return Err(not_ours()),
        result => result?,
    };
    if file.metadata()?.is_file() { Ok(file) } else { Err(not_ours()) }
}

/// Read a file of the store.
pub(super) fn read_file(path: &Path) -> io::Result<Vec<u8>> {
    let file = open_file(path, OpenOptions::new().read(true))?;
    let length = file.metadata()?.len();
    if length > LONGEST {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "it is too long"));
    }
    let mut content = Vec::with_capacity(length as usize);
    file.take(length).read_to_end(&mut content)?;
    Ok(content)
}

/// Find paths in the store at `dir` that neither Git nor an agent can have made: links, directories in place of
/// files, files that are far too long. `branch` is the name of a ref that must be a file.
pub(super) fn strange(dir: &Path, branch: Option<&str>) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    let kind = |path: &Path| fs::symlink_metadata(path);
    for name in DIRECTORIES.into_iter().skip(1).chain(["logs"]) {
        let path = dir.join(name);
        if kind(&path).is_ok_and(|meta| !meta.is_dir()) {
            found.push(path);
        }
    }
    let logs = branch.map(|name| format!("logs/{name}"));
    let files = ["HEAD", "config", "shallow", "packed-refs", "refs/deptool/target"];
    for name in files.into_iter().chain(branch).chain(logs.as_deref()) {
        let path = dir.join(name);
        if kind(&path).is_ok_and(|meta| !meta.is_file() || meta.len() > LONGEST) {
            found.push(path);
        }
    }
    for name in ["refs", "logs"] {
        if kind(&dir.join(name)).is_ok_and(|meta| meta.is_dir()) {
            visit_files(&dir.join(name), &mut |path| {
                let is_ours = kind(path).is_ok_and(|meta| meta.is_file() && meta.len() <= LONGEST);
                if !is_ours && !found.iter().any(|known| known == path) {
                    found.push(path.to_owned());
                }
                Ok(())
            })?;
        }
    }
    // Packs may be long and are many, so they are not looked at one by one.
    for entry in fs::read_dir(dir.join("objects/pack")).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| !kind.is_file()) {
            found.push(entry.path());
        }
    }
    Ok(found)
}

/// Replace `path` with `content` atomically. The content is synced, the directory is not.
pub(super) fn replace(path: &Path, content: &[u8]) -> Result<()> {
    let mut name = path.as_os_str().to_owned();
    name.push(".lock");
    let temporary = PathBuf::from(name);
    let write = || {
        remove_leftover(&temporary)?;
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temporary)?;
        file.write_all(content)?;
        file.sync_all()?;
        fs::rename(&temporary, path)
    };
    let result = write();
    if result.is_err() {
        // The error above is the one to report. The next sweep removes the file.
        let _ = fs::remove_file(&temporary);
    }
    result.at("write", path)
}

/// Remove whatever a crash left: temporary files, lock files, packs that are cut off or lack their index, and the
/// torn last line of a reflog. The caller holds the host lock. `branch` is the name of the ref that is deployed.
pub(super) fn sweep(dir: &Path, branch: Option<&str>) -> Result<()> {
    sweep_temporary_files(dir)?;
    visit_files(&dir.join("logs"), &mut cut_torn_line)?;
    // The branch is written after everything before it was synced.
    let settled = branch.and_then(|name| written_at(&dir.join(name)));
    sweep_packs(&dir.join("objects/pack"), settled)
}

/// Remove lock files and temporary files. They are told by their names. The caller holds the host lock.
pub(super) fn sweep_temporary_files(dir: &Path) -> Result<()> {
    for name in ["config.lock", "HEAD.lock", "shallow.lock", "packed-refs.lock"] {
        remove_if_exists(&dir.join(name))?;
    }
    visit_files(&dir.join("refs"), &mut |path| match path.extension() {
        Some(suffix) if suffix == "lock" => remove_if_exists(path),
        _ => Ok(()),
    })?;
    let packs = dir.join("objects/pack");
    visit_files(&packs, &mut |path| {
        let name = path.file_name().unwrap_or_default().as_encoded_bytes();
        if name.starts_with(b"tmp_") { remove_if_exists(path) } else { Ok(()) }
    })
}

/// Packs that were written after `settled` may be cut off.
fn sweep_packs(dir: &Path, settled: Option<SystemTime>) -> Result<()> {
    let entries = match fs::read_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        result => result.at("read", dir)?,
    };
    let mut files = HashSet::new();
    for entry in entries {
        files.insert(entry.at("read", dir)?.path());
    }
    let has = |path: &Path, suffix: &str| files.contains(&path.with_extension(suffix));
    for path in &files {
        let whole = match path.extension().and_then(|suffix| suffix.to_str()) {
            Some("pack") => has(path, "idx") && (settled > written_at(path) || is_whole(path)?),
            Some("idx" | "promisor" | "rev" | "mtimes") => has(path, "pack"),
            _ => true,
        };
        if !whole {
            remove_pack(path)?;
            remove_if_exists(path)?;
        }
    }
    Ok(())
}

fn written_at(path: &Path) -> Option<SystemTime> {
    fs::symlink_metadata(path).and_then(|meta| meta.modified()).ok()
}

/// Remove a pack, given by any of its files, along with the files that Git may have added to it. The index goes first,
/// because Git only sees packs that have an index.
pub(super) fn remove_pack(file: &Path) -> Result<()> {
    ["idx", "rev", "mtimes", "bitmap", "promisor", "pack"]
        .iter()
        .try_for_each(|suffix| remove_if_exists(&file.with_extension(suffix)))
}

/// Whether a pack has its index, and ends with the checksum that the index names.
///
/// A pack gets its name before it is synced (the caller syncs it later, before anything depends on it). So after a
/// power cut it may be shorter than it was.
fn is_whole(pack: &Path) -> Result<bool> {
    let index = pack.with_extension("idx");
    match (last(pack, 20)?, last(&index, 40)?) {
        (Some(end), Some(announced)) => Ok(end[..] == announced[..20]),
        _ => Ok(false),
    }
}

/// Whether a pack and its index, given by the index, are undamaged. Each ends with a checksum of everything before.
pub(super) fn is_sound(index: &Path) -> Result<bool> {
    let pack = index.with_extension("pack");
    Ok(is_whole(&pack)? && is_as_hashed(&pack)? && is_as_hashed(index)?)
}

fn is_as_hashed(path: &Path) -> Result<bool> {
    let mut file = open_file(path, OpenOptions::new().read(true)).at("open", path)?;
    let Some(before) = file.metadata().at("look at", path)?.len().checked_sub(20) else { return Ok(false) };
    let hash = gix_hash::hasher(gix_hash::Kind::Sha1);
    let hash = copy_and_hash(&mut file, before, hash, &mut io::sink()).at("read", path)?;
    let mut end = [0; 20];
    file.read_exact(&mut end).at("read", path)?;
    Ok(hash.try_finalize().is_ok_and(|digest| digest.as_slice() == end))
}

/// Copy up to `size` bytes, and hash them.
pub fn copy_and_hash(source: &mut File, size: u64, mut hash: Hasher, into: &mut dyn Write) -> io::Result<Hasher> {
    let (mut source, mut chunk) = (source.take(size), vec![0; 64 << 10]);
    loop {
        match source.read(&mut chunk)? {
            0 => return Ok(hash),
            count => {
                hash.update(&chunk[..count]);
                into.write_all(&chunk[..count])?;
            }
        }
    }
}

/// The last `n` bytes of a file. `None` if the file is missing or shorter.
fn last(path: &Path, n: usize) -> Result<Option<Vec<u8>>> {
    let mut file = match open_file(path, OpenOptions::new().read(true)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        result => result.at("open", path)?,
    };
    if file.seek(SeekFrom::End(-(n as i64))).is_err() {
        return Ok(None);
    }
    let mut bytes = vec![0; n];
    file.read_exact(&mut bytes).at("read", path)?;
    Ok(Some(bytes))
}

/// Cut off an unfinished last line.
fn cut_torn_line(path: &Path) -> Result<()> {
    if last(path, 1)?.is_none_or(|end| end == b"\n") {
        return Ok(());
    }
    let content = read_file(path).at("read", path)?;
    let whole = content.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
    if whole < content.len() {
        let file = open_file(path, OpenOptions::new().write(true)).at("open", path)?;
        file.set_len(whole as u64).at("mend", path)?;
    }
    Ok(())
}

/// Call `each` with every file below `dir`, which need not exist.
pub(super) fn visit_files(dir: &Path, each: &mut dyn FnMut(&Path) -> Result<()>) -> Result<()> {
    let entries = match fs::read_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        result => result.at("read", dir)?,
    };
    for entry in entries {
        let entry = entry.at("read", dir)?;
        match entry.file_type().at("look at", entry.path())?.is_dir() {
            true => visit_files(&entry.path(), each)?,
            false => each(&entry.path())?,
        }
    }
    Ok(())
}

fn remove_leftover(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

pub(super) fn remove_if_exists(path: &Path) -> Result<()> {
    remove_leftover(path).at("remove", path)
}
