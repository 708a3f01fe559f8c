//! External paths: those outside of `/var/lib/deptool`.

pub mod drift;
pub mod place;
