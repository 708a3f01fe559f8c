//! What the tests of this repository stand on, and the tasks of `cargo xtask`.
//!
//! Two grounds to test on:
//! - [`sandbox`]: a temporary directory with a home of its own, repositories, and local roots (`deptool::/path`).
//!   Needs no root rights, no systemd, no network. The tests in `tests/e2e/` use it.
//! - [`lab`]: hosts with a real systemd and a real OpenSSH, in containers. Needs root. The tests in `tests/lab/` use it.
//!
//! Both run the binaries of the present sources: [`build`] makes them. Every program is started through [`process`],
//! which never waits longer than it was told to.

pub mod build;
pub mod deb;
pub mod demo;
pub mod dist;
pub mod intercept;
pub mod lab;
pub mod link;
pub mod process;
pub mod relay;
pub mod sandbox;
pub mod simulation;
pub mod site;
pub mod stand_in;
pub mod sweep;
pub mod terminal;
pub mod trace;
pub mod watch;
