//! Asking hosts what on them is not as it was deployed.

use deptool_agent::{
    text::printable,
    wire::{Drift, Request, Response, Subject},
};

use crate::{
    cluster::HostRemote,
    fetch::connect,
    remote::{Remote, RemoteError},
    session::SessionError,
};

/// What has drifted on a host. Every text is one line that is safe to show.
pub fn ask(remote: &Remote, host: &HostRemote) -> Result<Vec<Drift>, RemoteError> {
    let failed = |source| RemoteError::Session { host: host.host.clone(), source };
    let (mut session, hello) = connect(remote, host)?;
    remote.heed(host, &hello)?;
    session.send(&Request::Verify).map_err(failed)?;
    let found = match session.receive().map_err(failed)? {
        Response::Drift(found) => found,
        _ => return Err(failed(SessionError::OutOfOrder)),
    };
    session.close();
    Ok(found.into_iter().map(clean).collect())
}

fn clean(drift: Drift) -> Drift {
    let subject = match drift.subject {
        Subject::Path(path) => Subject::Path(printable(path.as_bytes())),
        Subject::Unit(unit) => Subject::Unit(unit),
    };
    Drift { subject, what: printable(drift.what.as_bytes()) }
}
