//! Finds the agent for a host's platform among those that are installed with the helper.

use std::{
    collections::BTreeMap,
    fmt, fs, io,
    io::Write,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use deptool_agent::shared::{
    build,
    seal::{self, Seal},
    text::hex,
};
use flate2::{Compression, write::GzEncoder};
use sha2::{Digest, Sha256};

/// A platform that there are agents for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Platform {
    LinuxX86_64,
    LinuxAarch64,
    LinuxArmv7,
    LinuxRiscv64,
}

impl Platform {
    pub const ALL: [Platform; 4] =
        [Platform::LinuxX86_64, Platform::LinuxAarch64, Platform::LinuxArmv7, Platform::LinuxRiscv64];

    /// The platform for the output of `uname -s` and `uname -m`.
    pub fn from_uname(system: &str, machine: &str) -> Option<Self> {
        match (system, machine) {
            ("Linux", "x86_64" | "amd64") => Some(Platform::LinuxX86_64),
            ("Linux", "aarch64" | "arm64") => Some(Platform::LinuxAarch64),
            // A 64-bit processor calls itself armv8l towards 32-bit programs.
            ("Linux", "armv7l" | "armv8l") => Some(Platform::LinuxArmv7),
            ("Linux", "riscv64") => Some(Platform::LinuxRiscv64),
            _ => None,
        }
    }

    /// The platform of this machine.
    pub fn here() -> Option<Self> {
        match (std::env::consts::OS, std::env::consts::ARCH) {
            ("linux", "x86_64") => Some(Platform::LinuxX86_64),
            ("linux", "aarch64") => Some(Platform::LinuxAarch64),
            ("linux", "arm") => Some(Platform::LinuxArmv7),
            ("linux", "riscv64") => Some(Platform::LinuxRiscv64),
            _ => None,
        }
    }

    /// The task that builds and installs its agent.
    fn task(self) -> &'static str {
        match self {
            Platform::LinuxX86_64 | Platform::LinuxAarch64 => "dist --prefix",
            Platform::LinuxArmv7 | Platform::LinuxRiscv64 => "dist --all --prefix",
        }
    }

    /// The value of `e_machine` in the ELF header of programs for this platform.
    fn elf_machine(self) -> u16 {
        match self {
            Platform::LinuxX86_64 => 62,
            Platform::LinuxAarch64 => 183,
            Platform::LinuxArmv7 => 40,
            Platform::LinuxRiscv64 => 243,
        }
    }
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Platform::LinuxX86_64 => "linux-x86_64",
            Platform::LinuxAarch64 => "linux-aarch64",
            Platform::LinuxArmv7 => "linux-armv7",
            Platform::LinuxRiscv64 => "linux-riscv64",
        })
    }
}

/// How an agent is encoded for the upload.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Packing {
    Gzip,
    Plain,
}

impl fmt::Display for Packing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Packing::Gzip => "gzip",
            Packing::Plain => "plain",
        })
    }
}

/// Why there is no agent to upload or to start.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    #[error("no agent for '{system} {machine}'; there are agents for {}", Platform::ALL.map(|p| p.to_string()).join(", "))]
    UnknownPlatform { system: String, machine: String },
    #[error(
        "no agent for {platform} found; in the sources of git-deptool, 'cargo xtask {} {}' installs it (looked for {})",
        platform.task(), prefix.display(), list(looked_for)
    )]
    Missing { platform: Platform, prefix: PathBuf, looked_for: Vec<PathBuf> },
    /// Agents are programs for Linux.
    #[error("a local root needs Linux: 'deptool::/path' can't be deployed to from {system}, only hosts can")]
    NoLocalRoots { system: &'static str },
    #[error("can't read the agent '{}'", path.display())]
    Read { path: PathBuf, source: io::Error },
    /// A part of git-deptool's installation on this machine.
    #[error("the agent '{}' is damaged: install git-deptool again", path.display())]
    Damaged { path: PathBuf },
}

fn list(paths: &[PathBuf]) -> String {
    paths.iter().map(|path| format!("'{}'", path.display())).collect::<Vec<_>>().join(", ")
}

/// An agent, ready to be sent.
#[derive(Debug, PartialEq, Eq)]
pub struct Upload {
    /// The line `deptool-upload …` with its line feed: the number of bytes that follow, the SHA-256 of the decompressed
    /// file, and the encoding.
    pub header: String,
    pub bytes: Arc<[u8]>,
}

impl Upload {
    /// Encode the agent `content`.
    pub fn new(content: Vec<u8>, packing: Packing) -> Self {
        let digest = hex(&Sha256::digest(&content));
        let bytes = match packing {
            Packing::Plain => content,
            Packing::Gzip => gzip(&content),
        };
        Upload { header: format!("deptool-upload {} {digest} {packing}\n", bytes.len()), bytes: bytes.into() }
    }
}

fn gzip(content: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(content).expect("a Vec takes everything");
    encoder.finish().expect("a Vec takes everything")
}

/// Where to search for agents.
#[derive(Debug, Default)]
pub struct Agents {
    /// Directories with files named `deptool-agent-<version>-<build>-<platform>`.
    directories: Vec<PathBuf>,
    /// The directory of the helper.
    bin: Option<PathBuf>,
    /// Agents that were encoded before. A group of hosts needs the same one many times.
    packed: Mutex<BTreeMap<(Platform, Packing), Arc<Upload>>>,
}

impl Agents {
    /// `chosen` is the value of `DEPTOOL_AGENTS`, and `exe` the path of the running program.
    pub fn new(chosen: Option<PathBuf>, exe: Option<&Path>) -> Self {
        let mut directories: Vec<PathBuf> = chosen.into_iter().collect();
        let bin = exe.and_then(Path::parent).map(Path::to_owned);
        if let Some(bin) = &bin {
            directories.push(bin.join("../lib/deptool/agents"));
            directories.push(bin.join("agents"));
        }
        Agents { directories, bin, packed: Mutex::default() }
    }

    /// The agent for a host with this output of `uname`, ready to be sent.
    pub fn for_host(&self, system: &str, machine: &str, packing: Packing) -> Result<Arc<Upload>, AgentError> {
        let platform = Platform::from_uname(system, machine)
            .ok_or_else(|| AgentError::UnknownPlatform { system: system.into(), machine: machine.into() })?;
        let mut packed = self.packed.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(upload) = packed.get(&(platform, packing)) {
            return Ok(upload.clone());
        }
        let upload = Arc::new(Upload::new(self.content(platform)?, packing));
        packed.insert((platform, packing), upload.clone());
        Ok(upload)
    }

    /// The agent to run on this machine, for a local root.
    pub fn for_local_root(&self) -> Result<PathBuf, AgentError> {
        let platform = Platform::here().ok_or(AgentError::NoLocalRoots { system: std::env::consts::OS })?;
        let looked_for: Vec<PathBuf> = self.named(platform).into_iter().chain(self.beside()).collect();
        let found = looked_for.iter().find(|path| path.is_file()).cloned();
        found.ok_or_else(|| self.missing(platform, looked_for))
    }

    fn content(&self, platform: Platform) -> Result<Vec<u8>, AgentError> {
        let mut looked_for = self.named(platform);
        if let Some(path) = looked_for.iter().find(|path| path.is_file()) {
            let content = fs::read(path).map_err(|source| AgentError::Read { path: path.clone(), source })?;
            return match seal::check(&content) {
                Seal::Intact | Seal::Absent => Ok(content),
                Seal::Broken => Err(AgentError::Damaged { path: path.clone() }),
            };
        }
        // The agent that cargo left there may be of another build, or need libraries that hosts do not have.
        if let (Some(path), true) = (self.beside(), Platform::here() == Some(platform)) {
            match fs::read(&path) {
                Ok(content) if is_static_agent(&content, platform, build::BUILD_ID) => return Ok(content),
                _ => looked_for.push(path),
            }
        }
        Err(self.missing(platform, looked_for))
    }

    /// An agent that cargo built or installed next to the helper, for this machine.
    fn beside(&self) -> Option<PathBuf> {
        self.bin.as_ref().map(|bin| bin.join("deptool-agent"))
    }

    /// With the prefix that the helper is installed in, or else the user's own.
    fn missing(&self, platform: Platform, looked_for: Vec<PathBuf>) -> AgentError {
        let bin = self.bin.as_deref().filter(|bin| bin.ends_with("bin"));
        let prefix = bin.and_then(Path::parent).unwrap_or("~/.local".as_ref()).to_owned();
        AgentError::Missing { platform, prefix, looked_for }
    }

    fn named(&self, platform: Platform) -> Vec<PathBuf> {
        let name = format!("{}-{platform}", build::agent_file_name());
        self.directories.iter().map(|directory| directory.join(&name)).collect()
    }
}

/// `EI_DATA` of an ELF program.
const LITTLE_ENDIAN: usize = 1;

/// Whether `content` is a static ELF program for `platform` that was built from the helper's sources.
fn is_static_agent(content: &[u8], platform: Platform, build_id: &str) -> bool {
    let number = |at: usize, size: usize| {
        let bytes = content.get(at..at.checked_add(size)?)?;
        Some(bytes.iter().rev().fold(0usize, |number, byte| number << 8 | usize::from(*byte)))
    };
    // The header of an ELF program, little endian: whether it is for 32 or 64 bits at 4, e_machine at 18. What follows
    // differs: e_phoff, e_phentsize and e_phnum, from elf(5).
    let needs_linker = || -> Option<bool> {
        let (table, size, count) = match content.get(4)? {
            1 => (number(28, 4)?, number(42, 2)?, number(44, 2)?),
            _ => (number(32, 8)?, number(54, 2)?, number(56, 2)?),
        };
        const PT_INTERP: usize = 3;
        let kinds = (0..count).map(|i| number(table.checked_add(i * size)?, 4));
        kinds.collect::<Option<Vec<_>>>().map(|kinds| kinds.contains(&PT_INTERP))
    };
    content.starts_with(b"\x7fELF")
        && number(5, 1) == Some(LITTLE_ENDIAN)
        && number(18, 2) == Some(platform.elf_machine().into())
        && needs_linker() == Some(false)
        && content.windows(build_id.len()).any(|part| part == build_id.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_uname_prints_names_the_platform() {
        for (machine, platform) in [
            ("x86_64", "linux-x86_64"),
            ("amd64", "linux-x86_64"),
            ("arm64", "linux-aarch64"),
            ("armv7l", "linux-armv7"),
            ("armv8l", "linux-armv7"),
            ("riscv64", "linux-riscv64"),
        ] {
            assert_eq!(Platform::from_uname("Linux", machine).unwrap().to_string(), platform);
        }
        assert_eq!(Platform::from_uname("Darwin", "arm64"), None);
        assert_eq!(Platform::from_uname("Linux", "armv6l"), None, "it would need other instructions");
    }

    #[test]
    fn an_unknown_platform_is_refused_with_the_list_of_those_there_are() {
        let error = Agents::default().for_host("Linux", "s390x", Packing::Gzip).unwrap_err();
        let known = "linux-x86_64, linux-aarch64, linux-armv7, linux-riscv64";
        assert_eq!(error.to_string(), format!("no agent for 'Linux s390x'; there are agents for {known}"));
    }

    #[test]
    fn a_missing_agent_is_an_error_that_says_where_it_was_looked_for_and_what_builds_it() {
        let agents = Agents::new(Some("/chosen".into()), Some(Path::new("/x/bin/git-remote-deptool")));
        let error = agents.for_host("Linux", "aarch64", Packing::Gzip).unwrap_err().to_string();
        let name = format!("{}-linux-aarch64", build::agent_file_name());
        for part in [
            "'cargo xtask dist --prefix /x'",
            &format!("/chosen/{name}"),
            &format!("/x/bin/../lib/deptool/agents/{name}"),
        ] {
            assert!(error.contains(part), "{error}");
        }
    }

    #[test]
    fn the_users_directory_of_agents_comes_first_and_an_agent_is_packed_once() {
        let dir = tempfile::tempdir().unwrap();
        let name = format!("{}-linux-x86_64", build::agent_file_name());
        let (chosen, bin) = (dir.path().join("chosen"), dir.path().join("bin"));
        for (place, content) in [(&chosen, "chosen"), (&bin.join("agents"), "other")] {
            fs::create_dir_all(place).unwrap();
            fs::write(place.join(&name), content).unwrap();
        }
        let agents = Agents::new(Some(chosen), Some(&bin.join("git-remote-deptool")));
        let first = agents.for_host("Linux", "amd64", Packing::Plain).unwrap();
        assert_eq!(*first.bytes, *b"chosen");
        assert!(
            first.header.starts_with("deptool-upload 6 ") && first.header.ends_with(" plain\n"),
            "{}",
            first.header
        );
        assert!(Arc::ptr_eq(&first, &agents.for_host("Linux", "x86_64", Packing::Plain).unwrap()));
    }

    #[test]
    fn an_agent_beside_the_helper_is_sent_only_if_static_and_of_this_build() {
        let header = |kind: u8| {
            let mut elf = vec![0; 120];
            elf[..6].copy_from_slice(b"\x7fELF\x02\x01");
            elf[18] = 62;
            elf[32] = 64;
            elf[54] = 56;
            elf[56] = 1;
            elf[64] = kind;
            elf
        };
        let with_id = |mut elf: Vec<u8>| {
            elf.extend_from_slice(b"0123456789abcdef");
            elf
        };
        let check = |elf: &[u8]| is_static_agent(elf, Platform::LinuxX86_64, "0123456789abcdef");
        assert!(check(&with_id(header(1))));
        assert!(!check(&with_id(header(3))), "it needs a dynamic linker");
        assert!(!check(&header(1)), "another build");
        assert!(!is_static_agent(&with_id(header(1)), Platform::LinuxAarch64, "0123456789abcdef"));
        for cut in 0..70 {
            assert!(!check(&header(1)[..cut]));
        }
    }
}
