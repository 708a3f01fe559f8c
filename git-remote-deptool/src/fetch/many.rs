//! Asking many hosts at once.

use std::{
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
};

use deptool_agent::shared::wire::Hello;

use crate::{
    agent::session::{Mailbox, Session, SessionError},
    config::HostRemote,
    fetch,
    fleet::remote::{Machine, Remote, RemoteError},
    state::{HostFacts, HostLock, LockError},
};

/// So many hosts are asked at a time.
const AT_ONCE: usize = 64;
/// A session has little to remember.
const STACK: usize = 512 * 1024;

/// Connect to each of `hosts` and have `ask` talk to it. Returns their answers in the order of `hosts`; what they said of
/// themselves is remembered. Nobody who deploys from this repository is held up by it.
pub fn ask<T: Send>(
    remote: &Remote,
    hosts: &[HostRemote],
    ask: impl Fn(&mut Session, &Hello) -> Result<T, SessionError> + Sync,
) -> Vec<Result<(Hello, T), RemoteError>> {
    let places: Vec<_> = hosts.iter().map(|host| fetch::place_to_ask(remote, host)).collect();
    let before: Vec<_> = hosts.iter().map(|host| HostFacts::load(&remote.repo, &host.tracking)).collect();
    let (next, answers) = (AtomicUsize::new(0), Mutex::new(Vec::with_capacity(hosts.len())));
    let connector = &remote.connector;
    let work = || {
        loop {
            let at = next.fetch_add(1, Ordering::Relaxed);
            let Some(place) = places.get(at) else { return };
            let Ok(place) = place else { continue };
            let opened = Session::to(connector, place, Mailbox::new(), &mut |_| {});
            let answer = opened.and_then(|(mut session, hello)| {
                let answer = ask(&mut session, &hello)?;
                session.close();
                Ok((hello, answer))
            });
            answers.lock().unwrap_or_else(PoisonError::into_inner).push((at, answer));
        }
    };
    thread::scope(|scope| {
        for _ in 1..AT_ONCE.min(hosts.len()) {
            let asker = thread::Builder::new().name("ask".into()).stack_size(STACK);
            if asker.spawn_scoped(scope, work).is_err() {
                // Those that there are do it all.
                break;
            }
        }
        work();
    });
    let mut answers = answers.into_inner().unwrap_or_else(PoisonError::into_inner);
    answers.sort_by_key(|(at, _)| *at);
    let mut answers = answers.into_iter().map(|(_, answer)| answer);
    let noted = places.into_iter().zip(hosts).zip(before).map(|((place, host), before)| {
        place?;
        let answer = answers.next().unwrap_or(Err(SessionError::OutOfOrder));
        let (hello, answer) = answer.map_err(|source| RemoteError::Session { host: host.host.clone(), source })?;
        note(remote, host, &hello, before.as_ref())?;
        Ok((hello, answer))
    });
    noted.collect()
}

/// Remember what a host said of itself, of which `before` was known when it was asked.
fn note(remote: &Remote, host: &HostRemote, hello: &Hello, before: Option<&HostFacts>) -> Result<(), RemoteError> {
    // Another process that talks to it, or has meanwhile, has heard something newer.
    let lock = match HostLock::try_acquire(&remote.repo, &host.tracking) {
        Err(LockError::Held(_)) => None,
        lock => Some(lock?),
    };
    if lock.is_none() || HostFacts::load(&remote.repo, &host.tracking).as_ref() != before {
        remote.repeat(host, hello);
        return Ok(());
    }
    let ran = !remote.tracking().clusters(host)?.is_empty();
    match (remote.heed(host, hello)?, &hello.deployed) {
        (_, None) if ran && hello.busy.is_none() => {
            remote.say(&format!("{}: nothing is deployed there any more", host.host));
            Ok(())
        }
        // Somebody else has: what runs there is brought home before anybody plans against nothing.
        (Machine::SetUpAnew, Some(_)) => fetch::hear(remote, host, 1).map(drop),
        (Machine::SetUpAnew, None) | (Machine::AsKnown, _) => Ok(()),
    }
}
