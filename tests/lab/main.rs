//! Tests on real hosts. See `deptool_tests::lab`.

mod detach;
mod hosts;
mod install;
mod net;
mod rollback;
mod services;
mod state;
