//! External paths: those outside of `/var/lib/deptool`.

pub mod backup;
pub mod content;
pub mod drift;
pub mod enablement;
pub mod place;
pub mod rebuild;
pub mod stamps;
pub mod users;
