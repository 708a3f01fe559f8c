//! Tests against a real systemd, run as root on a machine that may be changed: a container of the lab.
//!
//! `cargo test -p deptool-agent --no-run` names the test binary; copied into the container, `BINARY --ignored
//! --test-threads=1 live` runs them there.

use std::{fs, time::Instant};

use super::*;
use crate::system::{Active, Leave, Load};

const UNITS: &str = "/run/systemd/system";

fn name(text: &str) -> UnitName {
    UnitName::parse(text.as_bytes()).unwrap()
}

/// Write unit files and have systemd read them.
fn install(systemd: &mut Systemd, units: &[(&str, &str)]) {
    for (unit, text) in units {
        fs::write(Path::new(UNITS).join(unit), text).unwrap();
    }
    systemd.daemon_reload(None).unwrap();
}

fn run_one(systemd: &mut Systemd, unit: &str, kind: JobKind) -> JobResult {
    let limit = Duration::from_secs(20);
    systemd.run_jobs(&[(name(unit), kind)], limit, &mut |_| ()).unwrap().pop().unwrap()
}

fn timed<T>(what: &str, act: impl FnOnce() -> T) -> T {
    let began = Instant::now();
    let result = act();
    println!("{what}: {:.2} ms", began.elapsed().as_secs_f64() * 1e3);
    result
}

#[test]
#[ignore = "needs systemd: run by the lab"]
fn live_calls_take_what_they_should() {
    let mut systemd = Systemd::new();
    assert_eq!(System::manager(&systemd), Manager::Running);
    timed("connect", || systemd.client.connection().map(drop)).unwrap();
    assert!(!timed("is_stopping", || systemd.is_stopping()));
    for _ in 0..3 {
        let units = timed("snapshot", || systemd.snapshot()).unwrap();
        println!("{} units", units.len());
    }
    install(&mut systemd, &[("live-a.service", "[Service]\nExecStart=sleep 1000\n")]);
    for _ in 0..3 {
        timed("daemon-reload", || systemd.daemon_reload(None)).unwrap();
    }
    for _ in 0..3 {
        let job = timed("restart", || run_one(&mut systemd, "live-a.service", JobKind::Restart));
        assert_eq!(job, JobResult::Done);
        let detail = timed("detail", || systemd.detail(&name("live-a.service"))).unwrap();
        assert_eq!((detail.active, detail.load), (Active::Active, Load::Loaded));
    }
    timed("stop", || run_one(&mut systemd, "live-a.service", JobKind::Stop));
    timed("journal_tail", || systemd.journal_tail(&name("live-a.service"), &[], 10));
    let absent = timed("detail of an absent unit", || systemd.detail(&name("live-none.service"))).unwrap();
    assert_eq!(absent.load, Load::NotFound);
}

/// Not a test, and not among those that the lab runs: figures for the state query with many units.
#[test]
#[ignore = "needs systemd, and takes minutes: run by hand"]
fn measure_the_state_query() {
    let mut systemd = Systemd::new();
    let text = "[Unit]\nDefaultDependencies=no\n[Service]\nType=oneshot\nRemainAfterExit=yes\nExecStart=true\n";
    install(&mut systemd, &[("many@.service", text)]);
    for (from, to) in [(0, 200), (200, 2000)] {
        let jobs: Vec<_> = (from..to).map(|n| (name(&format!("many@{n}.service")), JobKind::Start)).collect();
        systemd.run_jobs(&jobs, Duration::from_secs(600), &mut |_| ()).unwrap();
        for _ in 0..5 {
            let units = timed("snapshot_of_runs", || systemd.snapshot_of_runs()).unwrap();
            println!("{} units, {} up", units.len(), units.values().filter(|state| state.active.is_up()).count());
        }
    }
}

#[test]
#[ignore = "needs systemd: run by the lab"]
fn live_enabling_and_undoing_it() {
    let mut systemd = Systemd::new();
    let install_section = "[Service]\nExecStart=true\n[Install]\nWantedBy=multi-user.target\n";
    let directory = Path::new("/etc/systemd/system");
    for unit in ["live-e1.service", "live-e2.service"] {
        fs::write(directory.join(unit), install_section).unwrap();
    }
    fs::write(directory.join("live-static.service"), "[Service]\nExecStart=true\n").unwrap();
    systemd.daemon_reload(None).unwrap();
    let units: Vec<_> = ["live-e1.service", "live-e2.service", "live-static.service"].into_iter().map(name).collect();
    assert_eq!(systemd.unit_file(&units[0]).unwrap(), UnitFile::Disabled);
    timed("enable", || systemd.enable(&units)).unwrap();
    assert_eq!(timed("unit_file", || systemd.unit_file(&units[1])).unwrap(), UnitFile::Enabled);
    assert_eq!(systemd.unit_file(&units[2]).unwrap(), UnitFile::Static);
    assert!(directory.join("multi-user.target.wants/live-e1.service").is_symlink());
    timed("disable", || systemd.disable(&units)).unwrap();
    assert_eq!(systemd.unit_file(&units[0]).unwrap(), UnitFile::Disabled);
    assert!(!directory.join("multi-user.target.wants/live-e1.service").is_symlink());

    let none = name("live-none.service");
    assert_eq!(systemd.unit_file(&none).unwrap(), UnitFile::Absent);
    systemd.disable(std::slice::from_ref(&none)).unwrap();
    systemd.reset_failed(&[none.clone(), name("live-e1.service")]).unwrap();
    println!("{}", systemd.enable(&[units[0].clone(), none]).unwrap_err());
    systemd.disable(&units).unwrap();
}

#[test]
#[ignore = "needs systemd: run by the lab"]
fn live_the_session_is_left() {
    let mut systemd = Systemd::new();
    println!("before: {}", fs::read_to_string("/proc/self/cgroup").unwrap());
    timed("leave_session", || systemd.leave_session(Leave::Done)).unwrap();
    let after = fs::read_to_string("/proc/self/cgroup").unwrap();
    assert!(after.contains(&format!("deptool-agent-{}.scope", std::process::id())), "{after}");
}

#[test]
#[ignore = "needs systemd: run by the lab"]
fn live_a_reexecuted_systemd_is_found_again() {
    let mut systemd = Systemd::new();
    systemd.snapshot().unwrap();
    for _ in 0..5 {
        // There is no reply: the connection ends.
        assert!(systemd.client.ask("Reexecute", &[]).is_err());
        systemd.snapshot().unwrap();
    }
}

#[test]
#[ignore = "needs systemd: run by the lab"]
fn live_users_and_files_are_created() {
    let mut systemd = Systemd::new();
    fs::create_dir_all("/etc/sysusers.d").unwrap();
    fs::create_dir_all("/etc/tmpfiles.d").unwrap();
    let (users, files) = (Path::new("/etc/sysusers.d/live.conf"), Path::new("/etc/tmpfiles.d/live.conf"));
    fs::write(users, "u live-user - \"Live\" /\n").unwrap();
    fs::write(files, "d /run/live-dir 0750 live-user live-user\n").unwrap();
    timed("sysusers", || systemd.create_users(&[users])).unwrap();
    timed("tmpfiles", || systemd.create_tmpfiles(&[files])).unwrap();
    assert!(Path::new("/run/live-dir").is_dir());
    fs::write(files, "bogus line\n").unwrap();
    println!("{}", systemd.create_tmpfiles(&[files]).unwrap_err());
    fs::write(users, "bogus line\n").unwrap();
    println!("{}", systemd.create_users(&[users]).unwrap_err());
    fs::remove_file(users).unwrap();
    fs::remove_file(files).unwrap();
}
