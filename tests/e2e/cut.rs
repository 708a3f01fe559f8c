//! Kills: whichever process is killed, and whenever, the host undoes or completes the deployment, and the next contact
//! reports the truth.

use std::path::Path;
use std::time::Duration;

use deptool_agent::shared::wire::Response;
use deptool_tests::is_quick;
use deptool_tests::process::{Run, Signal, poll};
use deptool_tests::sandbox::{Repo, Sandbox, gits};
use deptool_tests::sweep::world::responses;

use crate::{seen::at_rest, stand_in::with_stand_in};

/// Two commits that differ in every way that a local root supports.
pub struct World<'a> {
    pub sandbox: &'a Sandbox,
    pub repo: Repo<'a>,
    commits: [String; 2],
    /// The external files of each of them.
    outside: [Vec<String>; 2],
}

impl World<'_> {
    /// The first commit runs. The second one was deployed and replaced by the first.
    pub fn new(sandbox: &Sandbox) -> World<'_> {
        let repo = sandbox.repo("operator");
        repo.add_root("web1");
        let etc = sandbox.root("web1").join("etc");
        std::fs::create_dir_all(&etc).unwrap();
        std::fs::write(etc.join("theirs"), "same\n").unwrap();
        std::fs::write(etc.join("theirs too"), "same\n").unwrap();
        repo.write("web1/web/same", "same\n");
        repo.write("web1/web/file", "1\n");
        repo.write("web1/gone/file", "x");
        repo.write("web1/web/tmpfiles/a.conf", "# 1\n");
        repo.write("web1/web/quadlets/gone.network", "[Network]\n");
        repo.write(
            "web1/web/manifest.json",
            r#"{"symlinks": {"/etc/stays": "file", "/etc/goes/x": "file", "/etc/moves": "file", "/etc/theirs": "same"}}"#,
        );
        let one = repo.commit("One");
        repo.git(&["push", "web1", "prod"]).ok();
        let mut outside = [outside(sandbox), Vec::new()];
        repo.write("web1/web/file", "2\n");
        repo.remove("web1/gone");
        repo.write("web1/new/file", "y");
        repo.write("web1/web/tmpfiles/a.conf", "# 2\n");
        repo.remove("web1/web/quadlets");
        repo.write("web1/web/systemd/x.service.d/y.conf", "[Service]\nNice=1\n");
        repo.write(
            "web1/web/manifest.json",
            r#"{"symlinks": {"/etc/stays": "file", "/etc/comes/y/z": "file", "/etc/moves": "same", "/etc/theirs too": "same"}}"#,
        );
        let two = repo.commit("Two");
        repo.git(&["push", "web1", "prod"]).ok();
        outside[1] = self::outside(sandbox);
        repo.git(&["push", "-f", "web1", "prod~1:prod"]).ok();
        let world = World { sandbox, repo, commits: [one, two], outside };
        world.is_right(0);
        world
    }

    /// Asserts that the commit with that number runs, on the host and in the tracking ref, and that nothing else is
    /// left.
    #[track_caller]
    fn is_right(&self, number: usize) {
        at_rest(self.sandbox, "web1", Some(&self.commits[number]));
        assert_eq!(outside(self.sandbox), self.outside[number]);
        assert_eq!(self.repo.id("web1/prod"), self.commits[number], "the tracking ref is what the host says");
        assert_eq!(self.repo.git(&["for-each-ref", "refs/deptool/unsettled"]).ok().stdout(), "", "nothing is in doubt");
    }

    /// Fetches, checks the state, and goes back to the first commit. Returns the number of the commit that ran.
    #[track_caller]
    pub fn heal(&self, push: &Run) -> usize {
        // An agent that has lost its helper may still be working.
        let at_rest = || (!self.repo.git(&["fetch", "web1"]).ok().stderr().contains("has been")).then_some(());
        poll("the host is at rest", Duration::from_secs(30), at_rest).unwrap();
        let runs = self.repo.id("web1/prod");
        let number = self.commits.iter().position(|id| *id == runs).unwrap_or_else(|| panic!("{push}"));
        self.is_right(number);
        if push.success() {
            assert_eq!(number, 1, "what is said to be done is done: {push}");
        }
        self.repo.git(&["push", "-f", "web1", "prod~1:prod"]).ok();
        self.is_right(0);
        number
    }

    fn push_with(&self, script: &str) -> Run {
        with_stand_in(self.sandbox, &self.repo, &["push", "web1", "prod"], script).run().unwrap()
    }
}

fn outside(sandbox: &Sandbox) -> Vec<String> {
    let root = sandbox.root("web1");
    let tree = sandbox.tree("web1");
    let lines = tree.lines().filter(|line| !line.starts_with("var/lib/deptool/"));
    let described = lines.map(|line| {
        let path: &Path = line.split(" -> ").next().unwrap().as_ref();
        let full = root.join(path);
        let content = if full.is_symlink() || full.is_dir() { String::new() } else { content(&full) };
        format!("{line} {content}")
    });
    described.collect()
}

fn content(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_else(|error| error.to_string())
}

/// The system calls with which an agent changes a host. Each process of the agent is killed at the n-th of them.
const CHANGES: &str = "rename,renameat,renameat2,link,linkat,symlink,symlinkat,unlink,unlinkat,rmdir,mkdir,mkdirat,\
                       write,pwrite64,ftruncate,fsync,fdatasync,syncfs,chmod,fchmod,fchmodat,utimensat";

/// Kills the agent at its n-th change, and also the agent that is asked for the outcome. None if there is no such
/// change.
fn kill_at(world: &World<'_>, n: usize) -> Option<Run> {
    let logs = world.sandbox.dir().join("roots/strace");
    let _ = std::fs::remove_dir_all(&logs);
    std::fs::create_dir(&logs).unwrap();
    let script = format!(
        "exec strace -f -q -o '{}'/$$ -e trace={CHANGES} -e inject={CHANGES}:signal=KILL:when={n} \"$DEPTOOL_AGENT\"",
        logs.display()
    );
    let run = world.push_with(&script);
    let mut logs = std::fs::read_dir(&logs).unwrap().map(|log| content(&log.unwrap().path()));
    logs.any(|log| log.contains("killed by SIGKILL")).then_some(run)
}

fn has_strace(sandbox: &Sandbox) -> bool {
    let has = sandbox.command("strace").args(["-qq", "-o", "/dev/null", "true"]).run().is_ok_and(|run| run.success());
    if !has {
        let ci = std::env::var_os("CI").is_some_and(|ci| ci == "true");
        assert!(!ci, "skipped, which is a failure in CI: no strace here, or no right to use it");
        eprintln!("skipped: no strace here, or no right to use it");
    }
    has
}

/// Kills at every `step`-th change from `first` on.
fn kill_at_each(first: usize, step: usize) {
    let sandbox = Sandbox::new();
    if !has_strace(&sandbox) {
        return;
    }
    let world = World::new(&sandbox);
    let mut ended = [0, 0];
    for n in (first..).step_by(step) {
        let Some(push) = kill_at(&world, n) else {
            // It makes fewer changes, so it was not killed.
            assert!(n > 20, "{n}");
            world.repo.git(&["fetch", "web1"]).ok();
            world.is_right(1);
            break;
        };
        ended[world.heal(&push)] += 1;
    }
    assert!(ended[0] > 0, "{ended:?}");
}

#[test]
fn an_agent_that_is_killed_at_any_change_leaves_the_old_or_the_new() {
    if is_quick() {
        return;
    }
    kill_at_each(2, 9);
}

#[test]
#[ignore = "as the one before, at every change: a minute"]
fn an_agent_that_is_killed_at_every_change_leaves_the_old_or_the_new() {
    kill_at_each(1, 1);
}

#[test]
fn an_agent_that_is_killed_before_it_has_begun_changes_nothing() {
    if is_quick() {
        return;
    }
    for git in gits() {
        let sandbox = Sandbox::with_git(&git);
        let world = World::new(&sandbox);
        for script in ["kill -9 $$", "exit 0", "exit 7", "head -c 20 >/dev/null", "\"$DEPTOOL_AGENT\" </dev/null"] {
            let run = world.push_with(script).fails();
            assert_eq!(world.heal(&run), 0, "{script}");
        }
    }
}

#[test]
fn a_lost_answer_is_asked_for_again() {
    let sandbox = Sandbox::new();
    let world = World::new(&sandbox);
    // The agent works, but its output is cut off. A later request is answered.
    let script = r#"if mkdir "$DEPTOOL_ROOT/../once" 2>/dev/null; then "$DEPTOOL_AGENT" | head -c 500; \
                    else exec "$DEPTOOL_AGENT"; fi"#;
    let run = world.push_with(script);
    world.heal(&run);
}

#[test]
fn an_outcome_that_can_not_be_asked_for_is_unknown_until_a_fetch() {
    let sandbox = Sandbox::new();
    let world = World::new(&sandbox);
    let script = r#"mkdir "$DEPTOOL_ROOT/../once" 2>/dev/null || exit 1; "$DEPTOOL_AGENT" >/dev/null"#;
    let run = world.push_with(script).code(1);
    run.clone().says("! [remote rejected] prod -> prod (outcome unknown; run git fetch)");
    let marks = world.repo.git(&["for-each-ref", "--format=%(refname)", "refs/deptool/unsettled"]).ok();
    assert_eq!(marks.line(), "refs/deptool/unsettled/web1/prod");
    assert_eq!(world.repo.id("web1/prod"), world.commits[0]);
    assert_eq!(world.heal(&run), 1, "it was carried out, as nobody could know");
}

#[test]
fn a_host_in_doubt_is_asked_before_the_next_push() {
    let sandbox = Sandbox::new();
    let world = World::new(&sandbox);
    let script = r#"mkdir "$DEPTOOL_ROOT/../once" 2>/dev/null || exit 1; "$DEPTOOL_AGENT" >/dev/null"#;
    world.push_with(script).code(1);
    // The same commit again: it is running already.
    world.repo.git(&["push", "web1", "prod"]).ok();
    world.is_right(1);
    world.repo.git(&["push", "-f", "web1", "prod"]).ok();
    world.is_right(1);
}

#[test]
fn a_helper_that_is_killed_leaves_what_a_fetch_can_heal() {
    if is_quick() {
        return;
    }
    for git in gits() {
        let sandbox = Sandbox::with_git(&git);
        let world = World::new(&sandbox);
        for script in [
            // Before the agent starts, after it has finished, and in the middle.
            "kill -9 $PPID; exec \"$DEPTOOL_AGENT\"",
            "\"$DEPTOOL_AGENT\" >/dev/null; kill -9 $PPID",
            "head -c 600 | \"$DEPTOOL_AGENT\" >/dev/null; kill -9 $PPID",
            "helper=$PPID; (while ! ls \"$DEPTOOL_ROOT\"/etc/comes 2>/dev/null; do :; done; kill -9 $helper) >/dev/null & \
             watcher=$!; \"$DEPTOOL_AGENT\"; kill $watcher 2>/dev/null",
        ] {
            let run = world.push_with(script);
            world.heal(&run);
        }
    }
}

#[test]
fn ctrl_c_before_the_host_has_begun_changes_nothing() {
    let sandbox = Sandbox::new();
    let world = World::new(&sandbox);
    let here = sandbox.dir().join("roots/here");
    let script = r#"touch "$DEPTOOL_ROOT/../here"
                    exec sleep 1000"#;
    let push = with_stand_in(&sandbox, &world.repo, &["push", "web1", "prod"], script).start().unwrap();
    poll("the agent was started", Duration::from_secs(30), || here.exists().then_some(())).unwrap();
    push.signal_group(Signal::INT).unwrap();
    let run = push.wait().unwrap();
    assert!(!run.success(), "{run}");
    // Git is dead by then, so the helper reports it: the request was sent ahead, but nobody has read it.
    assert_eq!(run.stderr(), "fatal: git is gone; 'refs/heads/prod': interrupted; nothing was changed\n");
    assert_eq!(world.heal(&run), 0, "{run}");
}

#[test]
fn a_recovery_is_reported() {
    let sandbox = Sandbox::new();
    if !has_strace(&sandbox) {
        return;
    }
    let world = World::new(&sandbox);
    // After everything has changed, but before the verdict.
    let script =
        "exec strace -f -qq -o /dev/null -e trace=pwrite64 -e inject=pwrite64:signal=KILL:when=1 \"$DEPTOOL_AGENT\"";
    let run = world.push_with(script).fails();
    let said = format!("{run}");
    assert!(said.contains("an interrupted deployment by Ada Operator <ada@example.org> was undone"), "{said}");
    assert!(said.contains("(rolled back: the agent was interrupted)"), "{said}");
    assert_eq!(world.heal(&run), 0);
}

#[test]
fn ctrl_c_while_the_host_is_at_work_waits_for_its_outcome() {
    let sandbox = Sandbox::new();
    if !has_strace(&sandbox) {
        return;
    }
    let world = World::new(&sandbox);
    // The agent is stopped right before its verdict.
    let hold = "-e trace=pwrite64 -e inject=pwrite64:delay_enter=300000:when=1";
    let script = format!("exec strace -f -qq -o /dev/null {hold} \"$DEPTOOL_AGENT\"");
    let push = with_stand_in(&sandbox, &world.repo, &["push", "web1", "prod"], &script).start().unwrap();
    let changed = sandbox.root("web1").join("etc/comes/y/z");
    poll("the host is at work", Duration::from_secs(30), || changed.is_symlink().then_some(())).unwrap();
    push.signal_group(Signal::INT).unwrap();
    let run = push.wait().unwrap();
    assert!(!run.success(), "{run}");
    assert!(run.stderr().ends_with("fatal: git is gone; 'refs/heads/prod': done\n"), "{run}");
    // An interrupted push does not wait until the agent has cleaned up. The next agent does.
    world.repo.git(&["fetch", "-q", "web1"]).ok();
    world.is_right(1);
}

#[test]
fn a_slow_disk_is_not_taken_for_a_dead_agent() {
    if is_quick() {
        return;
    }
    let sandbox = Sandbox::new();
    if !has_strace(&sandbox) {
        return;
    }
    let world = World::new(&sandbox);
    let said = sandbox.dir().join("roots/said");
    // A little longer than the interval between signs of life.
    let slow = "-e trace=syncfs -e inject=syncfs:delay_enter=5500000:when=1";
    let script = format!("strace -f -qq -o /dev/null {slow} \"$DEPTOOL_AGENT\" | tee '{}'", said.display());
    world.push_with(&script).ok();
    world.is_right(1);
    let said = std::fs::read(said).unwrap();
    assert!(responses(&said).contains(&Response::Heartbeat), "{}", String::from_utf8_lossy(&said));
}
