//! What both ends know: names, paths, the tree's format, the plan, and the messages. Pure; builds wherever the helper does.

pub mod build;
pub mod desired;
pub mod env_request;
pub mod frame;
pub mod id;
pub mod manifest;
pub mod messagepack;
pub mod name;
pub mod outcome;
pub mod path;
pub mod plan;
pub mod store;
pub mod text;
pub mod time;
pub mod tree;
pub mod unit_file;
pub mod wire;
