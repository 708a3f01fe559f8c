//! The checks before anything is received. They are quick and write nothing.

use rustix::fs::CWD;

use crate::{
    host::{
        external::place::lock_of,
        secrets::identity::Identity,
        state::{
            error::{Context, HostError},
            identity::hostname_differs,
            journal::Journal,
            layout::{Home, MOVED_AWAY},
        },
    },
    shared::{
        outcome::{Deployed, Outcome},
        text::printable,
        wire::{Deploy, Lease},
    },
};

/// Refuse to deploy over an interrupted deployment. This agent recovered when it started, but that may have failed, or
/// another agent may have been killed since.
pub fn check_at_rest(home: &Home) -> Result<(), HostError> {
    if Journal::is_empty(home)? {
        return Ok(());
    }
    let why =
        "an earlier deployment is neither finished nor undone; 'git fetch' tries again, and reports what prevents it";
    Err(HostError::Interrupted(why.into()))
}

/// Refuse a host on which somebody has made a record immutable: a deployment there could never be finished.
pub fn check_records(home: &Home, request: &Deploy) -> Result<(), HostError> {
    let (store, branch) = (home.store(), format!("refs/heads/{}", request.cluster));
    let (head, log) = (store.join(&branch), store.join("logs").join(&branch));
    let directories = [home.directory().to_owned(), home.state(), store];
    for path in directories.into_iter().chain([home.claims(), home.attempts(), home.host_name(), head, log]) {
        if let Some(how) = lock_of(CWD, &path).during("look at", &path)? {
            let shown = printable(path.as_os_str().as_encoded_bytes());
            return Err(HostError::refused(format!("'{shown}' is {how}, see chattr(1)")));
        }
    }
    Ok(())
}

/// Refuse a host on which apps would not find their files.
pub fn check_links(home: &Home) -> Result<(), HostError> {
    match home.moved_away().next() {
        Some(path) => {
            let shown = printable(path.as_os_str().as_encoded_bytes());
            Err(HostError::refused(format!("'{shown}' {MOVED_AWAY}")))
        }
        None => Ok(()),
    }
}

/// Check that `/etc/hostname` has the name of the host. A short name matches a full name with the same first label.
pub fn check_hostname(home: &Home, request: &Deploy) -> Result<(), HostError> {
    let Some(expected) = &request.hostname else { return Ok(()) };
    match hostname_differs(home, expected)? {
        None => Ok(()),
        Some(name) => {
            Err(HostError::refused(format!("the host calls itself '{name}' in /etc/hostname, not '{expected}'")))
        }
    }
}

/// Refuse a host with another key for secrets than the tree records: it was reinstalled, or it is not the host that is meant.
pub fn check_recipient(request: &Deploy, own: Result<Identity, HostError>) -> Result<(), HostError> {
    let Some(expected) = &request.recipient else { return Ok(()) };
    let own = own?.recipient();
    match own == *expected {
        true => Ok(()),
        false => {
            let (host, expected) = (&request.host, printable(expected.as_bytes()));
            Err(HostError::refused(format!(
                "the key of the host for secrets is {own}, but cluster.json records {expected}: the host was reinstalled, is \
                 another one, or the commit is from before 'git deptool secret rekey {host}', which records the new key"
            )))
        }
    }
}

/// Check the lease: what is deployed must be what the plan was made from. Returns an outcome if it is not.
pub fn check_lease(request: &Deploy, actual: Option<Deployed>) -> Result<Option<Outcome>, HostError> {
    let holds = match (&request.lease, &actual) {
        (Lease::Absent, None) => true,
        (Lease::At(id), Some(deployed)) => deployed.commit == *id,
        (Lease::Absent, Some(_)) | (Lease::At(_), None) => false,
    };
    if let Some(deployed) = &actual {
        if deployed.cluster != request.cluster {
            let (its, asked) = (&deployed.cluster, &request.cluster);
            return Err(HostError::refused(format!("the host belongs to cluster '{its}', not '{asked}'")));
        }
        if deployed.host != *request.deployed_from() {
            let (its, asked) = (&deployed.host, request.deployed_from());
            return Err(HostError::refused(format!("the host is deployed from directory '{its}', not '{asked}'")));
        }
    }
    Ok((!holds).then_some(Outcome::Stale { actual }))
}
