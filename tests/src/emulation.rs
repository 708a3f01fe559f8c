//! Runs programs for other processors like programs for this one, for this process and its descendants alone.
//!
//! The kernel keeps a list of emulators, `binfmt_misc`. Each user namespace can have its own (since Linux 6.7), so the
//! computer's is not changed. In the namespace, root may do what it may do outside to files, but not to the kernel: no
//! file is made immutable there, and no disk mounted.

use std::fs;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};

use crate::build::Platform;
use crate::process::{find_program, poll};

/// Where the kernel takes emulators.
const LIST: &str = "/proc/sys/fs/binfmt_misc";

/// How programs for a platform begin (`Elf32_Ehdr` and `Elf64_Ehdr` in elf(5)) up to `e_machine`, as the kernel wants
/// it: kind of file and mask escaped. `e_type` is 2, or 3 where the program may be loaded anywhere.
fn rule(platform: Platform, emulator: &str) -> String {
    let (class, machine) = match platform {
        Platform::X86_64 => (2, 62),
        Platform::Aarch64 => (2, 183),
        Platform::Armv7 => (1, 40),
        Platform::Riscv64 => (2, 243),
    };
    let magic: [u8; 20] = [0x7f, b'E', b'L', b'F', class, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2, 0, machine, 0];
    let mask: [u8; 20] =
        [255, 255, 255, 255, 255, 255, 255, 0, 255, 255, 255, 255, 255, 255, 255, 255, 254, 255, 255, 255];
    let escaped = |bytes: [u8; 20]| bytes.map(|byte| format!("\\x{byte:02x}")).concat();
    // F: the emulator is opened now, so that it runs in a root without it.
    format!(":{}:M::{}:{}:{emulator}:F", platform.name(), escaped(magic), escaped(mask))
}

/// From here on, this process can run programs for that platform. It must be root, and have no other threads.
pub fn enable(platform: Platform) -> Result<()> {
    let emulator = find_program(platform.emulator()).with_context(|| format!("missing: {}", platform.emulator()))?;
    ensure!(rustix::process::geteuid().is_root(), "only root can run programs for other processors");
    // The users of the namespace are those outside. Only a process outside may say so.
    let maps = "read go && for map in uid_map gid_map; do echo 0 0 4294967295 >/proc/$PPID/$map || exit; done";
    let mut outside = Command::new("sh").args(["-c", maps]).stdin(Stdio::piped()).spawn().context("cannot start sh")?;
    // Threads that read the output of programs may not have ended yet.
    let enter = || unshare(CloneFlags::CLONE_NEWUSER | CloneFlags::CLONE_NEWNS).ok();
    poll("a user namespace", Duration::from_secs(5), enter)?;
    std::io::Write::write_all(&mut outside.stdin.take().context("sh has no input")?, b"go\n")?;
    ensure!(outside.wait()?.success(), "cannot map the users of a namespace");
    let kind = Some("binfmt_misc");
    mount(kind, LIST, kind, MsFlags::empty(), None::<&str>).context("this kernel has one list of emulators for all")?;
    fs::write(format!("{LIST}/register"), rule(platform, &emulator.to_string_lossy())).context("cannot add an emulator")
}
