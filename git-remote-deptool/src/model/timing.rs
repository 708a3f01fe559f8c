//! How a request travels, and how long it takes.

use std::time::Duration;

/// How a request that is sent ahead travels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flight {
    Pipe,
    /// In the environment, too: see [`deptool_agent::shared::env_request`].
    Variable,
}

/// How long a request took.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timing {
    pub flight: Flight,
    /// From the start of ssh to the agent's first line.
    pub hello: Duration,
    /// From there to the first answer.
    pub after_hello: Duration,
}
