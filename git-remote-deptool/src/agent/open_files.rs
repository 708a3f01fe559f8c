//! Raises the limit of open files for many sessions at once.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// What needs open files for each host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Use {
    /// The host's lock.
    Lock,
    /// The host's lock, and stdin, stdout and stderr of ssh, or of a session on a shared connection and its socket.
    Session,
}

/// Open files for everything else, including connections that are being made.
const BESIDES: u64 = 64;

/// This process can't open as many files as it needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "{hosts} hosts at once take {needed} open files, and the limit is {limit}: raise it (ulimit -H -n), or push to \
     groups of at most {fitting} hosts"
)]
pub struct TooMany {
    hosts: u64,
    needed: u64,
    limit: u64,
    /// The number of hosts that the limit is enough for.
    pub fitting: usize,
}

impl Use {
    fn files(self) -> u64 {
        match self {
            Use::Lock => 1,
            Use::Session => 5,
        }
    }
}

/// Raise the soft limit of open files as far as necessary for `hosts` hosts at once. A limit that is high enough is not
/// changed, because the programs that we start inherit it.
pub fn make_room(hosts: usize, each: Use) -> Result<(), TooMany> {
    let limit = getrlimit(Resource::Nofile);
    if let Some(raised) = raised(limit, hosts as u64, each)? {
        // If this fails, opening a file fails later and reports the reason.
        let _ = setrlimit(Resource::Nofile, raised);
    }
    Ok(())
}

/// The limit to set, or `None` if the current one is high enough.
fn raised(limit: Rlimit, hosts: u64, each: Use) -> Result<Option<Rlimit>, TooMany> {
    let needed = hosts * each.files() + BESIDES;
    if limit.current.is_none_or(|current| current >= needed) {
        return Ok(None);
    }
    match limit.maximum {
        Some(limit) if limit < needed => {
            Err(TooMany { hosts, needed, limit, fitting: (limit.saturating_sub(BESIDES) / each.files()) as usize })
        }
        maximum => Ok(Some(Rlimit { current: Some(needed), maximum })),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limit_is_raised_as_far_as_needed_and_allowed() {
        let limit = |current, maximum| Rlimit { current: Some(current), maximum };
        let raised = |limit, hosts| raised(limit, hosts, Use::Session);
        assert_eq!(super::raised(limit(1024, Some(1024)), 500, Use::Lock), Ok(None));
        assert_eq!(raised(limit(1024, Some(4096)), 10), Ok(None));
        assert_eq!(raised(limit(1024, Some(4096)), 500), Ok(Some(limit(2564, Some(4096)))));
        assert_eq!(raised(limit(256, None), 500), Ok(Some(limit(2564, None))));
        assert_eq!(raised(Rlimit { current: None, maximum: None }, 500), Ok(None));
        let error = raised(limit(1024, Some(1024)), 500).unwrap_err();
        assert_eq!(
            error.to_string(),
            "500 hosts at once take 2564 open files, and the limit is 1024: raise it (ulimit -H -n), or push to groups \
             of at most 192 hosts"
        );
        assert_eq!(raised(limit(1024, Some(1024)), 192), Ok(None));
    }
}
