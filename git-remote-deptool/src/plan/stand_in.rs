//! Detects files that stand in for others, because a Git filter moved the real content out of the commit.
//!
//! Hosts get what the commit contains. A web server would serve the pointer, and a daemon would read the encrypted
//! file.

use deptool_agent::shared::{
    plan::{Change, HostPlan},
    tree::HostTree,
};
use gix::objs::{Find, FindHeader};

/// Pointers are shorter than this, and most secrets in git-crypt are, too. Longer files are not examined.
const LONGEST: u64 = 4096;

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

/// An object database that several threads can read.
pub trait Objects: Find + FindHeader {}
impl<T: Find + FindHeader> Objects for T {}

/// Why `plan` can't be carried out: it adds or updates a file that stands in for another one.
pub fn refusal(objects: &dyn Objects, plan: &HostPlan, new: &HostTree) -> Option<String> {
    for change in &plan.apps {
        let Some(app) = new.apps.get(&change.app) else { continue };
        for (path, _) in change.files.iter().filter(|(_, change)| *change != Change::Remove) {
            let Some(entry) = app.files.get(path) else { continue };
            if let Some(what) = kind_of(objects, &entry.id.0) {
                return Some(format!(
                    "'{}/{path}' is {what}: the file itself is not in the commit; commit it without the filter",
                    change.app
                ));
            }
        }
    }
    None
}

/// The kind of stand-in. An unreadable object is reported by the code that needs it.
fn kind_of(objects: &dyn Objects, id: &gix::oid) -> Option<&'static str> {
    objects.try_header(id).ok()?.filter(|header| header.size < LONGEST)?;
    let mut buffer = Vec::new();
    let content = objects.try_find(id, &mut buffer).ok()??;
    KINDS.iter().find(|kind| content.data.starts_with(kind.begins)).map(|kind| kind.what)
}
