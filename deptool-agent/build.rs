//! Computes the build id, a hash of all sources, and sets the linker options that make the agent for hosts small.

use std::{
    env, fs, io,
    path::{Path, PathBuf},
};

use sha2::{Digest, Sha256};

/// The sources of helper and agent, relative to the directory above this crate. Changing any of them changes the build id;
/// changing tests or manuals does not.
const SOURCES: [&str; 8] = [
    "Cargo.lock",
    "Cargo.toml",
    "deptool-agent/Cargo.toml",
    "deptool-agent/build.rs",
    "deptool-agent/small.ld",
    "deptool-agent/src",
    "git-remote-deptool/Cargo.toml",
    "git-remote-deptool/src",
];

fn main() -> io::Result<()> {
    println!("cargo:rustc-check-cfg=cfg(no_unwinding)");
    let this_crate = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").expect("cargo sets it"));
    let mut files = Vec::new();
    for source in SOURCES {
        // A packaged crate may be in a directory of any name, without the helper's crate beside it.
        let path = match source.strip_prefix("deptool-agent/") {
            Some(own) => this_crate.join(own),
            None => this_crate.join("..").join(source),
        };
        if path.exists() {
            // Cargo watches everything below a directory.
            println!("cargo:rerun-if-changed={}", path.display());
            collect(&path, source, &mut files)?;
        }
    }
    files.sort();
    println!("cargo:rustc-env=DEPTOOL_BUILD_ID={}", digest(&files)?);
    if is_shipped() {
        link_small(&this_crate);
    }
    Ok(())
}

/// Whether this build is the agent for hosts: static, in the profile `agent` (which optimises for size), and linked by the
/// linker that comes with Rust. Other builds work the same, they are only larger.
fn is_shipped() -> bool {
    let is = |variable: &str, value: &str| env::var_os(variable).is_some_and(|is| is == value);
    let linker = env::var_os("RUSTC_LINKER").map(PathBuf::from).unwrap_or_default();
    is("CARGO_CFG_TARGET_ENV", "musl") && is("OPT_LEVEL", "z") && linker.file_stem() == Some("rust-lld".as_ref())
}

/// Drop what a stripped program that does not unwind has no use for. `doc/measurements.md` says what each option saves.
fn link_small(this_crate: &Path) {
    let script = this_crate.join("small.ld");
    println!("cargo:rerun-if-changed={}", script.display());
    println!("cargo:rustc-link-arg-bins=--script={}", script.display());
    // Keep one copy of identical functions. Instances of generic functions often are identical.
    println!("cargo:rustc-link-arg-bins=--icf=all");
    // Store each relocation in one bit instead of 24 bytes.
    println!("cargo:rustc-link-arg-bins=--pack-dyn-relocs=relr");
    // main.rs defines functions that libunwind defines, too.
    println!("cargo:rustc-link-arg-bins=--allow-multiple-definition");
    println!("cargo:rustc-cfg=no_unwinding");
}

/// Collect all files at and below `path`, each with the name that goes into the hash. It is the same on every platform.
fn collect(path: &Path, name: &str, files: &mut Vec<(String, PathBuf)>) -> io::Result<()> {
    if !path.is_dir() {
        files.push((name.to_owned(), path.to_owned()));
        return Ok(());
    }
    for entry in fs::read_dir(path)? {
        let entry = entry?;
        let file_name = entry.file_name();
        let file_name = file_name.to_str().ok_or_else(|| io::Error::other("a source file's name is not UTF-8"))?;
        // Editors' backup files and test modules are not part of the programs.
        let ignored = file_name.starts_with(['.', '#']) || file_name.ends_with('~') || file_name.starts_with("tests");
        if !ignored {
            collect(&entry.path(), &format!("{name}/{file_name}"), files)?;
        }
    }
    Ok(())
}

/// The first 64 bits of a SHA-256 over names and contents. Each is preceded by its length, so that no two sets of files
/// hash the same bytes.
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
