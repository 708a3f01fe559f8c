//! Fuzz targets: one function for each parser of untrusted bytes.
//!
//! No input may make a target panic, hang, or allocate memory out of proportion to the input. Each target also asserts
//! whatever must hold for accepted input. `corpus/<name>/` has the inputs to begin with, among them every input that has ever
//! made a target fail. `tests/replay.rs` runs all of them.

mod targets;

pub struct Target {
    pub name: &'static str,
    pub run: fn(&[u8]),
}

pub const TARGETS: [Target; 14] = [
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
    Target { name: "age_files", run: targets::age_files },
];

pub fn target(name: &str) -> Option<&'static Target> {
    TARGETS.iter().find(|target| target.name == name)
}

/// The directory with the inputs for a target.
pub fn corpus(target: &Target) -> std::path::PathBuf {
    std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(target.name)
}
