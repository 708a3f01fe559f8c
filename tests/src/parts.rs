//! A list of all parts of the programs that are shipped, in CycloneDX's format (a "software bill of materials"): crates
//! with versions, licences and digests, from what cargo resolved.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context as _, Result};
use deptool_agent::shared::build::VERSION;
use serde_json::{Value, json};

use crate::build::{self, Platform, System};

/// The list for what is built for these systems, and for the agents. It is the same each time.
pub fn list(systems: &[System]) -> Result<String> {
    let metadata = metadata(systems)?;
    let lock = std::fs::read_to_string(build::workspace().join("Cargo.lock"))?;
    let sums = sums(&lock);
    let packages = by_id(&metadata["packages"])?;
    let nodes = by_id(&metadata["resolve"]["nodes"])?;
    let (mut components, mut dependencies) = (Vec::new(), Vec::new());
    for id in shipped(&packages, &nodes) {
        let package = packages.get(id).context("cargo names no such package")?;
        components.push(component(package, &sums));
        let needs: BTreeSet<String> =
            needs(nodes[id]).filter_map(|id| packages.get(id)).map(|package| url(package)).collect();
        dependencies.push(json!({"ref": url(package), "dependsOn": needs}));
    }
    components.push(json!({
        "type": "library", "name": "Rust's standard library", "version": build::rustc(&["--version"])?.trim_end(),
        "description": "on Linux with musl, a C library", "licenses": [{"expression": "MIT OR Apache-2.0"}],
    }));
    let whole = json!({
        "bomFormat": "CycloneDX", "specVersion": "1.6", "version": 1,
        "metadata": {"component": {"type": "application", "name": "git-deptool", "version": VERSION}},
        "components": components, "dependencies": dependencies,
    });
    Ok(serde_json::to_string_pretty(&whole)? + "\n")
}

fn metadata(systems: &[System]) -> Result<Value> {
    let targets = Platform::ALL.map(Platform::target).into_iter().chain(systems.iter().map(|system| system.target()));
    let cargo = build::cargo_command().args(["metadata", "--format-version=1", "--locked"]);
    let metadata = cargo.args(targets.flat_map(|target| ["--filter-platform", target])).check()?;
    Ok(serde_json::from_slice(&metadata.stdout)?)
}

fn by_id(list: &Value) -> Result<BTreeMap<&str, &Value>> {
    let list = list.as_array().context("cargo lists no packages")?;
    Ok(list.iter().map(|one| (text(one, "id"), one)).collect())
}

fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value[key].as_str().unwrap_or_default()
}

/// The ids of the packages that become part of helper or agent.
fn shipped<'a>(packages: &BTreeMap<&'a str, &'a Value>, nodes: &BTreeMap<&'a str, &'a Value>) -> BTreeSet<&'a str> {
    let is_ours = |package: &Value| ["deptool-agent", "git-remote-deptool"].contains(&text(package, "name"));
    let ours = packages.iter().filter(|(_, package)| is_ours(package));
    let mut todo: Vec<&str> = ours.map(|(id, _)| *id).collect();
    let mut found = BTreeSet::new();
    while let Some(id) = todo.pop() {
        if found.insert(id) {
            todo.extend(nodes.get(id).into_iter().flat_map(|node| needs(node)));
        }
    }
    found
}

/// What a package needs when it runs, not to be built or tested.
fn needs(node: &Value) -> impl Iterator<Item = &str> {
    let is_normal =
        |needed: &&Value| needed["dep_kinds"].as_array().is_some_and(|k| k.iter().any(|k| k["kind"].is_null()));
    node["deps"].as_array().into_iter().flatten().filter(is_normal).map(|needed| text(needed, "pkg"))
}

/// The name of a crate in a "package URL".
fn url(package: &Value) -> String {
    format!("pkg:cargo/{}@{}", text(package, "name"), text(package, "version"))
}

fn component(package: &Value, sums: &BTreeMap<(&str, &str), &str>) -> Value {
    let (name, version) = (text(package, "name"), text(package, "version"));
    // Some crates separate alternatives by a slash, as was usual.
    let license = text(package, "license").replace('/', " OR ");
    let hashes = sums.get(&(name, version)).map(|sum| json!({"alg": "SHA-256", "content": sum}));
    json!({
        "type": "library", "bom-ref": url(package), "purl": url(package), "name": name, "version": version,
        "licenses": [{"expression": license}], "hashes": hashes.into_iter().collect::<Vec<_>>(),
    })
}

/// The digests in a `Cargo.lock`, by name and version.
fn sums(lock: &str) -> BTreeMap<(&str, &str), &str> {
    let sum = |package| {
        let value = |key| lines_of(package).find_map(|(name, value)| (name == key).then_some(value));
        Some(((value("name")?, value("version")?), value("checksum")?))
    };
    lock.split("[[package]]").filter_map(sum).collect()
}

fn lines_of(package: &str) -> impl Iterator<Item = (&str, &str)> {
    package.lines().filter_map(|line| line.split_once(" = ")).map(|(name, value)| (name, value.trim_matches('"')))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_that_is_shipped_is_listed_with_its_licence_and_digest_and_nothing_else() {
        let list: Value = serde_json::from_str(&list(&[System::LinuxX86_64]).unwrap()).unwrap();
        let listed = list["components"].as_array().unwrap();
        let find = |name: &str| listed.iter().find(|part| text(part, "name") == name);
        let gix = find("gix").unwrap();
        assert_eq!(text(gix, "licenses").len(), 0, "a list, not a text");
        assert_eq!(text(&gix["hashes"][0], "content").len(), 64);
        assert!(text(gix, "purl").starts_with("pkg:cargo/gix@"));
        assert!(find("deptool-agent").unwrap()["hashes"].as_array().unwrap().is_empty(), "ours is in no registry");
        assert!(find("proptest").is_none(), "only tests need it");
        assert!(find("vt100").is_none(), "only tests need it");
        for part in listed {
            let license = text(&part["licenses"][0], "expression");
            assert!(!license.is_empty() && !license.contains('/'), "{part}");
        }
        let refs: BTreeSet<&str> = listed.iter().map(|part| text(part, "bom-ref")).collect();
        for needed in list["dependencies"].as_array().unwrap().iter().flat_map(|d| d["dependsOn"].as_array().unwrap()) {
            assert!(refs.contains(needed.as_str().unwrap()), "{needed} is not listed");
        }
    }
}
