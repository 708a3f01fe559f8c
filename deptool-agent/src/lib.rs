//! The host side of git-deptool, and the wire protocol that both sides share.

pub mod action;
pub mod build;
pub mod early;
pub mod frame;
pub mod host;
pub mod id;
pub mod manifest;
pub mod messagepack;
pub mod name;
pub mod ordered;
pub mod outcome;
pub mod path;
pub mod plan;
pub mod system;
pub mod text;
pub mod tree;
pub mod unit_text;
pub mod wanted;
pub mod wire;
