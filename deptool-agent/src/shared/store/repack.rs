//! Combines many packs into one.

use std::{
    fs::{self, File},
    io::{self, BufWriter},
    path::{Path, PathBuf},
};

use gix_hash::ObjectId;

use crate::shared::{
    id::CommitId,
    store::{
        IdSet, Store,
        error::{At, Result, StoreError},
        index::{self, IndexEntry},
        layout::{read_file, remove_if_exists, remove_pack, visit_files},
        pack::PackError,
        receive::TemporaryFile,
    },
};

impl Store {
    /// If there are more than `limit` packs, replace them with one pack of everything that refs and reflogs reach.
    ///
    /// Unreachable objects are dropped. A crash at any point leaves at least everything that is reachable. Returns
    /// whether the store was repacked.
    pub fn repack_if_many(&mut self, limit: usize) -> Result<bool> {
        if self.pack_count() <= limit {
            return Ok(false);
        }
        let objects = self.everything_reachable()?;
        let old: Vec<PathBuf> = self.packs.indices().map(Path::to_owned).collect();
        let mut temporary = TemporaryFile::create(&self.pack_dir(), "pack")?;
        let mut writer = self.begin_pack(BufWriter::with_capacity(1 << 16, &mut temporary.file), objects.len())?;
        let mut entries = Vec::with_capacity(objects.len());
        for id in &objects {
            let written = self.copy_object(id, &mut writer)?;
            entries.push(IndexEntry { id: *id, offset: written.offset, crc32: written.crc32 });
        }
        let (out, summary) = writer.finish().at("write", &self.dir)?;
        drop(out);
        index::sort(&mut entries).map_err(|id| StoreError::Pack(PackError::Twice(id)))?;
        self.publish(temporary, &entries, &summary.checksum)?;
        self.sync()?;
        self.remove_old_packs(&old, &self.pack_dir().join(format!("pack-{}.idx", summary.checksum)))?;
        Ok(true)
    }

    /// Remove the packs with the indices `old`, except `keep`, and the files that Git derived from them.
    fn remove_old_packs(&mut self, old: &[PathBuf], keep: &Path) -> Result<()> {
        self.packs.keep_only(keep);
        for name in ["objects/pack/multi-pack-index", "objects/info/commit-graph"] {
            remove_if_exists(&self.dir.join(name))?;
        }
        let graphs = self.dir.join("objects/info/commit-graphs");
        if graphs.try_exists().at("look at", &graphs)? {
            fs::remove_dir_all(&graphs).at("remove", &graphs)?;
        }
        for index in old.iter().filter(|index| *index != keep) {
            remove_pack(index)?;
        }
        self.update_shallow(std::iter::empty())?;
        File::open(self.pack_dir()).and_then(|dir| dir.sync_all()).at("sync", self.pack_dir())
    }

    /// The commits first, then trees and blobs, each in the order of history, newest first.
    fn everything_reachable(&self) -> Result<Vec<ObjectId>> {
        let mut objects = self.reachable(self.ids_in_refs()?, &IdSet::new(), usize::MAX)?;
        let commits = objects.len();
        let mut seen = IdSet::new();
        for n in 0..commits {
            let root = self.commit(&CommitId(objects[n]))?.tree.0;
            self.collect_tree(root, &mut seen, &mut objects)?;
        }
        Ok(objects)
    }

    /// The ids in all refs and reflogs.
    pub(super) fn ids_in_refs(&self) -> Result<Vec<ObjectId>> {
        let mut ids = Vec::new();
        self.add_refs(&mut ids)?;
        self.add_reflogs(&mut ids)?;
        Ok(ids)
    }

    /// Add the ids of all refs. A loose ref is an id; `packed-refs` has an id at the beginning of each line. gix's own
    /// iterator over refs would add 45 KB to the agent.
    fn add_refs(&self, starts: &mut Vec<ObjectId>) -> Result<()> {
        let mut add = |path: &Path| {
            let content = match read_file(path) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
                result => result.at("read", path)?,
            };
            let lines = content.split(|byte| *byte == b'\n');
            starts.extend(lines.filter_map(|line| ObjectId::from_hex(line.get(..40)?).ok()));
            Ok(())
        };
        visit_files(&self.dir.join("refs"), &mut add)?;
        add(&self.dir.join("packed-refs"))?;
        add(&self.dir.join("HEAD"))
    }

    /// Add both ids of every line of every reflog: `<old> <new> <name> <time>\t<message>`.
    fn add_reflogs(&self, starts: &mut Vec<ObjectId>) -> Result<()> {
        visit_files(&self.dir.join("logs"), &mut |path| {
            let log = read_file(path).at("read", path)?;
            for line in log.split(|byte| *byte == b'\n') {
                let ids = line.splitn(3, |byte| *byte == b' ').take(2);
                starts.extend(ids.filter_map(|hex| ObjectId::from_hex(hex).ok()));
            }
            Ok(())
        })
    }
}
