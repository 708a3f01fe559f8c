//! Receives what a deployment needs: a pack, and blobs that are too large for a pack.

use std::{
    fs::{self, File},
    io::{self, BufReader, Read, Write},
    os::unix::fs::FileExt,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread,
};

use gix_hash::ObjectId;

use crate::{
    host::{
        connection::peer::{Incoming, Peer},
        state::{
            checkout::{Contents, Earlier},
            durable,
            error::{Context, HostError, ProtocolError, Whose},
            identity::load_tree,
            layout::{Home, set_mode},
        },
    },
    shared::{
        beside::Beside,
        id::{BlobId, CommitId},
        name::HostName,
        outcome::Goal,
        store::{Store, pack::Limits},
        tree::{Apps, HostTree, TreeError},
        wire::{Deploy, Lease, Request, Response},
    },
};

/// The disk begins to write a large file whenever so much of it was received, in bytes. So the sync at the end is short.
const AT_ONCE: u64 = 8 << 20;

/// How much of a large file is read and hashed at once, in bytes.
const HASHED_AT_ONCE: usize = 64 << 10;
/// In place of the length of a file: no more of it will be written.
const GIVEN_UP: u64 = u64::MAX;

/// Receives the objects of one deployment. Its methods return `None` if the helper cancels or is gone.
pub struct Receiving<'a> {
    pub home: &'a Home,
    pub request: &'a Deploy,
    pub store: &'a mut Store,
    pub peer: &'a mut Peer,
    /// A pack with all objects was received, so asking again is pointless.
    is_complete: bool,
    /// Most apps are the same in the old tree and the new one.
    apps: Apps,
}

impl<'a> Receiving<'a> {
    pub fn new(home: &'a Home, request: &'a Deploy, store: &'a mut Store, peer: &'a mut Peer) -> Self {
        Receiving { home, request, store, peer, is_complete: false, apps: Apps::new() }
    }

    /// Load the tree that is deployed, to know what the deployment removes. If the store has lost part of it, ask the helper
    /// for everything.
    pub fn load_deployed(&mut self) -> Result<Option<HostTree>, HostError> {
        let Lease::At(commit) = self.request.lease else { return Ok(Some(HostTree::default())) };
        let unfit = |error: TreeError| HostError::tree(Whose::Deployed, error);
        match self.load(self.request.deployed_from(), commit) {
            Err(TreeError::Missing { .. } | TreeError::Unreadable { .. }) => {}
            tree => return tree.map(Some).map_err(unfit),
        }
        // The helper has already begun to send a pack, so that comes first. It may build on the lost objects.
        if !self.transfer()? {
            return Ok(None);
        }
        if !self.ask_for_all()? {
            return Ok(None);
        }
        match self.load(self.request.deployed_from(), commit) {
            Err(TreeError::Missing { .. } | TreeError::Unreadable { .. }) => Err(HostError::refused(format!(
                "the host's store has lost what is deployed; push from a repository that has {commit}"
            ))),
            tree => {
                let note = "the host's store had lost part of what is deployed: it was sent again";
                self.peer.send(&Response::Note(note.into()));
                tree.map(Some).map_err(unfit)
            }
        }
    }

    /// Receive and load the tree to deploy.
    pub fn receive_goal(&mut self) -> Result<Option<HostTree>, HostError> {
        if !self.is_complete && !self.transfer()? {
            return Ok(None);
        }
        let Goal::Commit(target) = self.request.goal else { return Ok(Some(HostTree::default())) };
        loop {
            match self.load(&self.request.host, target) {
                Err(TreeError::Missing { .. } | TreeError::Unreadable { .. }) => {}
                tree => return tree.map(Some).map_err(|error| HostError::tree(Whose::New, error)),
            }
            if !self.ask_for_all()? {
                return Ok(None);
            }
        }
    }

    /// Make sure that the contents of all files of the tree to deploy are on this host. Returns false if the helper cancels or is
    /// gone.
    pub fn receive_contents(&mut self, new: &HostTree, earlier: &[Earlier<'_>]) -> Result<bool, HostError> {
        while !has_all(new, &Contents::new(self.home, self.store, earlier)) {
            if !self.ask_for_all()? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn load(&mut self, host: &HostName, commit: CommitId) -> Result<HostTree, TreeError> {
        load_tree(self.store, host, commit, &mut self.apps)
    }

    /// Ask for a pack with all objects, because the first one builds on objects that are lost or can't be read.
    fn ask_for_all(&mut self) -> Result<bool, HostError> {
        if self.is_complete {
            return Err(HostError::refused("objects are missing from the pack"));
        }
        self.peer.send(&Response::NeedFull);
        self.store.suspect_damage();
        self.is_complete = true;
        self.transfer()
    }

    fn transfer(&mut self) -> Result<bool, HostError> {
        transfer(self.home, self.store, self.peer)
    }
}

/// Whether the contents of all apps are here that have to be checked out.
fn has_all(tree: &HostTree, contents: &Contents<'_>) -> bool {
    let mut buffer = Vec::new();
    let is_there = |tree| contents.earlier.iter().any(|earlier| earlier.app.tree == tree);
    let apps = tree.apps.values().filter(|app| !is_there(app.tree));
    apps.flat_map(|app| app.files.values()).all(|entry| contents.has(entry.id, &mut buffer))
}

/// Receive one pack and then large blobs. Returns false if the helper cancels or is gone.
fn transfer(home: &Home, store: &mut Store, peer: &mut Peer) -> Result<bool, HostError> {
    let mut stream = DataStream { peer, pending: Vec::new(), at: 0, end: None };
    let added = store.add_pack(&mut BufReader::new(&mut stream), &Limits::default());
    let end = stream.end.take();
    match (added, end) {
        // If the helper is gone, the pack was cut off. That is not an error.
        (_, Some(Interruption::Gone)) => return Ok(false),
        (_, Some(Interruption::Protocol(error))) => return Err(error.into()),
        (Err(error), None) => return Err(error.into()),
        (Ok(_), None) => {}
    }
    expect_pack_end(peer)?;
    loop {
        match peer.receive() {
            Incoming::Request(Request::Blob { id, size }) => {
                if !receive_blob(home, id, size, peer)? {
                    return Ok(false);
                }
            }
            Incoming::Request(Request::ObjectsEnd) => return Ok(true),
            Incoming::Request(Request::Cancel) | Incoming::Silence | Incoming::End => return Ok(false),
            Incoming::Request(_) => return Err(ProtocolError::OutOfOrder.into()),
            Incoming::Failed(error) => return Err(ProtocolError::from(error).into()),
        }
    }
}

fn expect_pack_end(peer: &mut Peer) -> Result<(), HostError> {
    match peer.receive() {
        Incoming::Request(Request::PackEnd) => Ok(()),
        _ => Err(ProtocolError::PackWithoutEnd.into()),
    }
}

/// Receive a large blob into `incoming/` and check its hash. Returns false if the helper cancels or is gone.
fn receive_blob(home: &Home, id: BlobId, size: u64, peer: &mut Peer) -> Result<bool, HostError> {
    let directory = home.incoming();
    fs::create_dir_all(&directory).during("create", &directory)?;
    set_mode(&directory, 0o700)?;
    let (path, temporary) = (directory.join(id.to_string()), directory.join(format!("{id}.new")));
    // It is moved into a checkout, where only its mode keeps others from reading it.
    let file = durable::create(&temporary, 0o600)?;
    let written = Arc::new(AtomicU64::new(0));
    let (its, same) = (written.clone(), file.try_clone().during("open again", &temporary)?);
    // Hashing takes longer than everything else.
    let hashing = Beside::begin(move || hash_while_written(&same, size, &its));
    let note = |end| {
        written.store(end, Ordering::Release);
        hashing.iter().for_each(Beside::wake);
    };
    let received = write_blob(&file, &temporary, size, peer, &note);
    if !matches!(received, Ok(true)) {
        note(GIVEN_UP);
    }
    if !received? {
        return Ok(false);
    }
    let hash = match hashing {
        Some(hashing) => hashing.end().unwrap_or(Ok(None)),
        None => hash_while_written(&file, size, &written),
    };
    if hash.during("read", &temporary)? != Some(id.0) {
        return Err(ProtocolError::DamagedBlob(id.short()).into());
    }
    fs::rename(&temporary, &path).during("rename", &temporary)?;
    Ok(true)
}

/// Write the data of a blob to `file`, and `note` after each part how long it is. Returns false if the helper cancels or is gone.
fn write_blob(mut file: &File, path: &Path, size: u64, peer: &mut Peer, note: &dyn Fn(u64)) -> Result<bool, HostError> {
    let (mut written, mut begun) = (0, 0);
    while written < size {
        match peer.receive() {
            Incoming::Request(Request::Data(bytes)) if bytes.0.len() as u64 <= size - written => {
                file.write_all(&bytes.0).during("write", path)?;
                written += bytes.0.len() as u64;
                note(written);
                if written - begun >= AT_ONCE {
                    durable::begin_writing(file, begun);
                    begun = written;
                }
            }
            Incoming::Request(Request::Cancel) | Incoming::Silence | Incoming::End => return Ok(false),
            Incoming::Request(_) => return Err(ProtocolError::OutOfOrder.into()),
            Incoming::Failed(error) => return Err(ProtocolError::from(error).into()),
        }
    }
    Ok(true)
}

/// The hash of the blob in `file`, to which another thread writes: `written` is how long it is so far. `None` if that was given up.
fn hash_while_written(file: &File, size: u64, written: &AtomicU64) -> io::Result<Option<ObjectId>> {
    let mut hasher = gix_hash::hasher(gix_hash::Kind::Sha1);
    hasher.update(&gix_object::encode::loose_header(gix_object::Kind::Blob, size));
    let (mut buffer, mut at) = (vec![0; HASHED_AT_ONCE], 0);
    while at < size {
        let end = written.load(Ordering::Acquire);
        if end == GIVEN_UP {
            return Ok(None);
        }
        // The rest may be more than a 32-bit machine can count.
        let part = &mut buffer[..(end - at).min(HASHED_AT_ONCE as u64) as usize];
        if part.is_empty() {
            thread::park();
            continue;
        }
        file.read_exact_at(part, at)?;
        hasher.update(part);
        at += part.len() as u64;
    }
    Ok(hasher.try_finalize().ok())
}

/// Why a stream of data was cut off.
enum Interruption {
    /// The helper cancelled or is gone.
    Gone,
    /// The helper sent something else.
    Protocol(ProtocolError),
}

/// Reads the bytes of [`Request::Data`] messages. Receives a message only when the reader needs more bytes.
struct DataStream<'a> {
    peer: &'a mut Peer,
    pending: Vec<u8>,
    at: usize,
    end: Option<Interruption>,
}

impl Read for DataStream<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        while self.at == self.pending.len() {
            self.end = match self.peer.receive() {
                Incoming::Request(Request::Data(bytes)) => {
                    (self.pending, self.at) = (bytes.0, 0);
                    continue;
                }
                Incoming::Request(Request::Cancel) | Incoming::Silence | Incoming::End => Some(Interruption::Gone),
                Incoming::Request(_) => Some(Interruption::Protocol(ProtocolError::PackCutOff)),
                Incoming::Failed(error) => Some(Interruption::Protocol(error.into())),
            };
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let count = into.len().min(self.pending.len() - self.at);
        into[..count].copy_from_slice(&self.pending[self.at..self.at + count]);
        self.at += count;
        Ok(count)
    }
}
