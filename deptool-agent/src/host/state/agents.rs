//! The agents in `bin/`: those that deployed last, and the agent of the deployment that is under way.
//!
//! Only the agent that wrote a journal can undo it. For a local root the agent can be started from anywhere, and may be gone
//! when it is needed. So it is copied to `bin/` before its first journal is opened.

use std::{
    collections::BTreeSet,
    fs, io,
    os::unix::fs::{MetadataExt, PermissionsExt},
    path::{Path, PathBuf},
};

use rustix::fs::{AtFlags, CWD, Timespec, Timestamps, UTIME_NOW, utimensat};
use serde::{Deserialize, Serialize};

use crate::{
    host::state::{
        durable,
        error::{Context, HostError},
        layout::{Home, make_directory, names},
    },
    shared::{
        name::LONGEST_NAME,
        seal::{self, Seal},
        text::printable,
    },
};

/// How many agents are kept.
const KEPT: usize = 3;
/// The present, for [`utimensat`].
const NOW: Timespec = Timespec { tv_sec: 0, tv_nsec: UTIME_NOW };
/// The end of the name of a copy that is not finished.
const UNFINISHED: &str = ".new";
/// The program of this process. Unit tests have a large one, which no journal needs.
const SELF: &str = if cfg!(test) { "/dev/null" } else { "/proc/self/exe" };

/// The file name of an agent: `deptool-agent-<version>-<build>`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct AgentId(String);

/// The text is not the file name of an agent.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("'{}' is not the name of an agent", printable(.0.as_bytes()))]
pub struct AgentIdError(String);

impl AgentId {
    /// The file name of this agent.
    pub fn own() -> AgentId {
        AgentId(crate::shared::build::agent_file_name())
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for AgentId {
    type Error = AgentIdError;

    fn try_from(name: String) -> Result<Self, AgentIdError> {
        let is_fit = |byte: u8| byte.is_ascii_alphanumeric() || b"-.+".contains(&byte);
        match name.starts_with("deptool-agent-") && name.len() <= LONGEST_NAME && name.bytes().all(is_fit) {
            true => Ok(AgentId(name)),
            false => Err(AgentIdError(name)),
        }
    }
}

impl From<AgentId> for String {
    fn from(id: AgentId) -> String {
        id.0
    }
}

impl std::fmt::Display for AgentId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

/// Put this agent into `bin/` unless it is there and intact. Returns the path to sync, if it was written.
pub fn keep_own(home: &Home) -> Result<Option<PathBuf>, HostError> {
    let path = home.bin().join(AgentId::own().as_str());
    if is_own(&path) {
        return Ok(None);
    }
    make_directory(&home.bin(), 0o755)?;
    durable::remove_all(&path)?;
    let temporary = home.bin().join(format!("{}{UNFINISHED}", AgentId::own()));
    copy_own(&temporary)?;
    fs::rename(&temporary, &path).during("replace", &path)?;
    Ok(Some(path))
}

/// Whether a file is that of this process, which was intact when it started, or an intact copy of it.
fn is_own(path: &Path) -> bool {
    let id = |meta: &fs::Metadata| (meta.dev(), meta.ino());
    let Ok(meta) = fs::symlink_metadata(path) else { return false };
    if !meta.is_file() || meta.permissions().mode() & 0o111 != 0o111 {
        return false;
    }
    let is_same = fs::metadata(SELF).is_ok_and(|own| id(&own) == id(&meta));
    is_same || fs::File::open(path).and_then(seal::check_own).is_ok_and(|seal| seal != Seal::Broken)
}

fn copy_own(to: &Path) -> Result<(), HostError> {
    let mut program = fs::File::open(SELF).during("open", Path::new(SELF))?;
    let mut copy = durable::create(to, 0o700)?;
    io::copy(&mut program, &mut copy).during("write", to)?;
    copy.set_permissions(fs::Permissions::from_mode(0o755)).during("change the mode of", to)
}

/// Remove unfinished copies of agents from a local root. On other hosts, an operator may be writing one now.
pub fn tidy(home: &Home) -> Result<(), HostError> {
    if home.is_live() {
        return Ok(());
    }
    for name in names(&home.bin())?.iter().filter(|name| name.ends_with(UNFINISHED)) {
        durable::remove(&home.bin().join(name))?;
    }
    Ok(())
}

/// Remove all agents but those that deployed last, by modification time. Never removes the agent that is running.
pub fn prune(home: &Home, running: &AgentId) -> Result<(), HostError> {
    let bin = home.bin();
    let mut agents = BTreeSet::new();
    for name in names(&bin)? {
        let path = bin.join(&name);
        if name == running.as_str() {
            // Other agents see by this time that it was used last.
            let now = Timestamps { last_access: NOW, last_modification: NOW };
            utimensat(CWD, &path, &now, AtFlags::SYMLINK_NOFOLLOW).during("set the time of", &path)?;
        }
        let meta = fs::symlink_metadata(&path).during("look at", &path)?;
        if name.starts_with("deptool-agent-") && name != running.as_str() && meta.is_file() {
            agents.insert((meta.modified().during("look at", &path)?, path));
        }
    }
    for (_, path) in agents.into_iter().rev().skip(KEPT - 1) {
        durable::remove(&path)?;
    }
    Ok(())
}
