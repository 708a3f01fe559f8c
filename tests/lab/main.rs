//! Tests on real hosts. See `deptool_tests::lab`.

mod checks;
mod detach;
mod health;
mod hosts;
mod install;
mod net;
mod reload;
mod rollback;
mod services;
mod state;
