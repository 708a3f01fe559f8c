//! Computes the build id: what tells two builds from different sources apart, without Git. Has the agent linked small.

use std::{
    env, fs, io,
    path::{Path, PathBuf},
};

use sha2::{Digest, Sha256};

/// What both ends are made of, relative to the directory above this crate. A change to any of it gives another id, a
/// change to tests or manuals does not.
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
    if is_shipped() {
        link_small(&this_crate);
    }
    Ok(())
}

/// Whether this is the agent that goes to hosts: static, in the profile `agent` (the one that is optimised for size), and
/// linked by the linker that comes with Rust. Any other agent is only larger.
fn is_shipped() -> bool {
    let is = |variable: &str, value: &str| env::var_os(variable).is_some_and(|is| is == value);
    let linker = env::var_os("RUSTC_LINKER").map(PathBuf::from).unwrap_or_default();
    is("CARGO_CFG_TARGET_ENV", "musl") && is("OPT_LEVEL", "z") && linker.file_stem() == Some("rust-lld".as_ref())
}

/// What the linker can leave out. None of it is any use to a program that does not unwind and has no symbols.
fn link_small(this_crate: &Path) {
    let script = this_crate.join("small.ld");
    println!("cargo:rerun-if-changed={}", script.display());
    println!("cargo:rustc-link-arg-bins=--script={}", script.display());
    // One copy of functions that are the same byte for byte, as instances of generic ones often are.
    println!("cargo:rustc-link-arg-bins=--icf=all");
    // Where the program has addresses in its data: a bit for each in place of 24 bytes.
    println!("cargo:rustc-link-arg-bins=--pack-dyn-relocs=relr");
    // main.rs has functions of libunwind's.
    println!("cargo:rustc-link-arg-bins=--allow-multiple-definition");
    println!("cargo:rustc-cfg=no_unwinding");
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
