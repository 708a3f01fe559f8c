//! What a disk, a power cut or a person may do to a file.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};

use deptool_tests::process::Cmd;

pub type Damage = fn(&Path);

/// One damage in this many is a sample. It has every kind of damage, and every file.
pub const SAMPLE: usize = 5;

/// Each is done to a file at a path.
pub const DAMAGES: [(&str, Damage); 8] = [
    ("emptied", |path| change(path, |_| Vec::new())),
    ("removed", |path| fs::remove_file(path).unwrap()),
    ("cut", |path| change(path, |bytes| bytes[..bytes.len() / 2].to_vec())),
    ("flipped", |path| {
        change(path, |bytes| {
            let (mut bytes, middle) = (bytes.to_vec(), bytes.len() / 2);
            bytes.iter_mut().skip(middle).take(1).for_each(|byte| *byte ^= 1);
            bytes
        });
    }),
    ("replaced by a directory", |path| {
        fs::remove_file(path).unwrap();
        fs::create_dir(path).unwrap();
    }),
    ("replaced by a link", |path| {
        let moved = path.with_extension("moved");
        fs::rename(path, &moved).unwrap();
        symlink(moved.file_name().unwrap(), path).unwrap();
    }),
    ("replaced by a FIFO", |path| {
        fs::remove_file(path).unwrap();
        Cmd::new("mkfifo").arg(path).check().unwrap();
    }),
    ("replaced by 4 GiB of zeros", |path| {
        fs::remove_file(path).unwrap();
        fs::File::create(path).unwrap().set_len(4 << 30).unwrap();
    }),
];

/// Files of the store can't be written to, even by their owner.
fn change(path: &Path, change: impl FnOnce(&[u8]) -> Vec<u8>) {
    let bytes = fs::read(path).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap();
    fs::write(path, change(&bytes)).unwrap();
}

/// One in so many of all damages to all records of a host, each with its description.
pub fn to_records(state: &Path, one_in: usize) -> Vec<(PathBuf, String, Damage)> {
    let each = |record: PathBuf| {
        DAMAGES.map(|(what, damage)| (record.clone(), format!("{} {what}", record.display()), damage))
    };
    records(state).into_iter().flat_map(each).skip(one_in - 1).step_by(one_in).collect()
}

/// The files of a host's state and store, relative to its state directory.
fn records(state: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut todo = vec![state.join("state"), state.join("store"), state.join("bin")];
    while let Some(directory) = todo.pop() {
        for entry in fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            match path.is_dir() {
                true => todo.push(path),
                // A deployment that is under way has a socket.
                false if !path.is_file() => {}
                false => found.push(path.strip_prefix(state).unwrap().to_owned()),
            }
        }
    }
    found.sort();
    found
}
