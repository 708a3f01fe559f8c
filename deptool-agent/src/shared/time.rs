//! The current time, and durations as text.

use std::time::{SystemTime, UNIX_EPOCH};

/// Seconds since 1970, by the clock of this machine.
pub fn now() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs() as i64)
}

/// A duration in tenths of a second: `0.2 s`. Without floats, because formatting them would add 10 kB to the agent.
pub fn seconds(time: std::time::Duration) -> String {
    let tenths = (time.as_millis() + 50) / 100;
    format!("{}.{} s", tenths / 10, tenths % 10)
}
