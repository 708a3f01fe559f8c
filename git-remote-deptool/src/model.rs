//! Types that both pushes and fetches use, without I/O.

pub mod advertised;
pub mod batch;
pub mod error;
pub mod interrupt;
pub mod offer;
pub mod options;
pub mod outcome;
pub mod push_option;
pub mod safeguards;
