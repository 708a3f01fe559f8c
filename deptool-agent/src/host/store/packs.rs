//! Looking objects up in the packs of the store.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
    time::SystemTime,
};

use gix_hash::{Kind as HashKind, ObjectId, oid};
use gix_object::{Data, Kind};
use gix_pack::{Bundle, cache, data, index};
use gix_zlib::{Inflate, Status};

use super::error::{At, Result, StoreError};

/// No object that the store was given needs more memory: what asks for it is a corrupt or foreign pack.
const ALLOCATION: usize = 64 << 20;

/// All packs of the store, the newest last.
///
/// There are no loose objects, no alternates and no configuration to look at, which is why this is not `gix-odb`.
pub(super) struct Packs {
    bundles: Vec<Bundle>,
    /// Its state is large and made once.
    inflate: Mutex<Inflate>,
}

impl Packs {
    /// Open all packs in `dir` that have an index.
    ///
    /// For a reader without the host lock a repack may remove what was just listed: then it is listed again.
    pub fn open_all(dir: &Path) -> Result<Self> {
        let mut tries = 3;
        loop {
            tries -= 1;
            let mut packs = Packs { bundles: Vec::new(), inflate: Mutex::new(Inflate::default()) };
            let indices = list(dir)?;
            match indices.iter().try_for_each(|path| packs.open(path)) {
                Err(StoreError::BadPack { .. }) if tries > 0 && !indices.iter().all(|path| path.exists()) => continue,
                result => return result.map(|()| packs),
            }
        }
    }

    /// Open one more pack by its index.
    pub fn open(&mut self, path: &Path) -> Result<()> {
        let open = || -> std::result::Result<Bundle, gix_error::Error> {
            let pack = data::File::at(path.with_extension("pack"), HashKind::Sha1)?;
            let index = index::File::at(path, HashKind::Sha1)?;
            Ok(Bundle { pack: pack.with_alloc_limit_bytes(Some(ALLOCATION)), index })
        };
        self.bundles.push(open().map_err(|source| StoreError::BadPack { path: path.to_owned(), source })?);
        Ok(())
    }

    /// Whether the pack with this index is open.
    pub fn has_pack(&self, index: &Path) -> bool {
        self.bundles.iter().any(|bundle| bundle.index.path() == index)
    }

    /// How many packs there are.
    pub fn len(&self) -> usize {
        self.bundles.len()
    }

    /// The paths of all indices.
    pub fn indices(&self) -> impl Iterator<Item = &Path> {
        self.bundles.iter().map(|bundle| bundle.index.path())
    }

    /// Forget the pack with this index.
    pub fn forget(&mut self, index: &Path) {
        self.bundles.retain(|bundle| bundle.index.path() != index);
    }

    /// Forget all packs but the one with this index.
    pub fn keep_only(&mut self, index: &Path) {
        self.bundles.retain(|bundle| bundle.index.path() == index);
    }

    fn locate(&self, id: &oid) -> Option<(&Bundle, u32)> {
        self.bundles.iter().rev().find_map(|bundle| bundle.index.lookup(id).map(|at| (bundle, at)))
    }

    /// Whether an object is there. No file is read for this but indices.
    pub fn has(&self, id: &oid) -> bool {
        self.locate(id).is_some()
    }

    /// Decode an object into `buffer`, if it is there.
    pub fn read<'a>(&self, id: &oid, buffer: &'a mut Vec<u8>) -> gix_error::Result<Option<Data<'a>>> {
        let Some((bundle, at)) = self.locate(id) else { return Ok(None) };
        let mut inflate = self.inflate.lock().unwrap_or_else(PoisonError::into_inner);
        let (data, _) = bundle.get_object_by_index(at, buffer, &mut inflate, &mut cache::Never)?;
        Ok(Some(data))
    }

    /// Decode an object that has to be there and to be a `wanted`.
    pub fn expect(&self, id: &oid, wanted: Kind) -> Result<Vec<u8>> {
        let mut buffer = Vec::new();
        match self.read(id, &mut buffer) {
            Ok(None) => Err(StoreError::Missing(id.to_owned())),
            Ok(Some(data)) if data.kind == wanted => Ok(buffer),
            Ok(Some(data)) => Err(StoreError::Kind { id: id.to_owned(), wanted, actual: data.kind }),
            Err(source) => Err(StoreError::Corrupt { id: id.to_owned(), source }),
        }
    }

    /// An object's kind, its size and its zlib stream as it is in the pack; `None` if it is a delta there (Git's own
    /// `repack` was run here) or not there at all.
    pub fn raw(&self, id: &ObjectId) -> Option<(Kind, u64, &[u8])> {
        let (bundle, at) = self.locate(id)?;
        let entry = bundle.pack.entry(bundle.index.pack_offset_at_index(at)).ok()?;
        let kind = entry.header.as_kind()?;
        let end = bundle.pack.pack_end() as u64;
        let rest = bundle.pack.entry_slice(entry.data_offset..end)?;
        let mut inflate = self.inflate.lock().unwrap_or_else(PoisonError::into_inner);
        let mut data = vec![0; usize::try_from(entry.decompressed_size).ok().filter(|size| *size <= ALLOCATION)?];
        inflate.reset();
        let (status, taken, made) = inflate.once(rest, &mut data).ok()?;
        (status == Status::StreamEnd && made == data.len()).then(|| (kind, entry.decompressed_size, &rest[..taken]))
    }
}

/// The indices in `dir`, the oldest first.
fn list(dir: &Path) -> Result<Vec<PathBuf>> {
    let mut indices: Vec<(Option<SystemTime>, PathBuf)> = Vec::new();
    for entry in fs::read_dir(dir).at("read", dir)? {
        let entry = entry.at("read", dir)?;
        let path = entry.path();
        if path.extension().is_some_and(|suffix| suffix == "idx") && path.with_extension("pack").exists() {
            indices.push((entry.metadata().and_then(|data| data.modified()).ok(), path));
        }
    }
    indices.sort();
    Ok(indices.into_iter().map(|(_, path)| path).collect())
}
