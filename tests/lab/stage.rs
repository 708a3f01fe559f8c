//! What most tests begin with: hosts, and an operator who can reach them.

use deptool_tests::lab::{Host, HostSpec, Lab, start_or_skip};
use deptool_tests::sandbox::{Repo, Sandbox};

/// Modules add what they do with it.
pub struct Stage {
    pub lab: Lab,
    pub sandbox: Sandbox,
}

impl Stage {
    /// New hosts, and an operator's repository with nothing in it. None where there is no lab.
    pub fn with(hosts: &[HostSpec]) -> Option<Stage> {
        let lab = start_or_skip(hosts)?;
        let sandbox = Sandbox::for_lab(&lab);
        sandbox.repo("operator");
        Some(Stage { lab, sandbox })
    }

    pub fn operator(&self) -> Repo<'_> {
        self.sandbox.repo_at(self.sandbox.dir().join("operator"))
    }

    /// The only host of most, and the first of the others.
    pub fn host(&self) -> &Host {
        self.lab.host("web1")
    }
}
