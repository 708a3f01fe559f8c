//! Checks, and the verification of unit files.

use crate::host::tests::*;

#[test]
fn a_failing_check_refuses_the_deployment_and_its_output_is_shown() {
    let mut world = before();
    let expected = world.visible();
    world.fake.journal = "line 3: no such option\n".into();
    world.fake.behave("deptool-check-1.service", Behaviour::FailsAtStart);
    let (outcome, _) = world.deploy(AFTER);
    let why = "check 'web-check.service' of 'web' failed: exited with status 1 after 0.1 s".to_owned();
    assert_eq!(outcome, Outcome::Refused { why, details: "line 3: no such option".into(), in_the_way: vec![] });
    assert_eq!(world.visible(), expected);
    let [text] = &world.fake.transient[..] else { panic!("{:?}", world.fake.transient) };
    let state = world.path("/var/lib/deptool").display().to_string();
    for line in [
        "ExecStart=/bin/check".to_owned(),
        format!("BindReadOnlyPaths={state}/generations/2/.apps:{state}/apps"),
        format!("BindReadOnlyPaths={state}/generations/2:{state}/generations/1"),
    ] {
        assert!(text.lines().any(|other| other == line), "{line}\n{text}");
    }
    assert!(!text.contains("X=y") && text.contains(&format!("Environment=DEPTOOL_STAGED={state}/trees/")), "{text}");
    world.fake.behave("deptool-check-1.service", Behaviour::NeverReady);
    let (outcome, _) = world.deploy(AFTER);
    let Outcome::Refused { why, .. } = outcome else { panic!("{outcome:?}") };
    assert_eq!(why, "check 'web-check.service' of 'web' failed: it has not ended within 90 s");
}

#[test]
fn what_systemd_takes_from_the_host_for_a_check_is_staged_too() {
    let mut world = World::new();
    let (web, a) = ("/var/lib/deptool/apps/web/current", "/var/lib/deptool/apps/a/current");
    let in_image = format!("RootImage=/img/web.raw\nBindReadOnlyPaths={web}:/etc/web:norbind -{a}/x /srv/x");
    let check = |section: &str| format!("[Service]\n{section}\nExecStart=/bin/check {web}\n");
    let here = check(&format!("EnvironmentFile=-{web}/env\nBindPaths={web}/x:/etc/x\nBindPaths=/srv /opt"));
    let (in_image, in_bound) = (check(&in_image), check("RootDirectory=/img\nBindReadOnlyPaths=/var/lib"));
    world.deploys(&[
        ("web/manifest.json", r#"{"checks": ["a.service", "b.service", "c.service"]}"#),
        ("web/systemd/a.service", &here),
        ("web/systemd/b.service", &in_image),
        ("web/systemd/c.service", &in_bound),
        ("a/x", ""),
    ]);
    let tree = |app: &str| fs::read_link(world.path(&format!("/var/lib/deptool/current/{app}"))).unwrap();
    let trees = world.path("/var/lib/deptool/trees");
    let staged = |app: &str| trees.join(tree(app).file_name().unwrap()).display().to_string();
    let (web_tree, a_tree) = (staged("web"), staged("a"));
    let expected = [
        (format!("EnvironmentFile=-{web_tree}/env\nBindReadOnlyPaths={web_tree}/x:/etc/x\nBindPaths=/srv /opt"), true),
        (
            format!(
                "RootImage=/img/web.raw\nBindReadOnlyPaths={web_tree}:/etc/web:norbind\n\
                 BindReadOnlyPaths=-{a_tree}/x:{a}/x\nBindReadOnlyPaths=/srv/x"
            ),
            false,
        ),
        ("RootDirectory=/img\nBindReadOnlyPaths=/var/lib".to_owned(), true),
    ];
    for (text, (section, has_all)) in world.fake.transient.iter().zip(expected) {
        assert!(text.contains(&check(&section)["[Service]\n".len()..]), "{section}\n{text}");
        assert_eq!(text.contains("/.apps:"), has_all, "{text}");
    }
}

#[test]
fn unit_files_with_errors_are_refused_and_warnings_are_noted() {
    let mut world = before();
    let files: Files<'_> = &[
        ("app/manifest.json", r#"{"symlinks": {"/opt/app": "bin"}, "files": {"bin/secret": {"mode": "0700"}}}"#),
        ("app/systemd/app.service", "[Service]\nExecStart=/var/lib/deptool/apps/app/current/bin/run\n"),
        ("app/systemd/host.service.d/x.conf", "[Service]\nNice=1\n"),
        ("app/systemd/image.service", "[Service]\nExecStart=/bin/of-image\n"),
        ("app/systemd/image.service.d/x.conf", "[Service]\nRootImage=/img/x.raw\n"),
        ("app/bin/run*", ""),
        ("app/bin/secret", ""),
        ("app/bin/text", ""),
    ];
    let all = [BEFORE, files].concat();
    let refused = |world: &mut World, verdict: &str| {
        world.fake.verdicts = verdict.into();
        match world.deploy(&all).0 {
            Outcome::Refused { why, .. } => why,
            other => panic!("{verdict}: {other:?}"),
        }
    };
    fs::create_dir_all(world.path("/usr/lib/systemd/system")).unwrap();
    fs::write(world.path("/usr/lib/systemd/system/host.service"), "[Service]\nExecStart=/x\n").unwrap();
    let why = refused(&mut world, "DIR/app.service:2: Missing '=', ignoring line.\n");
    assert_eq!(why, "'app/systemd/app.service': line 2: Missing '=', ignoring line.");
    assert!(
        world.fake.calls.contains(&"verify app.service host.service image.service".into()),
        "{:?}",
        world.fake.calls
    );
    let why = refused(&mut world, "host.service: Command /nowhere is not executable: No such file or directory\n");
    assert_eq!(why, "host.service: Command /nowhere is not executable: No such file or directory");
    let command = |path: &str| format!("app.service: Command {path} is not executable: No\n");
    let why = refused(&mut world, &command("/var/lib/deptool/apps/app/current/bin/text"));
    assert!(why.contains("bin/text"), "{why}");
    let why = refused(&mut world, &command("/opt/app/none"));
    assert!(why.contains("/opt/app/none"), "{why}");
    world.fake.verdicts = [
        command("/opt/app/run"),
        command("/opt/app/secret"),
        command("/var/lib/deptool/apps/app/current/bin/run"),
        "image.service: Command /bin/of-image is not executable: No\n".into(),
        "DIR/app.service:3: Unknown key 'X' in section [Service], ignoring.\n".into(),
        "DIR/host.service:3: Failed to parse what is the host's, ignoring.\n".into(),
        "DIR/web.service:3: Failed to parse what is not changed, ignoring.\n".into(),
        "other.service: Command /nowhere is not executable: No\n".into(),
    ]
    .concat();
    let expected = "'app/systemd/app.service': line 3: Unknown key 'X' in section [Service], ignoring.";
    assert_eq!(world.deploys(&all), [expected]);
    assert!(!world.path("/var/lib/deptool/generations/2/.verify").exists());
    world.fake.verdicts = "app.service: Refusing.\n".into();
    // No unit changes.
    world.deploys(&[&all[..], &[("app/x", "1")]].concat());
}

#[test]
fn a_check_is_run_only_if_its_app_changes() {
    let mut world = before();
    world.fake.behave("deptool-check-1.service", Behaviour::FailsAtStart);
    world.deploys(&[BEFORE, &[("other/x", "1")]].concat());
}

#[test]
fn a_check_whose_user_does_not_exist_yet_is_skipped_with_a_note() {
    let mut world = World::new();
    let files = &[
        ("app/manifest.json", r#"{"checks": ["c.service"]}"#),
        ("app/systemd/c.service", "[Service]\nUser=root\nUser=app\nExecStart=/x\n"),
        ("users/sysusers/app.conf", "u app\n"),
    ];
    let notes = world.deploys(files);
    assert_eq!(notes, ["check 'c.service' of 'app' was not run: 'app' is only created by this deployment"]);
    assert!(world.fake.transient.is_empty());
}

#[test]
fn without_a_running_systemd_checks_and_probes_are_skipped_with_a_note() {
    let mut world = World::new();
    world.fake.manager = Manager::Offline;
    let files = &[
        ("app/manifest.json", r#"{"checks": ["c.service"], "health": [{"tcp": "127.0.0.1:1"}]}"#),
        ("app/systemd/c.service", "[Service]\nExecStart=/x\n"),
    ];
    let expected =
        ["systemd is not running here: 'checks' were skipped", "systemd is not running here: 'health' was skipped"];
    assert_eq!(world.deploys(files), expected);
}
