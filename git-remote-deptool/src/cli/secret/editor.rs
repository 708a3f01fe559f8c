//! The operator's editor, on a file that is only in memory.

use std::{
    ffi::OsStr,
    fs::{self, OpenOptions},
    io::{self, Read as _, Write as _},
    os::unix::{
        ffi::OsStrExt as _,
        fs::{OpenOptionsExt as _, PermissionsExt as _},
    },
    path::{Path, PathBuf},
    process::Command,
};

use zeroize::Zeroizing;

use super::{
    super::CliError,
    place::{self, MAX_SIZE},
};

/// What statfs(2) says of a tmpfs and of a ramfs.
const IN_MEMORY: [i64; 2] = [0x0102_1994, 0x8584_58f6];
/// vim, so that it leaves no other file: none for swapping, for backups, for undo or for what was typed and deleted.
const VIM: [&str; 9] = [
    "-n",
    "-i",
    "NONE",
    "--cmd",
    "set nobackup nowritebackup noswapfile viminfo=",
    "-c",
    "silent! set noundofile",
    "-c",
    "silent! set nobackup nowritebackup noswapfile viminfo=",
];

/// Let the operator change `before`. Returns what the file then contains.
///
/// It is in a directory of its own, which nobody else can enter, and is overwritten and removed afterwards, with whatever the
/// editor has left beside it.
pub(super) fn edit(before: &[u8]) -> Result<Zeroizing<Vec<u8>>, CliError> {
    let Some(memory) = memory() else {
        return Err(CliError::Text("there is no directory in memory for the editor; pipe the secret to stdin".into()));
    };
    let private = fs::Permissions::from_mode(0o700);
    let directory = tempfile::Builder::new().prefix("deptool-").permissions(private).tempdir_in(memory)?;
    let path = directory.path().join("secret");
    let done = in_directory(&path, before);
    wipe(directory.path());
    directory.close()?;
    done
}

fn in_directory(path: &Path, before: &[u8]) -> Result<Zeroizing<Vec<u8>>, CliError> {
    OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?.write_all(before)?;
    // With the environment as it is: it may name the editor.
    let asked = Command::new("git").args(["var", "GIT_EDITOR"]).output()?;
    if !asked.status.success() {
        return Err(CliError::Text("there is no editor: set core.editor, or pipe the secret to stdin".into()));
    }
    let editor = OsStr::from_bytes(asked.stdout.trim_ascii_end());
    // As Git starts it.
    let mut command = Command::new("sh");
    command.arg("-c").arg(OsStr::from_bytes(&[editor.as_bytes(), b" \"$@\""].concat())).arg(editor);
    if is_vim(editor.as_bytes()) {
        command.args(VIM);
    }
    let status = command.arg(path).status()?;
    if !status.success() {
        return Err(CliError::Text("the editor failed; nothing was written".into()));
    }
    let mut after = Zeroizing::new(Vec::with_capacity(64 * 1024));
    fs::File::open(path)?.take(MAX_SIZE + 1).read_to_end(&mut after)?;
    place::check_size(&after)?;
    Ok(after)
}

/// A directory whose files are only in memory.
#[allow(clippy::unnecessary_cast, reason = "the type of f_type differs between platforms")]
fn memory() -> Option<PathBuf> {
    let runtime = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from);
    let candidates = [Some(PathBuf::from("/dev/shm")), runtime.filter(|path| path.is_absolute())];
    candidates
        .into_iter()
        .flatten()
        .find(|path| rustix::fs::statfs(path).is_ok_and(|found| IN_MEMORY.contains(&(found.f_type as i64))))
}

/// Whether the command starts vim or one of its relatives, under whatever name.
fn is_vim(editor: &[u8]) -> bool {
    let program = editor.split(|byte| *byte == b' ').next().unwrap_or_default();
    let found = which::which(OsStr::from_bytes(program)).ok().and_then(|path| path.canonicalize().ok());
    let name =
        found.as_ref().and_then(|path| path.file_name()).map(|name| name.as_bytes().to_vec()).unwrap_or_default();
    name.starts_with(b"vim") || name == b"nvim"
}

/// Overwrite all files in a directory.
fn wipe(directory: &Path) {
    let wipe_file = |path: PathBuf| -> io::Result<()> {
        let size = path.symlink_metadata()?.len();
        let nofollow = rustix::fs::OFlags::NOFOLLOW.bits().cast_signed();
        let mut file = OpenOptions::new().write(true).custom_flags(nofollow).open(path)?;
        io::copy(&mut io::repeat(0).take(size), &mut file)?;
        Ok(())
    };
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        // What can't be overwritten is removed all the same.
        let _ = wipe_file(entry.path());
    }
}
