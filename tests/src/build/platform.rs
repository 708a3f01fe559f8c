//! The machines that there are builds for.

use anyhow::{Context as _, Result};

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

    pub fn parse(name: &str) -> Result<Platform> {
        by_name(&Platform::ALL, Platform::name, name)
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

/// A system of operators that helpers are released for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum System {
    LinuxX86_64,
    LinuxAarch64,
    MacosX86_64,
    MacosAarch64,
}

impl System {
    pub const ALL: [System; 4] = [System::LinuxX86_64, System::LinuxAarch64, System::MacosX86_64, System::MacosAarch64];

    pub fn parse(name: &str) -> Result<System> {
        by_name(&System::ALL, System::name, name)
    }

    /// The system's name, which is part of the file names of releases.
    pub fn name(self) -> &'static str {
        match self {
            System::LinuxX86_64 => "linux-x86_64",
            System::LinuxAarch64 => "linux-aarch64",
            System::MacosX86_64 => "macos-x86_64",
            System::MacosAarch64 => "macos-aarch64",
        }
    }

    /// The target of a helper that needs nothing of the system: static on Linux, with nothing but libSystem on macOS.
    pub fn target(self) -> &'static str {
        match self {
            System::LinuxX86_64 => Platform::X86_64.target(),
            System::LinuxAarch64 => Platform::Aarch64.target(),
            System::MacosX86_64 => "x86_64-apple-darwin",
            System::MacosAarch64 => "aarch64-apple-darwin",
        }
    }

    /// The name of the processor in packages of Debian, and in those of RPM. None where neither is used.
    pub fn architecture(self) -> Option<(&'static str, &'static str)> {
        match self {
            System::LinuxX86_64 => Some(("amd64", "x86_64")),
            System::LinuxAarch64 => Some(("arm64", "aarch64")),
            System::MacosX86_64 | System::MacosAarch64 => None,
        }
    }
}

fn by_name<T: Copy>(all: &[T], name_of: fn(T) -> &'static str, name: &str) -> Result<T> {
    let names = || all.iter().map(|one| name_of(*one)).collect::<Vec<_>>().join(", ");
    let found = all.iter().copied().find(|one| name_of(*one) == name);
    found.with_context(|| format!("there is no '{name}', only {}", names()))
}
