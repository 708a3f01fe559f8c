//! Refuses files that systemd or Podman would refuse, ignore, or fail at later. Only files that change are examined.

use std::{collections::BTreeSet, fs};

use super::{Deciding, accounts, units::unit_directories};
use crate::{
    host::{
        owners::{Database, resolve},
        state::error::{Context, HostError},
    },
    shared::{
        desired::{Snippet, USERS_QUADLETS, UnitSource},
        name::{Account, UnitName, UnitType, split_user},
        ordered::Ordered as _,
        plan::{Change, Class, ExternalChange},
        text::printable,
        unit_file::is_true,
    },
    system::{Manager, System},
};

/// The types of lines in tmpfiles.d(5) and sysusers.d(5).
const TMPFILES: &str = "fwdDevqQpLcbCxXrRzZtThHaAmF";
const SYSUSERS: &str = "ugmr";

impl Deciding<'_> {
    /// Check all changed unit files and snippets.
    pub(super) fn refuse(&mut self, system: &mut dyn System) -> Result<(), HostError> {
        let sides = self.sides;
        let changed = sides.plan.external.iter().filter(|change| change.change != Change::Remove);
        let paths: BTreeSet<_> = changed.clone().map(|change| &change.path).into_set();
        for source in UnitSource::all(&sides.wants.external, sides.new).filter(|source| paths.contains(source.path)) {
            self.unit_file(&source)?;
            self.accounts(&source)?;
        }
        for change in changed {
            match change.class {
                Class::Tmpfiles => self.snippet(change, TMPFILES, &[(3, Database::Passwd), (4, Database::Group)])?,
                Class::Sysusers => self.snippet(change, SYSUSERS, &[])?,
                Class::Link | Class::Unit => {}
            }
        }
        self.kept_by_podman();
        self.quadlets(system)
    }

    fn unit_file(&mut self, source: &UnitSource<'_>) -> Result<(), HostError> {
        let UnitSource { app, file, snippet, facts, path, .. } = *source;
        let is_quadlet = path.as_str().starts_with("/etc/containers/");
        if let (Snippet::Unit(unit), true, false) = (snippet, facts.lines.is_empty(), is_quadlet) {
            let path = self.staged.file(app, file);
            if fs::metadata(&path).during("look at", &path)?.len() == 0 {
                self.problems.push(format!("'{app}/{file}' is empty: systemd would take '{unit}' for masked"));
            }
        }
        let kind = match snippet {
            Snippet::Unit(unit) => Some(UnitType::of(unit)),
            _ => None,
        };
        for key in ["WantedBy", "RequiredBy", "UpheldBy", "Also", "Alias"] {
            for word in facts.words("Install", key).into_iter().filter(|word| !word.contains('%')) {
                let user = file.user().and_then(Result::ok);
                let parsed = UnitName::parse(word.as_bytes()).map(|unit| unit.of(user.as_ref()));
                let problem = match &parsed {
                    // Slices, devices and scopes can't be deployed, but systemd knows them.
                    Err(_) if word.contains('.') => None,
                    Err(_) => Some("is not a valid unit name".to_owned()),
                    Ok(alias) if key == "Alias" && kind.is_some_and(|kind| kind != UnitType::of(alias)) => {
                        Some("is of another type".to_owned())
                    }
                    Ok(also) if key == "Also" && !self.exists(also) => {
                        Some("is neither in the tree nor on the host".to_owned())
                    }
                    Ok(_) => None,
                };
                let word = printable(word.as_bytes());
                self.problems
                    .extend(problem.map(|problem| format!("'{app}/{file}': {key}={word}: '{word}' {problem}")));
            }
        }
        Ok(())
    }

    /// Whether there is a unit file with this name, or for its template.
    fn exists(&self, unit: &UnitName) -> bool {
        let mut sources = UnitSource::all(&self.sides.wants.external, self.sides.new);
        if sources.any(|source| matches!(source.snippet, Snippet::Unit(_)) && source.snippet.affects(unit)) {
            return true;
        }
        let template = crate::shared::desired::template_of(unit);
        let template = template.as_deref().map(|name| split_user(name).1);
        let names = [Some(unit.name()), template];
        let directories = unit_directories(unit);
        names
            .into_iter()
            .flatten()
            .any(|name| directories.iter().any(|directory| self.home.root().join(directory).join(name).exists()))
    }

    /// Check that the users and groups that the unit runs as exist, or are created by the deployment.
    fn accounts(&mut self, source: &UnitSource<'_>) -> Result<(), HostError> {
        const KEYS: [(&str, &str, Database); 5] = [
            ("Service", "User", Database::Passwd),
            ("Service", "Group", Database::Group),
            ("Service", "SupplementaryGroups", Database::Group),
            ("Socket", "SocketUser", Database::Passwd),
            ("Socket", "SocketGroup", Database::Group),
        ];
        let UnitSource { app, file, facts, .. } = *source;
        let is_dynamic = facts.value("Service", "DynamicUser").is_some_and(is_true);
        for (section, key, database) in KEYS {
            if is_dynamic && key != "SupplementaryGroups" {
                continue;
            }
            for name in facts.words(section, key) {
                self.account(&format!("'{app}/{file}': {key}={name}"), name, database)?;
            }
        }
        Ok(())
    }

    /// Check `name`, unless it is a number or contains a specifier that systemd expands.
    fn account(&mut self, place: &str, name: &str, database: Database) -> Result<(), HostError> {
        let Ok(account) = Account::try_from(name.to_owned()) else { return Ok(()) };
        // In a local root, users may be created at its first boot.
        if !self.home.is_live() {
            return Ok(());
        }
        if resolve(self.home, database, &account)?.is_none() && !accounts::is_declared(self.staged, database, &account)
        {
            let kind = if database == Database::Passwd { "user" } else { "group" };
            self.problems.push(format!("{place}: there is no {kind} '{name}' on the host"));
        }
        Ok(())
    }

    /// Check the lines of a sysusers or tmpfiles snippet: the type, and the fields with names of accounts.
    fn snippet(&mut self, change: &ExternalChange, types: &str, names: &[(usize, Database)]) -> Result<(), HostError> {
        let path = self.staged.file(&change.app, &change.file);
        let text = fs::read(&path).during("read", &path)?;
        for (number, line) in String::from_utf8_lossy(&text).lines().enumerate() {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let place = format!("'{}/{}': line {}", change.app, change.file, number + 1);
            let fields: Vec<&str> = line.split_whitespace().collect();
            let (letter, modifiers) = fields[0].split_at(fields[0].chars().next().map_or(0, char::len_utf8));
            let is_known = types.contains(letter) && modifiers.chars().all(|c| "!+-=~^$?".contains(c));
            if !is_known || fields.len() < 2 {
                let line = printable(line.as_bytes());
                self.problems.push(format!("{place} can't be parsed: {line}"));
                continue;
            }
            for (at, database) in names {
                let name = fields.get(*at).map(|name| name.trim_start_matches(':')).unwrap_or("-");
                // A quoted path with spaces would shift the fields.
                if name != "-" && !line.contains('"') && !line.contains('\'') {
                    self.account(&place, name, *database)?;
                }
            }
        }
        Ok(())
    }

    /// Note networks and volumes that keep their settings: their units create them only if they do not exist.
    fn kept_by_podman(&mut self) {
        let sides = self.sides;
        let changes = sides.plan.external.iter().filter(|change| change.change == Change::Update);
        let paths: BTreeSet<_> = changes.map(|change| &change.path).into_set();
        for source in UnitSource::all(&sides.wants.external, sides.new).filter(|source| paths.contains(source.path)) {
            let Some((_, kind @ ("network" | "volume"))) = source.path.as_str().rsplit_once('.') else { continue };
            if !source.facts.value("Network", "NetworkDeleteOnStop").is_some_and(is_true) {
                let UnitSource { app, file, .. } = source;
                self.notes.push(format!(
                    "'{app}/{file}' has changed, but podman keeps the existing {kind}; remove it on the host with 'podman {kind} rm'"
                ));
            }
        }
    }

    /// Check that Podman's generator accepts the quadlets of the tree: those of the system, and those of each user.
    fn quadlets(&mut self, system: &mut dyn System) -> Result<(), HostError> {
        if system.manager() != Manager::Running {
            return Ok(());
        }
        for user in &self.sides.plan.reloads {
            self.quadlets_of(user.as_ref(), system)?;
        }
        Ok(())
    }

    fn quadlets_of(&mut self, user: Option<&Account>, system: &mut dyn System) -> Result<(), HostError> {
        let sides = self.sides;
        let place = user.map_or("/etc/containers/systemd/".to_owned(), |user| format!("{USERS_QUADLETS}{user}/"));
        let is_quadlet = |path: &str| path.starts_with(&place) && (user.is_some() || !path.starts_with(USERS_QUADLETS));
        let mut changed = sides.plan.external.iter().filter(|one| one.change != Change::Remove);
        let all: Vec<_> = sides.wants.external.iter().filter(|(path, _)| is_quadlet(path.as_str())).collect();
        if !changed.any(|change| is_quadlet(change.path.as_str())) {
            return Ok(());
        }
        let directory = self.home.generation(self.staged.generations.1).join(".quadlets");
        for (path, claim) in &all {
            let below = path.as_str().trim_start_matches(&place);
            let (from, to) = (self.staged.file(&claim.app, &claim.file), directory.join(below));
            if let Some(above) = to.parent() {
                fs::create_dir_all(above).during("create", above)?;
            }
            fs::copy(&from, &to).during("copy", &from)?;
        }
        let output = self.home.wait_for(|| system.convert_quadlets(user, &directory));
        fs::remove_dir_all(&directory).during("remove", &directory)?;
        let Some(converted) = output? else {
            self.problems.push("the tree has quadlets, but podman is not installed on the host".into());
            return Ok(());
        };
        for source in UnitSource::all(&sides.wants.external, sides.new).filter(|one| is_quadlet(one.path.as_str())) {
            let UnitSource { app, file, snippet, path, .. } = source;
            let Snippet::Unit(unit) = snippet else { continue };
            if !converted.units.contains(unit) {
                let name = path.as_str().rsplit('/').next().unwrap_or_default();
                let about: Vec<String> = converted
                    .output
                    .lines()
                    .filter_map(|line| complaint(line, name))
                    .map(|line| printable(line.as_bytes()))
                    .collect();
                let about = if about.is_empty() { String::new() } else { format!(": {}", about.join("; ")) };
                self.problems.push(format!("'{app}/{file}': podman makes no unit '{unit}' of it{about}"));
            }
        }
        Ok(())
    }
}

/// The complaint about the quadlet `name` in a line of Podman's generator, without the surrounding text:
/// `quadlet-generator[173]: converting "a.container": unsupported key 'Imagee' in group 'Container' in
/// /path/a.container`
fn complaint<'a>(line: &'a str, name: &str) -> Option<&'a str> {
    let (_, what) = line.split_once(&format!("converting \"{name}\": "))?;
    let path = what.rfind(" in /").filter(|at| what[*at..].ends_with(name));
    Some(path.map_or(what, |at| &what[..at]).trim())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_what_the_generator_says_the_reason_is_shown() {
        let line = "quadlet-generator[173]: converting \"a.container\": unsupported key 'Imagee' in group 'Container' in \
                    /var/lib/deptool/generations/3/.quadlets/a.container";
        assert_eq!(complaint(line, "a.container"), Some("unsupported key 'Imagee' in group 'Container'"));
        let other = "quadlet-generator[9]: converting \"a.container\": no Image or Rootfs key specified";
        assert_eq!(complaint(other, "a.container"), Some("no Image or Rootfs key specified"));
        assert_eq!(complaint(other, "b.container"), None);
        assert_eq!(complaint("quadlet-generator[9]: Loading source unit file /x/a.container", "a.container"), None);
    }
}
