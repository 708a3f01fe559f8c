//! Invalid trees get a clear message in Git's style and an exit status other than 0, and nothing changes anywhere.

use std::fmt::Write as _;

use deptool_tests::is_quick;
use deptool_tests::process::Run;
use deptool_tests::sandbox::{Repo, Sandbox};

use crate::seen::{at_rest, refs, shows, state_of, unchanged};

/// A repository whose first commit runs on `web1`.
pub struct Deployed<'a> {
    pub sandbox: &'a Sandbox,
    pub repo: Repo<'a>,
    pub commit: String,
}

impl Deployed<'_> {
    pub fn new(sandbox: &Sandbox) -> Deployed<'_> {
        let repo = sandbox.repo("operator");
        repo.write("web1/web/file", "1\n");
        repo.add_root("web1");
        let commit = repo.commit("One");
        repo.git(&["push", "web1", "prod"]).ok();
        Deployed { sandbox, repo, commit }
    }

    /// Pushes something that must be refused, to this host and to one without any deployment. Returns the reason.
    #[track_caller]
    pub fn refused(&self, args: &[&str]) -> String {
        let (root, known) = (state_of(&self.sandbox.root("web1")), refs(&self.repo));
        let run = self.repo.git(args).fails();
        unchanged(&state_of(&self.sandbox.root("web1")), &root);
        assert_eq!(refs(&self.repo), known, "{run}");
        why(&run)
    }

    /// A commit with this directory of `web1`, on top of what runs. `host` has lines for `git mktree`, each terminated
    /// by NUL.
    fn with_host(&self, host: &str) -> String {
        let host = self.mktree(host);
        let root = self.mktree(&format!("040000 tree {host}\tweb1\0"));
        self.commit_of(&root)
    }

    fn commit_of(&self, root: &str) -> String {
        self.repo.git(&["commit-tree", "-p", &self.commit, "-m", "By hand", root]).ok().line()
    }

    fn mktree(&self, entries: &str) -> String {
        self.repo.command(&["mktree", "-z", "--missing"]).input(entries).run().unwrap().ok().line()
    }

    fn blob(&self, content: &str) -> String {
        let hash = self.repo.command(&["hash-object", "-w", "--stdin"]).input(content);
        hash.run().unwrap().ok().line()
    }

    /// A tree object that `git mktree` would refuse.
    fn raw_tree(&self, entries: &[(&str, &[u8], &str)]) -> String {
        let mut bytes = Vec::new();
        for (mode, name, id) in entries {
            bytes.extend(mode.as_bytes());
            bytes.push(b' ');
            bytes.extend(*name);
            bytes.push(0);
            bytes.extend((0..40).step_by(2).map(|at| u8::from_str_radix(&id[at..at + 2], 16).unwrap()));
        }
        let hash = self.repo.command(&["hash-object", "-w", "-t", "tree", "--literally", "--stdin"]).input(bytes);
        hash.run().unwrap().ok().line()
    }

    /// The reason why a commit with this app on `web1` is refused.
    #[track_caller]
    fn refused_app(&self, app: &str) -> String {
        let commit = self.with_host(&format!("040000 tree {app}\tweb\0"));
        self.refused(&["push", "web1", &format!("{commit}:prod")])
    }
}

/// The reason in parentheses at the end of Git's line for the ref.
#[track_caller]
pub fn why(run: &Run) -> String {
    let said = run.stderr();
    let line = said.lines().find(|line| line.starts_with(" ! ")).unwrap_or_else(|| panic!("{run}"));
    let (_, why) = line.split_once(" (").unwrap_or_else(|| panic!("{run}"));
    why.strip_suffix(')').unwrap_or_else(|| panic!("{run}")).to_owned()
}

#[test]
fn names_that_could_leave_their_directory_or_drive_a_terminal_are_refused() {
    let sandbox = Sandbox::new();
    let deployed = Deployed::new(&sandbox);
    let blob = deployed.blob("x");
    let long = "x".repeat(4096);
    let mut seen = String::new();
    for name in
        [&b".."[..], b".", b".git", b".GIT", b"a\nb", b"a\x1b[31m", b"\x7f", b"a/b", b"\xc2\x9b", long.as_bytes()]
    {
        let app = deployed.raw_tree(&[("100644", name, &blob)]);
        let why = deployed.refused_app(&app).replace(&long[..80], "<80 x>");
        writeln!(seen, "{why}").unwrap();
    }
    crate::seen::same(
        &seen,
        "\
web1: in app 'web': invalid path '..': '.' and '..' are not allowed
web1: in app 'web': invalid path '.': '.' and '..' are not allowed
web1: in app 'web': invalid path '.git': '.git' is not allowed
web1: in app 'web': invalid path '.GIT': '.git' is not allowed
web1: in app 'web': invalid path 'a\\nb': control characters are not allowed
web1: in app 'web': invalid path 'a\\x1b[31m': control characters are not allowed
web1: in app 'web': invalid path '\\x7f': control characters are not allowed
web1: in app 'web': invalid path 'a/b': '/' is not allowed
web1: in app 'web': invalid path '\\x9b': control characters are not allowed
web1: in app 'web': invalid path '<80 x>': a name in it is longer than 255 bytes
",
    );
}

#[test]
fn a_nul_in_a_name_is_refused() {
    let sandbox = Sandbox::new();
    let deployed = Deployed::new(&sandbox);
    let blob = deployed.blob("x");
    // The name ends at the NUL. What follows is parsed as an id, and the rest as garbage.
    let app = deployed.raw_tree(&[("100644", b"a\0b", &blob)]);
    let why = deployed.refused_app(&app);
    assert!(why.starts_with("web1: object ") && why.contains("can't be read"), "{why}");
}

#[test]
fn app_names_that_mean_something_else_are_refused() {
    let sandbox = Sandbox::new();
    let deployed = Deployed::new(&sandbox);
    let app = deployed.mktree(&format!("100644 blob {}\tfile\0", deployed.blob("x")));
    let mut seen = String::new();
    for name in ["current", "previous", ".", "..", ".git", ".hidden", "-x", "a\nb"] {
        let host = deployed.raw_tree(&[("40000", name.as_bytes(), &app)]);
        let root = deployed.mktree(&format!("040000 tree {host}\tweb1\0"));
        let commit = deployed.commit_of(&root);
        writeln!(seen, "{}", deployed.refused(&["push", "web1", &format!("{commit}:prod")])).unwrap();
    }
    crate::seen::same(
        &seen,
        "\
web1: in the host's directory: invalid app name 'current': the name is reserved
web1: in the host's directory: invalid app name 'previous': the name is reserved
web1: in the host's directory: invalid app name '.': '.' and '..' are not allowed
web1: in the host's directory: invalid app name '..': '.' and '..' are not allowed
web1: in the host's directory: invalid app name '.git': '.git' is not allowed
web1: in the host's directory: invalid app name '.hidden': it may not begin with '.' or '-'
web1: in the host's directory: invalid app name '-x': it may not begin with '.' or '-'
web1: in the host's directory: invalid app name 'a\\nb': control characters are not allowed
",
    );
}

#[test]
fn duplicate_names_are_refused() {
    let sandbox = Sandbox::new();
    let deployed = Deployed::new(&sandbox);
    let (one, two) = (deployed.blob("one"), deployed.blob("two"));
    let files = deployed.raw_tree(&[("100644", b"x", &one), ("100644", b"x", &two)]);
    assert_eq!(deployed.refused_app(&files), "web1: 'web/x' exists twice");
    let both = deployed.raw_tree(&[("100644", b"x", &one), ("40000", b"x", &files[..])]);
    assert!(deployed.refused_app(&both).ends_with("exists twice"));
    let inner = deployed.mktree(&format!("100644 blob {one}\ty\0"));
    let both = deployed.raw_tree(&[("100644", b"x", &one), ("40000", b"x", &inner)]);
    assert_eq!(deployed.refused_app(&both), "web1: 'web/x' exists twice");
    let host = deployed.raw_tree(&[("40000", b"web", &inner), ("40000", b"web", &deployed.mktree(""))]);
    let root = deployed.mktree(&format!("040000 tree {host}\tweb1\0"));
    let commit = deployed.commit_of(&root);
    let why = deployed.refused(&["push", "web1", &format!("{commit}:prod")]);
    assert_eq!(why, "web1: app 'web' exists twice");
}

#[test]
fn submodules_and_links_out_of_their_app_are_refused() {
    let sandbox = Sandbox::new();
    let deployed = Deployed::new(&sandbox);
    let mut seen = String::new();
    let submodule = deployed.mktree(&format!("160000 commit {}\tsub\0", deployed.commit));
    writeln!(seen, "{}", deployed.refused_app(&submodule)).unwrap();
    for target in ["/etc/passwd", "../other/file", "a/../../..", "", "a/\n"] {
        let link = deployed.mktree(&format!("120000 blob {}\tlink\0", deployed.blob(target)));
        writeln!(seen, "{}", deployed.refused_app(&link)).unwrap();
    }
    crate::seen::same(
        &seen,
        "\
web1: 'web/sub' is a submodule; commit its files instead
web1: in app 'web': invalid path 'link -> /etc/passwd': the link leaves its app (its target is absolute)
web1: in app 'web': invalid path 'link -> ../other/file': the link leaves its app
web1: in app 'web': invalid path 'link -> a/../../..': '..' may only begin a link's target
web1: in app 'web': invalid path 'link -> ': the link has no usable target
web1: in app 'web': invalid path 'link -> a/\\n': control characters are not allowed
",
    );
}

#[test]
fn invalid_manifests_are_refused() {
    if is_quick() {
        return;
    }
    let sandbox = Sandbox::new();
    let deployed = Deployed::new(&sandbox);
    let file = deployed.blob("x");
    let mut seen = String::new();
    for manifest in [
        "{",
        "[]",
        r#"{"systemd": [[]]}"#,
        r#"{"files": {"file": ["0600"]}}"#,
        r#"{"units": []}"#,
        r#"{"systemd": {"enabled": []}}"#,
        r#"{"systemd": {"units_enabled": "x.service"}}"#,
        r#"{"systemd": {"units_enabled": ["../x.service"]}}"#,
        r#"{"systemd": {"on_change": {"x.service": "kill"}}}"#,
        r#"{"symlinks": {"/etc/x": "../other/file"}}"#,
        r#"{"symlinks": {"/etc/x": "/etc/passwd"}}"#,
        r#"{"symlinks": {"/etc/x": "missing"}}"#,
        r#"{"symlinks": {"etc/x": "file"}}"#,
        r#"{"symlinks": {"/etc/../x": "file"}}"#,
        r#"{"symlinks": {"/var/lib/deptool/x": "file"}}"#,
        r#"{"symlinks": {"/etc/systemd/system/x.service": "file"}}"#,
        r#"{"symlinks": {"/etc/sysusers.d/x.conf": "file"}}"#,
        r#"{"symlinks": {"/etc/x": "file", "/etc/x": "file"}}"#,
        r#"{"symlinks": {"/lib/x": "file", "/usr/lib/x": "file"}}"#,
        r#"{"files": {"file": {"mode": "4755"}}}"#,
        r#"{"files": {"file": {"mode": 420}}}"#,
        r#"{"files": {"file": {"owner": "a b"}}}"#,
        r#"{"files": {"missing": {"mode": "0600"}}}"#,
        r#"{"settle": {"x.service": "long"}}"#,
        r#"{"settle_timeout": "long"}"#,
        r#"{"systemd": {"on_change": {"x.service": "none"}}, "settle": {"x.service": "2min"}}"#,
        r#"{"checks": ["x.service"]}"#,
        r#"{"checks": ["x.timer"]}"#,
        r#"{"health": [{"tcp": "db.example.org:5432"}]}"#,
        r#"{"health": [{"http": "https://127.0.0.1/"}]}"#,
        r#"{"health": [{"tcp": "127.0.0.1:53"}, {"status": 200}]}"#,
    ] {
        let entries = format!("100644 blob {file}\tfile\0100644 blob {}\tmanifest.json\0", deployed.blob(manifest));
        let app = deployed.mktree(&entries);
        let why = deployed.refused_app(&app);
        let why = why.split_once(" at line 1 ").map_or(why.as_str(), |(why, _)| why);
        writeln!(seen, "{manifest}\n    {why}").unwrap();
    }
    crate::seen::same(&seen, MANIFESTS);
}

const MANIFESTS: &str = r#"{
    web1: web/manifest.json: EOF while parsing an object
[]
    web1: web/manifest.json: invalid type: sequence, expected an object
{"systemd": [[]]}
    web1: web/manifest.json: systemd: invalid type: sequence, expected an object
{"files": {"file": ["0600"]}}
    web1: web/manifest.json: files.file: invalid type: sequence, expected an object
{"units": []}
    web1: web/manifest.json: units: unknown field `units`, expected one of `systemd`, `symlinks`, `files`, `settle`, `settle_timeout`, `checks`, `health`, `users`, `confirm`
{"systemd": {"enabled": []}}
    web1: web/manifest.json: systemd.enabled: unknown field `enabled`, expected `units_enabled` or `on_change`
{"systemd": {"units_enabled": "x.service"}}
    web1: web/manifest.json: systemd.units_enabled: invalid type: string "x.service", expected a sequence
{"systemd": {"units_enabled": ["../x.service"]}}
    web1: web/manifest.json: systemd.units_enabled[0]: invalid user name '..': it is not a valid user or group name
{"systemd": {"on_change": {"x.service": "kill"}}}
    web1: web/manifest.json: systemd.on_change.x.service: unknown variant `kill`, expected one of `none`, `reload`, `reload-or-restart`, `restart`
{"symlinks": {"/etc/x": "../other/file"}}
    web1: web/manifest.json: symlinks./etc/x: invalid path '../other/file': '.' and '..' are not allowed
{"symlinks": {"/etc/x": "/etc/passwd"}}
    web1: web/manifest.json: symlinks./etc/x: invalid path '/etc/passwd': it is not relative to the app
{"symlinks": {"/etc/x": "missing"}}
    web1: web/manifest.json: symlinks./etc/x: 'missing' is not in the app
{"symlinks": {"etc/x": "file"}}
    web1: web/manifest.json: symlinks.etc/x: invalid path 'etc/x': it is not absolute
{"symlinks": {"/etc/../x": "file"}}
    web1: web/manifest.json: symlinks./etc/../x: invalid path '/etc/../x': '.' and '..' are not allowed
{"symlinks": {"/var/lib/deptool/x": "file"}}
    web1: web/manifest.json: symlinks: invalid path '/var/lib/deptool/x': it is deptool's own directory
{"symlinks": {"/etc/systemd/system/x.service": "file"}}
    web1: web/manifest.json: symlinks: invalid path '/etc/systemd/system/x.service': put the file into the app's 'systemd/' directory instead
{"symlinks": {"/etc/sysusers.d/x.conf": "file"}}
    web1: web/manifest.json: symlinks: invalid path '/etc/sysusers.d/x.conf': put the file into the app's 'sysusers/' directory instead
{"symlinks": {"/etc/x": "file", "/etc/x": "file"}}
    web1: web/manifest.json: symlinks: '/etc/x' is named twice
{"symlinks": {"/lib/x": "file", "/usr/lib/x": "file"}}
    web1: '/usr/lib/x' is claimed by 'web/file' and by 'web/file'
{"files": {"file": {"mode": "4755"}}}
    web1: web/manifest.json: files.file.mode: set-user-id, set-group-id and sticky bits are not supported
{"files": {"file": {"mode": 420}}}
    web1: web/manifest.json: files.file.mode: invalid type: integer `420`, expected a string
{"files": {"file": {"owner": "a b"}}}
    web1: web/manifest.json: files.file.owner: it is not a valid user or group name
{"files": {"missing": {"mode": "0600"}}}
    web1: web/manifest.json: files: 'missing' is not in the app
{"settle": {"x.service": "long"}}
    web1: web/manifest.json: settle.x.service: a duration is written as "5s", "200ms" or "1min", an hour at most
{"settle_timeout": "long"}
    web1: web/manifest.json: settle_timeout: a duration is written as "5s", "200ms" or "1min", an hour at most
{"systemd": {"on_change": {"x.service": "none"}}, "settle": {"x.service": "2min"}}
    web1: web/manifest.json: settle.x.service: it is longer than the 90 s that all may take ('settle_timeout')
{"checks": ["x.service"]}
    web1: web/manifest.json: checks: 'x.service' is not in the app's 'systemd/' directory
{"checks": ["x.timer"]}
    web1: web/manifest.json: checks: 'x.timer' is not a service that can be run
{"health": [{"tcp": "db.example.org:5432"}]}
    web1: web/manifest.json: health[0].tcp: an address is written as "127.0.0.1:53" or "[::1]:53"; of names only 'localhost' is known, because the agent does not resolve any
{"health": [{"http": "https://127.0.0.1/"}]}
    web1: web/manifest.json: health[0].http: TLS is not supported: use http, or 'tcp' to check only that the port is open
{"health": [{"tcp": "127.0.0.1:53"}, {"status": 200}]}
    web1: web/manifest.json: health[1]: it has one of 'tcp', 'http' and 'unit'
"#;

#[test]
fn a_path_that_two_apps_claim_is_refused() {
    let sandbox = Sandbox::new();
    let deployed = Deployed::new(&sandbox);
    let (file, manifest) = (deployed.blob("x"), deployed.blob(r#"{"symlinks": {"/etc/x": "file"}}"#));
    let app = deployed.mktree(&format!("100644 blob {file}\tfile\0100644 blob {manifest}\tmanifest.json\0"));
    let commit = deployed.with_host(&format!("040000 tree {app}\ta\0040000 tree {app}\tb\0"));
    let why = deployed.refused(&["push", "web1", &format!("{commit}:prod")]);
    assert_eq!(why, "web1: '/etc/x' is claimed by 'a/file' and by 'b/file'");
}

#[test]
fn files_beside_apps_and_directories_that_can_be_no_hosts_are_ignored_with_a_note() {
    let sandbox = Sandbox::new();
    let deployed = Deployed::new(&sandbox);
    deployed.repo.write("README", "about");
    deployed.repo.write(".github/workflow", "");
    deployed.repo.write("web 3/web/file", "3");
    deployed.repo.write("web1/NOTES", "about web1");
    deployed.repo.write("web1/web/file", "2\n");
    let two = deployed.repo.commit("Two");
    let run = deployed.repo.git(&["push", "web1", "prod"]).ok();
    let expected = "note: directory 'web 3' is ignored: its name is not valid for a host\n\
                    note: 'web1/NOTES' is not part of an app and is not deployed\n\
                    To deptool::DIR/roots/web1\n   <one>..<two>  prod -> prod\ndeployed to 1 host in N s";
    shows(&sandbox, &run, &[("one", &deployed.commit), ("two", &two)], expected);
    at_rest(&sandbox, "web1", Some(&two));
}
