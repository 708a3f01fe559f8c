//! The host lock: one deployment at a time. A file lock, so it never has to be broken by hand.

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

/// Nobody takes longer than this to say who it is.
const A_MOMENT: Duration = Duration::from_secs(1);
/// A deployment that is good, and only tidies up, is waited for.
const TIDYING: Duration = Duration::from_secs(10);

/// The lock, held until it is dropped. Whatever changes the host takes it as a parameter.
///
/// Its file has the holder's name in it for as long as there may be something to tidy up: it is emptied only by who left
/// nothing behind ([`HostLock::leave`]). Who finds a name in it, and the lock free, tidies up.
#[must_use]
pub struct HostLock {
    file: File,
    holder: Holder,
    written: io::Result<()>,
}

/// What came of trying to take the lock.
pub enum Taken {
    Lock(HostLock),
    /// Another agent has it; who, as far as it has said.
    Busy(Holder),
}

impl HostLock {
    /// Take the lock for `holder`, or say who has it. Waits only for one who has it and has not said who it is, for a
    /// moment, and for one who has deployed and said so, and only tidies up.
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
                // Somebody has moved it away meanwhile.
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

    /// Whether the last holder has left nothing to tidy up.
    pub fn was_left(home: &Home) -> Result<bool, HostError> {
        match durable::open(&home.lock()) {
            Ok(None) => Ok(true),
            Ok(Some(file)) => Ok(file.metadata().during("look at", &home.lock())?.len() == 0),
            Err(HostError::Damaged(_)) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Let others know what the deployment is doing. The phase is for people: a full disk is no reason to fail.
    pub fn set_phase(&mut self, phase: Phase) {
        self.holder.phase = phase;
        let _ = self.write_holder();
    }

    /// Make sure that the next agent tidies up if this one can't. An error means that the lock's file can't be written.
    pub fn is_written(&mut self, home: &Home) -> Result<(), HostError> {
        std::mem::replace(&mut self.written, Ok(())).during("write", &home.lock())
    }

    /// Nothing is left to tidy up.
    pub fn leave(self) {
        // Should this fail, the next agent looks for what is not there.
        let _ = self.file.set_len(0);
    }

    fn write_holder(&mut self) -> io::Result<()> {
        let text = serde_json::to_vec(&self.holder)?;
        self.file.seek(SeekFrom::Start(0))?;
        self.file.write_all(&text)?;
        self.file.set_len(text.len() as u64)
    }
}

/// Open the lock's file. What is in its place and is no file goes out of the way.
fn open(home: &Home) -> Result<File, HostError> {
    match durable::open_to_write(&home.lock(), Writing::InPlace) {
        Err(HostError::Damaged(_)) => {
            set_aside(home, &home.lock())?;
            durable::open_to_write(&home.lock(), Writing::InPlace)
        }
        result => result,
    }
}

/// Whether `file` is what others will lock.
fn is_still_there(home: &Home, file: &File) -> Result<bool, HostError> {
    let path = home.lock();
    let ours = file.metadata().during("look at", &path)?;
    Ok(fs::symlink_metadata(&path).is_ok_and(|meta| (meta.dev(), meta.ino()) == (ours.dev(), ours.ino())))
}

/// How long somebody who has the lock is waited for.
fn patience(holder: Option<&Holder>) -> Duration {
    match holder {
        None => A_MOMENT,
        Some(holder) if holder.phase == Phase::Finishing => TIDYING,
        Some(_) => Duration::ZERO,
    }
}

/// What the holder has written. It writes without regard to readers: half of it may be there.
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
    fn the_second_is_told_who_is_first_and_what_they_do() {
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
    fn who_only_tidies_up_is_waited_for() {
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
