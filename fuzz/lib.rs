//! Everything that takes bytes from somebody else, one function each, for a fuzzer.
//!
//! Whatever the bytes are, none of these may panic, hang, or ask for more memory than the bytes are worth; and each asserts
//! what must hold of anything that was accepted. `corpus/<name>/` has inputs to begin with, among them every one that
//! has ever made a target fail: `tests/replay.rs` runs them all.

mod targets;

/// A target's name and function.
pub struct Target {
    pub name: &'static str,
    pub run: fn(&[u8]),
}

/// All targets.
pub const TARGETS: [Target; 13] = [
    Target { name: "requests", run: targets::requests },
    Target { name: "responses", run: targets::responses },
    Target { name: "manifests", run: targets::manifests },
    Target { name: "names", run: targets::names },
    Target { name: "paths", run: targets::paths },
    Target { name: "units", run: targets::units },
    Target { name: "trees", run: targets::trees },
    Target { name: "packs", run: targets::packs },
    Target { name: "urls", run: targets::urls },
    Target { name: "dialogue", run: targets::dialogue },
    Target { name: "openings", run: targets::openings },
    Target { name: "ledgers", run: targets::ledgers },
    Target { name: "texts", run: targets::texts },
];

/// The target of this name.
pub fn target(name: &str) -> Option<&'static Target> {
    TARGETS.iter().find(|target| target.name == name)
}

/// The directory with the inputs of a target.
pub fn corpus(target: &Target) -> std::path::PathBuf {
    std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(target.name)
}
