//! The test harness of this repository, and the tasks of `cargo xtask`.
//!
//! There are two test environments:
//! - [`sandbox`]: a temporary directory with its own home, repositories, and local roots (`deptool::/path`). It needs
//!   neither root nor systemd nor a network. The tests in `tests/e2e/` use it.
//! - [`lab`]: hosts with a real systemd and a real OpenSSH, in containers. It needs root. The tests in `tests/lab/` use
//!   it.
//!
//! Both run binaries that [`build`] makes from the current sources. Every program is started through [`process`], which
//! enforces a deadline.

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
