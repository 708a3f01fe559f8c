//! Units of users: what is planned, and what is refused. Their managers run on real hosts only: see the lab.

use deptool_tests::sandbox::Sandbox;

use crate::{seen::at_rest, units::has_systemctl};

const SERVICE: &str = "[Service]\nExecStart=/bin/true\n[Install]\nWantedBy=default.target\n";
const ENABLED: &str = r#"{"users": {"alice": {"units_enabled": ["web.service"]}}}"#;

#[test]
fn a_plan_names_the_user_of_each_unit() {
    let sandbox = Sandbox::new();
    let operator = sandbox.repo("operator");
    operator.add_root("web1");
    operator.write("web1/web/user/alice/systemd/web.service", SERVICE);
    operator.write("web1/web/user/alice/quadlets/db.container", "[Container]\nImage=db\n");
    operator.write("web1/web/manifest.json", ENABLED);
    operator.commit("Units of alice's");
    let plan = operator.git(&["deptool", "plan", "web1"]).ok();
    plan.prints("start unit alice/web.service")
        .prints("install /etc/systemd/user/web.service")
        .prints("install /etc/containers/systemd/users/~alice/db.container");
}

#[test]
fn units_that_two_users_could_not_both_have_are_refused() {
    let sandbox = Sandbox::new();
    let operator = sandbox.repo("operator");
    operator.add_root("web1");
    operator.write("web1/a/user/alice/systemd/web.service", SERVICE);
    operator.write("web1/b/user/bob/systemd/web.service", SERVICE);
    operator.commit("The same for both");
    operator.git(&["deptool", "plan", "web1"]).ok();
    operator.write("web1/b/user/bob/systemd/web.service", SERVICE.replace("true", "false"));
    operator.commit("Another for bob");
    let claimed = "is claimed by 'a/user/alice/systemd/web.service' and by 'b/user/bob/systemd/web.service'";
    operator.git(&["push", "web1", "prod"]).fails().says(claimed);
    operator.write("web1/b/manifest.json", r#"{"systemd": {"units_enabled": ["alice/web.service"]}}"#);
    operator.commit("A user in the wrong place");
    let wrong = "'alice/web.service': only 'users' can name units of users, without the user in front";
    operator.git(&["push", "web1", "prod"]).fails().says(wrong);
}

#[test]
fn a_local_root_has_the_files_but_nothing_that_could_enable_them() {
    let sandbox = Sandbox::new();
    let operator = sandbox.repo("operator");
    operator.add_root("web1");
    operator.write("web1/web/user/alice/systemd/web.service", SERVICE);
    operator.write("web1/web/user/alice/quadlets/db.container", "[Container]\nImage=db\n");
    operator.commit("Units of alice's");
    // Podman knows users by number.
    operator.git(&["push", "web1", "prod"]).fails().says("there is no user 'alice' on the host");
    let etc = sandbox.root("web1").join("etc");
    std::fs::create_dir_all(&etc).unwrap();
    std::fs::write(etc.join("passwd"), "root:x:0:0::/root:/bin/sh\nalice:x:1234:1234::/home/alice:/bin/sh\n").unwrap();
    operator.git(&["push", "web1", "prod"]).ok();
    assert_eq!(sandbox.read("web1", "/etc/systemd/user/web.service"), SERVICE.as_bytes());
    assert!(sandbox.exists("web1", "/etc/containers/systemd/users/1234/db.container"));
    operator.git(&["deptool", "verify", "web1"]).ok();

    if has_systemctl(&sandbox) {
        operator.write("web1/web/manifest.json", ENABLED);
        operator.commit("Enable one");
        operator.git(&["push", "web1", "prod"]).fails().says("units of user 'alice' can't be enabled here");
    }
    operator.git(&["push", "web1", ":prod"]).ok();
    at_rest(&sandbox, "web1", None);
    assert!(!sandbox.exists("web1", "/etc/systemd"), "{}", sandbox.tree("web1"));
    assert!(!sandbox.exists("web1", "/etc/containers"), "{}", sandbox.tree("web1"));
}
