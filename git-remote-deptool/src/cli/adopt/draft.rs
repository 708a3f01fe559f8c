//! What is to be written to an app's directory in the work tree.

use std::{collections::BTreeMap, fs, io, os::unix::fs::PermissionsExt as _, path::PathBuf};

use deptool_agent::shared::{
    manifest::{Manifest, Mode},
    name::{Account, AppName, HostName, UnitName},
    path::{ExternalPath, TreePath},
    text::printable,
    wire::UnitNow,
};
use serde_json::{Map, Value, json};

use super::{CliError, WorkTree};

/// Directories of the system whose files are copied there from directories of an app.
const COPIED: [(&str, &str); 4] = [
    ("/etc/systemd/system/", "systemd/"),
    ("/etc/sysusers.d/", "sysusers/"),
    ("/etc/tmpfiles.d/", "tmpfiles/"),
    ("/etc/containers/systemd/", "quadlets/"),
];

/// An app's directory, and what is added to it.
pub(super) struct Draft {
    tree: WorkTree,
    /// `web1/nginx`
    shown: String,
    manifest: Map<String, Value>,
    /// The manifest is changed.
    is_described: bool,
    files: BTreeMap<String, New>,
    notes: Vec<String>,
    /// What is not adopted, and why.
    left: Vec<String>,
}

struct New {
    content: Vec<u8>,
    is_executable: bool,
    /// For people.
    what: String,
}

/// Mode, owner and group as the host has them.
type Attributes = (u32, Option<String>, Option<String>);

impl Draft {
    pub fn open(tree: WorkTree, host: &HostName, app: &AppName) -> Result<Draft, CliError> {
        let shown = format!("{host}/{app}");
        let path = tree.below(&format!("{shown}/manifest.json"))?;
        let manifest = match fs::read(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Map::new(),
            bytes => {
                let bytes = bytes?;
                let bad = |error: String| CliError::Text(format!("{shown}/manifest.json: {error}"));
                Manifest::parse(&bytes).map_err(|error| bad(error.to_string()))?;
                serde_json::from_slice(&bytes).map_err(|error| bad(error.to_string()))?
            }
        };
        let (files, notes, left) = (BTreeMap::new(), Vec::new(), Vec::new());
        Ok(Draft { tree, shown, manifest, is_described: false, files, notes, left })
    }

    pub fn leave(&mut self, path: &ExternalPath, why: &str) {
        self.left.push(format!("'{path}' is left out: it {why}"));
    }

    pub fn left(&self) -> &[String] {
        &self.left
    }

    pub fn is_empty(&self) -> bool {
        self.files.is_empty() && !self.is_described
    }

    /// Adopt a file of the host.
    pub fn file(&mut self, path: &ExternalPath, attributes: Attributes, content: Vec<u8>) -> Result<(), CliError> {
        let copied = COPIED.iter().find_map(|(from, to)| Some((path.as_str().strip_prefix(from)?, to)));
        let (mode, owner, group) = attributes;
        if mode & 0o7000 != 0 {
            self.leave(path, "has a set-user-id, set-group-id or sticky bit");
            return Ok(());
        }
        let is_root = |name: &Option<String>| name.as_deref() == Some("root");
        if let Some((rest, directory)) = copied {
            if rest.split('/').count() > 2 {
                self.leave(path, "is in a directory that systemd does not read");
                return Ok(());
            }
            if mode != 0o644 || !is_root(&owner) || !is_root(&group) {
                self.notes.push(format!("'{path}' will belong to root, with mode 0644"));
            }
            self.add(format!("{directory}{rest}"), New { content, is_executable: false, what: format!("{path}") });
            return Ok(());
        }
        if let Err(error) = ExternalPath::parse_link(path.as_str()) {
            self.left.push(format!("'{path}' is left out: {error}"));
            return Ok(());
        }
        let file = path.as_str()[1..].to_owned();
        TreePath::parse(file.as_bytes()).map_err(|error| CliError::Text(error.to_string()))?;
        let Some(described) = attributes_of(mode, &owner, &group) else {
            self.leave(path, "belongs to a user or group without a name that a manifest can have");
            return Ok(());
        };
        let mut what = format!("{path}");
        if !described.is_empty() {
            let values: Vec<&str> = described.values().filter_map(Value::as_str).collect();
            what += &format!(" ({})", values.join(" "));
            self.object("files").insert(file.clone(), Value::Object(described));
        }
        self.object("symlinks").insert(path.as_str().to_owned(), Value::String(file.clone()));
        self.is_described = true;
        self.add(file, New { content, is_executable: mode == 0o755, what });
        Ok(())
    }

    /// Adopt the state of a unit: if it is enabled and runs, it is to stay so.
    pub fn unit(&mut self, now: &UnitNow) {
        let unit = &now.unit;
        match (now.enabled, now.runs) {
            (true, true) => self.enable(unit),
            (true, false) => self.notes.push(format!("{unit} is enabled but does not run: it is not in the manifest")),
            (false, true) => self.notes.push(format!("{unit} runs but is not enabled: it is not in the manifest")),
            (false, false) => {}
        }
    }

    fn enable(&mut self, unit: &UnitName) {
        let units = self.object("systemd").entry("units_enabled").or_insert_with(|| json!([]));
        if let Some(units) = units.as_array_mut()
            && !units.iter().any(|known| known.as_str() == Some(unit.as_str()))
        {
            units.push(Value::String(unit.to_string()));
            self.is_described = true;
        }
    }

    /// An object of the manifest; an empty one if there is none.
    fn object(&mut self, key: &str) -> &mut Map<String, Value> {
        let value = self.manifest.entry(key).or_insert_with(|| json!({}));
        if !value.is_object() {
            *value = json!({});
        }
        // It was made one just now, if it was not.
        value.as_object_mut().expect("an object")
    }

    fn add(&mut self, file: String, new: New) {
        self.files.insert(file, new);
    }

    /// Nothing in the work tree may be overwritten by something else, and the manifest has to be one.
    pub fn check(&self) -> Result<(), CliError> {
        let mut problems = Vec::new();
        for (file, new) in &self.files {
            let path = self.tree.below(&format!("{}/{file}", self.shown))?;
            match fs::symlink_metadata(&path) {
                Ok(found) if found.is_file() && fs::read(&path)? == new.content => {}
                Ok(_) => problems.push(format!(
                    "'{}/{}' is there already, and differs",
                    self.shown,
                    printable(file.as_bytes())
                )),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error.into()),
            }
        }
        if !problems.is_empty() {
            return Err(CliError::Text(problems.join("; ")));
        }
        let manifest = Manifest::parse(self.manifest_text().as_bytes());
        manifest.map(drop).map_err(|error| CliError::Text(format!("{}/manifest.json: {error}", self.shown)))
    }

    fn manifest_text(&self) -> String {
        // What was parsed, or made of strings, can be written.
        serde_json::to_string_pretty(&self.manifest).unwrap_or_default() + "\n"
    }

    /// What would be written, for people.
    pub fn text(&self) -> String {
        let mut text = format!("{}\n", self.shown);
        for (file, new) in &self.files {
            text += &format!("    + {} from {}\n", printable(file.as_bytes()), new.what);
        }
        if self.is_described {
            text += "    ~ manifest.json\n";
            for line in self.manifest_text().lines() {
                text += &format!("        {}\n", printable(line.as_bytes()));
            }
        }
        for note in &self.notes {
            text += &format!("    ({note})\n");
        }
        text
    }

    /// Write everything. Returns the paths, from the top of the work tree.
    pub fn write(&self) -> Result<Vec<String>, CliError> {
        let mut written = Vec::new();
        for (file, new) in &self.files {
            let name = format!("{}/{file}", self.shown);
            let path = self.put(&name, &new.content)?;
            if new.is_executable {
                fs::set_permissions(&path, fs::Permissions::from_mode(0o755))?;
            }
            written.push(name);
        }
        if self.is_described {
            let name = format!("{}/manifest.json", self.shown);
            self.put(&name, self.manifest_text().as_bytes())?;
            written.push(name);
        }
        Ok(written)
    }

    fn put(&self, name: &str, content: &[u8]) -> Result<PathBuf, CliError> {
        let path = self.tree.below(name)?;
        fs::create_dir_all(path.parent().unwrap_or(&path))?;
        fs::write(&path, content)?;
        Ok(path)
    }
}

/// The manifest's entry for a file; empty if it is as files are by default, `None` if it can't be written.
fn attributes_of(mode: u32, owner: &Option<String>, group: &Option<String>) -> Option<Map<String, Value>> {
    let mut described = Map::new();
    // The bit in Git says the one, and nothing the other.
    if mode != 0o644 && mode != 0o755 {
        described.insert("mode".into(), Value::String(Mode(mode).into()));
    }
    for (key, name) in [("owner", owner), ("group", group)] {
        let account = Account::try_from(name.clone()?).ok()?;
        if account.as_str() != "root" {
            described.insert(key.into(), Value::String(account.into()));
        }
    }
    if mode == 0o755 && !described.is_empty() {
        described.insert("mode".into(), Value::String(Mode(mode).into()));
    }
    Some(described)
}
