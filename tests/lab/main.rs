//! Tests on real hosts. See `deptool_tests::lab`.

mod hosts;
mod net;
mod rollback;
mod services;
mod state;
