//! What may be heard of a host, and how often.

use deptool_agent::shared::{
    outcome::Outcome,
    wire::{DecidedBy, Deploy, Go, Response},
};

use super::{Permission, Report};
use crate::agent::session::SessionError;

/// As much of a host's notes is shown, in bytes.
const NOTES: usize = 64 * 1024;

/// What the host has still to say, each thing once: whoever leads the fleet takes it at its word.
pub(super) struct Due {
    need_full: bool,
    prepared: bool,
    healthy: bool,
    kept: bool,
    /// How much of its notes is still shown, in bytes.
    notes: usize,
}

impl Due {
    pub fn of(request: &Deploy) -> Due {
        let prepared = request.go == Go::WhenTold;
        let verdict = request.verdict == DecidedBy::Helper;
        Due { need_full: true, prepared, healthy: verdict, kept: verdict, notes: NOTES }
    }

    /// On another connection it says again what it waits for.
    pub fn attached(&mut self, request: &Deploy) {
        let verdict = request.verdict == DecidedBy::Helper;
        *self = Due { need_full: false, prepared: false, healthy: verdict, kept: verdict, notes: self.notes };
    }

    /// Pass on what the host says; its outcome if that was it.
    pub fn heard(
        &mut self,
        response: Response,
        permission: Permission,
        tell: &dyn Fn(Report),
    ) -> Result<Option<Outcome>, SessionError> {
        let once = |due: &mut bool| if std::mem::take(due) { Ok(()) } else { Err(SessionError::OutOfOrder) };
        match response {
            Response::Ended(outcome) => return Ok(Some(*outcome)),
            Response::Progress(phase) => tell(Report::Phase(phase)),
            Response::Note(note) => self.note(note, tell),
            Response::NeedFull => {
                once(&mut self.need_full)?;
                tell(Report::NeedFull);
            }
            Response::Prepared => {
                once(&mut self.prepared)?;
                self.need_full = false;
                tell(Report::Prepared);
            }
            Response::Healthy if permission == Permission::Given => {
                once(&mut self.healthy)?;
                tell(Report::Healthy);
            }
            Response::Kept if permission == Permission::Given => {
                once(&mut self.kept)?;
                tell(Report::Kept);
            }
            Response::Healthy
            | Response::Hello(_)
            | Response::Data(_)
            | Response::End
            | Response::Blob { .. }
            | Response::Attempts(_)
            | Response::Drift(_)
            | Response::Pong
            | Response::Attached
            | Response::NotRunning(_)
            | Response::AwaitsConfirmation { .. }
            | Response::Kept
            | Response::Error(_)
            | Response::Heartbeat => return Err(SessionError::OutOfOrder),
        }
        Ok(None)
    }

    fn note(&mut self, note: String, tell: &dyn Fn(Report)) {
        match self.notes.checked_sub(note.len()) {
            Some(left) => {
                self.notes = left;
                tell(Report::Note(note));
            }
            None if self.notes > 0 => {
                self.notes = 0;
                tell(Report::Note("it has said more than is shown".into()));
            }
            None => {}
        }
    }
}
