//! The far end: an agent on a host, how it gets there, and what is said to it.

pub mod install;
pub mod open_files;
pub mod payload;
pub mod sanitize;
pub mod session;
pub mod transport;
