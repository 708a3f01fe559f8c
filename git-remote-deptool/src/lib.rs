//! What runs on the operator's machine: the remote helper that Git starts, and `git deptool`.

pub mod cluster;
pub mod delivery;
pub mod fleet;
pub mod git;
pub mod helper;
pub mod history;
pub mod install;
pub mod lease;
pub mod pack;
pub mod session;
pub mod tracking;
pub mod transport;
pub mod url;
