//! The journal: what a deployment does and how to undo it. It is durable before the first visible change.
//!
//! The file is empty at rest. During a deployment it has this content:
//!
//! ```text
//! "deptool journal 2\n"  agent's file name  "\n"
//! length (4 bytes, big-endian)  SHA-256 of the record  record (postcard)  verdict (16 bytes)
//! ```
//!
//! Every build can read the first two lines. Only the build that wrote the journal reads the rest. The verdict is zero until
//! the deployment is kept. Its bytes are already allocated, so that writing it can't fail on a full disk.
//!
//! A journal that can't be parsed does not count as empty. Either the machine stopped while the journal was written, and
//! nothing was changed yet, or the journal was damaged later. It is kept and told of. Whether the host was left between two
//! states is found by comparing the current generation with the branch: see [`crate::host::state::heal::check_in_step`].

use std::{collections::BTreeSet, fs::File, io::Write, os::unix::fs::FileExt, path::PathBuf};

use rustix::{fs::FallocateFlags, io::Errno};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::{
    host::{
        deploy::action::{Action, UnitJobs},
        state::{
            agents::{self, AgentId},
            boot::BootUnit,
            durable::{self, RECORD, Writing},
            error::{Context, Damage, HostError},
            layout::Home,
            ledger::{Claims, Enablement},
        },
    },
    shared::{
        encoding,
        id::{CommitId, DeploymentId},
        name::{Account, AppName, ClusterName, HostName, UnitName},
        ordered::Ordered as _,
        outcome::{Goal, Mended},
        path::TreePath,
        text::printable,
    },
    system::touched::States,
};

const MAGIC: &[u8] = b"deptool journal 2\n";
/// The beginning of the journals of all builds.
const ANY_MAGIC: &[u8] = b"deptool journal ";
/// The space for refs, links and lines in logs, in bytes.
const RESERVED: u64 = 64 << 10;
const GOOD: &[u8; 16] = b"verdict: good  \n";

/// Everything that is needed to finish or undo a deployment.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// The agent that wrote this. Only this agent finishes or undoes the deployment.
    pub agent: AgentId,
    pub id: DeploymentId,
    pub host: HostName,
    /// What the host's directory is called in the commit that was deployed before.
    pub deployed_from: HostName,
    pub cluster: ClusterName,
    pub from: Option<CommitId>,
    pub to: Goal,
    pub by: String,
    /// Seconds since 1970.
    pub when: i64,
    pub previous: Option<u32>,
    pub generation: u32,
    pub actions: Vec<Action>,
    /// The states of all units before the deployment. Empty if it does not affect units.
    pub before: States,
    /// The enablement of the units that the deployment enables and disables.
    pub enablement: Enablement,
    /// The ledger after the deployment.
    pub claims: Claims,
    /// The drift that it puts right.
    pub mended: Vec<Mended>,
    /// Edited files of apps that must be kept.
    pub kept_files: Vec<KeptFile>,
}

impl Record {
    /// The users whose service managers take part.
    pub fn users(&self) -> BTreeSet<Account> {
        let of_actions = self.actions.iter().flat_map(|action| match action {
            Action::DaemonReload(of) => of.iter().flatten().cloned().collect(),
            _ => {
                let (stops, jobs) = action.on_units();
                let units = stops.iter().chain(jobs.into_iter().flat_map(UnitJobs::units));
                units.filter_map(UnitName::user).collect::<Vec<_>>()
            }
        });
        self.enablement.names.iter().filter_map(UnitName::user).chain(of_actions).into_set()
    }
}

/// A file in a checkout.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct KeptFile {
    pub tree: String,
    pub app: AppName,
    pub file: TreePath,
}

/// The state of the journal.
pub enum Journal {
    /// No deployment is under way.
    AtRest,
    /// A deployment was not kept: it must be undone.
    Open(Box<Record>, Handle),
    /// A deployment is kept: it must be finished.
    Kept(Box<Record>, Handle),
    /// The agent of another build wrote the journal, and must finish or undo the deployment.
    Foreign(AgentId),
    /// The journal can't be parsed.
    Damaged(Damage),
}

/// An open journal. A deployment ends with [`Handle::keep`] and [`Handle::close`], or is undone and ends with
/// [`Handle::close`].
#[must_use]
pub struct Handle {
    file: File,
    home: Home,
    verdict_at: u64,
}

impl Journal {
    /// Write `record`, and sync it with what was `staged` and not synced yet. From here on the host may be changed.
    pub fn open(home: &Home, record: &Record, staged: Vec<PathBuf>) -> Result<Handle, HostError> {
        let bytes = encode(record)?;
        let verdict_at = (bytes.len() - GOOD.len()) as u64;
        let mut written = staged;
        written.extend(BootUnit::Recovery.install(home)?);
        written.extend(agents::keep_own(home)?);
        let path = home.journal();
        let mut file = durable::open_to_write(&path, Writing::Anew)?;
        file.write_all(&bytes).during("write", &path)?;
        // Later writes are mostly copies of the ledger, which is part of the record.
        reserve(home, RESERVED + 2 * bytes.len() as u64)?;
        written.extend([path, reserve_path(home)]);
        durable::sync(home, &written)?;
        Ok(Handle { file, home: home.clone(), verdict_at })
    }

    /// Empty the journal of a deployment that has changed nothing.
    pub fn discard(home: &Home) -> Result<(), HostError> {
        drop(durable::open_to_write(&home.journal(), Writing::Anew)?);
        BootUnit::Recovery.remove(home)
    }

    /// Read the journal.
    pub fn find(home: &Home) -> Result<Journal, HostError> {
        let path = home.journal();
        let bytes = match durable::read(&path, RECORD) {
            Ok(None) => return Ok(Journal::AtRest),
            Ok(Some(bytes)) => bytes,
            Err(HostError::Damaged(damage)) => return Ok(Journal::Damaged(damage)),
            Err(error) => return Err(error),
        };
        let agent = match agent_of(&bytes) {
            Ok(agent) => agent,
            Err(why) => return Ok(Journal::Damaged(Damage::of(&path, why))),
        };
        if agent != AgentId::own() {
            return Ok(Journal::Foreign(agent));
        }
        let (record, verdict_at) = match record_of(&bytes) {
            Ok(found) => found,
            Err(why) => return Ok(Journal::Damaged(Damage::of(&path, why))),
        };
        let handle = Handle { file: durable::open_to_write(&path, Writing::InPlace)?, home: home.clone(), verdict_at };
        Ok(if is_good(&bytes[verdict_at as usize..]) {
            Journal::Kept(record, handle)
        } else {
            Journal::Open(record, handle)
        })
    }

    /// Whether the journal is empty. This does not read it.
    pub fn is_empty(home: &Home) -> Result<bool, HostError> {
        match durable::open(&home.journal()) {
            Ok(None) => Ok(true),
            Ok(Some(file)) => Ok(file.metadata().during("look at", &home.journal())?.len() == 0),
            Err(HostError::Damaged(_)) => Ok(false),
            Err(error) => Err(error),
        }
    }
}

impl Handle {
    /// Write the verdict. This is the commit point: from here on the deployment is kept, even if the agent dies.
    pub fn keep(&mut self) -> Result<(), HostError> {
        let path = self.home.journal();
        let written = self.file.write_all_at(GOOD, self.verdict_at).and_then(|()| self.file.sync_data());
        if written.is_err() {
            // This agent rolls back now. The next agent must not find half a verdict and finish the deployment.
            let _ = self.revoke();
        }
        written.during("write", &path)
    }

    /// Whether the next agent would finish the deployment, by the verdict in the file.
    pub fn is_kept(&self) -> bool {
        let mut verdict = [0; GOOD.len()];
        // If the verdict can't be read, assume that the last write succeeded.
        self.file.read_exact_at(&mut verdict, self.verdict_at).is_err() || is_good(&verdict)
    }

    /// Erase the verdict: from here on the deployment is undone, even if the agent dies.
    pub fn revoke(&mut self) -> Result<(), HostError> {
        let written = self.file.write_all_at(&[0; GOOD.len()], self.verdict_at).and_then(|()| self.file.sync_data());
        written.during("write", &self.home.journal())
    }

    /// Empty the journal: the deployment is finished or undone, and that is durable.
    ///
    /// If a power cut undoes this, the next agent finishes or undoes the deployment again, which is idempotent.
    pub fn close(self) -> Result<(), HostError> {
        let path = self.home.journal();
        self.file.set_len(0).during("empty", &path)?;
        BootUnit::Recovery.remove(&self.home)
    }
}

fn reserve_path(home: &Home) -> PathBuf {
    home.state().join("reserve.new")
}

/// Reserve the space that finishing or undoing needs, in case the disk becomes full meanwhile.
fn reserve(home: &Home, size: u64) -> Result<(), HostError> {
    let path = reserve_path(home);
    let file = durable::create(&path, 0o600)?;
    match rustix::fs::fallocate(&file, FallocateFlags::empty(), 0, size) {
        // Some file systems can't reserve space.
        Ok(()) | Err(Errno::OPNOTSUPP) => Ok(()),
        Err(error) => Err(error).during("reserve", &path),
    }
}

/// Give back the reserved space, because it is needed now.
pub fn release_reserve(home: &Home) -> Result<(), HostError> {
    durable::remove_all(&reserve_path(home))
}

/// Whether the 16 bytes of the verdict say that the deployment is kept. If some were damaged since, the majority counts.
fn is_good(verdict: &[u8]) -> bool {
    let same = verdict.iter().zip(GOOD).filter(|(is, good)| is == good).count();
    2 * same > GOOD.len()
}

/// The content of a journal with `record` and without a verdict.
fn encode(record: &Record) -> Result<Vec<u8>, HostError> {
    let body = encoding::to_vec(record).map_err(|error| HostError::refused(error.to_string()))?;
    let mut bytes = MAGIC.to_vec();
    bytes.extend(record.agent.as_str().as_bytes());
    bytes.push(b'\n');
    bytes.extend((body.len() as u32).to_be_bytes());
    bytes.extend(Sha256::digest(&body));
    bytes.extend(&body);
    bytes.extend([0; GOOD.len()]);
    Ok(bytes)
}

/// The agent that wrote the journal. The error is the rest of a sentence that begins with the path of the journal.
fn agent_of(bytes: &[u8]) -> Result<AgentId, &'static str> {
    let mut lines = bytes.splitn(3, |byte| *byte == b'\n');
    let (first, name) = (lines.next().unwrap_or_default(), lines.next().unwrap_or_default());
    let is_ours = first.starts_with(ANY_MAGIC) && lines.next().is_some();
    let name = String::from_utf8(name.to_vec()).ok().and_then(|name| AgentId::try_from(name).ok());
    name.filter(|_| is_ours).ok_or("was not written by an agent")
}

/// The record in the journal, and the position of its verdict. The error is the rest of a sentence that begins with the path.
fn record_of(bytes: &[u8]) -> Result<(Box<Record>, u64), String> {
    let cut = || "is cut off or was changed".to_owned();
    let whole = || -> Option<(&[u8], &[u8])> {
        let rest = bytes.strip_prefix(MAGIC)?;
        let rest = &rest[rest.iter().position(|byte| *byte == b'\n')? + 1..];
        let (length, rest) = rest.split_first_chunk::<4>()?;
        let (digest, rest) = rest.split_first_chunk::<32>()?;
        let (body, verdict) = rest.split_at_checked(u32::from_be_bytes(*length) as usize)?;
        (Sha256::digest(body).as_slice() == digest).then_some((body, verdict))
    };
    let (body, verdict) = whole().ok_or_else(cut)?;
    if verdict.len() != GOOD.len() {
        return Err(cut());
    }
    let record = encoding::from_slice(body).map_err(|error| printable(error.to_string().as_bytes()))?;
    Ok((record, (bytes.len() - verdict.len()) as u64))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{host::state::ledger::UnitClaim, shared::name::UnitName};

    fn record() -> Record {
        Record {
            agent: AgentId::own(),
            id: "0123456789abcdef0123456789abcdef".parse().unwrap(),
            host: HostName::parse(b"web1").unwrap(),
            deployed_from: HostName::parse(b"web1").unwrap(),
            cluster: ClusterName::parse(b"prod").unwrap(),
            from: None,
            to: Goal::Nothing,
            by: "carol".into(),
            when: 7,
            previous: None,
            generation: 1,
            actions: vec![Action::Switch { from: None, to: 1 }],
            before: States::default(),
            enablement: Enablement::default(),
            claims: Claims::default(),
            mended: vec![],
            kept_files: vec![],
        }
    }

    fn home() -> (tempfile::TempDir, Home) {
        let directory = tempfile::tempdir().unwrap();
        let home = Home::new(directory.path());
        home.create().unwrap();
        (directory, home)
    }

    #[test]
    fn a_record_is_open_until_its_verdict_is_there() {
        let (_directory, home) = home();
        assert!(matches!(Journal::find(&home).unwrap(), Journal::AtRest));
        let mut journal = Journal::open(&home, &record(), Vec::new()).unwrap();
        assert!(matches!(Journal::find(&home).unwrap(), Journal::Open(found, _) if *found == record()));
        journal.keep().unwrap();
        assert!(matches!(Journal::find(&home).unwrap(), Journal::Kept(..)));
        assert!(journal.is_kept());
        journal.revoke().unwrap();
        assert!(!journal.is_kept());
        assert!(matches!(Journal::find(&home).unwrap(), Journal::Open(found, _) if *found == record()));
        journal.keep().unwrap();
        journal.close().unwrap();
        assert!(matches!(Journal::find(&home).unwrap(), Journal::AtRest));
        assert_eq!(std::fs::metadata(home.journal()).unwrap().len(), 0);
    }

    #[test]
    fn a_claim_of_which_some_parts_are_empty_survives_the_journal() {
        let (_directory, home) = home();
        let mut record = record();
        let beside = ["/etc/systemd/system/a.service.d/b.conf".to_owned().try_into().unwrap()].into();
        let claim = UnitClaim { beside, ..UnitClaim::default() };
        record.claims.units.insert(UnitName::parse(b"a.service").unwrap(), claim);
        let _handle = Journal::open(&home, &record, Vec::new()).unwrap();
        assert!(matches!(Journal::find(&home).unwrap(), Journal::Open(found, _) if *found == record));
    }

    #[test]
    fn a_record_cut_off_or_changed_at_any_byte_is_damage() {
        let (_directory, home) = home();
        let _handle = Journal::open(&home, &record(), Vec::new()).unwrap();
        let whole = std::fs::read(home.journal()).unwrap();
        let find = |bytes: &[u8]| {
            std::fs::write(home.journal(), bytes).unwrap();
            Journal::find(&home).unwrap()
        };
        for cut in 1..whole.len() {
            assert!(matches!(find(&whole[..cut]), Journal::Damaged(_)), "{cut}");
        }
        let version = MAGIC.len() - 2..MAGIC.len() + AgentId::own().as_str().len();
        for at in 0..whole.len() {
            let mut changed = whole.clone();
            changed[at] ^= 1;
            match find(&changed) {
                Journal::Damaged(_) => {}
                // This could be the valid journal of another build. The agent of that build will find the damage.
                Journal::Foreign(_) if version.contains(&at) => {}
                // The majority of the verdict is unchanged.
                Journal::Open(found, _) if at >= whole.len() - GOOD.len() => assert_eq!(*found, record()),
                _ => panic!("{at}"),
            }
        }
        assert!(matches!(find(b""), Journal::AtRest));
    }

    #[test]
    fn the_journal_of_another_build_is_left_to_it() {
        let (_directory, home) = home();
        let other = AgentId::try_from("deptool-agent-0.0.1-x".to_owned()).unwrap();
        let _handle = Journal::open(&home, &Record { agent: other.clone(), ..record() }, Vec::new()).unwrap();
        assert!(matches!(Journal::find(&home).unwrap(), Journal::Foreign(agent) if agent == other));
        // The rest of another build's journal may be anything.
        std::fs::write(home.journal(), "deptool journal 17\ndeptool-agent-0.0.1-x\n?").unwrap();
        assert!(matches!(Journal::find(&home).unwrap(), Journal::Foreign(agent) if agent == other));
        std::fs::write(home.journal(), "deptool journal 17\ndeptool-agent-/../x\n?").unwrap();
        assert!(matches!(Journal::find(&home).unwrap(), Journal::Damaged(_)));
    }
}
