//! The keys of hosts: they are asked for, recorded in `cluster.json`, and compared with what is recorded by each push.

use std::{cell::RefCell, path::Path};

use deptool_tests::{
    process::{Cmd, Run},
    sandbox::{Repo, Sandbox},
};

use crate::secret::{HOST, files_with, ssh_key};

const IDENTITY: &str = "/var/lib/deptool/state/identity";

/// A repository with an operator and a local root to which an app was deployed.
fn begin(sandbox: &Sandbox) -> Repo<'_> {
    let anna = ssh_key(sandbox, &sandbox.home().join(".ssh/id_ed25519"), &["-t", "ed25519", "-N", ""]);
    let repo = sandbox.repo("operator");
    repo.write("web1/app/file", "1");
    repo.write("cluster.json", format!(r#"{{"operators": {{"anna": ["{anna}"]}}}}"#));
    repo.commit("One");
    repo.git(&["config", "deptool.cluster", "prod"]).ok();
    repo.add_root("web1");
    repo
}

fn secret(repo: &Repo<'_>, args: &[&str]) -> Cmd {
    let all: Vec<&str> = ["deptool", "secret"].iter().chain(args).copied().collect();
    repo.command(&all)
}

/// The recipient in the host's file, as age-keygen writes it.
fn key_of(sandbox: &Sandbox) -> String {
    let text = String::from_utf8(sandbox.read("web1", IDENTITY)).unwrap();
    text.lines().find_map(|line| line.strip_prefix("# public key: ")).unwrap().to_owned()
}

#[test]
fn a_host_is_asked_for_its_key_once_and_it_is_recorded() {
    let sandbox = Sandbox::new();
    let repo = begin(&sandbox);
    let early = secret(&repo, &["set", "web1/app/db"]).input("plain").run().unwrap().code(1);
    early.says("'web1' has no key for secrets yet: deploy to it once without any");
    repo.git(&["push", "web1", "prod"]).ok();
    let run = secret(&repo, &["set", "web1/app/db"]).input("plain").run().unwrap().ok();
    let key = key_of(&sandbox);
    run.prints(&format!("cluster.json: recorded the recipient of web1: {key}\n")).prints("for web1, anna");
    let shared = std::fs::read_to_string(repo.dir.join("cluster.json")).unwrap();
    assert!(shared.contains(&format!(r#""age": "{key}""#)) && shared.contains("anna@laptop"), "{shared}");
    // The key of the host opens it, and nobody has to be asked again.
    let identity = format!("deptool.identity={}", sandbox.root("web1").join(&IDENTITY[1..]).display());
    repo.git(&["-c", &identity, "deptool", "secret", "show", "web1/app/db"]).ok().prints("plain");
    std::fs::rename(sandbox.root("web1"), sandbox.root("away")).unwrap();
    secret(&repo, &["set", "web1/app/db"]).input("other").run().unwrap().ok().does_not_say("web1 is");
    std::fs::rename(sandbox.root("away"), sandbox.root("web1")).unwrap();
}

#[test]
fn a_push_to_a_host_with_another_key_is_refused_before_anything_changes_and_rekey_is_the_way_out() {
    let sandbox = Sandbox::new();
    let repo = begin(&sandbox);
    repo.git(&["push", "web1", "prod"]).ok();
    secret(&repo, &["set", "web1/app/db"]).input("plain").run().unwrap().ok();
    let old = key_of(&sandbox);
    std::fs::remove_file(sandbox.root("web1").join(&IDENTITY[1..])).unwrap();
    repo.write("web1/app/file", "2");
    let before = repo.commit("A secret");
    let refused = repo.git(&["push", "web1", "prod"]).code(1);
    let new = key_of(&sandbox);
    assert_ne!(old, new);
    refused.says(&format!("the key of the host for secrets is {new}, but cluster.json records {old}"));
    assert_eq!(sandbox.read("web1", "/var/lib/deptool/apps/app/current/file"), b"1");

    // Without a name nobody is asked, and without an answer nothing is recorded.
    secret(&repo, &["rekey"]).run().unwrap().ok().does_not_say(&new);
    let asked = secret(&repo, &["rekey", "web1"]).run().unwrap().code(8);
    asked.says(&format!("'web1' has another key than cluster.json records: {new} instead of {old}")).says("--accept");
    let dry = secret(&repo, &["rekey", "-n", "--accept", "web1"]).run().unwrap().ok();
    dry.prints(&format!("would record the recipient of web1: {new}"));
    assert!(std::fs::read_to_string(repo.dir.join("cluster.json")).unwrap().contains(&old));
    secret(&repo, &["rekey", "--accept", "web1"])
        .run()
        .unwrap()
        .ok()
        .prints(&format!("recorded the recipient of web1: {new}"));
    let identity = format!("deptool.identity={}", sandbox.root("web1").join(&IDENTITY[1..]).display());
    repo.git(&["-c", &identity, "deptool", "secret", "show", "web1/app/db"]).ok().prints("plain");
    repo.commit("Rekey");
    repo.git(&["push", "web1", "prod"]).ok();
    // A commit from before that is refused with that reason.
    let back = repo.git(&["push", "-f", "web1", &format!("{before}:prod")]);
    back.code(1).says("the commit is from before 'git deptool secret rekey web1'");
    // What runs there can be removed in any case.
    std::fs::remove_file(sandbox.root("web1").join(&IDENTITY[1..])).unwrap();
    repo.git(&["push", "web1", ":prod"]).ok();
}

#[test]
fn a_host_that_can_not_be_asked_is_encrypted_to_by_what_is_recorded_or_not_at_all() {
    let sandbox = Sandbox::new();
    let repo = begin(&sandbox);
    repo.git(&["push", "web1", "prod"]).ok();
    let unreachable = sandbox.dir().join("nowhere/web1");
    repo.git(&["config", "remote.web1.url", &format!("deptool::{}", unreachable.display())]).ok();
    secret(&repo, &["set", "web1/app/db"]).input("plain").run().unwrap().fails();
    assert!(!repo.dir.join("web1/app/secrets").exists());
    // What is recorded is used if the host can't be asked.
    let anna = std::fs::read_to_string(sandbox.home().join(".ssh/id_ed25519.pub")).unwrap();
    repo.write(
        "cluster.json",
        format!(r#"{{"hosts": {{"web1": {{"age": "{HOST}"}}}}, "operators": {{"anna": ["{}"]}}}}"#, anna.trim()),
    );
    secret(&repo, &["set", "web1/app/db"]).input("plain").run().unwrap().ok();
    secret(&repo, &["rekey", "web1"]).run().unwrap().ok().says("the recorded recipient of 'web1' is used");
}

#[test]
fn git_shows_what_a_file_tells_and_a_plan_shows_that_a_secret_changes() {
    let sandbox = Sandbox::new();
    let repo = begin(&sandbox);
    repo.git(&["push", "web1", "prod"]).ok();
    let run = repo.git(&["deptool", "init", "--secrets"]).ok();
    run.prints("diff.age.textconv = git deptool secret textconv").prints("changed .gitattributes: commit it");
    repo.git(&["deptool", "init", "--secrets"]).ok().does_not_say("gitattributes");
    secret(&repo, &["set", "web1/app/db"]).input("plain").run().unwrap().ok();
    repo.commit("A secret");
    let shown = repo.git(&["show", "--format=", "HEAD", "--", "web1"]).ok();
    shown.prints("+age-encrypted to 1 X25519, 1 ssh-ed25519\n+5 bytes of plain text\n+encrypted as ");
    let plan = repo.git(&["deptool", "plan", "-p"]).ok();
    let plan = plan.prints("+ secrets/db.age").prints("secret added: web1/app/secrets/db.age\n");
    assert!(!plan.stdout().contains("age-encryption.org") && !plan.stdout().contains("Binary"), "{}", plan.stdout());
}

/// So that a search can't find it by chance.
const PLAIN: &str = "correct-horse-battery-staple-1";
const OTHER: &str = "correct-horse-battery-staple-2";

#[test]
fn what_is_set_committed_and_pushed_is_in_plain_text_in_the_memory_of_its_host_and_nowhere_else() {
    let sandbox = Sandbox::new();
    let repo = begin(&sandbox);
    repo.git(&["push", "web1", "prod"]).ok();
    let said = RefCell::new(String::new());
    let note = |run: Run| said.borrow_mut().push_str(&format!("{}{}", run.stdout(), run.stderr()));
    let path = "/run/deptool/secrets/app/db";
    for plain in [PLAIN, OTHER] {
        note(secret(&repo, &["set", "web1/app/db"]).input(plain).run().unwrap().ok());
        repo.commit(&format!("A secret {}", plain.len()));
        note(repo.git(&["deptool", "plan", "-p"]).ok());
        note(repo.git(&["push", "-v", "web1", "prod"]).ok());
        assert_eq!(sandbox.read("web1", path), plain.as_bytes());
    }
    note(repo.git(&["deptool", "rollback", "--yes", "web1"]).ok());
    assert_eq!(sandbox.read("web1", path), PLAIN.as_bytes(), "the one that ran before");
    note(repo.git(&["deptool", "status", "--live"]).ok());
    note(repo.git(&["deptool", "log"]).ok());
    note(repo.git(&["log", "-p"]).ok());
    note(secret(&repo, &["list"]).run().unwrap().ok());
    note(secret(&repo, &["rekey"]).run().unwrap().ok());
    let memory = sandbox.root("web1").join("run/deptool/secrets");
    for plain in [PLAIN, OTHER] {
        let elsewhere: Vec<String> = files_with(sandbox.dir(), plain);
        let elsewhere: Vec<&String> = elsewhere.iter().filter(|file| !Path::new(file).starts_with(&memory)).collect();
        assert!(elsewhere.is_empty(), "{elsewhere:?}");
    }
    note(repo.git(&["push", "web1", ":prod"]).ok());
    let said = said.into_inner();
    assert!(!said.contains(PLAIN) && !said.contains(OTHER), "{said}");
    assert_eq!([files_with(sandbox.dir(), PLAIN), files_with(sandbox.dir(), OTHER)], [[""; 0]; 2]);
}
