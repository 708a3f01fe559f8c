//! Files that are copied to system directories, and their meaning there.

use crate::shared::{
    name::{UnitName, split_user},
    path::TreePath,
};

/// The meaning of a copied file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Snippet {
    /// A unit file, or a quadlet from which Podman's generator makes this unit.
    Unit(UnitName),
    /// A drop-in for units with this stem: `web.service`, `web@.service`, `web-.service`, `service`, `alice/web.service`.
    DropIn(String),
    /// Another file next to quadlets, which does not become a unit.
    QuadletFile,
    Sysusers,
    Tmpfiles,
}

impl Snippet {
    /// Whether `unit` is made of this file.
    pub fn affects(&self, unit: &UnitName) -> bool {
        match self {
            Snippet::Unit(file) => file == unit || template_of(unit).as_deref() == Some(file.as_str()),
            Snippet::DropIn(stem) => drop_in_applies(stem, unit),
            Snippet::QuadletFile | Snippet::Sysusers | Snippet::Tmpfiles => false,
        }
    }
}

/// The directories of an app with files that are copied.
pub(super) const COPIED: [&str; 5] = ["quadlets", "systemd", "sysusers", "tmpfiles", "user"];

/// Where a file of an app is copied to: the directory, the meaning, and the path below the directory. `None` for an
/// ordinary file.
pub(super) fn placement(file: &TreePath) -> Result<Option<(String, Snippet, String)>, String> {
    let user = file.user().transpose()?;
    let mut components = file.components().skip(if user.is_some() { 2 } else { 0 });
    let special = components.next().unwrap_or_default();
    let directory = match (special, &user) {
        (b"systemd", None) => "/etc/systemd/system".to_owned(),
        (b"systemd", Some(_)) => "/etc/systemd/user".to_owned(),
        (b"quadlets", None) => "/etc/containers/systemd".to_owned(),
        (b"quadlets", Some(user)) => format!("{USERS_QUADLETS}{user}"),
        (b"sysusers", _) => "/etc/sysusers.d".to_owned(),
        (b"tmpfiles", _) => "/etc/tmpfiles.d".to_owned(),
        _ => return Ok(None),
    };
    let rest: Vec<&[u8]> = components.collect();
    if rest.is_empty() {
        return Ok(None);
    }
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).map_err(|_| "its name is not UTF-8".to_owned());
    let snippet = match (special, rest.as_slice()) {
        (b"systemd", [name]) => Snippet::Unit(UnitName::parse(name).map_err(|e| e.to_string())?),
        (b"systemd", [drop_ins, name]) => Snippet::DropIn(drop_in_stem(&text(drop_ins)?, &text(name)?)?),
        (b"quadlets", [name]) => quadlet(&text(name)?)?,
        (b"quadlets", [drop_ins, name]) => quadlet_drop_in(&text(drop_ins)?, &text(name)?)?,
        (b"sysusers", [name]) if name.ends_with(b".conf") => Snippet::Sysusers,
        (b"tmpfiles", [name]) if name.ends_with(b".conf") => Snippet::Tmpfiles,
        (b"sysusers" | b"tmpfiles", [_]) => return Err("its name must end with '.conf', or it would be ignored".into()),
        _ => return Err("it lies too deep in a directory that is copied to the system".into()),
    };
    if let Snippet::Unit(_) | Snippet::DropIn(_) = &snippet {
        let name = text(rest[0])?;
        if OURS.iter().any(|ours| name.starts_with(ours)) {
            return Err("units of this name are deptool's own".into());
        }
    }
    let names: Result<Vec<String>, String> = rest.iter().map(|name| text(name)).collect();
    let names = names?;
    // The agent's temporary files and backups begin with a dot.
    if names.iter().any(|name| name.starts_with('.')) {
        return Err("its name may not begin with '.'".into());
    }
    let snippet = match (snippet, user) {
        (Snippet::Unit(unit), user @ Some(_)) => Snippet::Unit(unit.of(user.as_ref())),
        (Snippet::DropIn(stem), Some(user)) => Snippet::DropIn(format!("{user}/{stem}")),
        (snippet, _) => snippet,
    };
    Ok(Some((directory, snippet, names.join("/"))))
}

/// The directory of a user's quadlets, without the name. On the host, the user's number takes the place of `~` and the name:
/// Podman knows users by that, and a plan does not depend on the host.
pub const USERS_QUADLETS: &str = "/etc/containers/systemd/users/~";

/// Prefixes of the units that the agent creates for checks and for the boot, and of drop-ins that would apply to all of
/// these.
const OURS: [&str; 5] = ["deptool-check-", "deptool-labels.", "deptool-recover.", "deptool-secrets.", "deptool-."];
const UNIT_TYPES: [&str; 9] = ["service", "socket", "timer", "path", "mount", "automount", "target", "swap", "slice"];

/// `x.service.d` + `y.conf` -> `x.service`: see "drop-in" in systemd.unit(5).
fn drop_in_stem(directory: &str, file: &str) -> Result<String, String> {
    let stem = directory.strip_suffix(".d").ok_or("only 'UNIT.d' directories may be in 'systemd/'")?;
    if !UNIT_TYPES.contains(&stem) {
        UnitName::parse(stem.as_bytes()).map_err(|error| error.to_string())?;
    }
    if !file.ends_with(".conf") {
        return Err("a drop-in's name must end with '.conf', or systemd would ignore it".into());
    }
    Ok(stem.to_owned())
}

/// What Podman's generator makes of a file in `/etc/containers/systemd`. See podman-systemd.unit(5).
fn quadlet(file: &str) -> Result<Snippet, String> {
    if file.ends_with(".quadlets") {
        return Err("only 'podman quadlet install' reads it: make a file of each quadlet in it".into());
    }
    match quadlet_unit(file) {
        Some(unit) => UnitName::parse(unit.as_bytes()).map(Snippet::Unit).map_err(|error| error.to_string()),
        None => Ok(Snippet::QuadletFile),
    }
}

fn quadlet_unit(file: &str) -> Option<String> {
    let (stem, kind) = file.rsplit_once('.')?;
    match kind {
        "container" | "kube" => Some(format!("{stem}.service")),
        "pod" | "volume" | "network" | "image" | "build" | "artifact" => Some(format!("{stem}-{kind}.service")),
        _ => None,
    }
}

fn quadlet_drop_in(directory: &str, file: &str) -> Result<Snippet, String> {
    let stem = directory.strip_suffix(".d").ok_or("only 'FILE.d' directories may be in 'quadlets/'")?;
    if !file.ends_with(".conf") {
        return Err("a drop-in's name must end with '.conf', or Podman would ignore it".into());
    }
    Ok(quadlet_unit(stem).map_or(Snippet::QuadletFile, Snippet::DropIn))
}

/// `web@a.service` -> `web@.service`.
pub fn template_of(unit: &UnitName) -> Option<String> {
    let (stem, suffix) = unit.as_str().rsplit_once('.')?;
    let (prefix, instance) = stem.split_once('@')?;
    (!instance.is_empty()).then(|| format!("{prefix}@.{suffix}"))
}

/// Whether drop-ins of `stem` apply to `unit`: its own, or those of its template, a dashed prefix or its type.
pub fn drop_in_applies(stem: &str, unit: &UnitName) -> bool {
    if stem == unit.as_str() || template_of(unit).as_deref() == Some(stem) {
        return true;
    }
    let ((user, stem), (of, name)) = (split_user(stem), split_user(unit.as_str()));
    if user != of {
        return false;
    }
    let Some((unit_stem, unit_type)) = name.rsplit_once('.') else { return false };
    match stem.rsplit_once('.') {
        None => stem == unit_type,
        Some((prefix, kind)) => prefix.ends_with('-') && kind == unit_type && unit_stem.starts_with(prefix),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_podmans_generator_does_not_read_is_refused() {
        for kind in ["container", "kube"] {
            assert_eq!(quadlet_unit(&format!("a.{kind}")), Some("a.service".into()));
        }
        for kind in ["pod", "volume", "network", "image", "build", "artifact"] {
            assert_eq!(quadlet_unit(&format!("a.{kind}")), Some(format!("a-{kind}.service")));
        }
        assert!(quadlet("set.quadlets").unwrap_err().contains("podman quadlet install"));
        assert_eq!(quadlet("pod.yaml"), Ok(Snippet::QuadletFile));
    }

    #[test]
    fn drop_ins_apply_to_instances_prefixes_and_types() {
        let unit = UnitName::parse(b"foo-bar@x.service").unwrap();
        for stem in ["foo-bar@x.service", "foo-bar@.service", "foo-.service", "service"] {
            assert!(drop_in_applies(stem, &unit), "{stem}");
        }
        for stem in ["foo.service", "foo-.socket", "socket", "bar-.service"] {
            assert!(!drop_in_applies(stem, &unit), "{stem}");
        }
        let of_user = UnitName::try_from("foo-/bar@x.service".to_owned()).unwrap();
        for stem in ["foo-/bar@.service", "foo-/service"] {
            assert!(drop_in_applies(stem, &of_user), "{stem}");
        }
        for stem in ["foo-.service", "bar@.service", "service", "alice/service"] {
            assert!(!drop_in_applies(stem, &of_user), "{stem}");
        }
    }
}
