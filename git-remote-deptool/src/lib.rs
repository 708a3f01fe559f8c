//! The operator side of git-deptool.

pub mod install;
pub mod transport;
