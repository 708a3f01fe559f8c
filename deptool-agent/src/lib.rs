//! The host side of git-deptool, and the wire protocol that both sides share.

pub mod build;
pub mod name;
pub mod system;
pub mod text;
