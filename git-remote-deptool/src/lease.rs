//! What a push expects to find: the compare half of compare-and-swap.

use deptool_agent::id::CommitId;
pub use deptool_agent::wire::Expected;

/// What to expect: what `--force-with-lease` named, else what was last heard. `-f` changes nothing about it.
pub fn expected(tracked: Option<CommitId>, named: Option<Expected>) -> Expected {
    named.unwrap_or(tracked.map_or(Expected::Absent, Expected::At))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_named_lease_stands_above_what_was_heard() {
        let heard: CommitId = "0123456789abcdef0123456789abcdef01234567".parse().unwrap();
        assert_eq!(expected(Some(heard), None), Expected::At(heard));
        assert_eq!(expected(None, None), Expected::Absent);
        assert_eq!(expected(Some(heard), Some(Expected::Absent)), Expected::Absent);
    }
}
