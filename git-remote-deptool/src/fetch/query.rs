//! Asks many hosts at the same time about other things than the running commit.

use deptool_agent::shared::wire::Hello;

use super::ask::{each, open};
use crate::{
    agent::session::{Session, SessionError},
    config::HostRemote,
    fetch,
    fleet::remote::{Machine, Remote, RemoteError},
    state::{HostFacts, HostLock, LockError},
};

/// Connect to each of `hosts` and call `ask` with the session. Returns the answers in the order of `hosts`, and records
/// the contents of the hellos. Deployments by this repository do not have to wait.
pub fn query<T: Send>(
    remote: &Remote,
    hosts: &[HostRemote],
    ask: impl Fn(&mut Session, &Hello) -> Result<T, SessionError> + Sync,
) -> Vec<Result<(Hello, T), RemoteError>> {
    let mut answers: Vec<_> = hosts.iter().map(|_| None).collect();
    each(remote, hosts.len(), &mut |at, answer| answers[at] = Some(answer), |remote, at| {
        let host = &hosts[at];
        let before = HostFacts::load(&remote.repo, &host.tracking);
        let (mut session, hello) = open(remote, host, &mut |_| {})?;
        let answer = ask(&mut session, &hello);
        let answer = answer.map_err(|source| RemoteError::Session { host: host.host.clone(), source })?;
        session.close();
        Ok((hello, answer, before))
    });
    let noted = hosts.iter().zip(answers).map(|(host, answer)| {
        let nothing = || RemoteError::Session { host: host.host.clone(), source: SessionError::OutOfOrder };
        let (hello, answer, before) = answer.ok_or_else(nothing)??;
        note(remote, host, &hello, before.as_ref())?;
        Ok((hello, answer))
    });
    noted.collect()
}

/// Record the contents of a host's hello. `before` is the state that was known when the host was asked.
fn note(remote: &Remote, host: &HostRemote, hello: &Hello, before: Option<&HostFacts>) -> Result<(), RemoteError> {
    // If another process of this repository holds the lock, its knowledge is newer.
    let lock = match HostLock::try_acquire(&remote.repo, &host.tracking) {
        Err(LockError::Held(_)) => None,
        lock => Some(lock?),
    };
    if lock.is_none() || HostFacts::load(&remote.repo, &host.tracking).as_ref() != before {
        remote.show_hello(host, hello);
        return Ok(());
    }
    let ran = !remote.tracking().clusters(host)?.is_empty();
    match (remote.record_hello(host, hello)?, &hello.deployed) {
        (_, None) if ran && hello.busy.is_none() => {
            remote.say(&format!("{}: nothing is deployed any more", host.host));
            Ok(())
        }
        // Another operator has deployed since the host was reinstalled. Fetch that, or the next plan would assume an
        // empty host.
        (Machine::SetUpAnew, Some(_)) => fetch::refresh(remote, host, 1).map(drop),
        (Machine::SetUpAnew, None) | (Machine::AsKnown, _) => Ok(()),
    }
}
