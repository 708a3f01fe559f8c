//! One connection: the first line, hello, then what the helper asks.

use std::{
    fs,
    io::{self, Write},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use super::{
    attempts,
    deploy::{deploy, deployed, load_tree, now, sync_outside},
    drift, finish,
    home::{Context, Home, HostError, read_if_there, sync_file_system},
    journal::{Found, Journal},
    lock::{HostLock, Taken},
    peer::{Incoming, Peer},
    prepare::earlier,
    store::Store,
    undo::undo,
};
use crate::{
    build::{BUILD_ID, VERSION},
    frame::CHUNK,
    id::{BlobId, CommitId},
    outcome::{AttemptResult, Phase},
    system::System,
    wire::{Bytes, Hello, Holder, Request, Response},
};

/// The longest first line that a helper sends.
const LINE: usize = 128;
/// How many attempts are told at most.
const ATTEMPTS: u32 = 1000;
/// Recovery waits this long for each batch of units.
const LIMIT: std::time::Duration = std::time::Duration::from_secs(90);

/// Makes the machine's service manager. A function, because a connection to it does not survive a fork.
pub type MakeSystem<'a> = dyn Fn() -> Box<dyn System> + 'a;

/// Runs a deployment out of the login session's reach, and returns when it has ended.
pub type Detach<'a> = dyn Fn(&mut dyn FnMut()) -> io::Result<()> + 'a;

/// Serve one connection to its end.
pub fn serve(home: &Home, peer: &mut Peer, system: &MakeSystem<'_>, detach: &Detach<'_>) {
    peer.send_bytes(format!("deptool-agent {VERSION} {BUILD_ID}\n").as_bytes());
    let hello = match greet(home, &mut *system()) {
        Ok(hello) => hello,
        Err(error) => return peer.send(&Response::Error(error.to_string())),
    };
    peer.send(&Response::Hello(Box::new(hello)));
    match peer.receive_line(LINE) {
        Ok(line) if line == format!("deptool-hello {BUILD_ID}").as_bytes() => {}
        Ok(_) => return peer.send(&Response::Error("helper and agent are of different builds".into())),
        // The install line starts an agent without knowing whether anybody still listens.
        Err(_) => return,
    }
    loop {
        let result = match peer.receive() {
            Incoming::Request(Request::Deploy(request)) => {
                let mut run = || deploy(home, &request, peer, &mut *system());
                // The child that has deployed may have read what comes next: a connection ends with its deployment.
                return detach(&mut run).unwrap_or_else(|error| {
                    peer.send(&Response::Error(format!("cannot leave the login session: {error}")));
                });
            }
            Incoming::Request(Request::Export { want, have }) => export(home, peer, want, &have),
            Incoming::Request(Request::ExportBlob(id)) => export_blob(home, peer, id),
            Incoming::Request(Request::Attempts { most }) => {
                attempts::latest(home, most.min(ATTEMPTS) as usize).map(|list| peer.send(&Response::Attempts(list)))
            }
            Incoming::Request(Request::Verify) => {
                drift::look(home, &mut *system()).map(|found| peer.send(&Response::Drift(found)))
            }
            Incoming::Request(_) => Err(HostError::Unfit("a message came out of order".into())),
            Incoming::Broken(error) => Err(HostError::Unfit(error.to_string())),
            Incoming::Silence | Incoming::End => return,
        };
        if let Err(error) = result {
            return peer.send(&Response::Error(error.to_string()));
        }
    }
}

/// Mend what an earlier agent left, then say what is here.
fn greet(home: &Home, system: &mut dyn System) -> Result<Hello, HostError> {
    home.check_ownership()?;
    let (recovered, busy) = match recover(home, system)? {
        Recovery::Nothing => (None, None),
        Recovery::Busy(holder) => (None, Some(holder)),
        Recovery::Done(what) => (Some(what), None),
    };
    let deployed = deployed(home)?;
    let last_attempt = attempts::latest(home, 1)?.into_iter().next();
    // At first contact over ssh our directory is there, with the agent in it.
    if home.state().exists() {
        make_instance(home)?;
    }
    let instance = instance(home)?;
    Ok(Hello { instance, deployed, last_attempt, recovered, broken: Vec::new(), busy })
}

/// This host's own id. Empty in a root directory that nothing was ever deployed to.
fn instance(home: &Home) -> Result<String, HostError> {
    let bytes = read_if_there(&home.instance())?.unwrap_or_default();
    Ok(crate::text::printable(&bytes))
}

/// Make the id if there is none: the first to write it, of several agents, decides.
pub fn make_instance(home: &Home) -> Result<(), HostError> {
    if read_if_there(&home.instance())?.is_some() {
        return Ok(());
    }
    let bytes: [u8; 16] = crate::id::random_bytes().during("read", Path::new("/dev/urandom"))?;
    let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    let path = home.instance();
    let temporary = home.state().join(format!("instance.{}", std::process::id()));
    fs::write(&temporary, hex).during("write", &temporary)?;
    let made = match fs::hard_link(&temporary, &path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        result => result.during("write", &path),
    };
    fs::remove_file(&temporary).during("remove", &temporary)?;
    made
}

enum Recovery {
    Nothing,
    /// Somebody is at work, so there is nothing to recover.
    Busy(Holder),
    Done(String),
}

/// Undo or finish what the journal holds, under the lock.
fn recover(home: &Home, system: &mut dyn System) -> Result<Recovery, HostError> {
    if !home.state().exists() {
        return Ok(Recovery::Nothing);
    }
    let holder = Holder { id: None, by: "recovery".into(), phase: Phase::RollingBack, since: now() };
    let is_clean = |path: &Path| Ok::<_, HostError>(read_if_there(path)?.is_none_or(|text| text.is_empty()));
    if is_clean(&home.journal())? && is_clean(&home.lock())? {
        // At rest. Without taking the lock, or who only asks would get in the way of somebody who deploys.
        return Ok(Recovery::Nothing);
    }
    let lock = match HostLock::take(home, holder)? {
        Taken::Lock(lock) => lock,
        Taken::Busy(holder) => return Ok(Recovery::Busy(holder)),
    };
    match Journal::find(home)? {
        (Found::Nothing, _) | (_, None) => {
            Journal::discard(home)?;
            finish::tidy(home)?;
            lock.leave();
            Ok(Recovery::Nothing)
        }
        (Found::Foreign { agent }, _) => {
            drop(lock);
            run_other_agent(home, &agent)
        }
        (Found::Good(record), Some(journal)) => {
            let mut store = Store::open_or_init(&home.store())?;
            finish::finish(home, &record, &mut store)?;
            finish::tidy(home)?;
            finish::rest(home, &record, &mut store, journal)?;
            lock.leave();
            Ok(Recovery::Done("an interrupted deployment was good, and was finished".into()))
        }
        (Found::Open(record), Some(journal)) => {
            if system.is_stopping() {
                return Err(HostError::Unfit("the host is shutting down in the middle of a deployment".into()));
            }
            let errors = undo(home, &record, system, LIMIT, &mut || {});
            if !errors.is_empty() {
                let errors = errors.join("; ");
                return Err(HostError::Unfit(format!("an interrupted deployment could not be undone: {errors}")));
            }
            attempts::record(home, &finish::attempt_of(&record, AttemptResult::Interrupted))?;
            finish::tidy(home)?;
            sync_outside(home)?;
            sync_file_system(home.state())?;
            journal.close()?;
            lock.leave();
            Ok(Recovery::Done(format!("an interrupted deployment by {} was undone", record.by)))
        }
    }
}

/// Let the agent that wrote the journal deal with it: it recovers, and ends at the end of its input.
fn run_other_agent(home: &Home, name: &str) -> Result<Recovery, HostError> {
    let is_safe = name.starts_with("deptool-agent-") && !name.contains('/');
    let path = home.bin().join(name);
    if !is_safe || !path.exists() {
        let name = crate::text::printable(name.as_bytes());
        return Err(HostError::Unfit(format!(
            "an interrupted deployment can only be undone by '{name}', which is gone"
        )));
    }
    let mut command = Command::new(&path);
    if !home.is_live() {
        command.env("DEPTOOL_ROOT", home.root());
    }
    let status = command.stdin(Stdio::null()).stdout(Stdio::null()).status().during("run", &path)?;
    match Journal::find(home)?.0 {
        Found::Nothing => {
            Ok(Recovery::Done("an interrupted deployment was dealt with by the agent that began it".into()))
        }
        _ => Err(HostError::Unfit(format!("'{name}' could not undo an interrupted deployment: {status}"))),
    }
}

/// Send what the helper lacks of `want` and its history.
fn export(home: &Home, peer: &mut Peer, want: CommitId, have: &[CommitId]) -> Result<(), HostError> {
    let store = Store::open_to_read(&home.store())?;
    let store = store.ok_or_else(|| HostError::Unfit("nothing was ever deployed here".into()))?;
    let Some(deployed) = deployed(home)? else {
        return Err(HostError::Unfit("nothing is deployed here".into()));
    };
    let mut out = io::BufWriter::with_capacity(CHUNK, Chunks { peer });
    store.export_pack(&want, have, &deployed.host, &mut out)?;
    out.flush().during("send", &home.store())?;
    drop(out);
    peer.send(&Response::End);
    Ok(())
}

/// Send a large blob from what is checked out.
fn export_blob(home: &Home, peer: &mut Peer, id: BlobId) -> Result<(), HostError> {
    let Some(path) = checked_out(home, id)? else {
        peer.send(&Response::Blob { size: None });
        return Ok(());
    };
    let file = fs::File::open(&path).during("open", &path)?;
    let size = file.metadata().during("look at", &path)?.len();
    peer.send(&Response::Blob { size: Some(size) });
    let mut out = io::BufWriter::with_capacity(CHUNK, Chunks { peer });
    io::copy(&mut io::Read::take(file, size), &mut out).and_then(|_| out.flush()).during("send", &path)
}

/// A file with the content `id` in the generation that runs.
fn checked_out(home: &Home, id: BlobId) -> Result<Option<PathBuf>, HostError> {
    let store = Store::open_to_read(&home.store())?;
    let number = home.linked_generation(&home.current())?;
    let (Some(store), Some(deployed), Some(number)) = (store, deployed(home)?, number) else { return Ok(None) };
    let tree =
        load_tree(&store, &deployed.host, deployed.commit).map_err(|error| HostError::Unfit(error.to_string()))?;
    Ok(earlier(home, Some(number), &tree).iter().find_map(|earlier| earlier.file_with(id)))
}

/// Sends what is written to it as data messages.
struct Chunks<'a> {
    peer: &'a mut Peer,
}

impl Write for Chunks<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = bytes.len().min(CHUNK);
        self.peer.send(&Response::Data(Bytes(bytes[..count].to_vec())));
        if self.peer.is_lost() { Err(io::ErrorKind::BrokenPipe.into()) } else { Ok(count) }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
