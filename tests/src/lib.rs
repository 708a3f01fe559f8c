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
pub mod emulation;
pub mod intercept;
pub mod lab;
pub mod link;
pub mod parts;
pub mod power_cuts;
pub mod process;
pub mod relay;
pub mod release;
pub mod rpm;
pub mod sandbox;
pub mod secrets;
pub mod simulation;
pub mod site;
pub mod stand_in;
pub mod sweep;
pub mod terminal;
pub mod trace;
pub mod tutorial;
pub mod watch;

/// The environment variable that leaves the lab and slow tests to the full run (`cargo xtask test --quick`).
pub const QUICK: &str = "DEPTOOL_TEST_QUICK";

/// Whether a slow test is to be left to the full run. Prints that.
pub fn is_quick() -> bool {
    let is_quick = std::env::var_os(QUICK).is_some();
    if is_quick {
        skipped("only the quick tests were asked for");
    }
    is_quick
}

/// Prints that a test is skipped. This does not use eprintln, because libtest hides the output of tests that pass.
pub(crate) fn skipped(why: &str) {
    let _ = std::io::Write::write_all(&mut std::io::stderr(), format!("skipped: {why}\n").as_bytes());
}
