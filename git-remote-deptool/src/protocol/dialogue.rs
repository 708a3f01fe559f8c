//! What Git asks a remote for, passed on to who does it.

use std::time::{Duration, Instant};

use gix_protocol::handshake::Ref;

use super::{Backend, Want};
use crate::{
    fetch::{self, Postponed},
    fleet::remote::{Remote, RemoteError, Results},
    model::{
        batch::PushBatch,
        offer::{Offer, offers},
        options::Options,
        outcome::RefReport,
    },
    push,
};

/// One dialogue with Git about one remote.
pub struct Dialogue {
    remote: Remote,
    /// What was done, for the line below Git's table.
    summary: Option<String>,
    /// What was heard of hosts and could not be noted yet.
    postponed: Postponed,
}

impl Dialogue {
    /// Nothing was asked yet.
    pub fn new(remote: Remote) -> Self {
        Dialogue { remote, summary: None, postponed: Postponed::default() }
    }
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
        Ok(offers(&self.remote.tracking().knowledge(&self.remote.target, &self.remote.settings)?))
    }

    fn advertised(&mut self, options: &Options) -> Result<Vec<Ref>, RemoteError> {
        let (refs, postponed) = fetch::advertised(&self.remote, options)?;
        self.postponed = postponed;
        Ok(refs)
    }

    fn push(&mut self, batch: &PushBatch, options: &Options, report: &mut RefReport) -> Result<(), RemoteError> {
        let began = Instant::now();
        let deployed = push::push(&self.remote, batch, options, report)?;
        if !deployed.is_empty() {
            self.summary = Some(summary(batch, deployed.len(), began.elapsed()));
        }
        Ok(())
    }

    /// `advertised` has brought everything home already.
    fn fetch(&mut self, _wants: &[Want], _options: &Options) -> Result<(), RemoteError> {
        Ok(())
    }

    fn finish(&mut self, options: &Options) -> Result<(), RemoteError> {
        fetch::note_postponed(&self.remote, std::mem::take(&mut self.postponed), options.verbosity)?;
        let is_told = options.verbosity > 0 && self.remote.results == Results::Shown;
        if let Some(summary) = self.summary.take().filter(|_| is_told) {
            self.remote.say(&summary);
        }
        Ok(())
    }
}
