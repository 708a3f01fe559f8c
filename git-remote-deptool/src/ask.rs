//! Asking many hosts at once.

use std::{
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
};

use deptool_agent::wire::Hello;

use crate::{
    cluster::HostRemote,
    fetch,
    remote::{Remote, RemoteError},
    session::{Mailbox, Session, SessionError},
};

/// So many hosts are asked at a time.
const AT_ONCE: usize = 64;
/// A session has little to remember.
const STACK: usize = 512 * 1024;

/// Connect to each of `hosts` and have `ask` talk to it. Returns their answers in the order of `hosts`; what they said of
/// themselves is remembered.
pub fn ask<T: Send>(
    remote: &Remote,
    hosts: &[HostRemote],
    ask: impl Fn(&mut Session, &Hello) -> Result<T, SessionError> + Sync,
) -> Vec<Result<(Hello, T), RemoteError>> {
    let places: Vec<_> = hosts.iter().map(|host| fetch::place_to_ask(remote, host)).collect();
    let (next, answers) = (AtomicUsize::new(0), Mutex::new(Vec::with_capacity(hosts.len())));
    let connector = &remote.connector;
    let work = || {
        loop {
            let at = next.fetch_add(1, Ordering::Relaxed);
            let Some(place) = places.get(at) else { return };
            let Ok(place) = place else { continue };
            let opened = Session::open(connector, place, &crate::transport::Ahead::No, Mailbox::new(), &mut |_| {});
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
    let noted = places.into_iter().zip(hosts).map(|(place, host)| {
        place?;
        let answer = answers.next().unwrap_or(Err(SessionError::OutOfOrder));
        let (hello, answer) = answer.map_err(|source| RemoteError::Session { host: host.host.clone(), source })?;
        remote.heed(host, &hello)?;
        Ok((hello, answer))
    });
    noted.collect()
}
