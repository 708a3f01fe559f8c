//! The agent's work on a host. Linux only.
//!
//! [`session`] serves one connection, [`deploy`] carries out one deployment, and [`recover`] finishes or undoes an
//! interrupted deployment. Below them:
//!
//! ```text
//! connection   the helper at the other end, heartbeats, takeovers by another connection
//! deploy/      the steps of a deployment
//! external     external paths, outside of the state directory, and drift
//! owners       the ids of users and groups
//! secrets      files that are decrypted into memory, and the key of the host for them
//! state        the files in the state directory; the Git store is in `shared/store`
//! ```

mod candidates;
pub mod connection;
pub mod deploy;
mod export;
pub mod external;
mod look;
mod owners;
pub mod recover;
pub mod secrets;
pub mod session;
pub mod state;

#[cfg(test)]
mod tests;
