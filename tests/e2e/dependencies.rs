//! The dependencies: their licences, their source, and that none of them compiles C. `cargo deny check` checks the same
//! and more, but must be installed.

use std::collections::{BTreeMap, BTreeSet};

use deptool_tests::build;
use serde_json::Value;

/// Licences that require only that their text is distributed, too.
const LICENCES: [&str; 9] =
    ["Apache-2.0", "BSD-2-Clause", "BSD-3-Clause", "CC0-1.0", "MIT", "NCSA", "Unicode-3.0", "Unlicense", "Zlib"];
const CRATES_IO: &str = "registry+https://github.com/rust-lang/crates.io-index";
/// Crates that compile C code or look for C libraries.
const FOREIGN: [&str; 5] = ["bindgen", "cc", "cmake", "pkg-config", "vcpkg"];

fn metadata() -> Value {
    // After a build for this computer, its dependencies are here, so this downloads nothing.
    let host = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
    let cargo = build::cargo_command().args(["metadata", "--format-version=1", "--locked", "--filter-platform", &host]);
    serde_json::from_slice(&cargo.run().unwrap().ok().stdout).unwrap()
}

fn text<'a>(package: &'a Value, key: &str) -> &'a str {
    package[key].as_str().unwrap_or_default()
}

/// Whether [`LICENCES`] satisfy an SPDX expression, or its older form with slashes.
fn is_fine(expression: &str) -> bool {
    let all_of: Vec<&str> = expression.split(" AND ").map(|part| part.trim_matches(['(', ')'])).collect();
    all_of.iter().all(|part| part.replace('/', " OR ").split(" OR ").any(|one| LICENCES.contains(&one.trim())))
}

#[test]
fn every_dependency_has_a_licence_that_fits_and_comes_from_crates_io() {
    let metadata = metadata();
    let packages = metadata["packages"].as_array().unwrap();
    assert!(packages.len() > 100, "{}", packages.len());
    for package in packages {
        let (name, licence) = (text(package, "name"), text(package, "license"));
        assert!(is_fine(licence), "{name} has the licence '{licence}'");
        if !package["source"].is_null() {
            assert_eq!(text(package, "source"), CRATES_IO, "{name}");
        }
    }
}

#[test]
fn nothing_that_is_shipped_compiles_c() {
    let metadata = metadata();
    let nodes = metadata["resolve"]["nodes"].as_array().unwrap();
    let by_id: BTreeMap<&str, &Value> = nodes.iter().map(|node| (text(node, "id"), node)).collect();
    let names: BTreeMap<&str, &str> = metadata["packages"]
        .as_array()
        .unwrap()
        .iter()
        .map(|package| (text(package, "id"), text(package, "name")))
        .collect();
    let is_shipped = |id: &&str| ["deptool-agent", "git-remote-deptool"].contains(&names[*id]);
    let mut todo: Vec<&str> = names.keys().copied().filter(is_shipped).collect();
    assert_eq!(todo.len(), 2);
    let mut seen = BTreeSet::new();
    while let Some(id) = todo.pop() {
        if !seen.insert(id) {
            continue;
        }
        assert!(!FOREIGN.contains(&names[id]), "{} is among the dependencies", names[id]);
        for dependency in by_id[id]["deps"].as_array().unwrap() {
            let kinds = dependency["dep_kinds"].as_array().unwrap();
            if kinds.iter().any(|kind| kind["kind"] != "dev") {
                todo.push(text(dependency, "pkg"));
            }
        }
    }
    assert!(seen.len() > 50, "{seen:?}");
}

#[test]
fn licences_are_read_as_they_are_meant() {
    for fine in ["MIT", "MIT/Apache-2.0", "GPL-3.0 OR MIT", "(MIT OR GPL-2.0) AND Unicode-3.0", "Apache-2.0 / MIT"] {
        assert!(is_fine(fine), "{fine}");
    }
    for bad in ["", "GPL-3.0", "MIT AND GPL-3.0", "(MIT OR Apache-2.0) AND OpenSSL", "MPL-2.0"] {
        assert!(!is_fine(bad), "{bad}");
    }
}
