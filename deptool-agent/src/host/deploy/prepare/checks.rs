//! Checks: oneshot units of apps that inspect the staged files before anything changes.
//!
//! Each check runs as a temporary unit without dependencies, made of the check's `[Service]` section. It sees the
//! staged generation in place of the current one. Otherwise, an absolute path in the configuration would lead to the
//! deployed files. What systemd resolves before, as for `BindReadOnlyPaths=`, is replaced in the unit file.

use std::{fs, os::unix::fs::symlink, path::PathBuf, time::Duration};

use crate::{
    host::{
        deploy::{
            failure::journal_of,
            prepare::{Staged, accounts},
        },
        owners::{Database, resolve},
        state::{
            checkout,
            error::{Context, HostError},
            layout::Home,
        },
    },
    shared::{
        desired::{ClaimKind, check_file},
        name::{Account, AppName, UnitName},
        ordered::Ordered as _,
        path::{STATE_DIR, is_within},
        text::printable,
        unit_file::{MOUNTS, ROOTS, assignments, is_true},
    },
    system::{
        JobKind, JobResult, Manager, System, UnitDetail,
        verdict::{Started, Verdict, judge},
    },
};

/// The time limit for all checks, which run at the same time.
const LIMIT: Duration = Duration::from_secs(90);
/// Show at most this many lines of a check's output.
const LINES: usize = 20;

/// Further settings with files that systemd reads on the host, before the check has a view of its own.
const READ_EARLY: [&str; 3] = ["EnvironmentFile", "LoadCredential", "LoadCredentialEncrypted"];

/// A check to run.
struct Check<'a> {
    app: &'a AppName,
    unit: &'a UnitName,
    /// The text of the temporary unit file.
    text: String,
}

/// Run the checks of all apps that change. Fails with a refusal if a check fails. Returns notes for the operator, or
/// `None` if `go_on` returned false meanwhile.
pub fn run(
    staged: &Staged<'_>,
    system: &mut dyn System,
    go_on: &mut dyn FnMut() -> bool,
) -> Result<Option<Vec<String>>, HostError> {
    let new = &staged.sides.new.apps;
    let changed = staged.sides.plan.apps.iter().filter_map(|change| new.get_key_value(&change.app));
    let wanted: Vec<_> =
        changed.flat_map(|(name, app)| app.manifest.checks.iter().map(move |unit| (name, unit))).collect();
    if wanted.is_empty() {
        return Ok(Some(Vec::new()));
    }
    if system.manager() != Manager::Running {
        return Ok(Some(vec!["systemd is not running here: 'checks' were skipped".into()]));
    }
    let (mut checks, mut notes) = (Vec::new(), Vec::new());
    for (app, unit) in wanted {
        let section = service_section(staged, app, unit)?;
        match missing_account(staged, &section)? {
            Some(account) => {
                notes.push(format!(
                    "check '{unit}' of '{app}' was not run: '{account}' is only created by this deployment"
                ));
            }
            None => checks.push(Check { app, unit, text: unit_file(staged, app, unit, &section) }),
        }
    }
    let directory = stage_stable_paths(staged)?;
    let mut is_called_off = false;
    let result = run_all(&checks, system, &mut || {
        is_called_off = is_called_off || !go_on();
        !is_called_off
    });
    let removed = fs::remove_dir_all(&directory).during("remove", &directory);
    if is_called_off {
        return removed.map(|()| None);
    }
    result.and(removed)?;
    if !checks.is_empty() {
        refuse_changes(staged)?;
    }
    Ok(Some(notes))
}

/// The trees are read-only to a check, but root can get around that. Refuse to deploy what a check has changed.
fn refuse_changes(staged: &Staged<'_>) -> Result<(), HostError> {
    for (name, tree) in staged.checkouts {
        let Some(app) = staged.sides.new.apps.get(name) else { continue };
        if let Some(difference) = checkout::differences(staged.home, tree, app).first() {
            let file = difference.file.as_ref().map_or_else(String::new, |file| format!("/{file}"));
            let what = difference.what;
            return Err(HostError::refused(format!("'{name}{file}' {what} while the checks were running")));
        }
    }
    Ok(())
}

fn run_all(checks: &[Check<'_>], system: &mut dyn System, go_on: &mut dyn FnMut() -> bool) -> Result<(), HostError> {
    if checks.is_empty() {
        return Ok(());
    }
    let texts: Vec<&str> = checks.iter().map(|check| check.text.as_str()).collect();
    let units = system.add_transient(&texts)?;
    let result = judge_all(checks, &units, system, go_on);
    let removed = system.remove_transient(&units);
    result.and_then(|()| removed.map_err(HostError::from))
}

fn judge_all(
    checks: &[Check<'_>],
    units: &[UnitName],
    system: &mut dyn System,
    go_on: &mut dyn FnMut() -> bool,
) -> Result<(), HostError> {
    let jobs: Vec<_> = units.iter().map(|unit| (unit.clone(), JobKind::Start)).collect();
    let results = system.run_jobs_while(&jobs, LIMIT, &mut |_| go_on())?;
    let (mut whys, mut details) = (Vec::new(), Vec::new());
    for ((check, unit), job) in checks.iter().zip(units).zip(results) {
        let now = system.detail(unit)?;
        let why = match job {
            JobResult::TimedOut => format!("it has not ended within {} s", LIMIT.as_secs()),
            job => {
                let (ended, before) = (system.clock(), UnitDetail::inactive());
                let started = Started { kind: JobKind::Start, job, ended, before, window: None };
                match judge(&started, &now, ended) {
                    Verdict::Failed(why) => why,
                    Verdict::Good | Verdict::Settling(_) => continue,
                }
            }
        };
        whys.push(format!("check '{}' of '{}' failed: {}", check.unit, check.app, printable(why.as_bytes())));
        // Select by unit name, which no other unit has: if a unit exits at once, journald may not know its invocation.
        details.extend(journal_of(system, unit, &[], LINES));
    }
    if whys.is_empty() {
        return Ok(());
    }
    Err(HostError::Refused { why: whys.join("; "), details: details.join("\n") })
}

/// The assignments in the check's `[Service]` section, and in its drop-ins in the tree, as lines.
fn service_section(staged: &Staged<'_>, app: &AppName, unit: &UnitName) -> Result<Vec<(String, String)>, HostError> {
    let mut files = vec![staged.file(app, &check_file(unit))];
    let claims = staged.sides.wants.external.iter();
    let by_name = claims.map(|(path, claim)| ((path.relative().file_name(), path), claim)).into_map();
    for ((_, path), claim) in by_name {
        if let ClaimKind::Copy(snippet, _) = &claim.kind
            && snippet.affects(unit)
            && path.relative().file_name() != Some(unit.as_str().as_ref())
        {
            files.push(staged.file(&claim.app, &claim.file));
        }
    }
    let mut lines = Vec::new();
    for file in files {
        let text = fs::read(&file).during("read", &file)?;
        let all = assignments(&String::from_utf8_lossy(&text)).into_iter();
        lines.extend(all.filter(|one| one.section == "Service").map(|one| (one.key, one.value)));
    }
    Ok(lines)
}

/// A user or group of the check that does not exist yet, and that the deployment creates.
fn missing_account(staged: &Staged<'_>, section: &[(String, String)]) -> Result<Option<String>, HostError> {
    let last = |wanted: &str| section.iter().rev().find(|(key, _)| key == wanted).map(|(_, value)| value.clone());
    if last("DynamicUser").is_some_and(|value| is_true(&value)) {
        return Ok(None);
    }
    for (key, database) in [("User", Database::Passwd), ("Group", Database::Group)] {
        // Numbers and specifiers are left to systemd.
        let Some(Ok(account)) = last(key).map(Account::try_from) else { continue };
        if resolve(staged.home, database, &account)?.is_none() && accounts::is_declared(staged, database, &account) {
            return Ok(Some(account.as_str().to_owned()));
        }
    }
    Ok(None)
}

fn unit_file(staged: &Staged<'_>, app: &AppName, unit: &UnitName, section: &[(String, String)]) -> String {
    let Staged { home, generations: (current, generation), .. } = staged;
    let mut text = format!(
        "[Unit]\nDescription=Check {unit}, before a deployment\nDefaultDependencies=no\n\
         CollectMode=inactive-or-failed\n\n[Service]\nTimeoutStartSec=30s\n"
    );
    for (key, value) in section {
        text.push_str(&with_staged_paths(staged, key, value));
    }
    let checkout = staged.checkouts.iter().find(|(name, _)| name == app).map(|(_, tree)| home.trees().join(tree));
    let checkout = checkout.unwrap_or_default();
    text.push_str("Type=oneshot\nRemainAfterExit=no\nRestart=no\nStandardOutput=journal\nStandardError=journal\n");
    text.push_str(&format!("Environment=DEPTOOL_STAGED={}\n", checkout.display()));
    text.push_str(&format!("ReadOnlyPaths=-{STATE_DIR}\n"));
    if has_own_root(section) {
        return text;
    }
    let mut bind = |from: PathBuf, to: PathBuf| {
        text.push_str(&format!("BindReadOnlyPaths={}:{}\n", from.display(), to.display()));
    };
    // Bind both `apps/<app>/current`, which does not exist yet for a new app, and `current`.
    bind(stable_paths(staged), home.apps());
    if let Some(current) = current {
        bind(home.generation(*generation), home.generation(*current));
    }
    text
}

/// The lines for a setting, with the staged files in place of those that systemd would find on the host: it mounts nothing over
/// them until it has read this. They are read-only to the check.
fn with_staged_paths(staged: &Staged<'_>, key: &str, value: &str) -> String {
    let stage = |path: &str| {
        let trees = staged.checkouts.iter().map(|(app, tree)| (Home::stable_path(app), staged.home.trees().join(tree)));
        trees.fold(path.to_owned(), |path, (stable, tree)| path.replace(&stable, &tree.display().to_string()))
    };
    if ROOTS.contains(&key) || READ_EARLY.contains(&key) {
        return format!("{key}={}\n", stage(value));
    }
    if !MOUNTS.contains(&key) || stage(value) == value {
        return format!("{key}={value}\n");
    }
    let words = value.split_whitespace().map(|word| {
        // Only the source is on the host. It is the destination as well, if there is no other.
        let (source, rest) = word.split_once(':').unwrap_or((word, word.trim_start_matches('-')));
        let staged = stage(source);
        if staged == source {
            return format!("{key}={word}\n");
        }
        let key = if key == "BindPaths" { "BindReadOnlyPaths" } else { key };
        format!("{key}={staged}:{rest}\n")
    });
    words.collect()
}

/// Whether the check has a root that has none of our directories, which is likely to have no place to mount them either. Such a
/// check sees what its own settings mount.
fn has_own_root(section: &[(String, String)]) -> bool {
    let last = |wanted: &str| section.iter().rev().find(|(key, _)| key == wanted).map_or("", |(_, value)| value);
    let mounts = section.iter().filter(|(key, _)| MOUNTS.contains(&key.as_str()));
    let mut sources = mounts.flat_map(|(_, value)| value.split_whitespace().filter_map(|word| word.split(':').next()));
    ["RootDirectory", "RootImage"].iter().any(|key| !matches!(last(key), "" | "/"))
        && !sources.any(|source| is_within(STATE_DIR, source.trim_start_matches('-')))
}

fn stable_paths(staged: &Staged<'_>) -> PathBuf {
    staged.home.generation(staged.generations.1).join(".apps")
}

/// Write a directory that looks like `apps/` after the deployment, to be bound over it. Returns its path.
fn stage_stable_paths(staged: &Staged<'_>) -> Result<PathBuf, HostError> {
    let directory = stable_paths(staged);
    for (app, tree) in staged.checkouts {
        let of_app = directory.join(app.as_str());
        fs::create_dir_all(&of_app).during("create", &of_app)?;
        let link = of_app.join("current");
        symlink(staged.home.trees().join(tree), &link).during("make", &link)?;
    }
    Ok(directory)
}
