//! Files as tree objects.

use gix::{ObjectId, bstr::ByteSlice, hash::Kind as HashKind, objs};

use super::{Identified, SnapshotError, objects::Directory, walk::Kind};

/// What is done with each directory, the innermost first.
type Each<'a> = dyn FnMut(&Directory<'_>) -> Result<(), SnapshotError> + 'a;

/// The tree of all `files`, which are in the index's order.
pub(super) fn build(files: &[Identified], each: &mut Each<'_>) -> Result<ObjectId, SnapshotError> {
    level(files, 0, each)
}

/// The tree of the files of one directory, whose path has `prefix` bytes with the final slash.
fn level(files: &[Identified], prefix: usize, each: &mut Each<'_>) -> Result<ObjectId, SnapshotError> {
    let (mut data, mut own) = (Vec::new(), Vec::new());
    let mut rest = files;
    while let Some((first, others)) = rest.split_first() {
        let name = &first.path[prefix..];
        match name.find_byte(b'/') {
            None => {
                push(&mut data, mode(first.kind), name, &first.id);
                own.push(first);
                rest = others;
            }
            Some(length) => {
                let below = &first.path[..=prefix + length];
                let count = rest.iter().take_while(|file| file.path.starts_with(below)).count();
                let id = level(&rest[..count], below.len(), each)?;
                push(&mut data, b"40000", &name[..length], &id);
                rest = &rest[count..];
            }
        }
    }
    let id = objs::compute_hash(HashKind::Sha1, objs::Kind::Tree, &data).map_err(SnapshotError::Object)?;
    each(&Directory { id, data: &data, files: &own, is_root: prefix == 0 })?;
    Ok(id)
}

fn push(data: &mut Vec<u8>, mode: &[u8], name: &[u8], id: &ObjectId) {
    data.extend_from_slice(mode);
    data.push(b' ');
    data.extend_from_slice(name);
    data.push(0);
    data.extend_from_slice(id.as_bytes());
}

fn mode(kind: Kind) -> &'static [u8] {
    match kind {
        Kind::Regular => b"100644",
        Kind::Executable => b"100755",
        Kind::Link => b"120000",
    }
}
