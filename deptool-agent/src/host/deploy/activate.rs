//! From the first visible change to the end: a deployment ends well or is undone, whatever becomes of the connection.

use crate::{
    host::{
        connection::{peer::Peer, takeover::TakeoverSocket},
        deploy::{
            action::Action,
            apply::Applying,
            failure::Failure,
            finish,
            gates::{self, Release},
            health,
            stage::Expectations,
            undo::undo,
        },
        external::place::{self, Place},
        state::{
            attempts,
            error::HostError,
            failed_units,
            journal::{Handle, Journal, Record},
            layout::{Home, sync_directory},
            lock::HostLock,
        },
    },
    shared::{
        name::UnitName,
        outcome::{AttemptResult, Outcome, Phase, Rollback},
        store::Store,
        wire::{DecidedBy, Response},
    },
    system::{
        Leave, Manager, System,
        settle::{Deadline, Watch},
    },
};

/// How a deployment ended.
pub enum End {
    Outcome(Outcome),
    /// The helper knows already: what was left to do then was nothing that it should wait for.
    Told,
}

/// Tell the helper how it ended.
pub fn tell(peer: &mut Peer, outcome: Outcome) {
    peer.send(&Response::Ended(Box::new(outcome)));
}

/// A deployment that has begun to be visible. It ends well or is undone, whatever becomes of the connection.
pub struct Running<'a> {
    pub home: &'a Home,
    pub lock: HostLock,
    pub peer: &'a mut Peer,
    pub system: &'a mut dyn System,
    pub record: Record,
    pub expectations: Expectations,
    /// Whose decision it is that it is kept.
    pub verdict: DecidedBy,
}

impl Running<'_> {
    /// Open the journal and leave the login session. If that fails nothing became visible.
    ///
    /// In this order: systemd takes some milliseconds to let us leave, and the disk to take the journal. Whoever ends
    /// the session in between ends a deployment that has changed nothing.
    pub fn begin(&mut self) -> Result<Handle, HostError> {
        self.enter(Phase::Activating);
        self.peer.accept_takeovers(TakeoverSocket::open(self.home, self.record.id)?);
        let journal = Journal::open(self.home, &self.record).and_then(|journal| {
            match self.system.leave_session(self.must_have_left()) {
                Ok(()) => Ok(journal),
                Err(_) if self.system.is_stopping() => Err(HostError::refused("the host is shutting down")),
                Err(error) => Err(HostError::refused(error.to_string())),
            }
        });
        if journal.is_err() {
            // What stays of it goes with all else that was prepared.
            let _ = self.peer.stop_takeovers();
        }
        journal
    }

    /// What only moves links and files is over before anybody's patience is.
    fn must_have_left(&self) -> Leave {
        let is_quick = |action: &Action| match action {
            Action::MakeDirectories(_)
            | Action::Place(_)
            | Action::Own { .. }
            | Action::LinkApps(_)
            | Action::Switch { .. }
            | Action::UnlinkApps(_) => true,
            Action::Stop(_)
            | Action::Disable(_)
            | Action::CreateUsers(_)
            | Action::CreateTmpfiles(_)
            | Action::Enable(_)
            | Action::DaemonReload
            | Action::Jobs { .. } => false,
        };
        let waits = self.verdict == DecidedBy::Helper
            || self.expectations.confirm.is_some()
            || !self.expectations.probes.is_empty();
        if !waits && self.record.actions.iter().all(is_quick) { Leave::Agreed } else { Leave::Done }
    }

    pub fn enter(&mut self, phase: Phase) {
        self.lock.set_phase(phase);
        self.peer.send(&Response::Progress(phase));
    }

    pub fn apply_and_settle(&mut self) -> Result<(), Failure> {
        let deadline = Deadline::after(self.system, self.expectations.timeout);
        let mut started = Vec::new();
        for action in &self.record.actions {
            let peer = &mut *self.peer;
            let mut applying = Applying {
                home: self.home,
                generation: self.record.generation,
                system: self.system,
                deadline,
                windows: &self.expectations.windows,
                tick: &mut || peer.tick(),
            };
            started.extend(applying.apply(action)?);
        }
        let is_observable = self.system.manager() == Manager::Running;
        let probes: Vec<_> = self.expectations.probes.iter().map(|(app, probe)| (app, probe)).collect();
        if !is_observable && !probes.is_empty() {
            self.peer.send(&Response::Note("no systemd runs here: 'health' was not asked".into()));
        }
        if started.is_empty() && (probes.is_empty() || !is_observable) {
            return Ok(());
        }
        self.lock.set_phase(Phase::Settling);
        self.peer.send(&Response::Progress(Phase::Settling));
        let (peer, mut watch) = (&mut *self.peer, Watch::new(started));
        let tick = &mut || peer.tick();
        watch.settle(self.system, deadline, tick).map_err(Failure::Units)?;
        if is_observable && !probes.is_empty() {
            health::wait(&probes, &mut watch, self.system, deadline, tick)?;
            watch.settle(self.system, deadline, tick).map_err(Failure::Units)?;
        }
        Ok(())
    }

    /// Wait for whatever the helper has to say before the deployment is kept.
    pub fn await_helper(&mut self) -> Result<(), Failure> {
        if let Some(seconds) = self.expectations.confirm {
            self.enter(Phase::AwaitingConfirmation);
            gates::await_confirmation(seconds, self.peer)?;
        }
        if self.verdict == DecidedBy::Helper {
            self.enter(Phase::AwaitingVerdict);
            gates::await_verdict(self.peer)?;
        }
        Ok(())
    }

    /// The verdict is durable: where it is a common one, see to it that it is kept everywhere.
    pub fn hold(&mut self, journal: &mut Handle) -> Result<(), Failure> {
        if self.verdict == DecidedBy::Host {
            return Ok(());
        }
        self.enter(Phase::AwaitingRelease);
        if gates::await_release(self.peer) == Release::Released {
            return Ok(());
        }
        if let Err(error) = journal.revoke()
            // Who knows which of the two the disk has: it is written once more, or the next agent might go back. If nothing
            // can be written any more, what it will find decides.
            && (journal.keep().is_ok() || journal.is_kept())
        {
            self.peer.send(&Response::Note(format!("can't go back any more: {error}")));
            return Ok(());
        }
        Err(Failure::Text("not kept, because another host failed".into()))
    }

    /// Everything that was changed is on the disk, and then the verdict is.
    pub fn make_durable(&mut self, journal: &mut Handle) -> Result<(), HostError> {
        let mut is_only_switched = true;
        for action in &self.record.actions {
            match action {
                Action::Place(placement) => {
                    if let Some(place) = Place::existing(self.home, &placement.path)? {
                        place.sync()?;
                    }
                }
                // systemd makes links in several directories: those of all units that are named in [Install].
                Action::Enable(_) | Action::Disable(_) => place::sync(self.home)?,
                Action::Stop(_) | Action::Switch { .. } | Action::DaemonReload | Action::Jobs { .. } => {}
                Action::MakeDirectories(_)
                | Action::CreateUsers(_)
                | Action::Own { .. }
                | Action::LinkApps(_)
                | Action::UnlinkApps(_)
                | Action::CreateTmpfiles(_) => is_only_switched = false,
            }
        }
        match is_only_switched {
            true => sync_directory(self.home.directory())?,
            false => self.home.sync_own()?,
        }
        journal.keep()
    }

    /// From here on the deployment is good: what is left is done again by the next agent if it fails here.
    ///
    /// The helper is told as soon as everything agrees; it need not wait for what is only cleaned up.
    pub fn keep(mut self, journal: Handle, store: &mut Store) -> End {
        let also_restarted = self.also_restarted();
        self.enter(Phase::Finishing);
        let finished = finish::finish(self.home, &self.record, store);
        if let Err(error) = &finished {
            self.peer.send(&Response::Note(format!("deployed, but not tidied up: {error}")));
        }
        // Whoever comes from now on finds how it ended in the log.
        let closed = self.peer.stop_takeovers();
        tell(self.peer, Outcome::Done { also_restarted });
        // Nobody listens any more. If it fails, the journal is there still: the next agent does it, or says why it can't.
        let rested = finished.and_then(|()| finish::rest(self.home, &self.record, store, journal));
        if rested.and(closed).is_ok() {
            self.lock.leave();
        }
        End::Told
    }

    fn also_restarted(&mut self) -> Vec<UnitName> {
        let others = self.system.take_other_jobs();
        others.into_iter().filter(|unit| self.record.running.contains(unit)).collect()
    }

    pub fn roll_back(mut self, why: Failure, journal: Handle) -> Outcome {
        self.enter(Phase::RollingBack);
        let peer = &mut *self.peer;
        let left = undo(self.home, &self.record, self.system, &mut || peer.tick());
        // What failed units have written takes time to collect: the outage ends first.
        let (why, details) = why.explain(self.system);
        let mut errors = left.sentences();
        let result = AttemptResult::RolledBack { why: why.clone(), errors: errors.clone() };
        let ended = attempts::record(self.home, &finish::attempt_of(&self.record, result))
            .and_then(|()| failed_units::add(self.home, &left.down))
            .and_then(|()| finish::tidy(self.home))
            .and_then(|()| place::sync(self.home))
            .and_then(|()| self.home.sync_own());
        // With something left to undo, the journal stays for the next agent to try again.
        let is_undone = left.errors.is_empty();
        let ended = ended.and_then(|()| if is_undone { journal.close() } else { Ok(()) });
        match ended.and_then(|()| self.peer.stop_takeovers()) {
            Ok(()) if is_undone => self.lock.leave(),
            Ok(()) => {}
            Err(error) => errors.push(error.to_string()),
        }
        Outcome::RolledBack(Rollback { why, details, rollback_errors: errors })
    }
}
