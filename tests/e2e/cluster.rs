//! A cluster of three hosts, for the tests of `git deptool`.

use deptool_tests::process::Run;
use deptool_tests::sandbox::{Repo, Sandbox};

/// Three hosts with an app each, two of them in the group `web`; nothing is deployed.
pub fn cluster(sandbox: &Sandbox) -> Repo<'_> {
    let repo = sandbox.repo("operator");
    for host in ["db1", "web1", "web2"] {
        repo.write(format!("{host}/app/conf"), "one");
        repo.add_root(host);
    }
    repo.git(&["config", "deptool.cluster", "prod"]).ok();
    repo.git(&["config", "deptool.group.web", "web1 web2"]).ok();
    repo.commit("One");
    repo
}

/// A new commit that changes `hosts`.
pub fn change(repo: &Repo<'_>, hosts: &[&str], text: &str) -> String {
    for host in hosts {
        repo.write(format!("{host}/app/conf"), text);
    }
    repo.commit(text)
}

pub fn deptool(repo: &Repo<'_>, args: &[&str]) -> Run {
    repo.git(&[&["deptool"], args].concat())
}
