//! The start of most tests: hosts, and an operator who can reach them.

use deptool_tests::lab::{Host, HostSpec, Lab, start_or_skip};
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

    pub fn operator(&self) -> Repo<'_> {
        self.sandbox.repo_at(self.sandbox.dir().join("operator"))
    }

    /// The only host, or the first of several.
    pub fn host(&self) -> &Host {
        self.lab.host("web1")
    }
}
