//! Checks which messages a host may send, and how often.

use deptool_agent::shared::{
    outcome::Outcome,
    wire::{Activation, DecidedBy, Deploy, Response},
};

use super::{DeliveryEvent, Permission};
use crate::agent::session::SessionError;

/// Show at most this much of a host's notes, in bytes.
const NOTES: usize = 64 * 1024;

/// The messages that may still arrive. Each may arrive once, because the fleet acts on it.
pub(super) struct Expected {
    need_full: bool,
    prepared: bool,
    healthy: bool,
    kept: bool,
    /// How many more bytes of notes may be shown.
    notes: usize,
}

impl Expected {
    pub fn of(request: &Deploy) -> Expected {
        let prepared = request.activation == Activation::WhenTold;
        let verdict = request.decided_by == DecidedBy::Helper;
        Expected { need_full: true, prepared, healthy: verdict, kept: verdict, notes: NOTES }
    }

    /// On another connection, the host repeats what it waits for.
    pub fn attached(&mut self, request: &Deploy) {
        let verdict = request.decided_by == DecidedBy::Helper;
        *self = Expected { need_full: false, prepared: false, healthy: verdict, kept: verdict, notes: self.notes };
    }

    /// Pass on a message, or return the outcome if the message contains it.
    pub fn accept(
        &mut self,
        response: Response,
        permission: Permission,
        tell: &dyn Fn(DeliveryEvent),
    ) -> Result<Option<Outcome>, SessionError> {
        let once = |expected: &mut bool| if std::mem::take(expected) { Ok(()) } else { Err(SessionError::OutOfOrder) };
        match response {
            Response::Ended(outcome) => return Ok(Some(*outcome)),
            Response::Progress(phase) => tell(DeliveryEvent::Phase(phase)),
            Response::WaitsFor(what) => tell(DeliveryEvent::WaitsFor(what)),
            Response::Note(note) => self.note(note, tell),
            Response::NeedFull => {
                once(&mut self.need_full)?;
                tell(DeliveryEvent::NeedFull);
            }
            Response::Prepared => {
                once(&mut self.prepared)?;
                self.need_full = false;
                tell(DeliveryEvent::Prepared);
            }
            Response::Healthy if permission == Permission::Given => {
                once(&mut self.healthy)?;
                tell(DeliveryEvent::Healthy);
            }
            Response::Kept if permission == Permission::Given => {
                once(&mut self.kept)?;
                tell(DeliveryEvent::Kept);
            }
            Response::Healthy
            | Response::Came { .. }
            | Response::Hello(_)
            | Response::Data(_)
            | Response::End
            | Response::Blob { .. }
            | Response::Attempts(_)
            | Response::Drift(_)
            | Response::Pong
            | Response::Entry { .. }
            | Response::UnitNow(_)
            | Response::Candidates { .. }
            | Response::Attached
            | Response::NotRunning(_)
            | Response::AwaitsConfirmation { .. }
            | Response::Kept
            | Response::Error(_)
            | Response::Heartbeat => return Err(SessionError::OutOfOrder),
        }
        Ok(None)
    }

    fn note(&mut self, note: String, tell: &dyn Fn(DeliveryEvent)) {
        match self.notes.checked_sub(note.len()) {
            Some(left) => {
                self.notes = left;
                tell(DeliveryEvent::Note(note));
            }
            None if self.notes > 0 => {
                self.notes = 0;
                tell(DeliveryEvent::Note("more notes are not shown".into()));
            }
            None => {}
        }
    }
}
