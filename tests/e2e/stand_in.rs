//! See `deptool_tests::stand_in`.

pub use deptool_tests::stand_in::*;
