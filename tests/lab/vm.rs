//! Tests on a virtual machine, with a kernel of its own. Booting one takes half a minute, so they are few, and one boot
//! serves for as much as possible.

use deptool_tests::lab::vm::start_or_skip;
use deptool_tests::power_cuts::{PowerCuts, Ran};
use deptool_tests::sandbox::Sandbox;

#[test]
fn a_machine_that_loses_power_in_a_deployment_boots_with_exactly_the_old_or_the_new() {
    let Some(vm) = start_or_skip() else { return };
    let sandbox = Sandbox::for_vm(&vm);
    let mut cuts = PowerCuts::begin(&vm, &sandbox).unwrap();
    // Halfway through, the unit that takes long is starting.
    let cut = cuts.cut(0.6).unwrap_or_else(|error| panic!("{error:#}"));
    println!("{cut}");
    assert_eq!(cut.ran, Ran::Old, "{cut}");
}
