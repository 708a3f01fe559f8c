//! Reads the content of large blobs as streams, so that neither Git nor we hold all of one in memory.
//!
//! Most of them are in one piece, in a file of their own or in a pack. Inflating these here takes half the processor time of Git's
//! doing it and sending it through a pipe. Git reads the others, which are deltas.

use std::{
    fs::File,
    io::{self, BufRead, BufReader, Read, Seek, SeekFrom},
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    process::{Child, ChildStderr, ChildStdout, Stdio},
};

use deptool_agent::shared::{id::BlobId, text::printable};
use flate2::bufread::ZlibDecoder;
use gix::{
    hash::Kind,
    odb::pack::{
        data::{Entry, entry::Header},
        index,
    },
};

use super::history::git;

#[cfg(test)]
mod tests;

/// The most that is read at once, in bytes.
const READ: usize = 128 * 1024;
/// The most bytes before the content: in a file of its own, and in a pack.
const HEADER: usize = 32;

/// The content of a blob.
type Content = Box<dyn Read>;

/// The blobs of a repository.
#[derive(Debug, Clone)]
pub struct Blobs {
    git_dir: PathBuf,
    /// Its own directory of objects, and those that it borrows from.
    objects: Vec<PathBuf>,
}

impl Blobs {
    pub fn of(repo: &gix::Repository) -> Blobs {
        let store = repo.objects.store_ref();
        let borrowed = store.alternate_db_paths().unwrap_or_default();
        let objects = [store.path().to_owned()].into_iter().chain(borrowed).collect();
        Blobs { git_dir: repo.git_dir().to_owned(), objects }
    }

    /// The content of a blob. Reading fails at the end if not all of it could be read.
    pub fn open(&self, id: &BlobId) -> io::Result<Content> {
        let here = self.objects.iter().find_map(|objects| loose(objects, id).or_else(|| packed(objects, id)));
        match here {
            Some(content) => Ok(content),
            None => Ok(Box::new(FromGit::start(&self.git_dir, id)?)),
        }
    }
}

/// The content of a blob in a file of its own, after a header such as `blob 5`, which ends with a NUL.
fn loose(objects: &Path, id: &BlobId) -> Option<Content> {
    let name = id.to_string();
    let mut content = BufReader::new(inflate(File::open(objects.join(&name[..2]).join(&name[2..])).ok()?));
    let mut header = Vec::new();
    content.by_ref().take(HEADER as u64).read_until(0, &mut header).ok()?;
    if header.starts_with(b"blob ") { Some(Box::new(content)) } else { None }
}

/// The content of a blob in a pack, if it is not a delta.
fn packed(objects: &Path, id: &BlobId) -> Option<Content> {
    objects.join("pack").read_dir().ok()?.flatten().find_map(|entry| {
        let path = entry.path();
        if path.extension()? != "idx" {
            return None;
        }
        let index = index::File::at(&path, Kind::Sha1).ok()?;
        let offset = index.pack_offset_at_index(index.lookup(id.0)?);
        let mut pack = File::open(path.with_extension("pack")).ok()?;
        let mut header = [0; HEADER];
        let count = pack.read_at(&mut header, offset).ok()?;
        let entry = Entry::from_bytes(&header[..count], offset, Kind::Sha1).ok()?;
        pack.seek(SeekFrom::Start(entry.data_offset)).ok()?;
        if entry.header == Header::Blob { Some(Box::new(inflate(pack)) as Content) } else { None }
    })
}

fn inflate(file: File) -> ZlibDecoder<BufReader<File>> {
    ZlibDecoder::new(BufReader::with_capacity(READ, file))
}

/// A blob that Git reads.
struct FromGit {
    child: Child,
    stdout: ChildStdout,
    stderr: ChildStderr,
}

impl FromGit {
    fn start(git_dir: &Path, id: &BlobId) -> io::Result<FromGit> {
        let mut child = git(git_dir)
            // Git streams blobs from this size on.
            .args(["-c", "core.bigFileThreshold=1m", "cat-file", "blob"])
            .arg(id.to_string())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()?;
        match (child.stdout.take(), child.stderr.take()) {
            (Some(stdout), Some(stderr)) => Ok(FromGit { child, stdout, stderr }),
            _ => Err(io::Error::other("git has no pipes")),
        }
    }
}

impl Read for FromGit {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.stdout.read(buffer)?;
        if n == 0 && !buffer.is_empty() && !self.child.wait()?.success() {
            let mut stderr = Vec::new();
            (&mut self.stderr).take(4096).read_to_end(&mut stderr)?;
            return Err(io::Error::other(format!("git cat-file failed: {}", printable(stderr.trim_ascii()))));
        }
        Ok(n)
    }
}

impl Drop for FromGit {
    fn drop(&mut self) {
        // Git may have more to write, which nobody reads.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
