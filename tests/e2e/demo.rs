//! The demo, and the picture of it in the README.

use deptool_tests::demo::picture;
use deptool_tests::sandbox::Sandbox;

#[test]
fn the_picture_in_the_readme_is_what_the_demo_prints() {
    let now = picture::draw(&Sandbox::new()).unwrap();
    let kept = std::fs::read_to_string(picture::path()).unwrap_or_default();
    assert_eq!(
        picture::normalized(&kept),
        picture::normalized(&now),
        "doc/session.svg is out of date: run 'cargo xtask demo --svg'"
    );
}
