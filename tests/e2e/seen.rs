//! What tests compare: the output of programs, and the content of a root or a repository.

use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use deptool_tests::process::Run;
use deptool_tests::sandbox::{Repo, Sandbox};

/// The output of a program, without what differs from run to run: the sandbox's path becomes `DIR`, durations become
/// `N`, and ids become the given names.
pub fn shown(sandbox: &Sandbox, run: &Run, names: &[(&str, &str)]) -> String {
    let mut text = format!("{}{}", run.stdout(), run.stderr());
    text = text.replace(&sandbox.dir().display().to_string(), "DIR");
    for (name, id) in names {
        for length in [40, 10, 7] {
            text = text.replace(&id[..length], &format!("<{name}>"));
        }
    }
    let lines = text.lines().map(|line| without_times(line.trim_end()));
    lines.collect::<Vec<_>>().join("\n")
}

/// `in 0.12 s` -> `in N s`, `3 s ago` -> `N s ago`, `since 0 s` -> `since N s`.
fn without_times(line: &str) -> String {
    let words: Vec<&str> = line.split(' ').collect();
    let mut out = Vec::new();
    for (at, word) in words.iter().enumerate() {
        let is_number = word.parse::<f64>().is_ok();
        let is_time =
            words.get(at + 1).is_some_and(|unit| ["s", "min", "h"].contains(&unit.trim_end_matches([',', ';', '.'])));
        out.push(if is_number && is_time { "N" } else { word });
    }
    out.join(" ")
}

/// Asserts that two texts are equal, and shows both if not.
#[track_caller]
pub fn same(actual: &str, expected: &str) {
    assert!(actual == expected, "--- actual\n{actual}\n--- expected\n{expected}\n---");
}

/// Asserts the output of a program; see [`shown`].
#[track_caller]
pub fn shows(sandbox: &Sandbox, run: &Run, names: &[(&str, &str)], expected: &str) {
    same(&shown(sandbox, run, names), expected);
}

/// Everything in a directory: paths, types, modes, modification times, contents. Compare with [`unchanged`].
#[must_use]
pub fn state_of(dir: &Path) -> Vec<String> {
    let mut out = Vec::new();
    walk(dir, dir, &mut out, &|_| true);
    out
}

/// Like [`state_of`], but of the host's own records only what a deployment would change: a host that has refused a
/// deployment may have its objects, and a state directory.
#[must_use]
pub fn visible(dir: &Path) -> Vec<String> {
    let mut out = Vec::new();
    let own = dir.join("var/lib/deptool");
    let shown = ["current", "previous", "apps", "state", "state/claims", "state/attempts", "trees", "generations"];
    let is_shown = |path: &Path| match path.strip_prefix(&own) {
        Ok(below) => shown.iter().any(|name| below == Path::new(name) || (*name != "state" && below.starts_with(name))),
        Err(_) => !own.starts_with(path),
    };
    walk(dir, dir, &mut out, &|path| own.starts_with(path) || is_shown(path));
    out.retain(|line| !line.starts_with("\"var") || line.contains("deptool/"));
    walk(dir, &own.join("store/refs/heads"), &mut out, &|_| true);
    out.retain(|line| !line.ends_with(" 40755") && !line.ends_with(" 40700"));
    out
}

/// Asserts that two states are equal, and shows the differences otherwise.
#[track_caller]
pub fn unchanged(now: &[String], before: &[String]) {
    let only = |these: &[String], others: &[String], sign: &str| {
        let lines = these.iter().filter(|line| !others.contains(line));
        lines.map(|line| format!("{sign} {line}\n")).collect::<String>()
    };
    assert!(now == before, "changed:\n{}{}", only(before, now, "-"), only(now, before, "+"));
}

fn walk(root: &Path, at: &Path, out: &mut Vec<String>, wanted: &dyn Fn(&Path) -> bool) {
    let Ok(meta) = at.symlink_metadata() else { return };
    if !wanted(at) {
        return;
    }
    let shown = at.strip_prefix(root).unwrap();
    let kind = meta.file_type();
    if kind.is_symlink() {
        out.push(format!("{shown:?} -> {:?}", std::fs::read_link(at).unwrap()));
    } else if kind.is_dir() {
        out.push(format!("{shown:?} {:o}", meta.mode()));
        let mut names: Vec<_> = std::fs::read_dir(at).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        for name in names {
            walk(root, &at.join(name), out, wanted);
        }
    } else if !kind.is_file() {
        out.push(format!("{shown:?} special {:o}", meta.mode()));
    } else {
        let content = std::fs::read(at).unwrap();
        let is_text = content.len() < 1000 && content.iter().all(|byte| *byte == b'\n' || (b' '..127).contains(byte));
        let text = if is_text { format!("{:?}", String::from_utf8_lossy(&content)) } else { hash(&content) };
        // A look at the lock may have created it.
        let time = if at.ends_with("state/lock") { (0, 0) } else { (meta.mtime(), meta.mtime_nsec()) };
        out.push(format!("{shown:?} {:o} {time:?} {text}", meta.mode()));
    }
}

fn hash(content: &[u8]) -> String {
    use std::hash::{Hash as _, Hasher as _};
    let mut hasher = std::hash::DefaultHasher::new();
    content.hash(&mut hasher);
    format!("{} bytes, {:x}", content.len(), hasher.finish())
}

/// All refs of a repository.
pub fn refs(repo: &Repo<'_>) -> String {
    repo.git(&["for-each-ref", "--format=%(refname) %(objectname)"]).ok().stdout()
}

/// Asserts what holds for every root at rest: one commit runs, and nothing is half done.
#[track_caller]
pub fn at_rest(sandbox: &Sandbox, root: &str, commit: Option<&str>) {
    let own = sandbox.root(root).join("var/lib/deptool");
    let tree = sandbox.tree(root);
    assert_eq!(std::fs::read(own.join("state/journal")).unwrap_or_default(), b"", "the journal is empty at rest");
    for line in tree.lines() {
        let is_left_over = ["deptool-new", "deptool-undo"].iter().any(|end| line.ends_with(end));
        let is_of_ours = line.starts_with("var/lib/deptool/");
        let is_left_over = is_left_over || is_of_ours && (line.ends_with(".lock") || line.ends_with("incoming/"));
        assert!(!is_left_over, "{line} is left over\n{tree}");
    }
    let store = own.join("store");
    let refs = git(sandbox, &store, &["for-each-ref", "--format=%(objectname)", "refs/heads"]);
    assert_eq!(refs.trim(), commit.unwrap_or(""), "the branch names what runs");
    let Ok(current) = std::fs::read_link(own.join("current")) else {
        assert_eq!(commit, None, "nothing is current\n{tree}");
        return;
    };
    let generation = own.join(&current);
    let noted = std::fs::read_to_string(generation.join(".commit")).unwrap();
    assert_eq!(noted.lines().next().unwrap(), commit.unwrap_or("none"), "the generation is that of the commit");
    let names = |dir: &Path| -> Vec<String> {
        let entries = std::fs::read_dir(dir).map(|entries| entries.map(|e| e.unwrap().file_name()).collect());
        let mut names: Vec<std::ffi::OsString> = entries.unwrap_or_default();
        names.retain(|name| !name.as_encoded_bytes().starts_with(b"."));
        names.sort();
        names.into_iter().map(|name| name.into_string().unwrap()).collect()
    };
    assert_eq!(names(&own.join("apps")), names(&generation), "each app has a stable path\n{tree}");
    git(sandbox, &store, &["fsck", "--strict", "--no-dangling"]);
    let Some(commit) = commit else { return };
    // The checkout matches the commit.
    for app in names(&generation) {
        let checkout = std::fs::canonicalize(generation.join(&app)).unwrap();
        let index = sandbox.dir().join("tmp/index");
        let _ = std::fs::remove_file(&index);
        let at = |args: &[&str]| {
            let run = sandbox.command("git").dir(&checkout).env("GIT_DIR", &store).env("GIT_WORK_TREE", &checkout);
            run.env("GIT_INDEX_FILE", &index).args(args).run().unwrap().stdout()
        };
        let host = std::fs::read_to_string(own.join("state/host")).unwrap();
        at(&["read-tree", &format!("{commit}:{host}/{app}")]);
        at(&["update-index", "-q", "--refresh"]);
        same(&at(&["diff-files", "--name-status"]), "");
        same(&at(&["ls-files", "--others"]), "");
    }
}

fn git(sandbox: &Sandbox, dir: &Path, args: &[&str]) -> String {
    sandbox.command("git").arg("--git-dir").arg(dir).args(args).run().unwrap().ok().stdout()
}
