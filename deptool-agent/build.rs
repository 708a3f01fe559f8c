//! Computes the build id: what tells two builds from different sources apart, without Git.

use std::{
    env, fs, io,
    path::{Path, PathBuf},
};

use sha2::{Digest, Sha256};

/// What both ends are made of, relative to the directory above this crate. A change to any of it gives another id, a
/// change to tests or manuals does not.
const SOURCES: [&str; 7] = [
    "Cargo.lock",
    "Cargo.toml",
    "deptool-agent/Cargo.toml",
    "deptool-agent/build.rs",
    "deptool-agent/src",
    "git-remote-deptool/Cargo.toml",
    "git-remote-deptool/src",
];

fn main() -> io::Result<()> {
    let this_crate = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").expect("cargo sets it"));
    let mut files = Vec::new();
    for source in SOURCES {
        // A crate that was packaged alone need not lie in a directory of its name, and has no siblings.
        let path = match source.strip_prefix("deptool-agent/") {
            Some(own) => this_crate.join(own),
            None => this_crate.join("..").join(source),
        };
        if path.exists() {
            // For a directory cargo looks at everything below it.
            println!("cargo:rerun-if-changed={}", path.display());
            collect(&path, source, &mut files)?;
        }
    }
    files.sort();
    println!("cargo:rustc-env=DEPTOOL_BUILD_ID={}", digest(&files)?);
    Ok(())
}

/// All files at and below `path`, each with the name under which it is hashed: the same on every platform.
fn collect(path: &Path, name: &str, files: &mut Vec<(String, PathBuf)>) -> io::Result<()> {
    if !path.is_dir() {
        files.push((name.to_owned(), path.to_owned()));
        return Ok(());
    }
    for entry in fs::read_dir(path)? {
        let entry = entry?;
        let file_name = entry.file_name();
        let file_name = file_name.to_str().ok_or_else(|| io::Error::other("a source file's name is not UTF-8"))?;
        // What editors leave behind and modules of tests are no part of what is built.
        let ignored = file_name.starts_with(['.', '#']) || file_name.ends_with('~') || file_name.starts_with("tests");
        if !ignored {
            collect(&entry.path(), &format!("{name}/{file_name}"), files)?;
        }
    }
    Ok(())
}

/// The first 64 bits of a SHA-256 over names and contents, each preceded by its length so that neither can pass for
/// the other.
fn digest(files: &[(String, PathBuf)]) -> io::Result<String> {
    let mut hash = Sha256::new();
    for (name, path) in files {
        let content = fs::read(path)?;
        for part in [name.as_bytes(), &content] {
            hash.update((part.len() as u64).to_be_bytes());
            hash.update(part);
        }
    }
    Ok(hash.finalize().iter().take(8).map(|byte| format!("{byte:02x}")).collect())
}
