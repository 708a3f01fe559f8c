//! What a push expects to find: the compare half of compare-and-swap.

use deptool_agent::shared::id::CommitId;
pub use deptool_agent::shared::wire::Lease;

/// What to expect: what `--force-with-lease` named, else what was last heard. `-f` changes nothing about it.
pub fn expected(tracked: Option<CommitId>, named: Option<Lease>) -> Lease {
    named.unwrap_or(tracked.map_or(Lease::Absent, Lease::At))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_named_lease_stands_above_what_was_heard() {
        let heard: CommitId = "0123456789abcdef0123456789abcdef01234567".parse().unwrap();
        assert_eq!(expected(Some(heard), None), Lease::At(heard));
        assert_eq!(expected(None, None), Lease::Absent);
        assert_eq!(expected(Some(heard), Some(Lease::Absent)), Lease::Absent);
    }
}
