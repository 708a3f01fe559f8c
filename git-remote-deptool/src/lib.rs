//! The operator's side: what Git starts, and the porcelain around it.

pub mod history;
pub mod pack;
pub mod projection;
