//! The journal: what the running deployment does and how to undo it, durable before the first visible change.
//!
//! The file is empty at rest. During a deployment it holds
//!
//! ```text
//! "deptool journal 1\n"  length (4 bytes, big-endian)  SHA-256 of the record  record (MessagePack)  verdict (16 bytes)
//! ```
//!
//! The verdict is zero until the deployment is kept; it lies within what was allocated before, so that writing it needs
//! no space. A record whose digest does not match was being written when the machine stopped: nothing was changed yet.

use std::{
    fs::{File, OpenOptions},
    io::Write,
    os::unix::fs::FileExt,
    path::PathBuf,
};

use rustix::{fs::FallocateFlags, io::Errno};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::{
    host::{
        deploy::action::Action,
        state::{
            boot, durable,
            error::{Context, HostError, not_understood},
            layout::{Home, read_if_there, remove_if_there},
            ledger::Claims,
        },
    },
    shared::{
        id::{CommitId, DeploymentId},
        messagepack,
        name::{ClusterName, HostName, UnitName},
        outcome::Goal,
    },
};

const MAGIC: &[u8] = b"deptool journal 1\n";
/// Bytes for refs, links and lines in logs.
const RESERVED: u64 = 64 << 10;
/// What to do about a record that nobody can read.
const ADVICE: &str = "what it has begun has to be undone by hand; then empty it";
const GOOD: &[u8; 16] = b"verdict: good  \n";

/// All that is needed to undo a deployment, or to finish it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// The file name of the agent that wrote this; only that one undoes it. The first field, which every build can read.
    pub agent: String,
    pub id: DeploymentId,
    pub host: HostName,
    pub cluster: ClusterName,
    pub from: Option<CommitId>,
    pub to: Goal,
    pub by: String,
    /// Seconds since 1970.
    pub when: i64,
    pub previous: Option<u32>,
    pub generation: u32,
    pub actions: Vec<Action>,
    /// Units that ran when the deployment began.
    pub running: Vec<UnitName>,
    /// The ledger after the deployment.
    pub claims: Claims,
}

/// What the journal says.
pub enum Found {
    /// At rest, or stopped before anything was changed.
    Nothing,
    /// To be undone.
    Open(Box<Record>),
    /// To be finished.
    Good(Box<Record>),
    /// Another build of the agent wrote it and must deal with it.
    Foreign { agent: String },
}

/// An open journal. Ends with [`Journal::keep`] and [`Journal::close`], or with undoing and [`Journal::close`].
#[must_use]
pub struct Journal {
    file: File,
    home: Home,
    verdict_at: u64,
}

impl Journal {
    /// Write `record` durably. From here on the host may be changed.
    ///
    /// What was prepared is durable already.
    pub fn open(home: &Home, record: &Record) -> Result<Journal, HostError> {
        let body = messagepack::to_vec(record).map_err(|error| HostError::Unfit(error.to_string()))?;
        let mut bytes = MAGIC.to_vec();
        bytes.extend((body.len() as u32).to_be_bytes());
        bytes.extend(Sha256::digest(&body));
        bytes.extend(&body);
        let verdict_at = bytes.len() as u64;
        bytes.extend([0; GOOD.len()]);

        let mut written = boot::install(home)?;
        let path = home.journal();
        let mut file =
            OpenOptions::new().read(true).write(true).create(true).truncate(true).open(&path).during("open", &path)?;
        file.write_all(&bytes).during("write", &path)?;
        // The record has the ledger, which is what takes most space afterwards.
        reserve(home, RESERVED + 2 * body.len() as u64)?;
        written.extend([path, reserve_path(home)]);
        durable::sync(home, &written)?;
        Ok(Journal { file, home: home.clone(), verdict_at })
    }

    /// Empty a journal that was not written completely: nothing has happened yet.
    pub fn discard(home: &Home) -> Result<(), HostError> {
        std::fs::write(home.journal(), b"").during("empty", &home.journal())?;
        boot::remove(home)
    }

    /// Look what the last deployment left behind.
    pub fn find(home: &Home) -> Result<(Found, Option<Journal>), HostError> {
        let path = home.journal();
        let Some(bytes) = read_if_there(&path)? else { return Ok((Found::Nothing, None)) };
        let Some((body, verdict_at)) = record_of(&bytes) else { return Ok((Found::Nothing, None)) };
        let agent: String = messagepack::first_field(body).map_err(|error| not_understood(&path, &error, ADVICE))?;
        if agent != crate::shared::build::agent_file_name() {
            return Ok((Found::Foreign { agent }, None));
        }
        let record: Box<Record> =
            messagepack::from_slice(body).map_err(|error| not_understood(&path, &error, ADVICE))?;
        let file = OpenOptions::new().read(true).write(true).open(&path).during("open", &path)?;
        let journal = Journal { file, home: home.clone(), verdict_at };
        let good = bytes.get(verdict_at as usize..) == Some(GOOD);
        Ok((if good { Found::Good(record) } else { Found::Open(record) }, Some(journal)))
    }

    /// The commit point: from here on the deployment is finished, whatever happens.
    pub fn keep(&mut self) -> Result<(), HostError> {
        let path = self.home.journal();
        let written = self.file.write_all_at(GOOD, self.verdict_at).and_then(|()| self.file.sync_data());
        if written.is_err() {
            // Half a verdict must not be found by the next agent while this one is going back.
            let _ = self.revoke();
        }
        written.during("write", &path)
    }

    /// Whether the next agent would finish the deployment.
    pub fn is_kept(&self) -> bool {
        let mut verdict = [0; GOOD.len()];
        // One that can't be read was written, when that was last asked for.
        self.file.read_exact_at(&mut verdict, self.verdict_at).is_err() || verdict == *GOOD
    }

    /// The deployment is not good after all: from here on it is undone, whatever happens.
    pub fn revoke(&mut self) -> Result<(), HostError> {
        let written = self.file.write_all_at(&[0; GOOD.len()], self.verdict_at).and_then(|()| self.file.sync_data());
        written.during("write", &self.home.journal())
    }

    /// The deployment is dealt with, and that is durable: at rest again.
    ///
    /// If this gets lost with the machine, the next agent does once more what can be done twice.
    pub fn close(self) -> Result<(), HostError> {
        let path = self.home.journal();
        self.file.set_len(0).during("empty", &path)?;
        boot::remove(&self.home)
    }
}

fn reserve_path(home: &Home) -> PathBuf {
    home.state().join("reserve.new")
}

/// Take space that undoing or finishing needs, so that a disk that gets full meanwhile is in the way of neither.
fn reserve(home: &Home, size: u64) -> Result<(), HostError> {
    let path = reserve_path(home);
    let file = File::create(&path).during("create", &path)?;
    match rustix::fs::fallocate(&file, FallocateFlags::empty(), 0, size) {
        // Some file systems can't promise any.
        Ok(()) | Err(Errno::OPNOTSUPP) => Ok(()),
        Err(error) => Err(error).during("reserve", &path),
    }
}

/// Give the reserved space back: now it is needed.
pub fn release_reserve(home: &Home) -> Result<(), HostError> {
    remove_if_there(&reserve_path(home))
}

/// The record in the journal's `bytes` and where its verdict is, if it was written completely.
fn record_of(bytes: &[u8]) -> Option<(&[u8], u64)> {
    let rest = bytes.strip_prefix(MAGIC)?;
    let (length, rest) = rest.split_first_chunk::<4>()?;
    let (digest, rest) = rest.split_first_chunk::<32>()?;
    let body = rest.get(..u32::from_be_bytes(*length) as usize)?;
    let whole = Sha256::digest(body).as_slice() == digest;
    whole.then_some((body, (MAGIC.len() + 4 + 32 + body.len()) as u64))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record() -> Record {
        Record {
            agent: crate::shared::build::agent_file_name(),
            id: "0123456789abcdef0123456789abcdef".parse().unwrap(),
            host: HostName::parse(b"web1").unwrap(),
            cluster: ClusterName::parse(b"prod").unwrap(),
            from: None,
            to: Goal::Nothing,
            by: "carol".into(),
            when: 7,
            previous: None,
            generation: 1,
            actions: vec![Action::Switch { from: None, to: 1 }],
            running: vec![],
            claims: Claims::default(),
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
        assert!(matches!(Journal::find(&home).unwrap().0, Found::Nothing));
        let mut journal = Journal::open(&home, &record()).unwrap();
        assert!(matches!(Journal::find(&home).unwrap().0, Found::Open(found) if *found == record()));
        journal.keep().unwrap();
        assert!(matches!(Journal::find(&home).unwrap().0, Found::Good(_)));
        assert!(journal.is_kept());
        journal.revoke().unwrap();
        assert!(!journal.is_kept());
        assert!(matches!(Journal::find(&home).unwrap().0, Found::Open(found) if *found == record()));
        journal.keep().unwrap();
        journal.close().unwrap();
        assert!(matches!(Journal::find(&home).unwrap().0, Found::Nothing));
        assert_eq!(std::fs::metadata(home.journal()).unwrap().len(), 0);
    }

    #[test]
    fn a_record_cut_off_at_any_byte_is_none() {
        let (_directory, home) = home();
        let _journal = Journal::open(&home, &record()).unwrap();
        let whole = std::fs::read(home.journal()).unwrap();
        for cut in 0..whole.len() - GOOD.len() {
            std::fs::write(home.journal(), &whole[..cut]).unwrap();
            assert!(matches!(Journal::find(&home).unwrap().0, Found::Nothing), "{cut}");
        }
    }

    #[test]
    fn the_journal_of_another_build_is_left_to_it() {
        let (_directory, home) = home();
        let other = Record { agent: "deptool-agent-0.0.1-x".into(), ..record() };
        let _journal = Journal::open(&home, &other).unwrap();
        assert!(matches!(Journal::find(&home).unwrap().0, Found::Foreign { agent } if agent == other.agent));
    }
}
