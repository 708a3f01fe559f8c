//! Parses `manifest.json`. Pure.
//!
//! The format is documented in deptool-manifest(5); its first keys are those of Ruud van Asseldonk's Deptool.

use std::{collections::BTreeMap, time::Duration};

use serde::{Deserialize, Deserializer, Serialize, de::Error as _};

use crate::shared::{
    json::{self, JsonError, Object, Pairs, object, objects},
    name::{Account, UnitName},
    ordered::Ordered as _,
    path::{ExternalPath, TreePath},
};

pub mod probe;

use probe::Probe;

/// The default time limit for starting and settling.
pub const SETTLE_TIMEOUT: Duration = Duration::from_secs(90);

/// The settings of an app. Without a `manifest.json`, all of them have their defaults.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Manifest {
    #[serde(deserialize_with = "object")]
    pub systemd: Systemd,
    /// Symlinks: the absolute path on the host, and the path in the app.
    #[serde(deserialize_with = "links")]
    pub symlinks: BTreeMap<ExternalPath, TreePath>,
    /// The mode and owner of files that do not have root's 0644 or 0755.
    #[serde(deserialize_with = "map_of_objects")]
    pub files: BTreeMap<TreePath, FileAttributes>,
    /// How long each of these units must run without failing after it was started.
    #[serde(deserialize_with = "map")]
    pub settle: BTreeMap<UnitName, Window>,
    /// The time limit for starting and settling.
    pub settle_timeout: Option<Window>,
    /// Oneshot units of the app that inspect the staged files before anything changes.
    pub checks: Vec<UnitName>,
    /// Probes that must succeed before the deployment is kept.
    #[serde(deserialize_with = "objects")]
    pub health: Vec<Probe>,
    /// Units of users' service managers. [`Manifest::parse`] moves them to those of the system, with their users in front.
    #[serde(deserialize_with = "users")]
    pub users: BTreeMap<Account, UsersUnits>,
    /// Whether to undo a change of the app unless the helper can reach the host over a new connection afterwards.
    pub confirm: bool,
}

/// The manifest's `systemd` object.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Systemd {
    /// Units that are enabled and running as long as the app is deployed.
    pub units_enabled: Vec<UnitName>,
    /// What happens to a unit when the app changes.
    #[serde(deserialize_with = "map")]
    pub on_change: BTreeMap<UnitName, OnChange>,
}

/// The units of one user, in the manifest's `users` object.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct UsersUnits {
    pub units_enabled: Vec<UnitName>,
    #[serde(deserialize_with = "map")]
    pub on_change: BTreeMap<UnitName, OnChange>,
    #[serde(deserialize_with = "map")]
    pub settle: BTreeMap<UnitName, Window>,
}

/// What happens to a unit when its app's files change.
///
/// The variants are ordered by strength: if several apps name a unit, the strongest applies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum OnChange {
    None,
    Reload,
    /// Reload it, and restart it if it still uses old files.
    ReloadOrRestart,
    Restart,
}

/// Mode and owner of one file.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileAttributes {
    #[serde(default)]
    pub mode: Option<Mode>,
    #[serde(default)]
    pub owner: Option<Account>,
    #[serde(default)]
    pub group: Option<Account>,
}

/// Permission bits, written as an octal string: `"0600"`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Mode(pub u32);

impl TryFrom<String> for Mode {
    type Error = &'static str;
    fn try_from(text: String) -> Result<Self, Self::Error> {
        let octal = (3..=4).contains(&text.len()) && text.bytes().all(|b| (b'0'..=b'7').contains(&b));
        match u32::from_str_radix(&text, 8) {
            Ok(mode) if octal && mode & 0o7000 == 0 => Ok(Mode(mode)),
            Ok(_) if octal => Err("set-user-id, set-group-id and sticky bits are not supported"),
            _ => Err("a mode is an octal string such as \"0640\""),
        }
    }
}

impl From<Mode> for String {
    fn from(mode: Mode) -> String {
        format!("{:04o}", mode.0)
    }
}

/// A duration, written as `"0s"`, `"1.5s"`, `"200ms"` or `"1min"`; at most an hour.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Window(pub Duration);

impl TryFrom<String> for Window {
    type Error = &'static str;
    fn try_from(text: String) -> Result<Self, Self::Error> {
        const WRONG: &str = "a duration is written as \"5s\", \"200ms\" or \"1min\", an hour at most";
        let units = [("ms", 1), ("min", 60_000), ("s", 1000)];
        let (number, ms) = units.iter().find_map(|(unit, ms)| Some((text.strip_suffix(unit)?, *ms))).ok_or(WRONG)?;
        let length = thousandths(number).ok_or(WRONG)? * ms;
        let window = Duration::from_micros(length);
        if window <= Duration::from_secs(3600) { Ok(Window(window)) } else { Err(WRONG) }
    }
}

/// A decimal number with at most three digits after the point, times 1000. (`f64` would add 15 KB.)
fn thousandths(number: &str) -> Option<u64> {
    let (whole, fraction) = number.split_once('.').unwrap_or((number, "0"));
    let is_plain =
        |digits: &str, most| (1..=most).contains(&digits.len()) && digits.bytes().all(|b| b.is_ascii_digit());
    if !is_plain(whole, 9) || !is_plain(fraction, 3) {
        return None;
    }
    Some(whole.parse::<u64>().ok()? * 1000 + format!("{fraction:0<3}").parse::<u64>().ok()?)
}

impl From<Window> for String {
    fn from(window: Window) -> String {
        format!("{}ms", window.0.as_millis())
    }
}

fn map<'de, D: Deserializer<'de>, V: Deserialize<'de>>(deserializer: D) -> Result<BTreeMap<UnitName, V>, D::Error> {
    Pairs::deserialize(deserializer).map(|Pairs(pairs)| pairs)
}

fn map_of_objects<'de, D: Deserializer<'de>>(deserializer: D) -> Result<BTreeMap<TreePath, FileAttributes>, D::Error> {
    let Pairs(pairs) = Pairs::<TreePath, Object<FileAttributes>>::deserialize(deserializer)?;
    Ok(pairs.into_iter().map(|(path, Object(attributes))| (path, attributes)).into_map())
}

fn users<'de, D: Deserializer<'de>>(deserializer: D) -> Result<BTreeMap<Account, UsersUnits>, D::Error> {
    let Pairs(pairs) = Pairs::<Account, Object<UsersUnits>>::deserialize(deserializer)?;
    Ok(pairs.into_iter().map(|(user, Object(units))| (user, units)).into_map())
}

fn links<'de, D: Deserializer<'de>>(deserializer: D) -> Result<BTreeMap<ExternalPath, TreePath>, D::Error> {
    let Pairs(pairs) = Pairs::<ExternalPath, TreePath>::deserialize(deserializer)?;
    for path in pairs.keys() {
        ExternalPath::parse_link(path.as_str()).map_err(D::Error::custom)?;
    }
    Ok(pairs)
}

/// A manifest that can't be used: the key, and what is wrong with it.
pub type ManifestError = JsonError;

impl Manifest {
    /// The units among the health probes.
    pub fn probes(&self) -> impl Iterator<Item = &UnitName> {
        self.health.iter().filter_map(|probe| match &probe.target {
            probe::Target::Unit(unit) => Some(unit),
            probe::Target::Tcp(_) | probe::Target::Http { .. } => None,
        })
    }

    /// Parse the bytes of a `manifest.json`.
    pub fn parse(bytes: &[u8]) -> Result<Manifest, ManifestError> {
        let mut manifest: Manifest = json::parse(bytes)?;
        if let Some(unit) = manifest.units().find(|unit| unit.user().is_some()) {
            let why = format!("'{unit}': only 'users' can name units of users, without the user in front");
            return Err(JsonError { key: None, why });
        }
        for (user, units) in std::mem::take(&mut manifest.users) {
            let of = |unit: UnitName| unit.of(Some(&user));
            manifest.systemd.units_enabled.extend(units.units_enabled.into_iter().map(of));
            manifest.systemd.on_change.extend(units.on_change.into_iter().map(|(unit, what)| (of(unit), what)));
            manifest.settle.extend(units.settle.into_iter().map(|(unit, window)| (of(unit), window)));
        }
        Ok(manifest)
    }

    /// All units that it names, before those of users are moved.
    fn units(&self) -> impl Iterator<Item = &UnitName> {
        let of_users = self
            .users
            .values()
            .flat_map(|units| units.units_enabled.iter().chain(units.on_change.keys()).chain(units.settle.keys()));
        let Systemd { units_enabled, on_change } = &self.systemd;
        let named = units_enabled.iter().chain(on_change.keys()).chain(self.settle.keys()).chain(&self.checks);
        named.chain(self.probes()).chain(of_users)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_manifest_of_the_original_deptool_is_understood() {
        let manifest = Manifest::parse(
            br#"{"systemd": {"units_enabled": ["a.service", "b.timer"]},
                 "symlinks": {"/etc/frobnicator.conf": "frobnicator.conf"}}"#,
        )
        .unwrap();
        assert_eq!(manifest.systemd.units_enabled.len(), 2);
        assert_eq!(manifest.symlinks.len(), 1);
        assert_eq!(Manifest::parse(b"{}").unwrap(), Manifest::default());
    }

    #[test]
    fn an_error_names_the_key() {
        for (json, expected) in [
            (r#"{"systemd": {"units_enabled": ["a b"]}}"#, "systemd.units_enabled[0]: invalid unit name 'a b'"),
            (r#"{"systemd": {"enable": []}}"#, "systemd.enable: unknown field `enable`"),
            (r#"{"nonsense": 1}"#, "nonsense: unknown field `nonsense`"),
            (r#"{"systemd": {"units_enabled": "x.service"}}"#, "systemd.units_enabled: invalid type: string"),
            (r#"{"symlinks": {"/etc/x": "../y"}}"#, "symlinks"),
            (r#"{"symlinks": {"/etc/x": "a", "/etc/x": "b"}}"#, "symlinks: '/etc/x' is named twice"),
            (r#"{"settle": {"x.service": "1s", "x.service": "2s"}}"#, "settle: 'x.service' is named twice"),
            ("[]", "invalid type: sequence, expected an object"),
            (r#"{"systemd": []}"#, "systemd: invalid type: sequence, expected an object"),
            (r#"{"files": {"x": []}}"#, "files.x: invalid type: sequence, expected an object"),
            (r#"{"files": {"x": {"mode": "4755"}}}"#, "files.x.mode: set-user-id"),
            (r#"{"files": {"x": {"owner": "a b"}}}"#, "files.x.owner: it is not a valid user"),
            (r#"{"settle": {"x.service": "3 days"}}"#, "settle.x.service"),
            (r#"{"settle_timeout": 5}"#, "settle_timeout: invalid type: integer"),
            (r#"{"checks": ["x"]}"#, "checks[0]: invalid unit name 'x'"),
            (r#"{"health": {}}"#, "health: invalid type: map, expected a sequence"),
            (r#"{"health": [[]]}"#, "health[0]: invalid type: sequence, expected an object"),
            (r#"{"health": [{"tcp": "here:53"}]}"#, "health[0].tcp: an address is written as"),
            (r#"{"health": [{"http": "https://127.0.0.1/"}]}"#, "health[0].http: TLS is not supported"),
            (r#"{"health": [{"tcp": "127.0.0.1:53", "within": "1h"}]}"#, "health[0].within: a duration"),
            (r#"{"systemd": {}} trailing"#, "trailing characters"),
            ("[", "invalid type: sequence"),
            ("", "EOF while parsing"),
        ] {
            let error = Manifest::parse(json.as_bytes()).unwrap_err().to_string();
            assert!(error.starts_with(expected), "{json}: {error}");
        }
    }

    #[test]
    fn units_of_users_are_named_in_users_only() {
        let units = r#"{"units_enabled": ["web.service"], "on_change": {"db.service": "reload"}, "settle": {"web.service": "0s"}}"#;
        let manifest = Manifest::parse(format!(r#"{{"users": {{"alice": {units}}}}}"#).as_bytes()).unwrap();
        assert_eq!(manifest.systemd.units_enabled[0].as_str(), "alice/web.service");
        assert_eq!(manifest.systemd.on_change["alice/db.service"], OnChange::Reload);
        assert!(manifest.settle.contains_key("alice/web.service"));
        for (json, expected) in [
            (r#"{"systemd": {"units_enabled": ["alice/web.service"]}}"#, "'alice/web.service': only 'users' can"),
            (r#"{"users": {"alice": {"units_enabled": ["bob/web.service"]}}}"#, "'bob/web.service': only 'users' can"),
            (r#"{"users": {"a b": {}}}"#, "users.a b: it is not a valid user or group name"),
            (r#"{"users": {"alice": {}, "alice": {}}}"#, "users: 'alice' is named twice"),
            (r#"{"users": {"alice": {"checks": []}}}"#, "users.alice.checks: unknown field `checks`"),
            (r#"{"users": {"alice": []}}"#, "users.alice: invalid type: sequence, expected an object"),
        ] {
            let error = Manifest::parse(json.as_bytes()).unwrap_err().to_string();
            assert!(error.starts_with(expected), "{json}: {error}");
        }
    }

    #[test]
    fn lengths_of_time_have_units() {
        let ms = |text: &str| Window::try_from(text.to_owned()).map(|w| w.0.as_millis());
        assert_eq!((ms("0s"), ms("1.5s"), ms("200ms"), ms("1min")), (Ok(0), Ok(1500), Ok(200), Ok(60_000)));
        assert_eq!((ms("0.025s"), ms("60min"), ms("0.5min")), (Ok(25), Ok(3_600_000), Ok(30_000)));
        for bad in ["5", "s", "-1s", "1e9s", "inf s", "2h", "61min", "1.s", ".5s", "1.0000s", "9999999999ms"] {
            assert!(ms(bad).is_err(), "{bad}");
        }
    }
}
