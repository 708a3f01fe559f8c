//! Looks up objects in the packs of the store.

use std::{
    cell::OnceCell,
    collections::{BTreeSet, HashSet},
    fs,
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
};

use gix_hash::{Kind as HashKind, ObjectId, oid};
use gix_object::{Data, Kind};
use gix_pack::{Bundle, cache, data, index};
use gix_zlib::{Inflate, Status};

use crate::shared::store::error::{At, Result, StoreError};

/// The limit for the memory that one object may take, in bytes. Only a corrupt or foreign pack can exceed it.
const ALLOCATION: usize = 64 << 20;

/// All packs of the store, the newest last.
///
/// The store has no loose objects, no alternates and no configuration to obey, so it does not need `gix-odb`.
pub(super) struct Packs {
    packs: Vec<Pack>,
    /// Shared, because creating one is expensive.
    inflate: Mutex<Inflate>,
}

/// A pack. It is opened at the first look-up, because mostly the newest packs have what is needed.
struct Pack {
    index: PathBuf,
    /// `None` if the pack can't be read. Its objects then count as missing, and the helper sends them again.
    bundle: OnceCell<Option<Bundle>>,
}

impl Pack {
    fn at(index: &Path) -> Self {
        Pack { index: index.to_owned(), bundle: OnceCell::new() }
    }

    fn bundle(&self) -> Option<&Bundle> {
        self.bundle.get_or_init(|| open(&self.index)).as_ref()
    }
}

/// The pack with this index. `None` if it can't be read, or is not the one that the index is of.
fn open(index: &Path) -> Option<Bundle> {
    let pack = data::File::at(index.with_extension("pack"), HashKind::Sha1).ok()?;
    let index = index::File::at(index, HashKind::Sha1).ok()?;
    (pack.checksum() == index.pack_checksum())
        .then(|| Bundle { pack: pack.with_alloc_limit_bytes(Some(ALLOCATION)), index })
}

impl Packs {
    /// The packs in `dir` that have an index. The caller holds the host lock, so that no pack is removed meanwhile.
    pub fn list(dir: &Path) -> Result<Self> {
        let packs = list(dir)?.iter().map(|index| Pack::at(index)).collect();
        Ok(Packs { packs, inflate: Mutex::new(Inflate::default()) })
    }

    /// Like [`Packs::list`], but open all packs now. The objects of a pack that can't be read count as missing.
    ///
    /// This is for readers without the host lock: if a repack removes a pack that was just listed, the packs are
    /// listed again.
    pub fn open_all(dir: &Path) -> Result<Self> {
        let mut tries = 3;
        loop {
            tries -= 1;
            let packs = Packs::list(dir)?;
            let is_read = packs.packs.iter().all(|pack| pack.bundle().is_some());
            if is_read || tries == 0 || packs.indices().all(Path::exists) {
                return Ok(packs);
            }
        }
    }

    /// Add a pack by its index.
    pub fn add(&mut self, index: &Path) {
        self.packs.push(Pack::at(index));
    }

    /// Whether the pack with this index is known.
    pub fn has_pack(&self, index: &Path) -> bool {
        self.packs.iter().any(|pack| pack.index == index)
    }

    pub fn len(&self) -> usize {
        self.packs.len()
    }

    /// The paths of the indices of all packs.
    pub fn indices(&self) -> impl Iterator<Item = &Path> {
        self.packs.iter().map(|pack| pack.index.as_path())
    }

    /// Stop using the pack with this index.
    pub fn forget(&mut self, index: &Path) {
        self.packs.retain(|pack| pack.index != index);
    }

    /// Stop using all packs except the one with this index.
    pub fn keep_only(&mut self, index: &Path) {
        self.packs.retain(|pack| pack.index == index);
    }

    fn locate(&self, id: &oid) -> Option<(&Bundle, u32)> {
        let mut bundles = self.packs.iter().rev().filter_map(Pack::bundle);
        bundles.find_map(|bundle| bundle.index.lookup(id).map(|at| (bundle, at)))
    }

    /// Whether there is an object with this id. This reads only indices.
    pub fn has(&self, id: &oid) -> bool {
        self.locate(id).is_some()
    }

    /// Decode an object into `buffer`. `None` if it is not here.
    pub fn read<'a>(&self, id: &oid, buffer: &'a mut Vec<u8>) -> gix_error::Result<Option<Data<'a>>> {
        let Some((bundle, at)) = self.locate(id) else { return Ok(None) };
        let mut inflate = self.inflate.lock().unwrap_or_else(PoisonError::into_inner);
        let (data, _) = bundle.get_object_by_index(at, buffer, &mut inflate, &mut cache::Never)?;
        Ok(Some(data))
    }

    /// Decode an object. It is an error if the object is missing or of another kind than `wanted`.
    pub fn expect(&self, id: &oid, wanted: Kind) -> Result<Vec<u8>> {
        let mut buffer = Vec::new();
        match self.read(id, &mut buffer) {
            Ok(None) => Err(StoreError::Missing(id.to_owned())),
            Ok(Some(data)) if data.kind == wanted => Ok(buffer),
            Ok(Some(data)) => Err(StoreError::Kind { id: id.to_owned(), wanted, actual: data.kind }),
            Err(source) => Err(StoreError::Corrupt { id: id.to_owned(), source }),
        }
    }

    /// The kind and size of an object, and its zlib stream as it is in the pack. `None` if the object is missing, or
    /// is a delta because somebody ran `git repack` here.
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

/// The indices in `dir` that have a pack, the oldest first.
fn list(dir: &Path) -> Result<Vec<PathBuf>> {
    let mut packs = HashSet::new();
    let mut indices = BTreeSet::new();
    for entry in fs::read_dir(dir).at("read", dir)? {
        let entry = entry.at("read", dir)?;
        let path = entry.path();
        // Opening a FIFO would wait for its other end.
        if !entry.file_type().at("look at", &path)?.is_file() {
            continue;
        }
        match path.extension().and_then(|suffix| suffix.to_str()) {
            Some("pack") => drop(packs.insert(path.with_extension("idx"))),
            Some("idx") => drop(indices.insert((entry.metadata().and_then(|data| data.modified()).ok(), path))),
            _ => {}
        }
    }
    indices.retain(|(_, path)| packs.contains(path));
    Ok(indices.into_iter().map(|(_, path)| path).collect())
}
