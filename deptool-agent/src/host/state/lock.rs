//! The host lock: one deployment at a time. It is a file lock, so it never has to be removed by hand.

use std::{
    fs::{self, File},
    io::{self, Read, Seek, SeekFrom, Write},
    os::unix::fs::MetadataExt,
    thread,
    time::{Duration, Instant},
};

use rustix::{
    fs::{FlockOperation, flock},
    io::Errno,
};

use crate::{
    host::state::{
        durable::{self, NOTE, Writing},
        error::{Context, HostError},
        heal::set_aside,
        layout::Home,
    },
    shared::outcome::{Holder, Phase},
};

/// How long to wait for a holder that has just locked the file, and has not written its name yet.
const A_MOMENT: Duration = Duration::from_secs(1);
/// How long to wait for a holder whose deployment is kept, and that only cleans up.
const TIDYING: Duration = Duration::from_secs(10);

/// The lock, held until it is dropped.
///
/// The holder writes its name into the lock file, and empties the file when there is nothing left to clean up
/// ([`HostLock::leave`]). A lock file that names a holder but is not locked was left by an agent that died; the next agent
/// cleans up.
#[must_use]
pub struct HostLock {
    file: File,
    holder: Holder,
    written: io::Result<()>,
}

/// The result of trying to take the lock.
pub enum Taken {
    Lock(HostLock),
    /// Another agent holds the lock.
    Busy(Holder),
}

impl HostLock {
    /// Take the lock for `holder`, or return the current holder. This waits a moment if the current holder has not written
    /// its name yet, and longer if its deployment is kept and it only cleans up.
    pub fn take(home: &Home, holder: Holder) -> Result<Taken, HostError> {
        let begun = Instant::now();
        let mut file = open(home)?;
        loop {
            match flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) if is_still_there(home, &file)? => {
                    let mut lock = HostLock { file, holder, written: Ok(()) };
                    lock.written = lock.write_holder();
                    return Ok(Taken::Lock(lock));
                }
                // Somebody has moved the file away meanwhile.
                Ok(()) => {
                    file = open(home)?;
                    continue;
                }
                Err(Errno::WOULDBLOCK) => {}
                Err(error) => return Err(error).during("lock", &home.lock()),
            }
            let holder = read_holder(&mut file);
            if begun.elapsed() >= patience(holder.as_ref()) {
                let nobody = || Holder { id: None, by: "somebody".into(), phase: Phase::Preparing, since: 0 };
                return Ok(Taken::Busy(holder.unwrap_or_else(nobody)));
            }
            thread::sleep(Duration::from_millis(2));
        }
    }

    /// Whether the last holder has cleaned up.
    pub fn was_left(home: &Home) -> Result<bool, HostError> {
        match durable::open(&home.lock()) {
            Ok(None) => Ok(true),
            Ok(Some(file)) => Ok(file.metadata().during("look at", &home.lock())?.len() == 0),
            Err(HostError::Damaged(_)) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Write the phase of the deployment into the lock file. It is only shown to people, so errors are ignored.
    pub fn set_phase(&mut self, phase: Phase) {
        self.holder.phase = phase;
        let _ = self.write_holder();
    }

    /// Check that the holder was written to the lock file: otherwise the next agent would not clean up if this one dies.
    pub fn is_written(&mut self, home: &Home) -> Result<(), HostError> {
        std::mem::replace(&mut self.written, Ok(())).during("write", &home.lock())
    }

    /// Release the lock: there is nothing left to clean up.
    pub fn leave(self) {
        // If this fails, the next agent cleans up and finds nothing.
        let _ = self.file.set_len(0);
    }

    fn write_holder(&mut self) -> io::Result<()> {
        let text = serde_json::to_vec(&self.holder)?;
        self.file.seek(SeekFrom::Start(0))?;
        self.file.write_all(&text)?;
        self.file.set_len(text.len() as u64)
    }
}

/// Open the lock file. If something else is in its place, move that away.
fn open(home: &Home) -> Result<File, HostError> {
    match durable::open_to_write(&home.lock(), Writing::InPlace) {
        Err(HostError::Damaged(_)) => {
            set_aside(home, &home.lock())?;
            durable::open_to_write(&home.lock(), Writing::InPlace)
        }
        result => result,
    }
}

/// Whether `file` still is the file that other agents will lock.
fn is_still_there(home: &Home, file: &File) -> Result<bool, HostError> {
    let path = home.lock();
    let ours = file.metadata().during("look at", &path)?;
    Ok(fs::symlink_metadata(&path).is_ok_and(|meta| (meta.dev(), meta.ino()) == (ours.dev(), ours.ino())))
}

/// How long to wait for the holder.
fn patience(holder: Option<&Holder>) -> Duration {
    match holder {
        None => A_MOMENT,
        Some(holder) if holder.phase == Phase::Finishing => TIDYING,
        Some(_) => Duration::ZERO,
    }
}

/// Read the holder from the lock file. `None` if it is being written at this moment.
fn read_holder(file: &mut File) -> Option<Holder> {
    let mut text = Vec::new();
    file.seek(SeekFrom::Start(0)).ok()?;
    Read::by_ref(file).take(NOTE).read_to_end(&mut text).ok()?;
    serde_json::from_slice(&text).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn holder(by: &str) -> Holder {
        Holder { id: None, by: by.into(), phase: Phase::Preparing, since: 7 }
    }

    #[test]
    fn the_second_agent_is_told_who_holds_the_lock_and_in_which_phase() {
        let directory = tempfile::tempdir().unwrap();
        let home = Home::new(directory.path());
        home.create().unwrap();
        let Taken::Lock(mut first) = HostLock::take(&home, holder("carol")).unwrap() else { panic!("not taken") };
        first.set_phase(Phase::Settling);
        let Taken::Busy(seen) = HostLock::take(&home, holder("dave")).unwrap() else { panic!("taken twice") };
        assert_eq!(seen, Holder { id: None, by: "carol".into(), phase: Phase::Settling, since: 7 });
        drop(first);
        assert!(matches!(HostLock::take(&home, holder("dave")).unwrap(), Taken::Lock(_)));
    }

    #[test]
    fn a_holder_that_only_cleans_up_is_waited_for() {
        let directory = tempfile::tempdir().unwrap();
        let home = Home::new(directory.path());
        home.create().unwrap();
        let Taken::Lock(mut first) = HostLock::take(&home, holder("carol")).unwrap() else { panic!("not taken") };
        assert_eq!(patience(Some(&first.holder)), Duration::ZERO);
        first.set_phase(Phase::Finishing);
        assert_eq!(patience(Some(&first.holder)), TIDYING);
        let second = thread::scope(|scope| {
            let (trying, begins) = std::sync::mpsc::channel();
            let second = scope.spawn(move || {
                trying.send(()).unwrap();
                HostLock::take(&home, holder("dave")).unwrap()
            });
            begins.recv().unwrap();
            drop(first);
            second.join().unwrap()
        });
        assert!(matches!(second, Taken::Lock(_)));
    }
}
