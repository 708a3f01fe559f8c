//! Detects files that stand in for others, because a Git filter moved the real content out of the commit.
//!
//! Hosts get what the commit contains. A web server would serve the pointer, and a daemon would read the encrypted
//! file.

/// Pointers are shorter than this, and most secrets in git-crypt are, too. Longer files are not examined.
const LONGEST: usize = 4096;

/// A kind of stand-in.
struct Kind {
    begins: &'static [u8],
    what: &'static str,
}

const KINDS: [Kind; 4] = [
    Kind { begins: b"version https://git-lfs.github.com/spec/", what: "a Git LFS pointer" },
    Kind { begins: b"version https://hawser.github.com/spec/", what: "a Git LFS pointer" },
    Kind { begins: b"/annex/objects/", what: "a git-annex pointer" },
    Kind { begins: b"\0GITCRYPT\0", what: "encrypted by git-crypt" },
];

/// What a file with this content stands in for, if it does.
pub fn kind_of(content: &[u8]) -> Option<&'static str> {
    let is_short = content.len() < LONGEST;
    KINDS.iter().find(|kind| is_short && content.starts_with(kind.begins)).map(|kind| kind.what)
}
