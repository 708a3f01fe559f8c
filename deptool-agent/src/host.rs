//! The host side.

pub mod store;
