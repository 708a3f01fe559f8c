//! The agent on a host: connecting to it, installing it, and exchanging messages with it.

pub mod install;
pub mod open_files;
pub mod payload;
pub mod sanitize;
pub mod session;
pub mod transport;
