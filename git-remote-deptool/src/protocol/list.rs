//! The lists of refs for Git, before a push and for a fetch.

use deptool_agent::shared::text::printable;
use gix::bstr::{BStr, BString};

use crate::model::{
    advertised::Advertised,
    offer::{Offer, State},
};

/// A ref of a host can't be listed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ListError {
    /// Its name would break the format of the list.
    #[error("the host has a ref with an invalid name, '{0}'")]
    Name(String),
    /// Its id is all zeros, which Git would try to fetch.
    #[error("the host has no commit for '{0}'")]
    Zeros(String),
}

/// The lines of `list for-push`, without the final blank line.
pub fn push_lines(offers: &[Offer]) -> Vec<u8> {
    let mut out = Vec::new();
    for Offer { cluster, state } in offers {
        let line = match state {
            State::At(id) => format!("{id} refs/heads/{cluster}\n"),
            State::Unknown => format!("? refs/heads/{cluster}\n"),
        };
        out.extend_from_slice(line.as_bytes());
    }
    out
}

/// The lines of `list`, without the final blank line.
pub fn fetch_lines(refs: &[Advertised]) -> Result<Vec<u8>, ListError> {
    let mut out = Vec::new();
    for advertised in refs {
        match advertised {
            Advertised::Ref { name, id } if id.0.is_null() => return Err(ListError::Zeros(printable(name))),
            Advertised::Ref { name, id } => {
                out.extend([id.to_string().as_bytes(), b" ", checked(name)?, b"\n"].concat())
            }
            Advertised::Head(target) => out.extend([b"@", checked(target)?, b" HEAD\n"].concat()),
        }
    }
    Ok(out)
}

fn checked(name: &BString) -> Result<&[u8], ListError> {
    match gix::validate::reference::name(BStr::new(name)) {
        Ok(name) => Ok(name),
        Err(_) => Err(ListError::Name(printable(name))),
    }
}

#[cfg(test)]
mod tests {
    use deptool_agent::shared::{id::CommitId, name::ClusterName};
    use gix::ObjectId;

    use super::*;
    use crate::model::offer::{HostCheck, Knowledge, offers};

    const HEX: &str = "0123456789abcdef0123456789abcdef01234567";

    fn cluster(name: &str) -> ClusterName {
        ClusterName::parse(name.as_bytes()).unwrap()
    }

    fn id() -> ObjectId {
        ObjectId::from_hex(HEX.as_bytes()).unwrap()
    }

    fn listed(knowledge: &Knowledge) -> String {
        String::from_utf8(push_lines(&offers(knowledge))).unwrap()
    }

    #[test]
    fn a_settled_host_lists_its_commit_and_other_names_as_unknown() {
        let mut knowledge = Knowledge::default();
        knowledge.tracked.insert(cluster("prod"), CommitId(id()));
        knowledge.names.extend([cluster("prod"), cluster("main")]);
        assert_eq!(listed(&knowledge), format!("? refs/heads/main\n{HEX} refs/heads/prod\n"));
    }

    #[test]
    fn a_host_in_doubt_is_listed_as_unknown() {
        let mut knowledge = Knowledge::default();
        knowledge.tracked.insert(cluster("prod"), CommitId(id()));
        knowledge.unsettled.insert(cluster("prod"));
        assert_eq!(listed(&knowledge), "? refs/heads/prod\n");
    }

    #[test]
    fn a_check_lists_nothing_as_known() {
        let mut knowledge = Knowledge { host_check: HostCheck::Always, ..Knowledge::default() };
        knowledge.tracked.insert(cluster("prod"), CommitId(id()));
        assert_eq!(listed(&knowledge), "? refs/heads/prod\n");
    }

    #[test]
    fn a_first_deployment_is_offered_the_names_there_are() {
        let names = [cluster("prod"), cluster("staging")].into();
        let knowledge = Knowledge { names, ..Knowledge::default() };
        assert_eq!(listed(&knowledge), "? refs/heads/prod\n? refs/heads/staging\n");
    }

    #[test]
    fn a_fetch_lists_ids_and_where_head_points() {
        let refs = [Advertised::at("refs/heads/prod", CommitId(id())), Advertised::Head("refs/heads/prod".into())];
        let lines = String::from_utf8(fetch_lines(&refs).unwrap()).unwrap();
        assert_eq!(lines, format!("{HEX} refs/heads/prod\n@refs/heads/prod HEAD\n"));
    }

    #[test]
    fn a_fetch_never_lists_zeros_nor_names_that_break_a_line() {
        let zeros = Advertised::at("refs/heads/prod", CommitId(ObjectId::null(gix::hash::Kind::Sha1)));
        assert!(matches!(fetch_lines(&[zeros]), Err(ListError::Zeros(_))));
        for broken in [Advertised::at("refs/heads/a\nb", CommitId(id())), Advertised::Head("a\nb".into())] {
            assert!(matches!(fetch_lines(&[broken]), Err(ListError::Name(_))));
        }
    }
}
