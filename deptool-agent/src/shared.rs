//! What helper and agent have in common: names, paths, the tree, the plan, the messages, and the host's Git store.
//!
//! Nothing here depends on Linux, so the helper builds on every Unix system.

pub mod beside;
pub mod build;
pub mod desired;
pub mod encoding;
pub mod env_request;
pub mod frame;
pub mod id;
pub mod json;
pub mod manifest;
pub mod name;
pub mod ordered;
pub mod outcome;
pub mod path;
pub mod plan;
pub mod seal;
pub mod secrets;
pub mod store;
pub mod text;
pub mod time;
pub mod tree;
pub mod unit_file;
pub mod wire;
