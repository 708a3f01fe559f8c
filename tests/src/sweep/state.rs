//! The content of a root directory, for comparisons.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use sha2::{Digest as _, Sha256};

use super::request::SECRETS;
use crate::process::Run;
use crate::secrets::{DECRYPTED, found_in};

/// Our state directory, relative to a root.
const OURS: &str = "var/lib/deptool";
/// Users and temporary files that programs of the host create. They remain after a rollback.
const THEIRS: [&str; 6] = ["etc/passwd", "etc/group", "etc/shadow", "etc/gshadow", "etc/.pwd.lock", "run"];
/// Tombstones, kept for a day: the ids of deployments that must not begin, because the helper was told that they have
/// not.
const RUN: &str = "var/lib/deptool/state/run";
/// The agents of a local root, where the first deployment copies the agent to.
pub const AGENTS: &str = "var/lib/deptool/bin";
/// Hidden files next to deployed ones that no deployment may leave behind.
const PASSING: [&str; 2] = [".deptool-new", ".deptool-undo"];

/// Paths and their content.
pub type Lines = BTreeMap<String, String>;

/// Everything in a root that a failed deployment must not have changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exact {
    pub files: Lines,
    /// The store, of which only reachable objects count.
    pub store: Lines,
}

impl Exact {
    pub fn of(root: &Path) -> Exact {
        let has_bars = has_only_bars(root);
        let (store, files) = walk(root, &|meta| format!("{:?}", (meta.mtime(), meta.mtime_nsec())))
            .into_iter()
            .filter(|(path, _)| !(has_bars && path.starts_with(RUN) || path.starts_with(AGENTS)))
            .partition(|(path, _)| path.starts_with("var/lib/deptool/store/"));
        Exact { files, store }
    }
}

/// Whether there are tombstones, and nothing else.
fn has_only_bars(root: &Path) -> bool {
    let names = names(&root.join(RUN));
    !names.is_empty() && names.iter().all(|name| name.ends_with(".blocked"))
}

/// What a root runs, regardless of the numbers of generations and of file times.
pub fn view(root: &Path) -> Lines {
    let ours = root.join(OURS);
    let mut lines = walk(root, &|_| String::new());
    lines.retain(|path, _| !path.starts_with(OURS));
    let mut note = |name: &str, what: String| lines.insert(format!("deptool:{name}"), what);
    for name in ["state/claims", "state/host", "current/.commit"] {
        note(name, without_instance(&fs::read_to_string(ours.join(name)).unwrap_or_default()));
    }
    for name in names(&ours.join("apps")) {
        note(&format!("apps/{name}"), link(&ours.join("apps").join(&name).join("current")));
    }
    for name in names(&ours.join("store/refs/heads")) {
        note(&format!("branch {name}"), fs::read_to_string(ours.join("store/refs/heads").join(&name)).unwrap());
    }
    for name in names(&ours.join("current")).into_iter().filter(|name| !name.starts_with('.')) {
        let app = walk(&ours.join("current").join(&name).join("."), &|_| String::new());
        lines.extend(app.into_iter().map(|(path, what)| (format!("{name}/{path}"), what)));
    }
    for name in names(&root.join(DECRYPTED)).into_iter().filter(|name| name.parse::<u32>().is_err()) {
        let app = root.join(DECRYPTED).join(&name).join(".");
        lines.extend(
            walk(&app, &|_| String::new()).into_iter().map(|(path, what)| (format!("secret:{name}/{path}"), what)),
        );
    }
    lines
}

/// Violations in a root at rest, in sentences.
pub fn left_over(root: &Path) -> Vec<String> {
    let ours = root.join(OURS);
    let mut found = Vec::new();
    let files = walk(root, &|_| String::new());
    found.extend(files.keys().filter(|path| PASSING.iter().any(|end| path.ends_with(end))).cloned());
    let of_store = files.keys().filter(|path| path.starts_with("var/lib/deptool/store/"));
    found.extend(of_store.filter(|path| is_passing_in_store(path)).cloned());
    found.extend(packs_left(&ours.join("store/objects/pack")));
    found.extend(names(&root.join(AGENTS)).into_iter().filter(|name| name.ends_with(".new")));
    let states = states_left(&ours).into_iter();
    found.extend(states.filter(|state| !(state == "deptool/state/run" && has_only_bars(root))));
    found.extend(generations_left(&ours));
    found.extend(secrets_left(root));
    found
}

/// Secrets of generations that do not run, and plain text that is anywhere else.
fn secrets_left(root: &Path) -> Vec<String> {
    let current = link(&root.join(OURS).join("current")).replace("generations/", "");
    let is_left = |name: &String| match name.parse::<u32>() {
        Ok(_) => *name != current,
        Err(_) => !root.join(DECRYPTED).join(name).is_dir(),
    };
    let mut found: Vec<String> = names(&root.join(DECRYPTED)).into_iter().filter(is_left).collect();
    found.extend(SECRETS.iter().flat_map(|plain| found_in(root, root, plain)));
    found.into_iter().map(|path| format!("secrets or their plain text: {path}")).collect()
}

fn is_passing_in_store(path: &str) -> bool {
    let name = path.rsplit('/').next().unwrap_or_default();
    name.ends_with(".lock") || name.starts_with("tmp_")
}

/// The number of packs in the store.
pub fn packs(root: &Path) -> usize {
    names(&root.join(OURS).join("store/objects/pack")).iter().filter(|name| name.ends_with(".pack")).count()
}

/// Files of incomplete packs.
fn packs_left(dir: &Path) -> Vec<String> {
    let all: BTreeSet<String> = names(dir).into_iter().collect();
    let is_whole = |name: &&String| {
        let stem = name.split('.').next().unwrap_or_default();
        ["pack", "idx", "promisor"].iter().all(|end| all.contains(&format!("{stem}.{end}")))
    };
    all.iter().filter(|name| !is_whole(name)).map(|name| format!("a part of a pack: {name}")).collect()
}

/// Unexpected files in the state directory.
fn states_left(ours: &Path) -> Vec<String> {
    let known = ["apps", "bin", "current", "generations", "previous", "state", "store", "trees"];
    let known_state =
        ["attempts", "backups", "claims", "host", "identity", "instance", "journal", "kept", "lock", "stamps"];
    let mut found = Vec::new();
    for (dir, known) in [("deptool", &known[..]), ("deptool/state", &known_state)] {
        let others = names(&ours.parent().unwrap_or(ours).join(dir)).into_iter();
        found.extend(others.filter(|name| !known.contains(&name.as_str())).map(|name| format!("{dir}/{name}")));
    }
    for name in ["journal", "lock"] {
        if fs::metadata(ours.join("state").join(name)).is_ok_and(|meta| meta.len() > 0) {
            found.push(format!("the {name} is not empty"));
        }
    }
    found
}

/// Generations that are too many or newer than the running one; checkouts that no generation uses, or that are missing.
fn generations_left(ours: &Path) -> Vec<String> {
    let number = |path: PathBuf| path.file_name()?.to_str()?.parse::<u32>().ok();
    let current = fs::read_link(ours.join("current")).ok().and_then(number);
    let mut found = Vec::new();
    let (mut wanted, mut count) = (BTreeSet::new(), 0);
    for name in names(&ours.join("generations")) {
        count += 1;
        if name.parse::<u32>().ok().is_none_or(|number| Some(number) > current) {
            found.push(format!("generation {name} is newer than the one that runs"));
        }
        let dir = ours.join("generations").join(&name);
        for app in names(&dir).into_iter().filter(|name| !name.starts_with('.')) {
            let tree = link(&dir.join(app)).trim_start_matches("../../trees/").to_owned();
            wanted.insert(format!("{tree}.files"));
            wanted.insert(tree);
        }
    }
    if count > 5 {
        found.push(format!("{count} generations"));
    }
    let trees: BTreeSet<String> = names(&ours.join("trees")).into_iter().collect();
    found.extend(
        trees.symmetric_difference(&wanted).map(|tree| format!("the checkout '{tree}' is too much or missing")),
    );
    found
}

/// A short description of the differences; empty if there are none.
pub fn difference(now: &Lines, expected: &Lines) -> Option<String> {
    let missing = expected.iter().filter(|(path, what)| now.get(*path) != Some(what));
    let wrong = missing.map(|(path, what)| match now.get(path) {
        Some(other) => format!("{path} is '{}', not '{}'", short(other), short(what)),
        None => format!("{path} is gone"),
    });
    let new = now.keys().filter(|path| !expected.contains_key(*path)).map(|path| format!("{path} is new"));
    let all: Vec<String> = wrong.chain(new).take(5).collect();
    (!all.is_empty()).then(|| all.join("; "))
}

fn short(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(90).collect()
}

/// Has Git check the store. Returns its complaints.
pub fn fsck(git: crate::process::Cmd, store: &Path) -> Option<String> {
    let run: Run = git.arg("--git-dir").arg(store).args(["fsck", "--strict", "--no-dangling"]).run().ok()?;
    (!run.success()).then(|| format!("git fsck: {}{}", run.stdout(), run.stderr()))
}

fn walk(root: &Path, also: &dyn Fn(&fs::Metadata) -> String) -> Lines {
    let mut lines = Lines::new();
    walk_below(root, Path::new(""), also, &mut lines);
    lines
}

fn walk_below(root: &Path, below: &Path, also: &dyn Fn(&fs::Metadata) -> String, lines: &mut Lines) {
    for name in names(&root.join(below)) {
        let path = below.join(name);
        let text = path.to_string_lossy().into_owned();
        if is_theirs(&text) || is_own_record(&text) {
            continue;
        }
        let full = root.join(&path);
        let Ok(meta) = full.symlink_metadata() else { continue };
        let what = if meta.is_symlink() {
            format!("-> {}", link(&full))
        } else if meta.is_dir() {
            walk_below(root, &path, also, lines);
            // systemctl creates it, and leaves it behind if it is killed or fails.
            if text.ends_with(".wants") {
                continue;
            }
            String::new()
        } else if text.ends_with(".files") {
            // The record contains times and inode numbers.
            "record".into()
        } else if text.ends_with("/.commit") {
            without_instance(&fs::read_to_string(&full).unwrap_or_default())
        } else {
            format!("{} {}", also(&meta), content(&full))
        };
        lines.insert(text, format!("{:o} {}:{} {what}", meta.mode(), meta.uid(), meta.gid()).trim_end().to_owned());
    }
}

/// The host's id differs between roots, because it is random.
fn without_instance(note: &str) -> String {
    note.lines().filter(|line| !line.starts_with("instance ")).collect::<Vec<_>>().join("\n")
}

/// Users, temporary files, and files that killed programs of systemd have left behind.
fn is_theirs(path: &str) -> bool {
    let is_theirs = THEIRS.iter().any(|theirs| path.starts_with(theirs)) || path.contains("/.#");
    is_theirs && !path.contains(".deptool-")
}

/// Files that every attempt writes, whatever its outcome.
fn is_own_record(path: &str) -> bool {
    let own = [
        "state/attempts",
        "state/lock",
        "state/journal",
        "state/instance",
        // Made at the next contact.
        "state/identity",
        "state/stamps",
        "store/refs/deptool/target",
    ];
    // A journal that was cut off by a power cut is kept.
    let is_own = |path: &str| own.contains(&path) || path.starts_with("state/kept");
    path.strip_prefix("var/lib/deptool/").is_some_and(is_own)
}

fn content(path: &Path) -> String {
    let Ok(bytes) = fs::read(path) else { return "can't be read".into() };
    let is_short = bytes.len() < 60 && bytes.iter().all(|byte| (b' '..127).contains(byte) || *byte == b'\n');
    let digest = || Sha256::digest(&bytes).iter().take(8).map(|byte| format!("{byte:02x}")).collect::<String>();
    if is_short { format!("{:?}", String::from_utf8_lossy(&bytes)) } else { digest() }
}

fn link(path: &Path) -> String {
    fs::read_link(path).map(|target| target.to_string_lossy().into_owned()).unwrap_or_default()
}

fn names(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}
