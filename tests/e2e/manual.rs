//! The manual, as `man` shows it.

use deptool_tests::build::workspace;
use deptool_tests::process::find_program;
use deptool_tests::sandbox::Sandbox;

#[test]
fn man_has_nothing_to_say_against_the_pages() {
    let sandbox = Sandbox::new();
    if find_program("man").is_none() {
        eprintln!("skipped: man is not installed");
        return;
    }
    let pages = std::fs::read_dir(workspace().join("man")).unwrap().map(|entry| entry.unwrap().path());
    let pages = pages.filter(|page| page.extension().is_some_and(|extension| extension != "json"));
    let mut count = 0;
    for page in pages {
        let man = sandbox.command("man").args(["--warnings", "-E", "UTF-8", "-l"]).arg(&page);
        let shown = man.env("MANWIDTH", "80").run().unwrap().ok();
        assert_eq!(shown.stderr(), "", "{}", page.display());
        assert!(shown.stdout().contains("DESCRIPTION"), "{}", page.display());
        count += 1;
    }
    assert_eq!(count, 5);
}
