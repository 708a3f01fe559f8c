//! The binaries under test, built from the current sources.
//!
//! Cargo only builds the binaries of a test's own package. Without this module, the tests would run stale binaries of
//! the helper and the agent.
//!
//! The binaries are installed below a *prefix* with the layout of `cargo xtask dist`, so that the helper finds its
//! agents as it does for a user:
//!
//! ```text
//! bin/git-remote-deptool   bin/git-deptool   lib/deptool/agents/deptool-agent-<version>-<build>-linux-x86_64
//! ```

use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use anyhow::{Context as _, Result, bail};
use deptool_agent::shared::seal::seal;

use crate::process::{Cmd, find_program};

/// The profile for agents, optimised for size (see the workspace's Cargo.toml).
const AGENT_PROFILE: &str = "agent";

/// How rustc leaves linking to zig; the rest as in `.cargo/config.toml`.
const ZIG_FLAGS: &str = "-Clink-self-contained=no -Clinker-flavor=gcc -Cllvm-args=-enable-machine-outliner=always \
    --cfg=chacha20_backend=\"soft\" --cfg=poly1305_backend=\"soft\" --cfg=sha2_backend=\"soft\" \
    --cfg=sha2_backend_soft=\"compact\"";

/// A platform that agents are built for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Platform {
    X86_64,
    Aarch64,
    Armv7,
    Riscv64,
}

impl Platform {
    pub const ALL: [Platform; 4] = [Platform::X86_64, Platform::Aarch64, Platform::Armv7, Platform::Riscv64];
    /// Those that need nothing but what rustup has.
    pub const USUAL: [Platform; 2] = [Platform::X86_64, Platform::Aarch64];

    /// The platform of this computer, which the hosts of the lab share. On macOS, it is that of a Linux machine with
    /// the same processor.
    pub fn here() -> Platform {
        if cfg!(target_arch = "aarch64") { Platform::Aarch64 } else { Platform::X86_64 }
    }

    /// The platform's name, which is part of the file names of agents.
    pub fn name(self) -> &'static str {
        match self {
            Platform::X86_64 => "linux-x86_64",
            Platform::Aarch64 => "linux-aarch64",
            Platform::Armv7 => "linux-armv7",
            Platform::Riscv64 => "linux-riscv64",
        }
    }

    pub fn target(self) -> &'static str {
        match self {
            Platform::X86_64 => "x86_64-unknown-linux-musl",
            Platform::Aarch64 => "aarch64-unknown-linux-musl",
            Platform::Armv7 => "armv7-unknown-linux-musleabihf",
            Platform::Riscv64 => "riscv64gc-unknown-linux-musl",
        }
    }

    /// The program that runs programs for this platform on another one, with one local process for each of theirs.
    pub fn emulator(self) -> &'static str {
        match self {
            Platform::X86_64 => "qemu-x86_64-static",
            Platform::Aarch64 => "qemu-aarch64-static",
            Platform::Armv7 => "qemu-arm-static",
            Platform::Riscv64 => "qemu-riscv64-static",
        }
    }
}

/// The prefix for local roots: the helper and an agent for this machine, both in the profile of this test. Built once
/// per process.
pub fn local() -> &'static Path {
    static PREFIX: OnceLock<PathBuf> = OnceLock::new();
    PREFIX.get_or_init(|| make_local().unwrap_or_else(|error| panic!("cannot build what is to be tested: {error:#}")))
}

/// The prefix for the lab's hosts: the helper in the profile of this test, and the agent as it is shipped. Built once
/// per process.
pub fn lab() -> &'static Path {
    static PREFIX: OnceLock<PathBuf> = OnceLock::new();
    PREFIX.get_or_init(|| make_lab().unwrap_or_else(|error| panic!("cannot build what is to be tested: {error:#}")))
}

fn make_local() -> Result<PathBuf> {
    let dir = build_here()?;
    let prefix = dir.join("prefix-local");
    let platform = format!("{}-{}", std::env::consts::OS, std::env::consts::ARCH);
    // Each local root gets a copy, so it matters that debug information is most of a debug build.
    let agent = dir.join("deptool-agent-stripped");
    Cmd::new("strip").arg("-o").arg(&agent).arg(dir.join("deptool-agent")).check()?;
    install(&prefix, &dir, &[(agent, platform)])?;
    Ok(prefix)
}

fn make_lab() -> Result<PathBuf> {
    let dir = build_here()?;
    let prefix = dir.join("prefix-lab");
    let platform = Platform::here();
    install(&prefix, &dir, &[(agent(platform)?, platform.name().to_owned())])?;
    Ok(prefix)
}

/// Builds for this computer in the profile of this build. Returns the directory that has the binaries.
fn build_here() -> Result<PathBuf> {
    let dir = profile_dir()?;
    let profile = if dir.ends_with("release") { "--release" } else { "--profile=dev" };
    cargo(&["build", "--quiet", profile, "-p", "git-remote-deptool", "-p", "deptool-agent", "--bins"])?;
    Ok(dir)
}

/// Builds the agent for a platform, on its own: in one build with the helper, cargo would enable the helper's features
/// of shared dependencies, which makes the agent larger.
pub fn agent(platform: Platform) -> Result<PathBuf> {
    match platform {
        Platform::X86_64 | Platform::Aarch64 => {
            ensure_target(platform.target())?;
            cargo(&["build", "-p", "deptool-agent", "--profile", AGENT_PROFILE, "--target", platform.target()])?;
        }
        Platform::Armv7 | Platform::Riscv64 => agent_with_zig(platform)?,
    }
    Ok(target_dir()?.join(platform.target()).join(AGENT_PROFILE).join("deptool-agent"))
}

/// Builds the agent for a platform whose standard library can't be had from rustup: with the library's sources, and zig,
/// which brings a C library and a linker for every platform.
fn agent_with_zig(platform: Platform) -> Result<()> {
    if find_program("cargo-zigbuild").is_none() {
        bail!(
            "missing, for the agent for {}: cargo-zigbuild and zig (pip install cargo-zigbuild ziglang)",
            platform.name()
        );
    }
    let library = Path::new(&sysroot()?).join("lib/rustlib/src/rust/library/std");
    if !library.exists() {
        if find_program("rustup").is_none() {
            bail!("missing, for the agent for {}: the sources of Rust's standard library", platform.name());
        }
        eprintln!("rustup component add rust-src");
        Cmd::new("rustup").dir(workspace()).args(["component", "add", "rust-src"]).inherit()?;
    }
    let build = cargo_command().args(["zigbuild", "-Zbuild-std=std,panic_abort", "-p", "deptool-agent"]);
    let build = build.args(["--profile", AGENT_PROFILE, "--target", platform.target()]);
    // The first variable permits -Z. zig, not rustc, knows where this platform's C library is.
    build.env("RUSTC_BOOTSTRAP", "1").env("RUSTFLAGS", ZIG_FLAGS).inherit()
}

fn sysroot() -> Result<String> {
    let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    Ok(Cmd::new(rustc).dir(workspace()).args(["--print", "sysroot"]).check()?.line())
}

/// Puts the helper's binaries of `from` and these agents (with their platforms) under a prefix. The agents are sealed.
pub fn install(prefix: &Path, from: &Path, agents: &[(PathBuf, String)]) -> Result<()> {
    let bin = prefix.join("bin");
    for name in ["git-remote-deptool", "git-deptool"] {
        put(&from.join(name), &bin.join(name), |_| Ok(()))?;
    }
    let version = Version::of(&bin.join("git-remote-deptool"))?;
    let dir = prefix.join("lib/deptool/agents");
    if dir.exists() {
        // Agents of other builds are never used again.
        std::fs::remove_dir_all(&dir)?;
    }
    for (agent, platform) in agents {
        let name = format!("deptool-agent-{}-{}-{platform}", version.version, version.build);
        put(agent, &dir.join(name), |content| Ok(seal(content)?))?;
    }
    Ok(())
}

/// Replaces a file by renaming a changed copy, since another process may be running the old one.
fn put(from: &Path, to: &Path, change: impl FnOnce(&mut [u8]) -> Result<()>) -> Result<()> {
    let dir = to.parent().context("no directory")?;
    std::fs::create_dir_all(dir).with_context(|| format!("cannot create {}", dir.display()))?;
    let temporary = tempfile::Builder::new().prefix(".new-").tempfile_in(dir)?.into_temp_path();
    let mut content = std::fs::read(from).with_context(|| format!("cannot read {}", from.display()))?;
    change(&mut content).with_context(|| format!("cannot install {}", from.display()))?;
    std::fs::write(&temporary, content).with_context(|| format!("cannot write {}", temporary.display()))?;
    std::fs::set_permissions(&temporary, std::fs::metadata(from)?.permissions())?;
    temporary.persist(to).with_context(|| format!("cannot write {}", to.display()))?;
    Ok(())
}

/// The version that a binary prints: `git-remote-deptool 0.1.0 (build 0123456789abcdef)`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Version {
    pub version: String,
    pub build: String,
}

impl Version {
    pub fn of(binary: &Path) -> Result<Version> {
        let run = Cmd::new(binary).arg("--version").check()?;
        let line = run.line();
        Version::parse(&line).with_context(|| format!("'{} --version' says '{line}'", binary.display()))
    }

    fn parse(line: &str) -> Option<Version> {
        let (name_and_version, build) = line.strip_suffix(')')?.split_once(" (build ")?;
        let (_, version) = name_and_version.split_once(' ')?;
        Some(Version { version: version.to_owned(), build: build.to_owned() })
    }
}

/// Runs cargo on this workspace, in the target directory of this build.
pub fn cargo(args: &[&str]) -> Result<()> {
    cargo_command().args(args).inherit()
}

/// cargo, without arguments.
pub fn cargo_command() -> Cmd {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let command = Cmd::new(cargo).dir(workspace());
    match target_dir() {
        Ok(dir) => command.env("CARGO_TARGET_DIR", dir),
        Err(_) => command,
    }
}

/// Ensures that Rust can build for a target, and installs it if rustup can.
fn ensure_target(target: &str) -> Result<()> {
    let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let dir = Cmd::new(rustc).dir(workspace()).args(["--print", "target-libdir", "--target", target]).check()?.line();
    if Path::new(&dir).exists() {
        return Ok(());
    }
    if find_program("rustup").is_none() {
        bail!("Rust's standard library for {target} is missing, and there is no rustup to install it with");
    }
    eprintln!("rustup target add {target}");
    Cmd::new("rustup").dir(workspace()).args(["target", "add", target]).inherit()
}

/// The root of the workspace.
pub fn workspace() -> PathBuf {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR"));
    tests.parent().unwrap_or(tests).to_owned()
}

/// The directory of this build's binaries: `target/debug`, say.
pub fn profile_dir() -> Result<PathBuf> {
    let me = std::env::current_exe().context("cannot find this program")?;
    let dir = me.parent().context("this program is in no directory")?;
    Ok(if dir.ends_with("deps") { dir.parent().unwrap_or(dir) } else { dir }.to_owned())
}

/// The directory that holds all that is built.
pub fn target_dir() -> Result<PathBuf> {
    let dir = profile_dir()?;
    Ok(dir.parent().context("no target directory")?.to_owned())
}

/// The xtask binary, which is also the relay and other programs that tests run.
pub fn xtask() -> Result<PathBuf> {
    Ok(profile_dir()?.join("xtask"))
}

#[cfg(test)]
mod tests {
    use super::Version;

    #[test]
    fn a_version_line_is_taken_apart() {
        let version = Version::parse("git-remote-deptool 0.1.0 (build 0123456789abcdef)").unwrap();
        assert_eq!((version.version.as_str(), version.build.as_str()), ("0.1.0", "0123456789abcdef"));
        assert_eq!(Version::parse("git-remote-deptool 0.1.0"), None);
        assert_eq!(Version::parse(""), None);
    }
}
