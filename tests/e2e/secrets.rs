//! Secrets on the host: decrypted into `/run/deptool/secrets` and nowhere else, switched with their generation, refused before
//! anything changes if they can't be opened.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::PathBuf;

use deptool_tests::process::Run;
use deptool_tests::sandbox::{Repo, Sandbox};
use deptool_tests::secrets::{DECRYPTED, encrypt, found_in, recipient, somebody};

use crate::seen::{at_rest, unchanged, visible};

/// So that a search can't find it by chance.
const PLAIN: &str = "correct-horse-battery-staple-1";
const OTHER: &str = "correct-horse-battery-staple-2";
/// An account that no host has.
const NOBODY: &str = r#"{"files": {"secrets/token": {"owner": "no-such-user"}}}"#;

struct World {
    sandbox: Sandbox,
}

impl World {
    /// A host that has had a first deployment, without secrets.
    fn new() -> World {
        let world = World { sandbox: Sandbox::new() };
        let repo = world.sandbox.repo("operator");
        repo.add_root("web1");
        repo.git(&["config", "deptool.cluster", "prod"]).ok();
        repo.write("web1/web/file", "1\n");
        repo.commit("One");
        repo.git(&["push", "web1", "prod"]).ok();
        repo.git(&["fetch", "web1"]).ok();
        drop(repo);
        world
    }

    /// The same, with a secret.
    fn with_secret() -> World {
        let world = World::new();
        world.set("web", "key", PLAIN);
        world.push("A secret").ok();
        world
    }

    fn repo(&self) -> Repo<'_> {
        self.sandbox.repo_at(self.sandbox.dir().join("operator"))
    }

    fn root(&self) -> PathBuf {
        self.sandbox.root("web1")
    }

    fn set(&self, app: &str, name: &str, plain: &str) {
        self.repo().write(format!("web1/{app}/secrets/{name}.age"), encrypt(&recipient(&self.root()), plain));
    }

    fn push(&self, message: &str) -> Run {
        self.repo().commit(message);
        self.repo().git(&["push", "web1", "prod"])
    }

    /// The file at the stable path.
    fn path(&self, secret: &str) -> PathBuf {
        self.root().join(DECRYPTED).join(secret)
    }

    #[track_caller]
    fn has(&self, secret: &str, plain: &str) {
        let path = self.path(secret);
        assert_eq!(fs::read_to_string(&path).ok().as_deref(), Some(plain), "{}", path.display());
    }

    /// Asserts that none of the plain texts is anywhere else, or in the output.
    #[track_caller]
    fn is_silent(&self, run: &Run) {
        for plain in [PLAIN, OTHER] {
            let (root, shown) = (self.root(), format!("{}{}", run.stdout(), run.stderr()));
            assert_eq!(found_in(self.sandbox.dir(), &root, plain), [""; 0]);
            assert!(!shown.contains(plain), "{run}");
        }
    }

    /// The generations of which there are secrets.
    fn generations(&self) -> Vec<String> {
        let entries = fs::read_dir(self.root().join(DECRYPTED)).into_iter().flatten();
        let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        names.filter(|name| name.parse::<u32>().is_ok() || name.starts_with('.')).collect()
    }

    #[track_caller]
    fn has_mode(&self, secret: &str, mode: u32) {
        let meta = fs::metadata(self.path(secret)).unwrap();
        assert_eq!(meta.permissions().mode() & 0o7777, mode, "{secret}");
    }
}

#[test]
fn a_secret_is_decrypted_where_it_belongs_and_is_plain_nowhere_else() {
    let world = World::new();
    world.set("web", "key", PLAIN);
    world.set("web", "settings.env", &format!("A={OTHER}"));
    world.repo().write("web1/web/secrets/README", "not a secret\n");
    world
        .repo()
        .write("web1/web/manifest.json", r#"{"files": {"secrets/settings.env": {"mode": "0440", "group": "root"}}}"#);
    // The README is not encrypted.
    world.push("Secrets").fails().says("'web/secrets/README' is below secrets/ and not encrypted");
    let run = world.repo().git(&["push", "-o", "allow-plain", "web1", "prod"]).ok();
    world.has("web/key", PLAIN);
    world.has("web/settings.env", &format!("A={OTHER}"));
    world.has_mode("web/key", 0o400);
    world.has_mode("web/settings.env", 0o440);
    world.has_mode("web", 0o711);
    world.is_silent(&run);
    // The encrypted file is a file like any other.
    let encrypted = world.sandbox.read("web1", "/var/lib/deptool/apps/web/current/secrets/key.age");
    assert!(encrypted.starts_with(b"age-encryption.org/v1\n"));
    world.repo().git(&["deptool", "verify", "web1"]).ok().prints("as deployed");
    at_rest(&world.sandbox, "web1", Some(&world.repo().id("prod")));
}

#[test]
fn secrets_switch_with_their_generation_and_go_with_it() {
    let world = World::with_secret();
    let before = world.generations();
    world.set("web", "key", OTHER);
    world.set("api", "token", PLAIN);
    world.push("Another").ok();
    world.has("web/key", OTHER);
    world.has("api/token", PLAIN);
    assert_eq!(world.generations().len(), 1, "the old one is gone");
    assert_ne!(world.generations(), before);
    world.repo().git(&["deptool", "rollback", "--yes", "web1"]).ok();
    world.has("web/key", PLAIN);
    assert!(!world.path("api").is_symlink(), "its stable path is gone");
    world.repo().git(&["push", "web1", ":prod"]).ok();
    assert!(!world.root().join(DECRYPTED).exists());
}

#[test]
fn a_deployment_that_is_refused_leaves_the_old_secrets() {
    let world = World::with_secret();
    let before = world.generations();
    world.set("web", "key", OTHER);
    world.set("api", "token", OTHER);
    world.repo().write("web1/api/manifest.json", NOBODY);
    let run = world.push("It fails").fails().says("there is no user 'no-such-user' on the host");
    world.has("web/key", PLAIN);
    assert_eq!(world.generations(), before);
    assert!(!world.path("api").is_symlink());
    world.is_silent(&run);
}

#[test]
fn a_secret_that_can_not_be_opened_is_refused_before_anything_changes() {
    let world = World::with_secret();
    let damaged = |plain: &str| {
        let mut file = encrypt(&recipient(&world.root()), plain);
        *file.last_mut().unwrap() ^= 1;
        file
    };
    let armored = b"-----BEGIN AGE ENCRYPTED FILE-----\n".to_vec();
    let before = (visible(&world.root()), world.generations());
    for (file, why) in [
        (encrypt(&somebody(), OTHER), "'web/secrets/b.age' is not encrypted to this host: rekey it"),
        (damaged(OTHER), "'web/secrets/b.age' is damaged, or was cut off"),
        (armored, "'web/secrets/b.age' is armored: only the binary format of age is read"),
        (b"nonsense\n".to_vec(), "'web/secrets/b.age' is not encrypted with age"),
        (vec![0; 2 << 20], "'web/secrets/b.age' is larger than 1 MiB"),
    ] {
        world.repo().write("web1/web/secrets/b.age", file);
        world.repo().commit("Bad");
        // The helper refuses some of them before anything is sent.
        let run = world.repo().git(&["push", "-o", "allow-plain", "web1", "prod"]).fails().says(why);
        world.is_silent(&run);
        world.has("web/key", PLAIN);
        unchanged(&visible(&world.root()), &before.0);
        assert_eq!(world.generations(), before.1);
    }
}

#[test]
fn what_can_not_be_a_secret_is_refused() {
    let world = World::new();
    world.set("7", "key", PLAIN);
    world.push("A number").fails().says("an app with secrets can't have a number as its name");
    world.repo().remove("web1/7");
    world.set("web", "a/b", PLAIN);
    world.push("A directory").fails().says("is a secret in a directory");
    world.repo().remove("web1/web/secrets");
    world.repo().write("web1/web/manifest.json", r#"{"files": {"secrets/none": {"mode": "0440"}}}"#);
    world.push("No such secret").fails().says("files: 'secrets/none' is not in the app");
}

#[test]
fn a_secret_that_was_edited_or_removed_is_put_right() {
    type Damage = fn(&PathBuf);
    let damages: [(&str, Damage); 4] = [
        ("was edited", |path| {
            fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap();
            fs::write(path, "edited").unwrap();
        }),
        ("is missing", |path| fs::remove_file(path).unwrap()),
        ("has another mode or owner", |path| fs::set_permissions(path, fs::Permissions::from_mode(0o444)).unwrap()),
        ("was replaced", |path| {
            fs::remove_file(path).unwrap();
            symlink("/etc/passwd", path).unwrap();
        }),
    ];
    let world = World::with_secret();
    for (number, (what, damage)) in damages.iter().enumerate() {
        damage(&fs::canonicalize(world.path("web/key")).unwrap());
        let run = world.repo().git(&["deptool", "verify", "web1"]).code(2);
        let shown = format!("/run/deptool/secrets/web/key {what}");
        assert!(run.stdout().replace('\'', "").contains(&shown), "{run}");
        // A deployment of another app makes all secrets again.
        world.repo().write("web1/other/file", format!("{number}\n"));
        let run = world.push("Another app").ok().says(what);
        world.has("web/key", PLAIN);
        world.has_mode("web/key", 0o400);
        world.is_silent(&run);
        world.repo().git(&["deptool", "verify", "web1"]).ok();
    }
}

#[test]
fn secrets_that_are_gone_are_made_again_at_the_next_contact() {
    let world = World::with_secret();
    fs::remove_dir_all(world.root().join("run")).unwrap();
    let run = world.repo().git(&["fetch", "web1"]).ok().says("were decrypted again");
    world.has("web/key", PLAIN);
    world.has_mode("web/key", 0o400);
    world.is_silent(&run);
    world.repo().git(&["fetch", "web1"]).ok().does_not_say("decrypted");
    world.repo().git(&["deptool", "verify", "web1"]).ok();
}

#[test]
fn a_secret_whose_owner_is_gone_stands_in_the_way_of_nothing_else() {
    let world = World::with_secret();
    let (repo, passwd) = (world.repo(), world.root().join("etc/passwd"));
    let own = rustix::process::geteuid().as_raw();
    fs::create_dir_all(world.root().join("etc")).unwrap();
    fs::write(&passwd, format!("no-such-user:x:{own}:{own}::/:/bin/sh\n")).unwrap();
    repo.write("web1/owned/manifest.json", NOBODY);
    world.set("owned", "token", OTHER);
    world.push("An owner").ok();
    // As after userdel(8).
    fs::remove_file(&passwd).unwrap();
    let why = "there is no 'no-such-user' on the host";
    repo.git(&["deptool", "verify"]).code(2).prints(&format!("owned/token' can't have its owner: {why}"));
    repo.write("web1/web/file", "2\n");
    let pushed = world.push("Another app").ok();
    pushed.says(&format!("only root can read the secret 'owned/token': {why}"));
    world.has("owned/token", OTHER);
    world.has_mode("owned/token", 0o400);
    // As after a boot.
    fs::remove_dir_all(world.root().join(DECRYPTED)).unwrap();
    repo.git(&["fetch", "web1"]).ok().says(&format!("only root can read the secret 'owned/token': {why}"));
    world.has("web/key", PLAIN);
    world.has("owned/token", OTHER);
    // What brings such a secret is refused.
    world.set("owned", "token", PLAIN);
    world.push("The owner is needed").code(1).says("there is no user 'no-such-user' on the host");
    repo.git(&["push", "web1", ":prod"]).ok();
    at_rest(&world.sandbox, "web1", None);
}

#[test]
fn a_lost_or_damaged_identity_stands_in_the_way_of_secrets_only() {
    let world = World::with_secret();
    let identity = world.root().join("var/lib/deptool/state/identity");
    let kept = fs::read(&identity).unwrap();
    fs::write(&identity, "garbage").unwrap();
    let why = "does not hold an age identity";
    world.repo().write("web1/web/file", "2\n");
    world.push("With secrets").fails().says(why);
    world.has("web/key", PLAIN);
    let encrypted = fs::read(world.repo().dir.join("web1/web/secrets/key.age")).unwrap();
    world.repo().remove("web1/web/secrets");
    world.push("Without").ok().says(why);
    assert!(!world.root().join(DECRYPTED).exists());
    assert_eq!(fs::read(&identity).unwrap(), b"garbage");
    fs::write(&identity, kept).unwrap();
    world.repo().write("web1/web/secrets/key.age", &encrypted);
    world.push("With secrets again").ok();
    world.has("web/key", PLAIN);

    // A lost identity is replaced, so what was encrypted to it can be opened no more.
    fs::remove_file(&identity).unwrap();
    world.repo().git(&["deptool", "verify", "web1"]).code(2).prints("is not encrypted to this host: rekey it");
    world.repo().write("web1/web/file", "3\n");
    world.push("Not encrypted anew").fails().says("is not encrypted to this host: rekey it");
    world.has("web/key", PLAIN);
    world.set("web", "key", OTHER);
    world.push("Encrypted anew").ok();
    world.has("web/key", OTHER);
    world.repo().git(&["deptool", "verify", "web1"]).ok();
}
