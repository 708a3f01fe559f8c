//! The steps from the first visible change to the end, in the order in which [`crate::host::deploy`] calls them.

use std::{collections::BTreeSet, path::PathBuf};

use crate::{
    host::{
        connection::{peer::Peer, takeover::TakeoverSocket},
        deploy::{
            action::{Action, UnitJobs},
            apply::Applying,
            failure::Failure,
            finish,
            gates::{self, Release},
            health,
            stage::Expectations,
            stale::{self, Stale},
            sync::{self, Own},
            undo::{Reached, undo},
        },
        state::{
            attempts,
            error::HostError,
            failed_units,
            journal::{Handle, Journal, Record},
            layout::Home,
            lock::HostLock,
        },
    },
    shared::{
        name::UnitName,
        outcome::{AttemptResult, Drift, Goal, Outcome, Phase, Rollback},
        store::Store,
        wire::{DecidedBy, Response},
    },
    system::{
        JobKind, Leave, Manager, System,
        settle::{Deadline, Transaction, Watch},
        touched::Ours,
        verdict::Started,
    },
};

/// How a deployment ended.
pub enum End {
    Outcome(Outcome),
    /// The helper was told before the cleanup.
    Told,
}

/// Tell the helper how the deployment ended.
pub fn tell(peer: &mut Peer, outcome: Outcome) {
    peer.send(&Response::Ended(Box::new(outcome)));
}

/// A deployment that is being activated. It is kept or rolled back, even if the connection is lost.
pub struct Running<'a> {
    pub home: &'a Home,
    pub lock: HostLock,
    pub peer: &'a mut Peer,
    pub system: &'a mut dyn System,
    pub record: Record,
    pub expectations: Expectations,
    /// Drift that the deployment does not put right.
    pub left: Vec<Drift>,
    /// Whether host or helper decides to keep the deployment.
    pub decided_by: DecidedBy,
    /// The number of actions that were begun.
    pub begun: usize,
    /// Units outside of the plan that systemd changed as well.
    pub along: Along,
}

/// Units outside of the plan.
#[derive(Debug, Default)]
pub struct Along {
    pub restarted: Vec<UnitName>,
    pub stopped: Vec<UnitName>,
}

impl Running<'_> {
    /// Open the journal and leave the login session. If this fails, nothing has become visible. `staged` is not synced yet.
    ///
    /// systemd was asked earlier to move the agent out of the session. Writing the journal gives it time to do so. If the
    /// session ends in between, the deployment has not changed anything yet.
    pub fn open_journal(&mut self, staged: Vec<PathBuf>) -> Result<Handle, HostError> {
        self.enter_phase(Phase::Activating);
        self.peer.accept_takeovers(TakeoverSocket::open(self.home, self.record.id)?);
        let journal = Journal::open(self.home, &self.record, staged).and_then(|journal| {
            match self.system.leave_session(self.required_leave()) {
                Ok(()) => Ok(journal),
                Err(_) if self.system.is_stopping() => Err(HostError::refused("the host is shutting down")),
                Err(error) => Err(HostError::refused(error.to_string())),
            }
        });
        if journal.is_err() {
            // The deployment is about to be discarded. If the socket's file stays, the next agent removes it.
            let _ = self.peer.stop_takeovers();
        }
        journal
    }

    /// Whether the agent must have left the session before it goes on. A deployment that only changes files is so quick that
    /// systemd's promise is enough.
    fn required_leave(&self) -> Leave {
        let is_quick = |action: &Action| match action {
            Action::MakeDirectories(_)
            | Action::Place(_)
            | Action::Own { .. }
            | Action::OwnSecrets { .. }
            | Action::LinkApps(_)
            | Action::Switch { .. }
            | Action::UnlinkApps(_) => true,
            Action::Stop(_)
            | Action::Disable(_)
            | Action::CreateUsers(_)
            | Action::CreateTmpfiles(_)
            | Action::Enable(_)
            | Action::RestoreLinks(_)
            | Action::DaemonReload(_)
            | Action::Jobs(_) => false,
        };
        let waits = self.decided_by == DecidedBy::Helper
            || self.expectations.confirm.is_some()
            || !self.expectations.probes.is_empty();
        if !waits && self.record.actions.iter().all(is_quick) { Leave::Agreed } else { Leave::Done }
    }

    pub fn enter_phase(&mut self, phase: Phase) {
        self.lock.set_phase(phase);
        self.peer.send(&Response::Progress(phase));
    }

    pub fn apply_and_settle(&mut self) -> Result<(), Failure> {
        let deadline = Deadline::after(self.system, self.expectations.timeout);
        let started = self.apply(None, deadline)?;
        let is_observable = self.system.manager() == Manager::Running;
        let has_probes = !self.expectations.probes.is_empty();
        if !is_observable && has_probes {
            self.peer.send(&Response::Note("systemd is not running here: 'health' was skipped".into()));
        }
        let probes_run = is_observable && has_probes;
        let transaction = self.transaction();
        if transaction.ours.is_empty() && !probes_run {
            return Ok(());
        }
        self.lock.set_phase(Phase::Settling);
        self.peer.send(&Response::Progress(Phase::Settling));
        let mut watch = Watch::new(started, transaction);
        let peer = &mut *self.peer;
        watch.settle(self.system, deadline, &mut |awaited| peer.wait_for(awaited)).map_err(Failure::Units)?;
        self.look_for_stale(deadline, &mut watch)?;
        let peer = &mut *self.peer;
        let tick = &mut |awaited: &str| peer.wait_for(awaited);
        if probes_run {
            health::wait(&self.expectations.probes, &mut watch, self.system, deadline, tick)?;
            watch.settle(self.system, deadline, tick).map_err(Failure::Units)?;
        }
        watch.complaints().into_iter().for_each(|complaint| self.peer.send(&Response::Note(complaint)));
        self.along = Along { restarted: watch.also_restarted(), stopped: watch.also_stopped() };
        Ok(())
    }

    /// Carry out the actions of the record, or only this one. Returns the units that were started, for settling.
    fn apply(&mut self, only: Option<&Action>, deadline: Deadline) -> Result<Vec<(UnitName, Started)>, HostError> {
        let (mut started, mut complaints) = (Vec::new(), Vec::new());
        let peer = &mut *self.peer;
        let mut applying = Applying {
            home: self.home,
            generation: self.record.generation,
            system: self.system,
            deadline,
            windows: &self.expectations.windows,
            before: &self.record.before,
            complaints: &mut complaints,
            tick: &mut |awaited| peer.wait_for(awaited),
        };
        for action in only.map_or(&self.record.actions[..], std::slice::from_ref) {
            self.begun += usize::from(only.is_none());
            started.extend(applying.apply(action)?);
        }
        complaints.into_iter().for_each(|complaint| self.peer.send(&Response::Note(complaint)));
        Ok(started)
    }

    /// Handle units that still use old files after a reload: restart them if `on_change` allows that, or else report
    /// them.
    fn look_for_stale(&mut self, deadline: Deadline, watch: &mut Watch) -> Result<(), Failure> {
        if self.system.manager() != Manager::Running {
            return Ok(());
        }
        let peer = &mut *self.peer;
        let stale = stale::find(self.home, &self.record, self.system, &mut |awaited| peer.wait_for(awaited))?;
        let (restarts, rest): (Vec<_>, Vec<_>) = stale.into_iter().partition(|stale| stale.may_restart);
        for Stale { unit, what, .. } in rest {
            let advice = "set 'on_change' to 'restart' or 'reload-or-restart'";
            self.peer.send(&Response::Note(format!("'{unit}' still uses old files: {what}; {advice}")));
        }
        if restarts.is_empty() {
            return Ok(());
        }
        let jobs: Vec<_> = restarts.into_iter().map(|stale| (stale.unit, JobKind::Restart)).collect();
        let restart = Action::Jobs(UnitJobs { jobs, ..UnitJobs::default() });
        watch.add(self.apply(Some(&restart), deadline)?);
        let peer = &mut *self.peer;
        watch.settle(self.system, deadline, &mut |awaited| peer.wait_for(awaited)).map_err(Failure::Units)
    }

    /// Everything that the deployment does to units, for settling.
    fn transaction(&self) -> Transaction {
        let (mut ours, mut given_back) = (Ours::default(), BTreeSet::new());
        for action in &self.record.actions {
            let (stops, jobs) = action.on_units();
            ours.stops.extend(stops.iter().cloned());
            if let Some(jobs) = jobs {
                ours.jobs.extend(jobs.units().cloned());
                given_back.extend(jobs.given_back.iter().cloned());
            }
        }
        let (before, made) = (self.record.before.clone(), self.expectations.made.clone());
        Transaction { before, ours, given_back, made }
    }

    /// Wait for the confirmation and the verdict, if they are required.
    pub fn await_helper(&mut self) -> Result<(), Failure> {
        if let Some(seconds) = self.expectations.confirm {
            self.enter_phase(Phase::AwaitingConfirmation);
            gates::await_confirmation(seconds, self.peer)?;
        }
        if self.decided_by == DecidedBy::Helper {
            self.enter_phase(Phase::AwaitingVerdict);
            gates::await_verdict(self.peer)?;
        }
        Ok(())
    }

    /// Wait until all hosts have kept the deployment, if the helper decides. An error means that it was revoked.
    pub fn await_release(&mut self, journal: &mut Handle) -> Result<(), Failure> {
        if self.decided_by == DecidedBy::Host {
            return Ok(());
        }
        self.enter_phase(Phase::AwaitingRelease);
        if gates::await_release(self.peer) == Release::Released {
            return Ok(());
        }
        if let Err(error) = journal.revoke()
            // The journal on disk may say "kept" or "revoked" now. Write "kept" once more, or the next agent might roll
            // back. If that fails, too, the journal on disk decides.
            && (journal.keep().is_ok() || journal.is_kept())
        {
            self.peer.send(&Response::Note(format!("can't roll back any more: {error}")));
            return Ok(());
        }
        Err(Failure::Text("not kept, because another host failed".into()))
    }

    /// Sync everything that was changed, and then record in the journal that the deployment is kept.
    pub fn make_durable(&mut self, journal: &mut Handle) -> Result<(), HostError> {
        sync::everything(self.home, &self.record, Own::Link)?;
        journal.keep()
    }

    /// Write an entry to the host's journal: what was deployed, by whom, and the result.
    fn log(&mut self, ended: &str) {
        let Record { id, by, cluster, to, .. } = &self.record;
        let (commit, what) = match to {
            Goal::Commit(commit) => (commit.to_string(), format!("commit {}", commit.short())),
            Goal::Nothing => (String::new(), "the removal of everything".to_owned()),
        };
        let message = format!("{what} of '{cluster}' by {by}: {ended}");
        let fields = [
            ("DEPTOOL_COMMIT", commit.as_str()),
            ("DEPTOOL_CLUSTER", cluster.as_str()),
            ("DEPTOOL_OPERATOR", by.as_str()),
            ("DEPTOOL_DEPLOYMENT", &id.to_string()),
        ];
        self.system.log(&message, &fields);
    }

    /// A path unit watches the file that its path led to, not the path. A change of that file's attributes makes it
    /// look again and start its service, which then reads the new file. This must wait until the old tree is no longer
    /// needed.
    fn tell_path_units(&self) {
        for path in &self.expectations.watched {
            let same = std::fs::metadata(path).map(|meta| meta.permissions());
            // The file may be gone, and its path unit with it. That does not affect the deployment.
            let _ = same.and_then(|permissions| std::fs::set_permissions(path, permissions));
        }
    }

    /// Finish a deployment that is kept. If a step fails here, the next agent repeats it.
    ///
    /// The helper is told as soon as the host's records agree. It does not wait for the cleaning up.
    pub fn keep(mut self, journal: Handle, store: &mut Store) -> End {
        self.enter_phase(Phase::Finishing);
        let finished = finish::finish(self.home, &self.record, store);
        let cleared = finished.and_then(|()| finish::clear_outside(self.home, &self.record));
        let notes = match &cleared {
            Ok(locked) => locked.iter().map(|why| format!("can't be cleared away: {why}")).collect(),
            Err(error) => vec![format!("deployed, but not cleaned up: {error}")],
        };
        for note in notes {
            self.peer.send(&Response::Note(note));
        }
        self.tell_path_units();
        self.log("deployed");
        // From now on a connection that attaches finds the outcome in the attempts log.
        let closed = self.peer.stop_takeovers();
        let Along { restarted, stopped } = std::mem::take(&mut self.along);
        tell(
            self.peer,
            Outcome::Done { also_restarted: restarted, also_stopped: stopped, drift: std::mem::take(&mut self.left) },
        );
        // If this fails, the journal stays. The next agent tries again, and reports the error if it fails, too.
        let rested = cleared.and_then(|_| finish::rest(self.home, &self.record, store, journal));
        if rested.and(closed).is_ok() {
            self.lock.leave();
        }
        End::Told
    }

    pub fn roll_back(mut self, why: Failure, journal: Handle) -> Outcome {
        self.enter_phase(Phase::RollingBack);
        let peer = &mut *self.peer;
        let reached = Reached::Actions(self.begun);
        let left = undo(self.home, &self.record, reached, self.system, &mut |awaited| peer.wait_for(awaited));
        // Collect the journals of failed units only now: that takes time, and the rollback ends an outage.
        let (why, details) = why.explain(self.system);
        self.log(&format!("rolled back: {why}"));
        let mut errors = left.sentences();
        let result = AttemptResult::RolledBack { why: why.clone(), errors: errors.clone() };
        let ended = attempts::record(self.home, &finish::attempt_of(&self.record, result))
            .and_then(|()| failed_units::add(self.home, &left.down))
            .and_then(|()| finish::tidy(self.home))
            .and_then(|()| sync::everything(self.home, &self.record, Own::Anything));
        // If something could not be undone, the journal stays, and the next agent tries again.
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
