//! The operator side of git-deptool.

pub mod install;
pub mod transport;
//! What runs on the operator's machine: the remote helper that Git starts, and `git deptool`.

pub mod cluster;
pub mod git;
pub mod helper;
pub mod lease;
pub mod tracking;
pub mod url;
//! The operator's side: what Git starts, and the porcelain around it.

pub mod history;
pub mod pack;
