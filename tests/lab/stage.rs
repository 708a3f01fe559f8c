//! The start of most tests: hosts, and an operator who can reach them.

use deptool_tests::lab::{Base, Host, HostSpec, Lab, start_or_skip};
use deptool_tests::process::Run;
use deptool_tests::sandbox::{Repo, Sandbox};

/// Modules add their own methods.
pub struct Stage {
    pub lab: Lab,
    pub sandbox: Sandbox,
}

impl Stage {
    /// New hosts, and an empty repository of an operator. None without a lab.
    pub fn with(hosts: &[HostSpec]) -> Option<Stage> {
        let lab = start_or_skip(hosts)?;
        let sandbox = Sandbox::for_lab(&lab);
        sandbox.repo("operator");
        Some(Stage { lab, sandbox })
    }

    /// One new host, `web1`, and an operator with a remote for it.
    pub fn of_one(base: Base) -> Option<Stage> {
        let stage = Stage::with(&[HostSpec { base, ..HostSpec::new("web1") }])?;
        stage.operator().add_remote("web1", "deptool::web1");
        Some(stage)
    }

    /// Writes a file of web1's tree.
    pub fn write(&self, path: &str, text: &str) {
        self.operator().write(format!("web1/{path}"), text);
    }

    /// Commits what is in the work tree and pushes it to web1.
    pub fn push(&self, what: &str) -> Run {
        let operator = self.operator();
        operator.commit(what);
        operator.git(&["push", "web1", "prod"])
    }

    /// Commits what is in the work tree, and pushes it to no avail. The commit is taken back, the files stay.
    #[track_caller]
    pub fn push_fails(&self, what: &str) -> Run {
        let failed = self.push(what).fails();
        self.operator().git(&["reset", "--quiet", "--soft", "HEAD^"]).ok();
        failed
    }

    pub fn operator(&self) -> Repo<'_> {
        self.sandbox.repo_at(self.sandbox.dir().join("operator"))
    }

    /// The only host, or the first of several.
    pub fn host(&self) -> &Host {
        self.lab.host("web1")
    }
}
