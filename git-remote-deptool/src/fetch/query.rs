//! Asks many hosts at the same time about other things than the running commit.

use deptool_agent::shared::wire::Hello;

use crate::{
    agent::session::{Session, SessionError},
    config::HostRemote,
    fetch,
    fleet::{
        parallel,
        remote::{Machine, Remote, RemoteError},
    },
    state::{HostFacts, HostLock, LockError},
};

/// How many hosts are asked at the same time.
const AT_ONCE: usize = 64;

/// Connect to each of `hosts` and call `ask` with the session. Returns the answers in the order of `hosts`, and records
/// the contents of the hellos. Deployments by this repository do not have to wait.
pub fn query<T: Send>(
    remote: &Remote,
    hosts: &[HostRemote],
    ask: impl Fn(&mut Session, &Hello) -> Result<T, SessionError> + Sync,
) -> Vec<Result<(Hello, T), RemoteError>> {
    let endpoints: Vec<_> = hosts.iter().map(|host| fetch::place_to_ask(remote, host)).collect();
    let before: Vec<_> = hosts.iter().map(|host| HostFacts::load(&remote.repo, &host.tracking)).collect();
    let connector = &remote.connector;
    let answers = parallel::map(
        hosts.len(),
        AT_ONCE,
        || (),
        |(), at| {
            let Ok(endpoint) = &endpoints[at] else { return None };
            let opened = Session::to_ask(connector, endpoint, &mut |_| {});
            Some(opened.and_then(|(mut session, hello)| {
                let answer = ask(&mut session, &hello)?;
                session.close();
                Ok((hello, answer))
            }))
        },
    );
    let noted =
        endpoints.into_iter().zip(hosts).zip(before).zip(answers).map(|(((endpoint, host), before), answer)| {
            endpoint?;
            let answer = answer.unwrap_or(Err(SessionError::OutOfOrder));
            let (hello, answer) = answer.map_err(|source| RemoteError::Session { host: host.host.clone(), source })?;
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
