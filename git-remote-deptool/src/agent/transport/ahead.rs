//! A request that is sent without waiting for the agent.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use deptool_agent::shared::env_request;

use crate::agent::install;

/// A request that is sent without waiting for the agent's first line.
#[derive(Debug, Clone)]
pub enum Ahead {
    /// There is none: the caller writes when it has the link.
    No,
    /// Its bytes are what follows the hello on the link that is returned, exactly once, agent or no agent before.
    Yes(Early),
}

/// What is sent ahead.
#[derive(Debug, Clone)]
pub struct Early {
    pub(super) parts: Vec<Arc<[u8]>>,
    is_taken: Arc<AtomicBool>,
}

impl Early {
    pub fn new(parts: Vec<Arc<[u8]>>) -> Early {
        Early { parts, is_taken: Arc::default() }
    }

    /// Whether an agent may have got some of it. If not, a connection that failed had no consequence.
    pub fn is_taken(&self) -> bool {
        self.is_taken.load(Ordering::Relaxed)
    }

    /// As a variable's value, after our hello; `None` if it is too much for that.
    pub(super) fn in_a_variable(&self) -> Option<String> {
        let hello = install::hello();
        let size = hello.len() + self.parts.iter().map(|part| part.len()).sum::<usize>();
        let mut bytes = hello.into_bytes();
        (size <= env_request::MAX_BYTES).then(|| {
            self.parts.iter().for_each(|part| bytes.extend_from_slice(part));
            env_request::encode(&bytes)
        })
    }

    pub(super) fn take(&self) {
        self.is_taken.store(true, Ordering::Relaxed);
    }
}
