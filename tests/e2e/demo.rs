//! What the README shows: the picture of the demo, and the first deployment.

use std::time::Duration;

use deptool_tests::build::workspace;
use deptool_tests::demo::picture;
use deptool_tests::sandbox::Sandbox;
use deptool_tests::simulation::Simulation;
use deptool_tests::terminal::Terminal;

use crate::stand_in::agent;

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

#[test]
fn the_first_deployment_in_the_readme_works() {
    let readme = std::fs::read_to_string(workspace().join("README.md")).unwrap();
    let (_, section) = readme.split_once("## The first deployment").unwrap();
    let (section, _) = section.split_once("From then on").unwrap();
    let commands: Vec<&str> = section.lines().filter_map(|line| line.strip_prefix("    ")).collect();
    let [prepare @ .., deploy] = commands.as_slice() else { panic!("{section}") };
    assert_eq!(prepare.len(), 3, "{section}");

    let mut sandbox = Sandbox::new();
    let simulation = Simulation::new(&mut sandbox, &agent(), Duration::ZERO).unwrap();
    let repo = sandbox.repo("operator");
    repo.write("web1/nginx/nginx.conf", "events {}\n");
    let shell = |line: &str| sandbox.command("sh").dir(&repo.dir).args(["-c", line]);
    for line in prepare {
        shell(line).run().unwrap().ok();
    }
    let mut terminal = Terminal::start(shell(deploy)).unwrap();
    terminal.wait_for("Apply to 1 host").unwrap();
    terminal.type_in("y\n").unwrap();
    terminal.end().unwrap().ok().prints("Deployed to 1 host");
    let file = simulation.root("web1").join("var/lib/deptool/apps/nginx/current/nginx.conf");
    assert_eq!(std::fs::read_to_string(file).unwrap(), "events {}\n");
}
