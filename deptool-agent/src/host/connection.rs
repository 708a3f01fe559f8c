//! The connection to the helper.

pub mod attach;
pub mod heartbeat;
pub mod peer;
pub mod takeover;
