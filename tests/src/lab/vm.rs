//! A host that is a virtual machine: with a kernel of its own, so with SELinux (enforcing), auditd, EROFS, and power
//! cuts that lose what was not on the disk.
//!
//! It is emulated, without KVM, and takes half a minute to boot and ten times as long for everything as a container.
//! Tests that need one are few. It is a bookworm base like the other hosts, with the same users and programs; or, without
//! a package manager, an image-based host: see [`Kind`].

use std::fs::{self, File};
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use std::{hash::DefaultHasher, hash::Hash as _, hash::Hasher as _, os::unix::process::CommandExt as _};

use anyhow::{Context as _, Result, bail};

use super::base::{self, Base};
use super::machine::identity;
use super::slot::{Lock, Slot};
use super::ssh::{Link, Peer, Ssh};
use super::{CACHE, host, is_skipped, unavailable};
use crate::process::{Cmd, Pid, Run, find_program, poll};

/// What a virtual machine needs besides [`super::NEEDS`], with the Debian packages.
pub const NEEDS: &[(&str, &str)] = &[("qemu-system-x86_64", "qemu-system-x86"), ("mkfs.erofs", "erofs-utils")];

/// The first makes a whole disk, the second the disks of an image-based machine.
const RECIPES: [&str; 2] = [include_str!("vm.sh"), include_str!("image.sh")];
const PACKAGES: &[&str] = &[
    "linux-image-cloud-amd64",
    "kmod",
    "udev",
    "selinux-policy-default",
    "policycoreutils",
    "selinux-utils",
    "auditd",
];
/// Its name for ssh, which is also in `/etc/hostname`.
pub const NAME: &str = "vm1";
/// Under emulation, on a machine with other load.
const START: Duration = Duration::from_secs(240);
const KERNEL: &str = "root=/dev/vda console=ttyS0 quiet net.ifnames=0 mitigations=off random.trust_cpu=on";

/// What a virtual machine's root is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A disk. SELinux is enforcing.
    Disk,
    /// An EROFS image, as on Flatcar and its like: `/etc` is an overlay whose upper layer is in `/var`, to which `/root`,
    /// `/home`, `/srv` and `/opt` lead. There is no package manager. nginx is in an image of its own. SELinux is off.
    Image,
}

impl Kind {
    fn kernel(self) -> &'static str {
        match self {
            Kind::Disk => "rw security=selinux selinux=1 enforcing=1 audit=1",
            Kind::Image => "ro rootfstype=erofs selinux=0",
        }
    }

    /// The disk that it writes to.
    fn disk(self) -> &'static str {
        match self {
            Kind::Disk => "disk.img",
            Kind::Image => "var.img",
        }
    }
}

/// A virtual machine with a disk of its own. It is gone with its disk when this is dropped.
#[derive(Debug)]
pub struct Vm {
    kind: Kind,
    ssh: Ssh,
    port: u16,
    image: PathBuf,
    qemu: Mutex<Option<Child>>,
    slot: Slot,
}

/// Boots a virtual machine for a test. If this computer can't run one, it prints `skipped: why` and returns None. With
/// `CI=true` that is a failure, unless only qemu is missing.
#[track_caller]
pub fn start_or_skip(kind: Kind) -> Option<Vm> {
    if is_skipped(unavailable()) {
        return None;
    }
    if let Some(why) = missing() {
        crate::skipped(&why);
        return None;
    }
    Some(Vm::start(kind).unwrap_or_else(|error| panic!("{error:#}")))
}

/// What is missing to run a virtual machine on a computer that can run a lab.
pub fn missing() -> Option<String> {
    if !cfg!(target_arch = "x86_64") {
        return Some("the lab's virtual machine needs an x86_64 computer".to_owned());
    }
    let (program, package) = NEEDS.iter().find(|(name, _)| find_program(name).is_none())?;
    Some(format!("the lab's virtual machine needs {program}: apt-get install {package}"))
}

impl Vm {
    /// Makes one from the cached image, and boots it.
    pub fn start(kind: Kind) -> Result<Vm> {
        if let Some(why) = unavailable().or_else(missing) {
            bail!(why);
        }
        let image = ensure_image()?;
        let slot = Slot::take()?;
        copy(&image.join("ssh"), &slot.dir)?;
        fs::create_dir(slot.dir.join(NAME))?;
        let ssh = Ssh::open(&slot.dir);
        let vm = Vm { kind, ssh, port: free_port()?, image, qemu: Mutex::new(None), slot };
        copy(&vm.image.join(kind.disk()), &vm.dir())?;
        vm.ssh.write_config(Link::Plain, &[Peer { name: NAME, ip: "127.0.0.1", port: vm.port }])?;
        vm.boot()?;
        Ok(vm)
    }

    /// Boots it, and returns when ssh answers and the boot is complete. Does nothing if it is on.
    pub fn boot(&self) -> Result<()> {
        let mut qemu = self.lock();
        if qemu.is_some() {
            return Ok(());
        }
        let child = qemu.insert(self.spawn().context("cannot start qemu")?);
        let pid = identity(Pid::from_child(child));
        fs::write(self.dir().join("pids"), format!("{pid} {pid}\n"))?;
        let up = poll("an answer of its ssh", START, || match child.try_wait() {
            Ok(Some(status)) => Some(Err(anyhow::anyhow!("qemu ended with {status}"))),
            _ => self.is_up().then_some(Ok(())),
        });
        up.and_then(|up| up).with_context(|| format!("the virtual machine did not come up\n{}", self.console()))
    }

    fn spawn(&self) -> Result<Child> {
        let log = File::options().create(true).append(true).open(self.dir().join("console.log"))?;
        let file = |name: &str| self.image.join(name);
        let mut qemu = Command::new("qemu-system-x86_64");
        // One thread emulates, and leaves the other processors to others.
        qemu.args(["-accel", "tcg,thread=single,tb-size=256", "-m", "1024", "-nographic", "-no-reboot", "-nodefaults"]);
        qemu.args(["-serial", "stdio", "-device", "virtio-rng-pci"]);
        qemu.arg("-kernel").arg(file("vmlinuz")).arg("-initrd").arg(file("initrd.img"));
        qemu.arg("-append").arg(format!("{KERNEL} {}", self.kind.kernel()));
        let mut drive = |file: &Path, how: &str| {
            qemu.arg("-drive").arg(format!("file={},if=virtio,format=raw{how}", file.display()));
        };
        if self.kind == Kind::Image {
            drive(&file("image.img"), ",readonly=on");
        }
        drive(&self.dir().join(self.kind.disk()), "");
        // It can't reach anything; only its ssh can be reached, from here.
        let network = format!("user,id=n,restrict=on,hostfwd=tcp:127.0.0.1:{}-:22", self.port);
        qemu.args(["-netdev", &network, "-device", "virtio-net-pci,netdev=n"]);
        // Ctrl-C is for us.
        qemu.process_group(0).stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        Ok(qemu.spawn()?)
    }

    fn is_up(&self) -> bool {
        // The exit status distinguishes degraded from running, but both are up. qemu accepts connections from the
        // first moment on.
        let state = self.command(&["systemctl", "is-system-running", "--wait"]).timeout(Duration::from_secs(60)).run();
        state.is_ok_and(|state| matches!(state.line().as_str(), "running" | "degraded"))
    }

    /// Cuts the power: what is not on the disk is lost.
    pub fn cut_power(&self) {
        if let Some(mut qemu) = self.lock().take() {
            let _ = qemu.kill();
            let _ = qemu.wait();
            let _ = fs::remove_file(self.dir().join("pids"));
        }
    }

    /// An orderly shutdown and a boot.
    pub fn reboot(&self) -> Result<()> {
        // The connection may end before the answer.
        let _ = self.ssh(&["systemctl", "poweroff"])?;
        if let Some(qemu) = self.lock().as_mut() {
            poll("the end of a virtual machine", START, || qemu.try_wait().ok().flatten())?;
        }
        self.cut_power();
        self.boot()
    }

    /// Runs a command over ssh, as root. The words are joined by spaces for the remote shell, as ssh does.
    pub fn ssh(&self, argv: &[&str]) -> Result<Run> {
        self.command(argv).run()
    }

    fn command(&self, argv: &[&str]) -> Cmd {
        self.ssh.command(Link::Plain, "root", NAME, argv)
    }

    /// Runs a shell script as root. Panics if it fails; returns its trimmed output.
    #[track_caller]
    pub fn sh(&self, script: &str) -> String {
        let run = self.command(&["sh", "-e"]).input(script).run();
        run.unwrap_or_else(|error| panic!("on '{NAME}': {error:#}")).ok().line()
    }

    /// The value of `GIT_SSH_COMMAND` that reaches it as `vm1`.
    pub fn ssh_command(&self) -> String {
        format!("ssh -F {}", self.ssh_config().display())
    }

    /// For `ssh -F`.
    pub fn ssh_config(&self) -> PathBuf {
        self.ssh.config(Link::Plain)
    }

    /// The last lines of its console.
    pub fn console(&self) -> String {
        let log = fs::read(self.dir().join("console.log")).unwrap_or_default();
        String::from_utf8_lossy(&log[log.len().saturating_sub(4000)..]).into_owned()
    }

    fn dir(&self) -> PathBuf {
        self.slot.dir.join(NAME)
    }

    fn lock(&self) -> MutexGuard<'_, Option<Child>> {
        self.qemu.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Vm {
    fn drop(&mut self) {
        self.cut_power();
        if let Err(error) = self.slot.clear() {
            eprintln!("lab: {error:#}");
        }
    }
}

/// The directory with the disks, the kernel and the keys of virtual machines. It is made if it does not exist (two
/// minutes, 900 MB).
fn ensure_image() -> Result<PathBuf> {
    let base = Base::Bookworm.ensure()?;
    let mut hasher = DefaultHasher::new();
    (RECIPES, PACKAGES, &base).hash(&mut hasher);
    let image = Path::new(CACHE).join(format!("vm-{:08x}", hasher.finish() >> 32));
    let _lock = Lock::wait_for(&Path::new(CACHE).join("vm.lock"))?;
    if !image.exists() {
        eprintln!("lab: building the virtual machine's disk in {}, once", image.display());
        build(&base, &image).context("cannot build the virtual machine's disk")?;
    }
    Ok(image)
}

fn build(base: &Path, image: &Path) -> Result<()> {
    let temporary = image.with_extension("tmp");
    if temporary.exists() {
        super::slot::unmount_below(&temporary)?;
        fs::remove_dir_all(&temporary)?;
    }
    fs::create_dir(&temporary)?;
    let root = temporary.join("root");
    Cmd::new("cp").args(["-a", "--reflink=auto", "--"]).arg(base).arg(&root).check()?;
    // All machines have the same keys, because their disk can't be changed from here.
    let ssh = Ssh::create(&temporary)?;
    host::name(&root, NAME)?;
    ssh.admit(&root)?;
    ssh.know(NAME, &root)?;
    for recipe in RECIPES {
        let recipe = Cmd::new("sh").args(["-c", recipe, "recipe"]).arg(&temporary).args(PACKAGES);
        base::through_proxy(recipe.timeout(Duration::from_secs(1200))).check()?;
    }
    Ok(fs::rename(temporary, image)?)
}

fn copy(from: &Path, into: &Path) -> Result<()> {
    Cmd::new("cp").args(["-a", "--reflink=auto", "--sparse=always", "--"]).arg(from).arg(into).check()?;
    Ok(())
}

/// A port of this computer on which nothing listens, at this moment.
fn free_port() -> Result<u16> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port())
}
