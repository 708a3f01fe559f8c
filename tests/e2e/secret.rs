//! `git deptool secret`: what is written to the work tree, who can open it, and that it is nowhere in plain text.

use std::{
    os::unix::fs::{PermissionsExt as _, symlink},
    path::Path,
};

use deptool_tests::{
    process::{Cmd, find_program},
    sandbox::{Repo, Sandbox},
    terminal::Terminal,
};

/// A pair that age-keygen made. In the tests, the host's.
pub const HOST_KEY: &str = "AGE-SECRET-KEY-1EGTZVFFV20835NWYV6270LXYVK2VKNX2MMDKWYKLMGR48UAWX40Q2P2LM0";
pub const HOST: &str = "age1xmwwc06ly3ee5rytxm9mflaz2u56jjj36s0mypdrwsvlul66mv4q47ryef";
/// What is encrypted.
const PLAIN: &str = "correct-horse-battery-staple";

/// Make an ssh key, and return the public one.
pub fn ssh_key(sandbox: &Sandbox, path: &Path, options: &[&str]) -> String {
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    let keygen = sandbox.command("ssh-keygen").args(["-q", "-C", "anna@laptop", "-f"]).arg(path).args(options);
    keygen.run().unwrap().ok();
    std::fs::read_to_string(path.with_extension("pub")).unwrap().trim().to_owned()
}

/// A repository with two hosts, and an operator with an ssh key at the usual place.
fn begin(sandbox: &Sandbox) -> Repo<'_> {
    let anna = ssh_key(sandbox, &sandbox.home().join(".ssh/id_ed25519"), &["-t", "ed25519", "-N", ""]);
    let repo = sandbox.repo("operator");
    for host in ["web1", "web2"] {
        repo.write(format!("{host}/app/file"), "1");
    }
    shared(&repo, &[("anna", &anna)]);
    repo.commit("One");
    repo.git(&["config", "deptool.cluster", "prod"]).ok();
    repo
}

/// Write `cluster.json` with these operators.
fn shared(repo: &Repo<'_>, operators: &[(&str, &str)]) {
    let operators: Vec<String> = operators.iter().map(|(name, key)| format!(r#""{name}": ["{key}"]"#)).collect();
    let operators = operators.join(", ");
    repo.write(
        "cluster.json",
        format!(
            r#"{{"hosts": {{"web1": {{"age": "{HOST}"}}, "web2": {{"age": "{HOST}"}}}},
                "groups": {{"web": ["web1", "web2"]}}, "operators": {{{operators}}}}}"#
        ),
    );
}

fn secret(repo: &Repo<'_>, args: &[&str]) -> Cmd {
    let all: Vec<&str> = ["deptool", "secret"].iter().chain(args).copied().collect();
    repo.command(&all)
}

fn set(repo: &Repo<'_>, place: &str, plain: &str) {
    secret(repo, &["set", place]).input(plain).run().unwrap().ok();
}

fn show(repo: &Repo<'_>, place: &str) -> String {
    secret(repo, &["show", place]).run().unwrap().ok().stdout()
}

/// Every file below `directory` that contains `text`.
pub fn files_with(directory: &Path, text: &str) -> Vec<String> {
    let grep = Cmd::new("grep").args(["-r", "-l", "-a", "-F", text]).arg(directory).run().unwrap();
    grep.stdout().lines().map(ToOwned::to_owned).collect()
}

#[test]
fn what_is_set_is_opened_by_the_operator_and_by_stock_age_with_the_key_of_the_host() {
    let sandbox = Sandbox::new();
    let repo = begin(&sandbox);
    let run = secret(&repo, &["set", "web1/app/db"]).input(PLAIN).run().unwrap().ok();
    run.prints("web1/app/secrets/db.age: for web1, anna\n");
    assert_eq!(show(&repo, "web1/app/db"), PLAIN);
    repo.commit("A secret");
    assert_eq!(files_with(sandbox.dir(), PLAIN), [""; 0], "nothing plain anywhere");
    let Some(age) = find_program("age") else {
        eprintln!("skipped: age is not installed");
        return;
    };
    let key = sandbox.dir().join("host-key");
    std::fs::write(&key, HOST_KEY).unwrap();
    for key in [key, sandbox.home().join(".ssh/id_ed25519")] {
        let file = repo.dir.join("web1/app/secrets/db.age");
        let opened = Cmd::new(&age).args(["-d", "-i"]).arg(&key).arg(file).run().unwrap().ok();
        assert_eq!(opened.stdout(), PLAIN, "{}", key.display());
    }
    let made = Cmd::new(&age).args(["-r", HOST, "-R"]).arg(sandbox.home().join(".ssh/id_ed25519.pub"));
    let made = made.args(["-o"]).arg(repo.dir.join("web1/app/secrets/other.age")).input("made by age");
    made.run().unwrap().ok();
    assert_eq!(show(&repo, "web1/app/other"), "made by age");
    secret(&repo, &["list"]).run().unwrap().ok().prints("as for web1, anna").does_not_say("rekey");
}

#[test]
fn a_group_gets_a_file_for_each_host() {
    let sandbox = Sandbox::new();
    let repo = begin(&sandbox);
    set(&repo, "@web/app/db", PLAIN);
    let file = |host: &str| std::fs::read(repo.dir.join(format!("{host}/app/secrets/db.age"))).unwrap();
    assert_ne!(file("web1"), file("web2"));
    assert_eq!([show(&repo, "web1/app/db"), show(&repo, "web2/app/db")], [PLAIN, PLAIN]);
    secret(&repo, &["show", "@web/app/db"]).run().unwrap().code(129).says("name one host");
}

#[test]
fn who_left_can_not_open_what_is_encrypted_anew_and_who_came_can() {
    let sandbox = Sandbox::new();
    let repo = begin(&sandbox);
    let anna = std::fs::read_to_string(sandbox.home().join(".ssh/id_ed25519.pub")).unwrap();
    let ruuds = sandbox.dir().join("keys/ruud");
    let ruud = ssh_key(&sandbox, &ruuds, &["-t", "rsa", "-b", "2048", "-N", ""]);
    set(&repo, "web1/app/db", PLAIN);
    set(&repo, "web2/app/db", PLAIN);
    let as_ruud = |args: &[&str]| {
        let all: Vec<&str> =
            ["-c", "deptool.identity=../keys/ruud", "deptool", "secret"].iter().chain(args).copied().collect();
        repo.git(&all)
    };
    as_ruud(&["show", "web1/app/db"])
        .code(1)
        .says("could not open 'web1/app/db': it is not encrypted to any of your keys");

    shared(&repo, &[("anna", anna.trim()), ("ruud", &ruud)]);
    let listed = secret(&repo, &["list"]).run().unwrap().ok();
    listed.prints("not as for web1, anna, ruud").says("git deptool secret rekey");
    let before = std::fs::read(repo.dir.join("web1/app/secrets/db.age")).unwrap();
    let dry = secret(&repo, &["rekey", "-n"]).run().unwrap().ok();
    dry.prints("web1/app/secrets/db.age: would be encrypted anew for web1, anna, ruud");
    assert_eq!(std::fs::read(repo.dir.join("web1/app/secrets/db.age")).unwrap(), before);
    let rekeyed = secret(&repo, &["rekey", "web1"]).run().unwrap().ok();
    rekeyed.prints("web1/app/secrets/db.age: for web1, anna, ruud").says("the history keeps what could be read before");
    as_ruud(&["show", "web1/app/db"]).ok().prints(PLAIN);
    as_ruud(&["show", "web2/app/db"]).code(1);

    shared(&repo, &[("ruud", &ruud)]);
    let refused = secret(&repo, &["rekey", "web1", "web2"]);
    refused
        .env("GIT_CONFIG_COUNT", "1")
        .env("GIT_CONFIG_KEY_0", "deptool.identity")
        .env("GIT_CONFIG_VALUE_0", "../keys/ruud")
        .run()
        .unwrap()
        .code(1)
        .says("could not open 'web2/app/db'");
    secret(&repo, &["rekey"]).run().unwrap().ok();
    as_ruud(&["show", "web2/app/db"]).ok().prints(PLAIN);
    secret(&repo, &["show", "web1/app/db"]).run().unwrap().code(1).says("not encrypted to any of your keys");
    let listed = secret(&repo, &["list", "--json"]).run().unwrap().ok();
    listed.prints(r#""encrypted_to":"1 X25519, 1 ssh-rsa","expected":["web1","ruud"],"agrees":true,"readable":false"#);
}

#[test]
fn a_passphrase_is_asked_for_once_and_not_shown() {
    let sandbox = Sandbox::new();
    let anna = ssh_key(&sandbox, &sandbox.home().join(".ssh/id_ed25519"), &["-t", "ed25519", "-N", "open-sesame"]);
    let repo = begin_with(&sandbox, &anna);
    set(&repo, "@web/app/db", PLAIN);
    secret(&repo, &["list"]).run().unwrap().ok().prints("you can read it");
    let mut terminal = Terminal::start(secret(&repo, &["rekey"])).unwrap();
    terminal.wait_for("passphrase of '~/.ssh/id_ed25519': ").unwrap();
    terminal.type_in("open-sesame\n").unwrap();
    let run = terminal.end().unwrap().ok();
    let run = run.prints("web1/app/secrets/db.age: for").prints("web2/app/secrets/db.age: for");
    assert_eq!(run.stdout().matches("passphrase of").count(), 1);
    assert!(!run.stdout().contains("open-sesame"));
    let mut terminal = Terminal::start(secret(&repo, &["show", "web1/app/db"])).unwrap();
    terminal.wait_for("passphrase of").unwrap();
    terminal.type_in("wrong\n").unwrap();
    terminal.end().unwrap().code(1).prints("the passphrase of the key is wrong");
}

fn begin_with<'a>(sandbox: &'a Sandbox, anna: &str) -> Repo<'a> {
    let repo = sandbox.repo("operator");
    for host in ["web1", "web2"] {
        repo.write(format!("{host}/app/file"), "1");
    }
    shared(&repo, &[("anna", anna)]);
    repo.git(&["config", "deptool.cluster", "prod"]).ok();
    repo
}

#[test]
fn an_editor_works_on_a_file_that_only_the_operator_can_reach_and_that_is_gone_afterwards() {
    let sandbox = Sandbox::new();
    let repo = begin(&sandbox);
    set(&repo, "web1/app/db", PLAIN);
    // An editor that adds a line feed and leaves a backup, as most do.
    repo.write(
        "../editor",
        format!(
            "#!/bin/sh\nset -e\necho \"$1\" >{0}/path\nstat -c %a \"$1\" \"$(dirname \"$1\")\" >{0}/modes\ncat \"$1\" >\"$1~\"\n\
             printf '%s\\n' changed-$(cat \"$1\") >\"$1.new\" && mv \"$1.new\" \"$1\"\n",
            sandbox.dir().display()
        ),
    );
    let editor = sandbox.dir().join("editor");
    std::fs::set_permissions(&editor, std::fs::Permissions::from_mode(0o755)).unwrap();
    let edit = secret(&repo, &["edit", "web1/app/db"]).env("GIT_EDITOR", editor.to_str().unwrap());
    edit.run().unwrap().ok().prints("web1/app/secrets/db.age: for web1, anna");
    assert_eq!(show(&repo, "web1/app/db"), format!("changed-{PLAIN}"), "without the line feed of the editor");
    let path = std::fs::read_to_string(sandbox.dir().join("path")).unwrap();
    assert_eq!(std::fs::read_to_string(sandbox.dir().join("modes")).unwrap(), "600\n700\n");
    assert!(!Path::new(path.trim()).parent().unwrap().exists(), "{path}");
    let same = secret(&repo, &["edit", "web1/app/db"]).env("GIT_EDITOR", "true").run().unwrap().ok();
    same.prints("nothing was changed");
    let fails = secret(&repo, &["edit", "web1/app/db"]).env("GIT_EDITOR", "false").run().unwrap();
    fails.code(1).says("the editor failed; nothing was written");
    assert_eq!(files_with(sandbox.dir(), PLAIN), [""; 0]);
}

#[test]
fn nothing_is_written_through_a_symlink_or_outside_of_the_work_tree() {
    let sandbox = Sandbox::new();
    let repo = begin(&sandbox);
    let outside = sandbox.dir().join("outside");
    std::fs::create_dir(&outside).unwrap();
    symlink(&outside, repo.dir.join("web1/app/secrets")).unwrap();
    let run = secret(&repo, &["set", "web1/app/db"]).input(PLAIN).run().unwrap();
    run.code(1).says("'web1/app/secrets' is a symlink");
    assert_eq!(std::fs::read_dir(&outside).unwrap().count(), 0);
    for (place, why) in [
        ("web1/../db", "invalid app name"),
        ("web1/app/..", "invalid name of a secret"),
        ("web1/app/.x", "may not begin with"),
        ("web1/app/a/b", "a secret is written as"),
        ("web1/app", "a secret is written as"),
        ("web1/app/\x1b[31m", "invalid name of a secret '\\x1b[31m'"),
        ("web1/app/db.age", "it is written without '.age'"),
        ("../app/db", "invalid host name"),
        ("@all/app/db", "name the host, or a group"),
    ] {
        let run = secret(&repo, &["set", place]).input(PLAIN).run().unwrap().code(129).says(why);
        assert!(!run.stderr().contains('\x1b'));
    }
    secret(&repo, &["set", "web3/app/db"])
        .input(PLAIN)
        .run()
        .unwrap()
        .code(1)
        .says("the work tree has no directory 'web3'");
    secret(&repo, &["set", "web2/app/db"]).input("").run().unwrap().code(1).says("the secret is empty");
}

#[test]
fn without_operators_nothing_is_encrypted_and_the_message_has_the_line_to_add() {
    let sandbox = Sandbox::new();
    let repo = begin(&sandbox);
    let anna = std::fs::read_to_string(sandbox.home().join(".ssh/id_ed25519.pub")).unwrap();
    let key = anna.trim().trim_end_matches(" anna@laptop");
    shared(&repo, &[]);
    let run = secret(&repo, &["set", "web1/app/db"]).input(PLAIN).run().unwrap().code(1);
    run.says(&format!(r#"add yourself: "operators": {{"<name>": ["{key}"]}}"#));
    assert!(!repo.dir.join("web1/app/secrets").exists());
}

#[test]
fn keys_that_can_not_open_secrets_are_refused_with_the_reason() {
    let sandbox = Sandbox::new();
    let repo = begin(&sandbox);
    set(&repo, "web1/app/db", PLAIN);
    ssh_key(&sandbox, &sandbox.dir().join("ecdsa"), &["-t", "ecdsa", "-N", ""]);
    ssh_key(&sandbox, &sandbox.dir().join("pem"), &["-t", "rsa", "-m", "PEM", "-N", "12345"]);
    repo.write("../nothing", "# no key\n");
    repo.write("../age", format!("# created\n{HOST_KEY}\n"));
    let with = |file: &str| {
        repo.git(&["-c", &format!("deptool.identity=../{file}"), "deptool", "secret", "show", "web1/app/db"])
    };
    with("ecdsa").code(1).says("'../ecdsa': only ssh-ed25519, ssh-rsa and age keys can open secrets");
    with("pem").code(1).says("'../pem': the key is encrypted in an old format; 'ssh-keygen -p -f' converts it");
    with("nothing").code(1).says("'../nothing': it has no age key and no private ssh key in it");
    with("missing").code(1).says("deptool.identity: '../missing': No such file or directory");
    with("age").ok().prints(PLAIN);
    std::fs::remove_dir_all(sandbox.home().join(".ssh")).unwrap();
    secret(&repo, &["show", "web1/app/db"]).run().unwrap().code(1).says("there is no key to open secrets with");
    repo.write("web1/app/secrets/db.age", "damaged");
    with("age").code(1).says("could not open 'web1/app/db': it is damaged, or not an age file");
}
