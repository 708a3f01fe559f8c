//! Tests on real hosts. See `deptool_tests::lab`.

mod broken;
mod by_type;
mod checks;
mod cli;
mod confirm;
mod detach;
mod disk;
mod drift;
mod far;
mod group;
mod handover;
mod health;
mod hosts;
mod install;
mod link;
mod modes;
mod net;
mod quadlets;
mod reload;
mod rollback;
mod services;
mod stage;
mod state;
mod sweep;
mod transaction;
