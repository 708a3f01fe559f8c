//! One container: systemd-nspawn, its cgroup, its network.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use rustix::process::{Pid, Signal, kill_process};

use super::base::Base;
use crate::process::{Cmd, poll};

const START: Duration = Duration::from_secs(60);

/// What is needed to boot a machine, any number of times.
#[derive(Debug, Clone)]
pub struct Machine {
    /// Unique on this computer, short: see `Slot::machine_name`.
    pub name: String,
    pub hostname: String,
    pub base: Base,
    /// The directory that contains `root`. `console.log` and `pids` are written there.
    pub dir: PathBuf,
    pub our_ip: String,
    pub ip: String,
}

/// A running machine.
#[derive(Debug)]
pub struct Running {
    /// systemd-nspawn itself; None if another process started it (`lab up`).
    nspawn: Option<Child>,
    nspawn_pid: Pid,
    /// The process id of the container's init on this computer.
    pub init: Pid,
}

impl Machine {
    pub fn root(&self) -> PathBuf {
        self.dir.join("root")
    }

    fn pid_file(&self) -> PathBuf {
        self.dir.join("pids")
    }

    /// Starts it, and waits until its ssh answers and its boot is complete.
    pub fn boot(&self) -> Result<Running> {
        let mut nspawn = self.spawn().context("cannot start systemd-nspawn")?;
        let nspawn_pid = Pid::from_child(&nspawn);
        let init = self.wait_for_init(&mut nspawn);
        let init = init.with_context(|| format!("'{}' did not start\n{}", self.hostname, self.console()))?;
        let running = Running { nspawn: Some(nspawn), nspawn_pid, init };
        let pids = format!("{} {}\n", identity(nspawn_pid), identity(init));
        std::fs::write(self.pid_file(), pids)?;
        let up = self.connect(init).and_then(|()| self.wait_for_boot(init));
        if let Err(error) = up {
            let log = self.console();
            running.kill(self);
            return Err(error.context(format!("'{}' did not come up\n{log}", self.hostname)));
        }
        Ok(running)
    }

    fn spawn(&self) -> Result<Child> {
        let log = File::create(self.dir.join("console.log"))?;
        let mut command = Command::new("sh");
        // It has a cgroup of its own, because two containers in one cgroup would manage each other's services. It has a
        // session of its own, because Ctrl-C is for us: we stop the machines in an orderly way.
        let enter = r#"for dir in $CGROUPS; do mkdir -p "$dir" && echo $$ >"$dir/cgroup.procs" || exit 1; done; exec setsid "$@""#;
        command.args(["-c", enter, "sh", "systemd-nspawn"]);
        command
            .env("CGROUPS", self.cgroups().iter().map(|dir| dir.display().to_string()).collect::<Vec<_>>().join(" "));
        command.arg("-D").arg(self.root());
        command.args(["--boot", "--network-veth", "--register=no", "--resolv-conf=off", "--timezone=off"]);
        // Real hosts have these, and podman needs them.
        command.arg("--system-call-filter=@keyring bpf");
        command.args([format!("--machine={}", self.name), format!("--hostname={}", self.hostname)]);
        if !systemd_is_init() {
            command.arg("--keep-unit");
        }
        if self.base == Base::Trixie {
            // Its systemd does not support the legacy hierarchy.
            command.env("SYSTEMD_NSPAWN_UNIFIED_HIERARCHY", "1");
        }
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        Ok(command.spawn()?)
    }

    /// The cgroups for its processes; none if systemd creates a scope for them.
    fn cgroups(&self) -> Vec<PathBuf> {
        if systemd_is_init() {
            return Vec::new();
        }
        cgroup_mounts().into_iter().map(|mount| mount.join(format!("deptool-{}", self.name))).collect()
    }

    /// The init is the child of nspawn that is process 1 in a PID namespace of its own.
    fn wait_for_init(&self, nspawn: &mut Child) -> Result<Pid> {
        let parent = nspawn.id();
        let init = poll("the container's init", START, || {
            if let Ok(Some(status)) = nspawn.try_wait() {
                return Some(Err(anyhow::anyhow!("systemd-nspawn ended with {status}")));
            }
            children(parent).into_iter().find(|pid| is_container_init(*pid)).map(Ok)
        });
        init?
    }

    /// Gives both ends of the link their addresses.
    fn connect(&self, init: Pid) -> Result<()> {
        let link = format!("ve-{}", self.name);
        let inside = |args: &[&str]| {
            let pid = init.as_raw_nonzero().to_string();
            Cmd::new("nsenter").args(["-t", &pid, "-n", "ip"]).args(args).run().is_ok_and(|run| run.success())
        };
        poll("the container's interface", START, || inside(&["link", "set", "host0", "up"]).then_some(()))?;
        Cmd::new("ip").args(["addr", "replace", &format!("{}/30", self.our_ip), "dev", &link]).check()?;
        Cmd::new("ip").args(["link", "set", &link, "up"]).check()?;
        if !inside(&["addr", "replace", &format!("{}/30", self.ip), "dev", "host0"]) {
            bail!("cannot give the container its address");
        }
        Ok(())
    }

    fn wait_for_boot(&self, init: Pid) -> Result<()> {
        let address = format!("{}:22", self.ip).parse()?;
        let answers = || {
            let mut socket = std::net::TcpStream::connect_timeout(&address, Duration::from_secs(1)).ok()?;
            socket.set_read_timeout(Some(Duration::from_secs(5))).ok()?;
            let mut banner = [0; 4];
            std::io::Read::read_exact(&mut socket, &mut banner).ok()?;
            (&banner == b"SSH-").then_some(())
        };
        poll("an answer from sshd", START, answers)?;
        // The exit status distinguishes degraded from running, but both are up.
        let state = enter(init, &["systemctl", "is-system-running", "--wait"]).timeout(START).run()?;
        match state.line().as_str() {
            "running" | "degraded" => Ok(()),
            _ => bail!("{state}"),
        }
    }

    /// The last lines of its console.
    pub fn console(&self) -> String {
        let log = std::fs::read(self.dir.join("console.log")).unwrap_or_default();
        String::from_utf8_lossy(&log[log.len().saturating_sub(4000)..]).into_owned()
    }

    /// The machine that another process booted.
    pub fn attach(&self) -> Result<Running> {
        let [nspawn_pid, init] = recorded(&self.pid_file()).context("this host does not run")?;
        Ok(Running { nspawn: None, nspawn_pid, init })
    }

    /// Removes what a container leaves behind besides processes.
    fn clean_up(&self) {
        let _ = std::fs::remove_file(self.pid_file());
        remove_traces(&self.name);
    }
}

impl Running {
    /// An orderly shutdown with `systemctl poweroff`, or a hard one if that takes too long.
    pub fn power_off(mut self, machine: &Machine) {
        let _ = kill_process(self.nspawn_pid, Signal::TERM);
        if self.wait_for_end().is_err() {
            return self.kill(machine);
        }
        machine.clean_up();
    }

    /// Kills every process at once, as a power failure would. Data in the kernel's cache is not lost, though.
    pub fn kill(mut self, machine: &Machine) {
        let _ = kill_process(self.init, Signal::KILL);
        if self.wait_for_end().is_err() {
            let _ = kill_process(self.nspawn_pid, Signal::KILL);
            let _ = self.wait_for_end();
        }
        machine.clean_up();
    }

    fn wait_for_end(&mut self) -> Result<()> {
        let pid = self.nspawn_pid;
        poll("the end of a container", Duration::from_secs(30), || match &mut self.nspawn {
            Some(child) => child.try_wait().ok().flatten().map(|_| ()),
            None => (!alive(pid)).then_some(()),
        })
    }
}

/// A program inside the container, started without ssh.
pub fn enter(init: Pid, argv: &[&str]) -> Cmd {
    Cmd::new("nsenter")
        .args(["-t", &init.as_raw_nonzero().to_string()])
        .args(["-m", "-u", "-i", "-n", "-p", "--root", "--wd=/", "--"])
        .args(argv)
        .env_clear()
        .env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
        .env("HOME", "/root")
        .env("LANG", "C.UTF-8")
}

/// Stops a machine whose lab was killed before it could do so.
pub fn end_leftover(name: &str, lab_dir: &Path) {
    let Ok(hosts) = std::fs::read_dir(lab_dir) else { return };
    for host in hosts.flatten() {
        for pid in recorded(&host.path().join("pids")).into_iter().flatten() {
            let _ = kill_process(pid, Signal::KILL);
            let _ = poll("the end of a leftover", Duration::from_secs(10), || (!alive(pid)).then_some(()));
        }
    }
    remove_traces(name);
}

fn remove_traces(name: &str) {
    let link = format!("ve-{name}");
    if Path::new("/sys/class/net").join(&link).exists() {
        let _ = Cmd::new("ip").args(["link", "del", &link]).run();
    }
    for mount in cgroup_mounts() {
        remove_cgroup(&mount.join(format!("deptool-{name}")));
    }
    let _ = std::fs::remove_dir(Path::new("/run/systemd/nspawn/propagate").join(name));
}

fn remove_cgroup(dir: &Path) {
    let Ok(entries) = std::fs::read_dir(dir) else { return };
    for entry in entries.flatten().filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())) {
        remove_cgroup(&entry.path());
    }
    let _ = std::fs::remove_dir(dir);
}

/// The cgroup hierarchies in which a container needs a group: the unified one, and systemd's legacy one.
fn cgroup_mounts() -> Vec<PathBuf> {
    let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let wanted = |line: &str| {
        let mut words = line.split(' ').skip(1);
        let (point, kind, options) = (words.next()?, words.next()?, words.next()?);
        let ours = kind == "cgroup2" || (kind == "cgroup" && options.split(',').any(|option| option == "name=systemd"));
        ours.then(|| PathBuf::from(point))
    };
    mounts.lines().filter_map(wanted).collect()
}

fn systemd_is_init() -> bool {
    // /run/systemd/system alone is no evidence: nspawn leaves directories in /run/systemd.
    std::fs::read_to_string("/proc/1/comm").is_ok_and(|name| name.trim() == "systemd")
}

fn children(parent: u32) -> Vec<Pid> {
    let Ok(entries) = std::fs::read_dir("/proc") else { return Vec::new() };
    let pids = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    let ours = pids.filter(|pid| stat(*pid).is_some_and(|stat| stat.parent == parent));
    ours.filter_map(Pid::from_raw).collect()
}

struct Stat {
    state: char,
    parent: u32,
    /// In clock ticks after boot. This distinguishes a process from a later one with the same id.
    started: u64,
}

fn stat(pid: i32) -> Option<Stat> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name, in parentheses, may contain spaces.
    let words: Vec<&str> = text.rsplit_once(") ")?.1.split(' ').collect();
    Some(Stat {
        state: words.first()?.chars().next()?,
        parent: words.get(1)?.parse().ok()?,
        started: words.get(19)?.parse().ok()?,
    })
}

fn alive(pid: Pid) -> bool {
    stat(pid.as_raw_nonzero().get()).is_some_and(|stat| stat.state != 'Z')
}

fn is_container_init(pid: Pid) -> bool {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status", pid = pid.as_raw_nonzero()));
    let status = status.unwrap_or_default();
    let ids = status.lines().find_map(|line| line.strip_prefix("NSpid:")).unwrap_or_default();
    let ids: Vec<&str> = ids.split_whitespace().collect();
    ids.len() > 1 && ids.last() == Some(&"1")
}

/// A process, so that it can be told from a later one with the same id.
pub fn identity(pid: Pid) -> String {
    let started = stat(pid.as_raw_nonzero().get()).map_or(0, |stat| stat.started);
    format!("{}:{started}", pid.as_raw_nonzero())
}

/// The processes in a `pids` file, if the same ones are still running.
fn recorded(file: &Path) -> Option<[Pid; 2]> {
    let text = std::fs::read_to_string(file).ok()?;
    let still_there = |word: &str| {
        let (pid, started) = word.split_once(':')?;
        let pid: i32 = pid.parse().ok()?;
        let same = stat(pid)?.started == started.parse::<u64>().ok()?;
        if same { Pid::from_raw(pid) } else { None }
    };
    let (nspawn, init) = text.trim().split_once(' ')?;
    Some([still_there(nspawn)?, still_there(init)?])
}
