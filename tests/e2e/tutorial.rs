//! The tutorial, deptool(7), on a local root. `tests/lab/tutorial.rs` continues on a real host.

use deptool_tests::is_quick;
use deptool_tests::sandbox::Sandbox;
use deptool_tests::tutorial::Reader;

#[test]
fn the_tutorial_shows_what_happens() {
    if is_quick() {
        return;
    }
    let sandbox = Sandbox::new();
    Reader::new(&sandbox).follow_on_a_local_root();
}
