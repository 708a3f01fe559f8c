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
use deptool_agent::shared::{build::agent_file_name, seal::seal};

use crate::process::{Cmd, find_program};

mod platform;

pub use platform::{Platform, System};

/// The profile for agents, optimised for size (see the workspace's Cargo.toml).
const AGENT_PROFILE: &str = "agent";

/// The environment variable that names the platform whose agent local roots get, as it is shipped, instead of this
/// computer's in the profile of the tests. See `cargo xtask test --agent`.
pub const AGENT: &str = "DEPTOOL_TEST_AGENT";

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
    let (prefix, agent) = match emulated()? {
        Some(platform) => (dir.join(format!("prefix-{}", platform.name())), agent(platform)?),
        None => (dir.join("prefix-local"), stripped_agent(&dir)?),
    };
    let here = format!("{}-{}", std::env::consts::OS, std::env::consts::ARCH);
    install(&prefix, &dir, &[(agent, here)])?;
    Ok(prefix)
}

/// The platform whose agent local roots get, if it is another one than this computer.
pub fn emulated() -> Result<Option<Platform>> {
    std::env::var(AGENT).ok().map(|name| Platform::parse(&name)).transpose()
}

/// Each local root gets a copy of the agent, and debug information is most of a debug build.
fn stripped_agent(dir: &Path) -> Result<PathBuf> {
    let agent = dir.join("deptool-agent-stripped");
    Cmd::new("strip").arg("-o").arg(&agent).arg(dir.join("deptool-agent")).check()?;
    Ok(agent)
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
    let what = ["-p", "deptool-agent", "--profile", AGENT_PROFILE];
    let target = platform.target();
    match platform {
        Platform::X86_64 | Platform::Aarch64 => {
            ensure_target(target)?;
            reproducible("build", target, &[])?.args(what).inherit()?;
        }
        // rustup has no standard library for these.
        Platform::Armv7 | Platform::Riscv64 => {
            ensure_library_sources()?;
            let build = zigbuild(target)?.arg("-Zbuild-std=std,panic_abort").args(what);
            // The variable permits -Z.
            build.env("RUSTC_BOOTSTRAP", "1").inherit()?;
        }
    }
    Ok(target_dir()?.join(target).join(AGENT_PROFILE).join("deptool-agent"))
}

/// Builds the helper for a release. Returns the directory that has its binaries.
pub fn helper(system: System) -> Result<PathBuf> {
    let target = system.target();
    ensure_target(target)?;
    let build = match system {
        System::LinuxX86_64 | System::LinuxAarch64 => reproducible("build", target, &[])?,
        System::MacosX86_64 | System::MacosAarch64 => zigbuild(target)?,
    };
    build.args(["-p", "git-remote-deptool", "--bins", "--release"]).inherit()?;
    Ok(target_dir()?.join(target).join("release"))
}

/// With zig, which brings a C library and a linker for every platform.
fn zigbuild(target: &str) -> Result<Cmd> {
    if find_program("cargo-zigbuild").is_none() {
        bail!("missing, to build for {target}: cargo-zigbuild and zig (pip install cargo-zigbuild ziglang)");
    }
    // Zig's linker gives a program for macOS an id that is a hash of it with its debug information, which names temporary
    // directories. So debug information is left out here already, though it is stripped from all releases.
    reproducible("zigbuild", target, &["-Clink-arg=-Wl,-S"])
}

/// cargo, building binaries that do not depend on where they are built: the paths of sources in them, which panics
/// name, are replaced. Those of the standard library become what rustc calls them where its sources are not installed.
fn reproducible(task: &str, target: &str, more: &[&str]) -> Result<Cmd> {
    let home = std::env::home_dir().context("there is no home directory")?;
    let crates = std::env::var_os("CARGO_HOME").map_or_else(|| home.join(".cargo"), PathBuf::from);
    let about = rustc(&["-vV"])?;
    let commit = about.lines().find_map(|line| line.strip_prefix("commit-hash: ")).context("rustc names no commit")?;
    // The last one that matches is used: the target directory is usually in the workspace.
    let names = [
        (workspace(), "/deptool".to_owned()),
        (target_dir()?, "/target".to_owned()),
        (crates, "/cargo".to_owned()),
        (library_sources()?, format!("/rustc/{commit}")),
    ];
    let renamed = names.map(|(path, name)| format!("--remap-path-prefix={}={name}", path.display()));
    let flags: Vec<&str> = renamed.iter().map(String::as_str).chain(more.iter().copied()).collect();
    let flags = format!("target.{target}.rustflags={}", serde_json::to_string(&flags)?);
    Ok(cargo_command().args([task, "--config", &flags, "--target", target]))
}

/// Ensures that the sources of Rust's standard library are there.
fn ensure_library_sources() -> Result<()> {
    if library_sources()?.join("library/std").exists() {
        return Ok(());
    }
    if find_program("rustup").is_none() {
        bail!("the sources of Rust's standard library are missing, and there is no rustup to install them with");
    }
    eprintln!("rustup component add rust-src");
    Cmd::new("rustup").dir(workspace()).args(["component", "add", "rust-src"]).inherit()
}

/// Where the sources of Rust's standard library are, if they are installed.
fn library_sources() -> Result<PathBuf> {
    Ok(Path::new(rustc(&["--print", "sysroot"])?.trim_end()).join("lib/rustlib/src/rust"))
}

pub fn rustc(args: &[&str]) -> Result<String> {
    let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    Ok(Cmd::new(rustc).dir(workspace()).args(args).check()?.stdout())
}

/// Puts the helper's binaries of `from` and these agents (with their platforms) under a prefix. The agents are sealed.
pub fn install(prefix: &Path, from: &Path, agents: &[(PathBuf, String)]) -> Result<()> {
    let bin = prefix.join("bin");
    for name in ["git-remote-deptool", "git-deptool"] {
        put(&from.join(name), &bin.join(name), |_| Ok(()))?;
    }
    let dir = prefix.join("lib/deptool/agents");
    if dir.exists() {
        // Agents of other builds are never used again.
        std::fs::remove_dir_all(&dir)?;
    }
    for (agent, platform) in agents {
        put(agent, &dir.join(format!("{}-{platform}", agent_file_name())), |content| Ok(seal(content)?))?;
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
    let dir = rustc(&["--print", "target-libdir", "--target", target])?;
    if Path::new(dir.trim_end()).exists() {
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
