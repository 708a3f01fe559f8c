//! The host's side. Linux only.
//!
//! [`session`] serves one connection. A deployment is all in [`deploy`]'s hands, which owns the order; what was interrupted
//! is in [`recover`]'s. Below them:
//!
//! ```text
//! connection   the helper at the other end, heartbeats, another connection that takes over
//! deploy       receive, prepare, apply, settle, gates, undo, finish
//! external     paths outside of the state directory, and what somebody changed there
//! store        the host's Git repository
//! state        everything else below /var/lib/deptool
//! ```

pub mod connection;
pub mod deploy;
mod export;
pub mod external;
pub mod recover;
pub mod session;
pub mod state;

#[cfg(test)]
mod tests;
