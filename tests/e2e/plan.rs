//! `git push --dry-run` shows the plan, does not connect, and changes nothing.

use deptool_tests::sandbox::{Repo, Sandbox, gits};

use crate::{
    push::without_contact,
    seen::{refs, shows, state_of, unchanged},
};

fn operator(sandbox: &Sandbox) -> Repo<'_> {
    let operator = sandbox.repo("operator");
    operator.add_root("web1");
    operator.write("web1/web/index.html", "hello\n");
    operator.write("web1/web/web.conf", "x=1\n");
    operator.write("web1/web/systemd/web.service", "[Service]\nExecStart=/bin/true\n[Install]\nWantedBy=x.target\n");
    operator.write("web1/web/sysusers/web.conf", "u web\n");
    operator.write(
        "web1/web/manifest.json",
        r#"{"symlinks": {"/etc/web.conf": "web.conf"}, "systemd": {"units_enabled": ["web.service"]}}"#,
    );
    operator
}

#[test]
fn the_plan_of_a_first_deployment_says_all_that_it_will_do() {
    for git in gits() {
        let sandbox = Sandbox::with_git(&git);
        let operator = operator(&sandbox);
        operator.commit("One");
        let run = without_contact(&sandbox, &operator, &["push", "--dry-run", "web1", "prod"]).ok();
        shows(&sandbox, &run, &[], FIRST);
        assert_eq!(state_of(&sandbox.root("web1")).len(), 1);
        assert_eq!(operator.id_if_any("refs/remotes/web1/prod"), None);
        assert!(!operator.dir.join(".git/deptool").exists(), "it takes no lock");
    }
}

const FIRST: &str = "\
web1
    add web
        + index.html
        + manifest.json
        + systemd/web.service
        + sysusers/web.conf
        + web.conf
        install /etc/systemd/system/web.service
        install /etc/sysusers.d/web.conf
        link /etc/web.conf -> web.conf
        enable unit web.service
        start unit web.service
    (users that sysusers creates stay after a rollback)
To deptool::DIR/roots/web1
 * [new branch]      prod -> prod";

#[test]
fn the_plan_of_a_change_has_only_what_changes() {
    let sandbox = Sandbox::new();
    let operator = operator(&sandbox);
    let one = operator.commit("One");
    operator.git(&["push", "web1", "prod"]).ok();
    operator.write("web1/web/web.conf", "x=2\n");
    operator.remove("web1/web/index.html");
    operator.write("web1/other/a \u{202e} name", "x");
    operator.write("web1/web/manifest.json", r#"{"symlinks": {"/etc/other.conf": "web.conf"}}"#);
    let two = operator.commit("Two");
    let before = (state_of(&sandbox.root("web1")), refs(&operator));
    let run = without_contact(&sandbox, &operator, &["push", "--dry-run", "web1", "prod"]).ok();
    let names = [("one", one.as_str()), ("two", two.as_str())];
    shows(&sandbox, &run, &names, CHANGE);
    unchanged(&state_of(&sandbox.root("web1")), &before.0);
    assert_eq!(refs(&operator), before.1);
    // With -v, the plan is shown before it is carried out.
    let run = operator.git(&["push", "-v", "web1", "prod"]).ok();
    run.says("    update web\n").says("        ~ web.conf\n");
}

const CHANGE: &str = "\
web1
    add other
        + a \\u{202e} name
    update web
        - index.html
        ~ manifest.json
        ~ web.conf
        link /etc/other.conf -> web.conf
        unlink /etc/web.conf
        stop unit web.service
        disable unit web.service
To deptool::DIR/roots/web1
   <one>..<two>  prod -> prod";

#[test]
fn the_plan_of_a_removal_says_all_that_goes() {
    let sandbox = Sandbox::new();
    let operator = operator(&sandbox);
    operator.commit("One");
    operator.git(&["push", "web1", "prod"]).ok();
    let before = state_of(&sandbox.root("web1"));
    let run = without_contact(&sandbox, &operator, &["push", "--dry-run", "web1", ":prod"]).ok();
    shows(&sandbox, &run, &[], REMOVAL);
    unchanged(&state_of(&sandbox.root("web1")), &before);
}

const REMOVAL: &str = "\
web1
    remove web
        - index.html
        - manifest.json
        - systemd/web.service
        - sysusers/web.conf
        - web.conf
        remove /etc/systemd/system/web.service
        remove /etc/sysusers.d/web.conf
        unlink /etc/web.conf
        stop unit web.service
        disable unit web.service
To deptool::DIR/roots/web1
 - [deleted]         prod";

#[test]
fn a_dry_run_says_no_where_the_push_would() {
    let sandbox = Sandbox::new();
    let operator = operator(&sandbox);
    operator.commit("One");
    operator.git(&["push", "web1", "prod"]).ok();
    operator.write("web1/web/manifest.json", "{");
    operator.commit("Broken");
    operator.git(&["push", "--dry-run", "web1", "prod"]).code(1).says("web/manifest.json");
    operator.git(&["push", "--dry-run", "web1", "prod:staging"]).code(1).says("belongs to cluster 'prod'");
    operator.git(&["push", "--dry-run", "web1", "prod~1:prod"]).ok().says("Everything up-to-date");
}
