//! The host side of git-deptool, and the wire protocol that both sides share.

#[cfg(target_os = "linux")]
pub mod host;
pub mod shared;
#[cfg(target_os = "linux")]
pub mod system;
