//! A request that is sent without waiting for the agent.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use deptool_agent::shared::env_request;

use crate::agent::install;

/// A request that is sent before the agent's first line was received. Its bytes follow our hello on the link exactly
/// once, whether or not the agent had to be installed.
#[derive(Debug, Clone)]
pub struct Early {
    pub(super) parts: Vec<Arc<[u8]>>,
    is_taken: Arc<AtomicBool>,
}

impl Early {
    pub fn new(parts: Vec<Arc<[u8]>>) -> Early {
        Early { parts, is_taken: Arc::default() }
    }

    /// Whether an agent may have received some of it. If not, a failed connection has had no effect on the host.
    pub fn is_taken(&self) -> bool {
        self.is_taken.load(Ordering::Relaxed)
    }

    /// The hello and the request as the value of an environment variable, or `None` if it would be too long.
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
