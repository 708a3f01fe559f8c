//! The host side of git-deptool, and the wire protocol that both sides share.

pub mod id;
pub mod manifest;
pub mod name;
pub mod path;
pub mod plan;
pub mod system;
pub mod text;
pub mod tree;
pub mod wanted;
