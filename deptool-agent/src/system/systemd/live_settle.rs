//! Settling against a real systemd, one unit of every kind: see [`super::live`] for how to run these.

use std::{fs, time::Instant};

use super::*;
use crate::system::{
    settle::{Deadline, Failure, Transaction, Watch},
    verdict::Started,
};

const LIMIT: Duration = Duration::from_secs(20);

fn name(text: &str) -> UnitName {
    UnitName::parse(text.as_bytes()).unwrap()
}

/// Write unit files; the first line of each text is the section's only line or more, ` ;; ` stands for a new line.
fn install(systemd: &mut Systemd, units: &[(&str, &str)]) {
    for (unit, text) in units {
        fs::write(Path::new("/run/systemd/system").join(unit), text.replace(" ;; ", "\n")).unwrap();
    }
    systemd.daemon_reload(None).unwrap();
}

fn deploy(systemd: &mut Systemd, jobs: &[(&str, JobKind)]) -> Result<(), Vec<Failure>> {
    let jobs: Vec<_> = jobs.iter().map(|(unit, kind)| (name(unit), *kind)).collect();
    let names: Vec<UnitName> = jobs.iter().map(|(unit, _)| unit.clone()).collect();
    systemd.reset_failed(&names).unwrap();
    let before: Vec<UnitDetail> = names.iter().map(|name| systemd.detail(name).unwrap()).collect();
    let results = systemd.run_jobs(&jobs, LIMIT, &mut |_| ()).unwrap();
    let ended = systemd.clock();
    let started =
        jobs.iter().zip(results).zip(before).map(|(((unit, kind), job), before)| {
            (unit.clone(), Started { kind: *kind, job, ended, before, window: None })
        });
    let deadline = Deadline::after(systemd, LIMIT);
    Watch::new(started.collect(), Transaction::default()).settle(systemd, deadline, &mut |_| ())
}

/// Deploy a unit, and compare what is said of it: a part of why it failed, or nothing. Returns how long it took.
fn expect(systemd: &mut Systemd, unit: &str, kind: JobKind, expected: Option<&str>) -> Duration {
    let began = Instant::now();
    let result = deploy(systemd, &[(unit, kind)]);
    let took = began.elapsed();
    let said = result.as_ref().err().map(|failures| format!("{}: {}", failures[0].unit, failures[0].why));
    println!("{unit}: {} ({:.0} ms)", said.as_deref().unwrap_or("good"), took.as_secs_f64() * 1e3);
    match (expected, &said) {
        (None, None) => {}
        (Some(part), Some(said)) if said.contains(part) => {}
        _ => panic!("{unit}: expected {expected:?}, got {said:?}"),
    }
    took
}

const DIES: &str = "ExecStart=sh -c 'echo last words; sleep 0.3; exit 3'";
const STAYS: &str = "ExecStart=sleep 1000";

#[test]
#[ignore = "needs systemd: run by the lab"]
fn live_services_without_readiness_are_watched() {
    let systemd = &mut Systemd::new();
    let unit = |text: &str| format!("[Service] ;; {text}\n");
    let rows: Vec<(&str, String, Option<&str>)> = vec![
        ("lw-good.service", unit(STAYS), None),
        ("lw-exec-good.service", unit(&format!("Type=exec ;; {STAYS}")), None),
        ("lw-idle-good.service", unit(&format!("Type=idle ;; {STAYS}")), None),
        ("lw-missing.service", unit("ExecStart=/nowhere/prog"), Some("exited with status 203/EXEC")),
        ("lw-exec-missing.service", unit("Type=exec ;; ExecStart=/nowhere/prog"), Some("203/EXEC")),
        ("lw-dies.service", unit(DIES), Some("exited with status 3 after 0.")),
        ("lw-dies-exec.service", unit(&format!("Type=exec ;; {DIES}")), Some("exited with status 3 after 0.")),
        ("lw-killed.service", unit("ExecStart=sh -c 'sleep 0.1; kill -SEGV $$$$'"), Some("signal 11 (SEGV)")),
        ("lw-loop.service", unit(&format!("Restart=always ;; {DIES}")), Some("exited with status 3")),
        (
            "lw-fast-loop.service",
            unit("Restart=always ;; RestartSec=10ms ;; ExecStart=sh -c 'exit 1'"),
            Some("exited with status 1"),
        ),
        ("lw-ends.service", unit("ExecStart=true"), Some("exited with status 0")),
        ("lw-pre.service", unit(&format!("ExecStartPre=false ;; {STAYS}")), Some("ExecStartPre exited with status 1")),
        ("lw-user.service", unit(&format!("User=nobody-such ;; {STAYS}")), Some("217/USER")),
    ];
    let files: Vec<(&str, &str)> = rows.iter().map(|(unit, text, _)| (*unit, text.as_str())).collect();
    install(systemd, &files);
    for (unit, _, expected) in &rows {
        let took = expect(systemd, unit, JobKind::Restart, *expected);
        match expected {
            None => assert!((1500..1700).contains(&took.as_millis()) || unit.contains("idle"), "{took:?}"),
            Some(_) => assert!(took.as_millis() < 700, "{took:?}"),
        }
    }
    let journal = |systemd: &mut Systemd, unit: &str| {
        let failure = deploy(systemd, &[(unit, JobKind::Restart)]).unwrap_err().remove(0);
        systemd.journal_tail(&failure.unit, &failure.invocations, 10)
    };
    let said = journal(systemd, "lw-dies.service");
    assert!(said.contains("last words"));
    assert_eq!(said.matches("Started").count(), 1, "earlier runs are left out");
    let said = journal(systemd, "lw-missing.service");
    assert!(said.contains("locate executable"), "{said}");
    // The sixth time within ten seconds: reset-failed keeps the start limit away.
    for _ in 0..6 {
        expect(systemd, "lw-dies.service", JobKind::Restart, Some("exited with status 3 after 0."));
    }
}

#[test]
#[ignore = "needs systemd: run by the lab"]
fn live_services_with_readiness_are_believed() {
    let systemd = &mut Systemd::new();
    let rows = [
        (
            "lr-notify.service",
            "Type=notify ;; NotifyAccess=all ;; ExecStart=sh -c 'systemd-notify --ready; sleep 1000'",
            None,
        ),
        ("lr-never.service", "Type=notify ;; TimeoutStartSec=1 ;; ExecStart=sleep 1000", Some("timed out starting")),
        ("lr-unready.service", "Type=notify ;; ExecStart=sh -c 'sleep 0.1'", Some("before it was ready")),
        ("lr-forking.service", "Type=forking ;; ExecStart=sh -c 'sleep 1000 &'", None),
        ("lr-fork-fails.service", "Type=forking ;; ExecStart=sh -c 'exit 4'", Some("exited with status 4")),
        ("lr-oneshot.service", "Type=oneshot ;; ExecStart=true", None),
        ("lr-remains.service", "Type=oneshot ;; RemainAfterExit=yes ;; ExecStart=true", None),
        ("lr-oneshot-fails.service", "Type=oneshot ;; ExecStart=sh -c 'exit 5'", Some("exited with status 5")),
        (
            "lr-dbus.service",
            "Type=dbus ;; BusName=org.example.Never ;; TimeoutStartSec=1 ;; ExecStart=sleep 1000",
            Some("timed out starting"),
        ),
        (
            "lr-retried.service",
            "Type=oneshot ;; Restart=on-failure ;; RestartSec=100ms ;; ExecStart=sh -c 'exit 6'",
            Some("exited with status 6"),
        ),
    ];
    let texts: Vec<String> = rows.iter().map(|(_, text, _)| format!("[Service] ;; {text}\n")).collect();
    let files: Vec<(&str, &str)> = rows.iter().zip(&texts).map(|(row, text)| (row.0, text.as_str())).collect();
    install(systemd, &files);
    for (unit, _, expected) in rows {
        let took = expect(systemd, unit, JobKind::Restart, expected);
        assert!(took.as_millis() < if expected == Some("timed out starting") { 2500 } else { 400 }, "{took:?}");
    }
}

#[test]
#[ignore = "needs systemd: run by the lab"]
fn live_refusals_conditions_and_requirements() {
    let systemd = &mut Systemd::new();
    let stays = format!("[Service] ;; {STAYS}\n");
    let units = [
        ("lc-condition.service", format!("[Unit] ;; ConditionPathExists=/nowhere ;; {stays}"), None),
        ("lc-exec-condition.service", format!("[Service] ;; ExecCondition=false ;; {STAYS}"), None),
        (
            "lc-assert.service",
            format!("[Unit] ;; AssertPathExists=/nowhere ;; {stays}"),
            Some("an assertion in its unit file"),
        ),
        ("lc-base.service", "[Service] ;; Type=oneshot ;; ExecStart=false".into(), Some("exited with status 1")),
        (
            "lc-needs.service",
            format!("[Unit] ;; Requires=lc-base.service ;; After=lc-base.service ;; {stays}"),
            Some("that it requires failed"),
        ),
        ("lc-bad.service", "[Service] ;; Type=nonsense ;; NoExec=1\n".into(), Some("bad unit file setting")),
        ("lc-absent.service", String::new(), Some("not found")),
        ("lc-masked.service", String::new(), Some("masked")),
        ("lc-template@one.service", String::new(), None),
    ];
    let files: Vec<(&str, &str)> =
        units.iter().filter(|unit| !unit.1.is_empty()).map(|unit| (unit.0, unit.1.as_str())).collect();
    let _ = std::os::unix::fs::symlink("/dev/null", "/run/systemd/system/lc-masked.service");
    install(systemd, &[("lc-template@.service", "[Service] ;; Type=exec ;; ExecStart=sleep 1000")]);
    install(systemd, &files);
    for (unit, _, expected) in &units {
        expect(systemd, unit, JobKind::Restart, *expected);
    }
}

#[test]
#[ignore = "needs systemd: run by the lab"]
fn live_what_is_no_service() {
    let systemd = &mut Systemd::new();
    install(
        systemd,
        &[
            ("lt.timer", "[Timer] ;; OnCalendar=daily\n"),
            ("lt.service", "[Service] ;; Type=oneshot ;; ExecStart=false\n"),
            ("lt-now.timer", "[Timer] ;; OnActiveSec=0\n"),
            ("lt-now.service", "[Service] ;; Type=oneshot ;; ExecStart=false\n"),
            ("ls-free.socket", "[Socket] ;; ListenStream=127.0.0.1:7001\n"),
            ("ls-free.service", "[Service] ;; ExecStart=sleep 1000\n"),
            ("ls-taken.socket", "[Socket] ;; ListenStream=127.0.0.1:7001 ;; Service=ls-free.service\n"),
            ("ls-alone.socket", "[Socket] ;; ListenStream=127.0.0.1:7002\n"),
            ("lp.path", "[Path] ;; PathExists=/etc/passwd\n"),
            ("lp.service", "[Service] ;; ExecStart=sh -c 'sleep 0.2; exit 7'\n"),
            ("run-lm.mount", "[Mount] ;; What=tmpfs ;; Where=/run/lm ;; Type=tmpfs\n"),
            ("run-lmbad.mount", "[Mount] ;; What=/nowhere ;; Where=/run/lmbad ;; Type=ext4\n"),
            ("lg.target", "[Unit] ;; Wants=lt.service\n"),
        ],
    );
    let start = JobKind::Restart;
    expect(systemd, "lt.timer", start, None);
    expect(systemd, "lt-now.timer", start, None);
    expect(systemd, "ls-free.socket", start, None);
    expect(systemd, "ls-taken.socket", start, Some("resources"));
    expect(systemd, "ls-alone.socket", start, Some(""));
    // Twice: what the service did before its path unit was started does not count.
    for _ in 0..2 {
        let why = "exited with status 7 after 0.2 s (started by 'lp.path')";
        let took = expect(systemd, "lp.path", start, Some(why));
        assert!(took.as_millis() >= 200);
        let both = ["lp.path", "lp.service"].map(|unit| (name(unit), JobKind::Stop));
        systemd.run_jobs(&both, LIMIT, &mut |_| ()).unwrap();
        systemd.reset_failed(&[name("lp.service")]).unwrap();
    }
    expect(systemd, "run-lm.mount", start, None);
    expect(systemd, "run-lmbad.mount", start, Some("run-lmbad.mount"));
    expect(systemd, "lg.target", start, None);
    for unit in ["ls-free.socket", "lt-now.timer", "run-lm.mount"] {
        systemd.run_jobs(&[(name(unit), JobKind::Stop)], LIMIT, &mut |_| ()).unwrap();
    }
}

#[test]
#[ignore = "needs systemd: run by the lab"]
fn live_reloads() {
    let systemd = &mut Systemd::new();
    install(
        systemd,
        &[
            ("ll-good.service", "[Service] ;; ExecReload=true ;; ExecStart=sleep 1000\n"),
            ("ll-bad.service", "[Service] ;; ExecReload=sh -c 'exit 8' ;; ExecStart=sleep 1000\n"),
            (
                "ll-dies.service",
                "[Service] ;; ExecReload=sh -c 'kill -HUP $MAINPID' ;; ExecStart=sh -c 'trap \"sleep 0.2; exit 9\" HUP; while :; do sleep 0.05; done'\n",
            ),
            ("ll-none.service", "[Service] ;; ExecStart=sleep 1000\n"),
        ],
    );
    for unit in ["ll-good.service", "ll-bad.service", "ll-dies.service", "ll-none.service"] {
        expect(systemd, unit, JobKind::Restart, None);
    }
    expect(systemd, "ll-good.service", JobKind::Reload, None);
    expect(systemd, "ll-bad.service", JobKind::Reload, Some("could not be reloaded: ExecReload exited with status 8"));
    expect(systemd, "ll-dies.service", JobKind::Reload, Some("exited with status 9"));
    expect(systemd, "ll-none.service", JobKind::Reload, Some("not"));
    expect(systemd, "ll-dies.service", JobKind::Reload, Some("not running"));

    // Since systemd 253. One unit tells when it has reloaded, the other never does.
    let serves = |on_reload: &str| {
        let script = format!("trap \"{on_reload}\" HUP; systemd-notify --ready; while :; do sleep 0.05; done");
        let keys = "Type=notify-reload ;; NotifyAccess=all ;; TimeoutStartSec=1";
        format!("[Service] ;; {keys} ;; ExecStart=sh -c '{script}'\n")
    };
    let good = serves("systemd-notify --reloading; sleep 0.1; systemd-notify --ready");
    let never = serves(":");
    install(systemd, &[("ll-notify.service", &good), ("ll-never.service", &never)]);
    if systemd.detail(&name("ll-notify.service")).unwrap().service_type != "notify-reload" {
        return println!("skipped: no notify-reload in this systemd");
    }
    expect(systemd, "ll-notify.service", JobKind::Restart, None);
    expect(systemd, "ll-never.service", JobKind::Restart, None);
    assert!(expect(systemd, "ll-notify.service", JobKind::Reload, None).as_millis() >= 100);
    expect(systemd, "ll-never.service", JobKind::Reload, Some("could not be reloaded"));
}

#[test]
#[ignore = "needs systemd: run by the lab"]
fn live_what_systemd_restarts_along_is_told() {
    let systemd = &mut Systemd::new();
    install(
        systemd,
        &[
            ("lo-base.service", "[Service] ;; Type=exec ;; ExecStart=sleep 1000\n"),
            ("lo-part.service", "[Unit] ;; PartOf=lo-base.service ;; [Service] ;; Type=exec ;; ExecStart=sleep 1000\n"),
        ],
    );
    let start = [(name("lo-base.service"), JobKind::Start), (name("lo-part.service"), JobKind::Start)];
    systemd.run_jobs(&start, LIMIT, &mut |_| ()).unwrap();
    systemd.take_other_jobs();
    systemd.run_jobs(&[(name("lo-base.service"), JobKind::Restart)], LIMIT, &mut |_| ()).unwrap();
    assert!(systemd.take_other_jobs().contains(&name("lo-part.service")));
    let stop = start.map(|(unit, _)| (unit, JobKind::Stop));
    systemd.run_jobs(&stop, LIMIT, &mut |_| ()).unwrap();
}
