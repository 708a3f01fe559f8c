//! Looks at the content of files that a deployment adds or changes: what should not be deployed is refused.
//!
//! Only objects that the host does not have yet are read, and only small ones.

use std::{cell::LazyCell, collections::HashSet};

use deptool_agent::shared::{
    id::BlobId,
    plan::{Change, HostPlan},
    tree::HostTree,
};
use gix::objs::{Find, FindHeader};

use super::stand_in;
use crate::{
    model::push_option::PlainText,
    secrets::plain_text::{self, Finding},
};

/// Encrypted files are not larger than this.
const LARGEST_SECRET: u64 = 2 * 1024 * 1024;
/// How many files a message names.
const NAMED: usize = 3;

/// An object database that several threads can read.
pub trait Objects: Find + FindHeader {}
impl<T: Find + FindHeader> Objects for T {}

/// Why `plan` can't be carried out because of the content of a file, if it can't.
pub fn refusal(
    objects: &dyn Objects,
    plan: &HostPlan,
    old: &HostTree,
    new: &HostTree,
    plain: PlainText,
) -> Option<String> {
    // What the host has already is nothing new, if it was renamed or moved to another app, too.
    let known: LazyCell<HashSet<BlobId>, _> =
        LazyCell::new(|| old.apps.values().flat_map(|app| app.files.values()).map(|entry| entry.id).collect());
    let mut found: Vec<(String, Finding)> = Vec::new();
    for change in &plan.apps {
        let Some(app) = new.apps.get(&change.app) else { continue };
        for (path, _) in change.files.iter().filter(|(_, change)| *change != Change::Remove) {
            let Some(entry) = app.files.get(path) else { continue };
            let limit = if plain_text::is_secret(path.as_bytes()) { LARGEST_SECRET } else { plain_text::LONGEST };
            let Some(content) = content(objects, &entry.id.0, limit) else { continue };
            if let Some(what) = stand_in::kind_of(&content) {
                return Some(format!(
                    "'{}/{path}' is {what}: the file itself is not in the commit; commit it without the filter",
                    change.app
                ));
            }
            // With `allow-plain`, the host has the last word: it refuses what it can't decrypt.
            match plain_text::find(path.as_bytes(), &content) {
                Some(finding) if plain == PlainText::Refused && !known.contains(&entry.id) => {
                    found.push((format!("'{}/{path}' {}", change.app, finding.words()), finding));
                }
                Some(_) | None => {}
            }
        }
    }
    words(&found)
}

fn words(found: &[(String, Finding)]) -> Option<String> {
    let (_, first) = found.first()?;
    let texts: Vec<&str> = found.iter().take(NAMED).map(|(text, _)| text.as_str()).collect();
    let more = match found.len().saturating_sub(NAMED) {
        0 => String::new(),
        more => format!(", and {more} more"),
    };
    let advice = match first.may_be_meant() {
        true => {
            "encrypt it with 'git deptool secret set'; to deploy it as it is, use '-o allow-plain' or '--allow-plain'"
        }
        false => "'git deptool secret set' makes one",
    };
    Some(format!("{}{more}; {advice}", texts.join(", ")))
}

/// The content of a small object. An unreadable object is reported by the code that needs it.
fn content(objects: &dyn Objects, id: &gix::oid, limit: u64) -> Option<Vec<u8>> {
    objects.try_header(id).ok()?.filter(|header| header.size <= limit)?;
    let mut buffer = Vec::new();
    objects.try_find(id, &mut buffer).ok()??;
    Some(buffer)
}
