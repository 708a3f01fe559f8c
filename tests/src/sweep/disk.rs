//! A root directory on a file system of its own: one that gets full, and one with power failures.
//!
//! Mounts are made in the mount namespace of a thread, so they vanish with it, even if it is killed.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use deptool_agent::shared::{outcome::Outcome, wire::Response};
use nix::mount::{MntFlags, umount2};
use nix::sched::{CloneFlags, unshare};

use super::world::{Runs, Said, Scenario, World};
use super::{Choice, Tally, agent};
use crate::{
    process::{Cmd, find_program, poll},
    trace::Deed,
};

/// Programs that are needed here, with their Debian packages.
pub const NEEDS: &[(&str, &str)] = &[("mkfs.ext4", "e2fsprogs"), ("mkfs.xfs", "xfsprogs"), ("mount", "mount")];

/// The size of a root's file system.
const SIZE: u64 = 48 << 20;
/// The size of the file system that holds a copy for each instant. The copies share most blocks.
const XFS_SIZE: u64 = 4 << 30;
/// The minimum size of a file.
const BLOCK: u64 = 4096;
/// What a refused deployment may leave on a host: a line in its log, its id, directories.
const RECORDS: u64 = 4 * BLOCK;

/// The reason why this computer can't do it, if it can't.
pub fn unable() -> Option<String> {
    if !rustix::process::geteuid().is_root() {
        return Some("mounting needs root".into());
    }
    let missing: Vec<&str> = NEEDS.iter().filter(|(name, _)| find_program(name).is_none()).map(|need| need.1).collect();
    if !missing.is_empty() {
        return Some(format!("programs are missing: apt-get install {}", missing.join(" ")));
    }
    in_own_namespace(|| Ok(())).err().map(|error| format!("{error:#}"))
}

/// Calls `work` on a thread with its own mount namespace.
pub fn in_own_namespace<T: Send>(work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    let enter = || -> Result<T> {
        unshare(CloneFlags::CLONE_NEWNS).context("no mount namespace can be made here")?;
        Cmd::new("mount").args(["--make-rprivate", "/"]).check()?;
        work()
    };
    std::thread::scope(|scope| match scope.spawn(enter).join() {
        Ok(result) => result,
        Err(panic) => std::panic::resume_unwind(panic),
    })
}

/// Deployments with more and more free space on the disk, from none to enough.
pub fn full(world: &World, mut scenario: Scenario, choice: Choice) -> Result<Tally> {
    let mut tally = Tally::default();
    let image = Image::make(&world.sandbox.dir().join("full.img"), "ext4", SIZE)?;
    image.mount(world.root())?;
    let mut enough = 0;
    for blocks in (0..).filter(|blocks| choice.takes(*blocks)) {
        world.reset(&mut scenario)?;
        // This file is much larger than everything else.
        world.give_agent()?;
        let filler = fill(world.root(), blocks as u64 * BLOCK)?;
        let before = free(world.root())?;
        let said = world.deploy(&scenario.request, &mut |_| Deed::Go)?;
        let result = after_full(world, &scenario, &said, before).and_then(|runs| {
            fs::remove_file(&filler).map_err(|error| error.to_string())?;
            agent::again(world, &scenario, runs)?;
            Ok(runs)
        });
        tally.note(&format!("{}, {blocks} blocks left", scenario.name), result);
        enough += usize::from(said.is_done());
        if enough == 3 {
            break;
        }
    }
    unmount(world.root())?;
    Ok(tally)
}

/// The result of a deployment, while the disk is still full.
fn after_full(world: &World, scenario: &Scenario, said: &Said, before: u64) -> Result<Runs, String> {
    agent::next_contact(world)?;
    let runs = agent::agree(world, scenario, said)?;
    let lost = before.saturating_sub(free(world.root()).map_err(|error| format!("{error:#}"))?);
    // A commit that was rolled back stays readable in the store.
    let is_kept = matches!(said.outcome(), Some(Outcome::RolledBack(_)));
    if runs == Runs::Old && lost > if is_kept { 2 * RECORDS } else { RECORDS } {
        return Err(format!("{lost} bytes are not given back; it said: {:?}", said.outcome()));
    }
    Ok(runs)
}

/// The content of the disk at many instants of a deployment, each checked as if the power had failed then.
///
/// Data that was not synced is only in this computer's memory, and not in these copies.
pub fn power(world: &World, mut scenario: Scenario, choice: Choice) -> Result<Tally> {
    let dir = world.sandbox.dir().join("power");
    fs::create_dir(&dir)?;
    Image::make(&world.sandbox.dir().join("power.img"), "xfs", XFS_SIZE)?.mount(&dir)?;
    let image = Image::make(&dir.join("host.img"), "ext4", SIZE)?;
    image.mount(world.root())?;
    world.reset(&mut scenario)?;
    Cmd::new("sync").arg("-f").arg(world.root()).check()?;
    let snapshots = deploy_and_copy(world, &scenario, &image, choice)?;
    unmount(world.root())?;
    let mut tally = Tally::default();
    for snapshot in &snapshots {
        snapshot.image.mount(world.root())?;
        tally.note(&format!("{}, power cut before {}", scenario.name, snapshot.name), look(world, &scenario, snapshot));
        unmount(world.root())?;
    }
    unmount(&dir)?;
    fs::remove_dir(&dir)?;
    Ok(tally)
}

/// The disk at one instant.
struct Snapshot {
    image: Image,
    name: String,
    /// The deployment had been acknowledged.
    is_acknowledged: bool,
}

fn deploy_and_copy(world: &World, scenario: &Scenario, image: &Image, choice: Choice) -> Result<Vec<Snapshot>> {
    let (mut count, mut is_acknowledged) = (0, false);
    let mut snapshots = Vec::new();
    let mut failed = Ok(());
    let said = world.deploy(&scenario.request, &mut |call| {
        count += 1;
        if choice.takes(count) && failed.is_ok() {
            let name = format!("call {count}, {call}");
            failed = image.copy(count).map(|image| snapshots.push(Snapshot { image, name, is_acknowledged }));
        }
        is_acknowledged |=
            call.sends::<Response>(&["Ended", "Done"]) || (scenario.kept_is_new && call.sends::<Response>(&["Kept"]));
        Deed::Go
    })?;
    failed?;
    ensure!(said.is_done(), "{said:?}");
    let image = image.copy(count + 1)?;
    snapshots.push(Snapshot { image, name: "the agent's end".into(), is_acknowledged: true });
    Ok(snapshots)
}

fn look(world: &World, scenario: &Scenario, snapshot: &Snapshot) -> Result<Runs, String> {
    agent::next_contact(world)?;
    let runs = world.judge(scenario)?;
    if snapshot.is_acknowledged && runs == Runs::Old {
        return Err("it had been acknowledged".into());
    }
    agent::again(world, scenario, runs)?;
    Ok(runs)
}

/// A file that holds a file system.
pub struct Image(PathBuf);

impl Image {
    pub fn make(file: &Path, kind: &str, size: u64) -> Result<Image> {
        fs::File::create(file)?.set_len(size)?;
        let options: &[&str] = match kind {
            // No reserved blocks: full is full, for root too.
            "ext4" => &["-q", "-m", "0", "-E", "nodiscard,lazy_itable_init=0"],
            _ => &["-q"],
        };
        Cmd::new(format!("mkfs.{kind}")).args(options).arg(file).check()?;
        Ok(Image(file.to_owned()))
    }

    pub fn mount(&self, at: &Path) -> Result<()> {
        Cmd::new("mount").args(["-o", "loop"]).arg(&self.0).arg(at).check()?;
        let _ = fs::remove_dir(at.join("lost+found"));
        Ok(())
    }

    /// A copy of its current content, which shares its blocks.
    fn copy(&self, number: usize) -> Result<Image> {
        let copy = self.0.with_extension(format!("{number}"));
        Cmd::new("cp").arg("--reflink=always").arg(&self.0).arg(&copy).check()?;
        Ok(Image(copy))
    }
}

/// An agent that has answered may still be ending.
pub fn unmount(at: &Path) -> Result<()> {
    let is_unmounted = || umount2(at, MntFlags::empty()).ok();
    poll(&format!("unmount {}", at.display()), Duration::from_secs(10), is_unmounted)
}

/// The free bytes on the file system of `path`.
fn free(path: &Path) -> Result<u64> {
    // Removed blocks are free only when the file system's journal is committed.
    Cmd::new("sync").arg("-f").arg(path).check()?;
    let stat = rustix::fs::statvfs(path)?;
    Ok(stat.f_bfree * stat.f_frsize)
}

/// Fills the disk up to this many free bytes. Returns the file that does it.
fn fill(root: &Path, left: u64) -> Result<PathBuf> {
    let file = root.join("run/filler");
    fs::create_dir_all(root.join("run"))?;
    let size = free(root)?.saturating_sub(left);
    let filler = fs::File::create(&file)?;
    // The file's own block map takes some, too.
    let mut taken = size;
    while rustix::fs::fallocate(&filler, rustix::fs::FallocateFlags::empty(), 0, taken).is_err() {
        ensure!(taken > BLOCK, "the disk can't be filled");
        taken -= BLOCK;
    }
    Ok(file)
}
