//! Runs libFuzzer on the target that `DEPTOOL_FUZZ` names. `cargo xtask fuzz` builds and runs this program.

#![no_main]
#![allow(unsafe_code, reason = "the macro makes the function that libFuzzer calls")]

use std::sync::LazyLock;

use deptool_fuzz::{Target, target};
use libfuzzer_sys::fuzz_target;

static TARGET: LazyLock<&Target> = LazyLock::new(|| {
    let name = std::env::var("DEPTOOL_FUZZ").expect("DEPTOOL_FUZZ names a target");
    target(&name).unwrap_or_else(|| panic!("no target '{name}'"))
});

fuzz_target!(|data: &[u8]| (TARGET.run)(data));
