//! The backend of the protocol: passes Git's requests to `push` and `fetch`.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::Backend;
use crate::{
    config::Target,
    fetch::{self, Postponed},
    fleet::remote::{Remote, RemoteError, Results},
    model::{
        advertised::Advertised,
        batch::PushBatch,
        interrupt::Interrupt,
        offer::{Offer, offers},
        options::Options,
        outcome::{RefOutcome, RefReport},
    },
    push,
};

/// Serves one remote.
pub struct Dialogue {
    remote: Remote,
    /// The line to print below Git's table of refs.
    summary: Option<String>,
    /// Work to do after a fetch.
    postponed: Postponed,
    push: PushState,
}

/// The state of a push. Git does not request a push of refs that it considers up to date.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum PushState {
    None,
    /// There is nothing to do, according to Git or to us.
    NothingToDo,
    Asked,
}

impl Dialogue {
    /// A new dialogue.
    pub fn new(remote: Remote) -> Self {
        Dialogue { remote, summary: None, postponed: Postponed::default(), push: PushState::None }
    }

    fn say_known_drift(&self) -> Result<(), RemoteError> {
        let hosts = match &self.remote.target {
            Target::Host(host) => vec![host.clone()],
            Target::Group(_, hosts) => hosts.clone(),
            Target::All => self.remote.known_hosts()?.into_iter().map(|(host, _)| host).collect(),
        };
        self.remote.known_drift(hosts.iter()).iter().for_each(|line| self.remote.say(line));
        Ok(())
    }
}

/// Interrupt the push when Git is killed, because nobody would read the report.
fn interrupt_without_git(interrupt: Interrupt, is_over: Arc<AtomicBool>) {
    const LOOK: Timespec = Timespec { tv_sec: 0, tv_nsec: 100_000_000 };
    let watch = move || {
        let stdin = io::stdin();
        while !is_over.load(Ordering::Relaxed) {
            let mut git = [PollFd::new(&stdin, PollFlags::empty())];
            match poll(&mut git, Some(&LOOK)) {
                Ok(0) | Err(rustix::io::Errno::INTR) => {}
                Ok(_) if is_over.load(Ordering::Relaxed) => return,
                Ok(_) if git[0].revents().contains(PollFlags::HUP) => return interrupt.set(),
                Ok(_) | Err(_) => return,
            }
        }
    };
    // Without this thread, the push simply continues.
    let _ = thread::Builder::new().name("git".into()).stack_size(64 * 1024).spawn(watch);
}

/// `deployed to 2 hosts in 0.41 s`
fn summary(batch: &PushBatch, hosts: usize, took: Duration) -> String {
    let is_removal = batch.branches().all(|(command, _)| command.is_delete());
    let what = if is_removal { "removed from" } else { "deployed to" };
    let hosts = if hosts == 1 { "1 host".into() } else { format!("{hosts} hosts") };
    format!("{what} {hosts} in {:.2} s", took.as_secs_f64())
}

impl Backend for Dialogue {
    type Error = RemoteError;

    fn offers(&mut self, _options: &Options) -> Result<Vec<Offer>, RemoteError> {
        self.push = PushState::NothingToDo;
        Ok(offers(&self.remote.tracking().knowledge(&self.remote.target, &self.remote.settings)?))
    }

    fn advertised(&mut self, options: &Options) -> Result<Vec<Advertised>, RemoteError> {
        let (refs, postponed) = fetch::advertised(&self.remote, options)?;
        self.postponed = postponed;
        Ok(refs)
    }

    fn push(&mut self, batch: &PushBatch, options: &Options, report: &mut RefReport) -> Result<(), RemoteError> {
        self.push = PushState::Asked;
        let began = Instant::now();
        let is_over = Arc::<AtomicBool>::default();
        interrupt_without_git(self.remote.connector.interrupted.clone(), is_over.clone());
        let deployed = push::push(&self.remote, batch, options, report);
        is_over.store(true, Ordering::Relaxed);
        let deployed = deployed?;
        if report.outcomes().all(|(_, outcome)| *outcome == RefOutcome::Unaffected) {
            self.push = PushState::NothingToDo;
        }
        if !deployed.is_empty() {
            self.summary = Some(summary(batch, deployed.len(), began.elapsed()));
        }
        Ok(())
    }

    fn finish(&mut self, options: &Options) -> Result<(), RemoteError> {
        fetch::note_postponed(&self.remote, std::mem::take(&mut self.postponed), options.verbosity)?;
        let is_told = options.verbosity > 0 && self.remote.results == Results::Shown;
        if is_told && self.push == PushState::NothingToDo {
            // Git prints that everything is up to date.
            self.say_known_drift()?;
        }
        if let Some(summary) = self.summary.take().filter(|_| is_told) {
            self.remote.say(&summary);
        }
        Ok(())
    }
}
