//! Tests on a virtual machine, with a kernel of its own that enforces SELinux. Booting one takes half a minute, so one machine
//! and few boots serve for all of them.

mod selinux;

use deptool_tests::lab::vm::start_or_skip;
use deptool_tests::power_cuts::PowerCuts;
use deptool_tests::sandbox::Sandbox;

#[test]
fn with_selinux_enforcing_all_that_is_deployed_works_also_after_a_power_cut_in_a_deployment() {
    let Some(vm) = start_or_skip() else { return };
    let sandbox = Sandbox::for_vm(&vm);
    selinux::what_is_deployed_works(&vm, &sandbox);
    selinux::a_boot_labels_again(&vm);
    selinux::nothing_was_denied(&vm);
    let empty = sandbox.repo_at(sandbox.dir().join("selinux"));
    empty.git(&["push", "vm1", ":prod"]).ok();
    assert_eq!(vm.sh("ls /etc/systemd/system | grep deptool || true"), "");

    let mut cuts = PowerCuts::begin(&vm, &sandbox).unwrap();
    // The unit that takes long is starting.
    let cut = cuts.cut(0.6).unwrap_or_else(|error| panic!("{error:#}"));
    println!("{cut}");
    selinux::nothing_was_denied(&vm);
}
