//! Several labs at once: each holds a slot, which stands for a directory, a subnet and names for its machines.

use std::fs::File;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use rustix::fs::{FlockOperation, flock};

use super::{CACHE, machine};

/// The number of slots. The third byte of an address is the number of its slot.
const SLOTS: u8 = 200;
/// The number of hosts per lab. Each has a /30 of its own.
pub const MAX_HOSTS: usize = 64;
/// In a lab that outlives its process (`lab up`), the slot is taken for as long as this file exists.
const KEEP: &str = "keep";

/// A file lock, held until the value is dropped.
#[derive(Debug)]
pub struct Lock(#[expect(dead_code, reason = "held for its lock")] File);

impl Lock {
    fn open(path: &Path) -> Result<File> {
        let open = File::options().create(true).write(true).truncate(false).open(path);
        open.with_context(|| format!("cannot open {}", path.display()))
    }

    pub fn wait_for(path: &Path) -> Result<Lock> {
        let file = Lock::open(path)?;
        flock(&file, FlockOperation::LockExclusive)?;
        Ok(Lock(file))
    }

    /// None if another process holds it.
    pub fn try_take(path: &Path) -> Result<Option<Lock>> {
        let file = Lock::open(path)?;
        Ok(flock(&file, FlockOperation::NonBlockingLockExclusive).ok().map(|()| Lock(file)))
    }
}

/// The place of one lab.
#[derive(Debug)]
pub struct Slot {
    pub number: u8,
    /// Contains everything of this lab. It is removed when the lab ends.
    pub dir: PathBuf,
    net: u8,
    _lock: Lock,
}

impl Slot {
    /// Takes a free slot. If a killed process has left a lab there, it is stopped and removed first.
    pub fn take() -> Result<Slot> {
        let run = Path::new(CACHE).join("run");
        std::fs::create_dir_all(&run).with_context(|| format!("cannot create {}", run.display()))?;
        let net = free_net()?;
        for number in 0..SLOTS {
            let dir = run.join(number.to_string());
            let Some(lock) = Lock::try_take(&run.join(format!("{number}.lock")))? else { continue };
            if dir.join(KEEP).exists() {
                continue;
            }
            let slot = Slot { number, dir, net, _lock: lock };
            slot.clear()?;
            std::fs::create_dir_all(&slot.dir)?;
            return Ok(slot);
        }
        bail!("all {SLOTS} slots in {} are taken", run.display());
    }

    /// Takes over the slot of a lab that was kept.
    pub fn take_over(number: u8) -> Result<Slot> {
        let run = Path::new(CACHE).join("run");
        let lock = Lock::try_take(&run.join(format!("{number}.lock")))?;
        let lock = lock.with_context(|| format!("lab {number} is in use by another process"))?;
        Ok(Slot { number, dir: run.join(number.to_string()), net: free_net()?, _lock: lock })
    }

    /// Lets the lab outlive this process.
    pub fn keep(&self) -> Result<()> {
        Ok(std::fs::write(self.dir.join(KEEP), "")?)
    }

    /// The addresses of this side and of the host, for the host with that number.
    pub fn addresses(&self, host: usize) -> (String, String) {
        let address = |last: usize| format!("10.{}.{}.{}", self.net, self.number, host * 4 + last);
        (address(1), address(2))
    }

    /// The machine's name. `ve-<name>` must fit into the 15 characters of an interface name.
    pub fn machine_name(&self, host: usize) -> String {
        format!("dt{}-{host}", self.number)
    }

    /// Stops everything that runs in this slot and removes its files.
    pub fn clear(&self) -> Result<()> {
        for host in 0..MAX_HOSTS {
            machine::end_leftover(&self.machine_name(host), &self.dir);
        }
        unmount_below(&self.dir)?;
        match std::fs::remove_dir_all(&self.dir) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(error).with_context(|| format!("cannot remove {}", self.dir.display()))
            }
            _ => Ok(()),
        }
    }
}

/// Unmounts everything below a directory, the newest mount first.
pub fn unmount_below(dir: &Path) -> Result<()> {
    let mounts = std::fs::read_to_string("/proc/self/mounts")?;
    let points = mounts.lines().filter_map(|line| line.split(' ').nth(1)).map(Path::new);
    let below: Vec<&Path> = points.filter(|point| point.starts_with(dir)).collect();
    for point in below.into_iter().rev() {
        let gone = rustix::mount::unmount(point, rustix::mount::UnmountFlags::empty())
            .or_else(|_| rustix::mount::unmount(point, rustix::mount::UnmountFlags::DETACH));
        gone.with_context(|| format!("cannot unmount {}", point.display()))?;
    }
    Ok(())
}

/// The second byte of a 10.x network that this machine uses only for labs.
fn free_net() -> Result<u8> {
    let used = crate::process::Cmd::new("ip").args(["-4", "-o", "route", "show", "table", "main"]).check()?.stdout();
    let mine = |line: &str| line.contains("dev ve-dt");
    let taken = |net: u8| used.lines().any(|line| line.starts_with(&format!("10.{net}.")) && !mine(line));
    [213, 214, 187, 97].into_iter().find(|net| !taken(*net)).context("no free 10.x network for the lab")
}
