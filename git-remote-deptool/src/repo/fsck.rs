//! Checks trees for faults that Git's own tools do not produce. A later fetch from the host would have to bring such a
//! tree back, and Git would refuse it, as `git fsck` does. Other findings of `git fsck` are harmless and accepted.

use gix_object::{TreeRefIter, tree::EntryKind};

/// Findings of `git fsck` in commits and trees that are unusual but harmless. Old or foreign tools have made such
/// objects.
pub const HARMLESS: &str = "badDate=ignore,badDateOverflow=ignore,badTimezone=ignore,zeroPaddedDate=ignore,\
                            missingSpaceBeforeDate=ignore,missingSpaceBeforeEmail=ignore,missingNameBeforeEmail=ignore,\
                            badName=ignore,nulInCommit=ignore,zeroPaddedFilemode=ignore,badFilemode=ignore";

/// The fault of a tree, if it has one.
pub fn fault(data: &[u8]) -> Option<&'static str> {
    let mut before: Option<Vec<u8>> = None;
    let mut names = std::collections::HashSet::new();
    for entry in TreeRefIter::from_bytes(data, gix_hash::Kind::Sha1) {
        let Ok(entry) = entry else { return Some("can't be read") };
        let name: &[u8] = entry.filename;
        let is_reserved = matches!(name, b"" | b"." | b"..") || name.eq_ignore_ascii_case(b".git");
        if is_reserved || name.contains(&b'/') {
            return Some("has a name that Git does not allow");
        }
        if !names.insert(name.to_owned()) {
            return Some("has an entry twice");
        }
        // Git sorts a directory as if its name ended with a slash.
        let mut key = name.to_owned();
        if entry.mode.kind() == EntryKind::Tree {
            key.push(b'/');
        }
        if before.is_some_and(|before| before > key) {
            return Some("is not sorted");
        }
        before = Some(key);
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree(entries: &[(&str, &str)]) -> Vec<u8> {
        let entry = |(mode, name): &(&str, &str)| [mode.as_bytes(), b" ", name.as_bytes(), b"\0", &[1; 20]].concat();
        entries.iter().flat_map(entry).collect()
    }

    #[test]
    fn what_git_writes_has_no_fault_and_what_it_refuses_has() {
        assert_eq!(
            fault(&tree(&[("100644", "a"), ("100644", "a.b"), ("40000", "a"), ("100644", "b")])),
            Some("has an entry twice")
        );
        assert_eq!(fault(&tree(&[("100644", "a.b"), ("40000", "a"), ("100644", "a0")])), None);
        assert_eq!(fault(&tree(&[("100644", "b"), ("100644", "a")])), Some("is not sorted"));
        assert_eq!(fault(&tree(&[("40000", "a"), ("100644", "a.b")])), Some("is not sorted"));
        assert_eq!(fault(&tree(&[("40000", ".GIT")])), Some("has a name that Git does not allow"));
        assert_eq!(fault(b"100644 a\0short"), Some("can't be read"));
        assert_eq!(fault(b""), None);
    }
}
