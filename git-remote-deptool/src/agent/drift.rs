//! Asking a host what on it is not as it was deployed.

use deptool_agent::shared::wire::{Drift, Request, Response};

use super::session::{Session, SessionError};

/// What has drifted on the host at the other end.
pub fn ask(session: &mut Session) -> Result<Vec<Drift>, SessionError> {
    session.send(&Request::Verify)?;
    match session.receive()? {
        Response::Drift(found) => Ok(found),
        _ => Err(SessionError::OutOfOrder),
    }
}
