//! Secrets in plain text that were committed by mistake: they are refused before anything is sent, with their paths.

use deptool_tests::sandbox::{Repo, Sandbox};

use crate::secret::{files_with, ssh_key};

fn begin(sandbox: &Sandbox) -> Repo<'_> {
    let repo = sandbox.repo("operator");
    repo.write("web1/app/file", "1");
    repo.commit("One");
    repo.git(&["config", "deptool.cluster", "prod"]).ok();
    repo.add_root("web1");
    repo.git(&["push", "web1", "prod"]).ok();
    repo
}

#[test]
fn a_private_key_is_refused_with_its_path_by_all_that_plan_and_allow_plain_deploys_it() {
    let sandbox = Sandbox::new();
    let repo = begin(&sandbox);
    ssh_key(&sandbox, &repo.dir.join("web1/app/conf/key"), &["-t", "ed25519", "-N", ""]);
    repo.commit("Add a key");
    let why = "'app/conf/key' has a private key in it in plain text; encrypt it with 'git deptool secret set'";
    repo.git(&["push", "web1", "prod"]).code(1).says(why);
    repo.git(&["push", "--dry-run", "web1", "prod"]).code(1).says(why);
    repo.git(&["deptool", "plan"]).code(1).says(why);
    repo.git(&["deptool", "deploy", "--yes"]).code(1).says(why).says("nothing was deployed");
    repo.git(&["deptool", "deploy", "--yes", "--json"]).code(1).prints("has a private key in it");
    assert!(!sandbox.exists("web1", "/var/lib/deptool/apps/app/current/conf/key"));
    assert_eq!(files_with(&sandbox.root("web1"), "OPENSSH PRIVATE KEY"), [""; 0], "nothing was sent");

    repo.git(&["deptool", "status"]).ok().prints("can't be deployed to");
    let allowed = ["-c", "push.pushOption=allow-plain", "deptool", "status"];
    repo.git(&allowed).ok().prints("1 app, 2 files to deploy");
    repo.git(&["deptool", "plan", "--allow-plain"]).ok().prints("+ conf/key");
    repo.git(&["push", "--dry-run", "-o", "allow-plain", "web1", "prod"]).ok();
    repo.git(&["deptool", "deploy", "--yes", "--allow-plain"]).ok();
    assert!(sandbox.exists("web1", "/var/lib/deptool/apps/app/current/conf/key"));
    repo.write("web1/app/file", "2");
    repo.commit("Something else");
    repo.git(&["push", "web1", "prod"]).ok();
    repo.git(&["mv", "web1/app/conf/key", "web1/app/key"]).ok();
    repo.commit("Rename");
    repo.git(&["push", "web1", "prod"]).ok();
}

#[test]
fn a_rollback_to_what_was_allowed_once_is_not_refused() {
    let sandbox = Sandbox::new();
    let repo = begin(&sandbox);
    repo.write("web1/app/.env", "DB_PASSWORD=hunter2x\n");
    repo.commit("Passwords");
    repo.git(&["push", "web1", "prod"]).code(1).says("'app/.env' has passwords in it in plain text");
    repo.git(&["-c", "push.pushOption=allow-plain", "push", "web1", "prod"]).ok();
    repo.remove("web1/app/.env");
    repo.commit("Without");
    repo.git(&["push", "web1", "prod"]).ok();
    repo.git(&["deptool", "rollback", "--yes", "web1"]).ok();
    assert!(sandbox.exists("web1", "/var/lib/deptool/apps/app/current/.env"));
}

#[test]
fn what_is_below_secrets_and_not_encrypted_is_refused() {
    let sandbox = Sandbox::new();
    let repo = begin(&sandbox);
    for name in ["a", "b", "c", "d"] {
        repo.write(format!("web1/app/secrets/{name}"), format!("hunter2-{name}"));
    }
    repo.commit("Plain");
    let run = repo.git(&["push", "web1", "prod"]).code(1);
    run.says("'app/secrets/a' is below secrets/ and not encrypted, 'app/secrets/b'")
        .says("and 1 more; encrypt it with");
    repo.remove("web1/app/secrets");
    repo.write("web1/app/secrets/x.age", "hunter2");
    repo.commit("Not encrypted either");
    let run = repo.git(&["push", "web1", "prod"]).code(1);
    run.says("'app/secrets/x.age' is not an age file; 'git deptool secret set' makes one");
    assert_eq!(files_with(&sandbox.root("web1"), "hunter2"), [""; 0]);
    let run = repo.git(&["push", "-o", "allow-plain", "web1", "prod"]).code(1);
    run.says("'app/secrets/x.age' is not encrypted with age");
}
