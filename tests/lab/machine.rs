//! Tests on virtual machines: one with a kernel that enforces SELinux, and one whose root is a read-only image. Booting one
//! takes half a minute, so one machine and few boots serve for all tests of a kind.

mod image;
mod selinux;

use std::time::Duration;

use deptool_tests::lab::vm::{Kind, Vm, start_or_skip};
use deptool_tests::power_cuts::PowerCuts;
use deptool_tests::process::Cmd;
use deptool_tests::sandbox::{Repo, Sandbox};

use image::Image;

#[test]
fn with_selinux_enforcing_all_that_is_deployed_works_also_after_a_power_cut_in_a_deployment() {
    let Some(vm) = start_or_skip(Kind::Disk) else { return };
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

#[test]
fn on_an_image_based_host_a_service_in_an_image_is_deployed_to_and_what_a_reset_of_etc_removes_is_repaired() {
    let Some(vm) = start_or_skip(Kind::Image) else { return };
    let sandbox = Sandbox::for_vm(&vm);
    let image = Image::begin(&vm, &sandbox);
    image.what_is_bound_changes_and_is_rolled_back();
    image.a_power_cut_is_rolled_back_at_boot();
    image.a_reset_of_etc_is_drift_and_is_repaired();
    image.all_is_given_back();
}

/// Git, which may take long on an emulated machine.
fn long(operator: &Repo<'_>, args: &[&str]) -> Cmd {
    operator.command(args).timeout(Duration::from_secs(300))
}

/// What a web server on the machine answers.
fn http(vm: &Vm) -> String {
    let get = r#"exec 3<>/dev/tcp/127.0.0.1/8080; printf "GET / HTTP/1.0\r\n\r\n" >&3; cat <&3"#;
    let answer = vm.sh(&format!("bash -c '{get}'"));
    answer.lines().last().unwrap_or_default().to_owned()
}
