//! What a manifest says of files and units of its own app, checked against the app.

use crate::shared::{
    desired::DesiredError,
    manifest::probe::Target,
    name::{AppName, UnitName, UnitType},
    path::TreePath,
    secrets,
    tree::{App, FileKind},
};

/// Check what one app's manifest says.
pub fn app(name: &AppName, app: &App) -> Result<(), DesiredError> {
    check_attributes(name, app)?;
    check_secrets(name, app)?;
    check_checks(name, app)?;
    check_probes(name, app)
}

fn check_attributes(name: &AppName, app: &App) -> Result<(), DesiredError> {
    for file in app.manifest.files.keys() {
        if let Some(secret) = secrets::name_of(file).filter(|_| app.files.contains_key(file)) {
            let why = format!("it is encrypted; its decrypted file is 'secrets/{secret}'");
            return Err(DesiredError::BadFile { app: name.clone(), file: file.clone(), why });
        }
        if secrets::encrypted(file).is_some_and(|secret| app.files.contains_key(&secret)) {
            continue;
        }
        match app.files.get(file) {
            Some(entry) if entry.kind != FileKind::Symlink => {}
            _ => {
                let key = "files".into();
                return Err(DesiredError::NoSuchFile { app: name.clone(), key, file: file.clone() });
            }
        }
    }
    Ok(())
}

/// Check that no secret gets the place of something else when it is decrypted.
fn check_secrets(name: &AppName, app: &App) -> Result<(), DesiredError> {
    let is_number = name.as_str().bytes().all(|byte| byte.is_ascii_digit());
    for secret in secrets::of(app) {
        let bad = |file: &TreePath, why: &str| {
            Err(DesiredError::BadFile { app: name.clone(), file: file.clone(), why: why.into() })
        };
        if is_number {
            return bad(secret.file, "an app with secrets can't have a number as its name");
        }
        let is_plain = |file: &&TreePath| secrets::encrypted(file).as_ref() == Some(secret.file);
        if let Some(plain) = app.files.keys().find(is_plain) {
            return bad(plain, "there is also a secret of this name");
        }
    }
    Ok(())
}

/// Check that each check is a service in the app's own `systemd/`.
fn check_checks(name: &AppName, app: &App) -> Result<(), DesiredError> {
    for (at, unit) in app.manifest.checks.iter().enumerate() {
        let bad = |why| Err(DesiredError::BadCheck { app: name.clone(), unit: unit.clone(), why });
        if !unit.as_str().ends_with(".service") || unit.as_str().contains("@.") {
            return bad("is not a service that can be run");
        }
        if !app.files.contains_key(&check_file(unit)) {
            return bad("is not in the app's 'systemd/' directory");
        }
        if app.manifest.checks[..at].contains(unit) {
            return bad("is named twice");
        }
    }
    Ok(())
}

/// Check that each probe unit is a oneshot in the app's own `systemd/`.
fn check_probes(name: &AppName, app: &App) -> Result<(), DesiredError> {
    for probe in &app.manifest.health {
        let Target::Unit(unit) = &probe.target else { continue };
        let bad = |why| Err(DesiredError::BadProbe { app: name.clone(), unit: unit.clone(), why });
        if UnitType::of(unit) != UnitType::Service || unit.is_template() {
            return bad("is not a service that can be run");
        }
        match app.units.get(&check_file(unit)) {
            None => return bad("is not in the app's 'systemd/' directory"),
            Some(facts) if facts.value("Service", "Type") != Some("oneshot") => return bad("is not of Type=oneshot"),
            Some(_) => {}
        }
        if app.manifest.systemd.units_enabled.contains(unit) {
            return bad("is in 'units_enabled', too");
        }
    }
    Ok(())
}

/// The path of a check's unit file in its app.
pub fn check_file(unit: &UnitName) -> TreePath {
    TreePath::parse(format!("systemd/{unit}").as_bytes()).expect("a unit's name is a valid file name")
}
