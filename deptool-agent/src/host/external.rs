//! Paths outside of the state directory.

pub mod drift;
pub mod place;
