//! What could not be cleared away: an old checkout with a file that somebody has made immutable, say.
//!
//! It gets in the way of nothing. Operators are told, and each contact tries again.

use crate::host::state::{
    durable::{self, NOTE},
    error::HostError,
    layout::Home,
};

/// Show at most so many.
const MANY: usize = 5;

/// What could not be cleared away, in sentences. A record that can't be read is no reason to stop.
pub fn load(home: &Home) -> Vec<String> {
    let bytes = durable::read(&home.untidy(), NOTE).ok().flatten().unwrap_or_default();
    String::from_utf8_lossy(&bytes).lines().map(|why| format!("can't be cleared away: {why}")).collect()
}

/// Replace the record. There is none if everything was cleared away.
pub fn record(home: &Home, left: &[HostError]) -> Result<(), HostError> {
    if left.is_empty() {
        return durable::remove(&home.untidy());
    }
    let lines: String = left.iter().take(MANY).map(|why| format!("{why}\n")).collect();
    durable::replace(&home.untidy(), lines.as_bytes())
}
