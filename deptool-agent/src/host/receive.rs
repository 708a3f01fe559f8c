//! Taking in what a deployment needs: a pack, and blobs too large for one.

use std::{
    fs::{self, File},
    io::{self, BufReader, Read, Write},
};

use super::{
    checkout::{Contents, Earlier},
    home::{Context, Home, HostError},
    peer::{Incoming, Peer},
    state::load_tree,
    store::{Store, pack::Limits},
};
use crate::{
    id::BlobId,
    tree::{HostTree, TreeError},
    wire::{Deploy, Request, Response, Target},
};

/// What came of it.
pub enum Received {
    /// The tree that is to be deployed; all of its contents can be had.
    Everything(HostTree),
    /// The helper went away, or has changed its mind.
    Gone,
}

/// Receive everything that `request` needs. If the pack assumes what is not here, a full one is asked for, once.
pub fn objects(
    home: &Home,
    request: &Deploy,
    store: &mut Store,
    earlier: &[Earlier<'_>],
    peer: &mut Peer,
) -> Result<Received, HostError> {
    for attempt in ["first", "full"] {
        if !transfer(home, store, peer)? {
            return Ok(Received::Gone);
        }
        let Target::Commit(target) = request.target else { return Ok(Received::Everything(HostTree::default())) };
        match load_tree(store, &request.host, target) {
            Ok(tree) => {
                let contents = Contents { objects: store, incoming: home.incoming(), earlier };
                if has_all(&tree, &contents) {
                    return Ok(Received::Everything(tree));
                }
            }
            Err(TreeError::Missing { .. }) => {}
            Err(error) => return Err(HostError::Unfit(error.to_string())),
        }
        if attempt == "first" {
            peer.send(&Response::NeedFull);
        }
    }
    Err(HostError::Unfit("objects are missing from the pack".into()))
}

fn has_all(tree: &HostTree, contents: &Contents<'_>) -> bool {
    let mut buffer = Vec::new();
    tree.apps.values().flat_map(|app| app.files.values()).all(|entry| contents.has(entry.id, &mut buffer))
}

/// One transfer: a pack, then large blobs. Whether it is complete, or the helper is gone.
fn transfer(home: &Home, store: &mut Store, peer: &mut Peer) -> Result<bool, HostError> {
    let mut stream = DataStream { peer, pending: Vec::new(), at: 0, end: None };
    let added = store.add_pack(&mut BufReader::new(&mut stream), &Limits::default());
    let end = stream.end.take();
    match (added, end) {
        // A pack that was cut off because the helper went away is no one's fault.
        (_, Some(Cut::Gone)) => return Ok(false),
        (_, Some(Cut::Protocol(why))) => return Err(HostError::Unfit(why)),
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
            Incoming::Request(_) => return Err(HostError::Unfit("a message came out of order".into())),
            Incoming::Broken(error) => return Err(HostError::Unfit(error.to_string())),
        }
    }
}

fn expect_pack_end(peer: &mut Peer) -> Result<(), HostError> {
    match peer.receive() {
        Incoming::Request(Request::PackEnd) => Ok(()),
        _ => Err(HostError::Unfit("the pack has no end".into())),
    }
}

/// Write a blob that came outside of the pack to `incoming/`, and check its hash. Whether it came as a whole.
fn receive_blob(home: &Home, id: BlobId, size: u64, peer: &mut Peer) -> Result<bool, HostError> {
    let directory = home.incoming();
    fs::create_dir_all(&directory).during("create", &directory)?;
    rustix::fs::chmod(&directory, rustix::fs::Mode::from_raw_mode(0o700)).during("change the mode of", &directory)?;
    let (path, temporary) = (directory.join(id.to_string()), directory.join(format!("{id}.new")));
    let mut file = File::create(&temporary).during("create", &temporary)?;
    let mut hasher = gix_hash::hasher(gix_hash::Kind::Sha1);
    hasher.update(&gix_object::encode::loose_header(gix_object::Kind::Blob, size));
    let mut left = size;
    while left > 0 {
        match peer.receive() {
            Incoming::Request(Request::Data(bytes)) if bytes.0.len() as u64 <= left => {
                hasher.update(&bytes.0);
                file.write_all(&bytes.0).during("write", &temporary)?;
                left -= bytes.0.len() as u64;
            }
            Incoming::Request(Request::Cancel) | Incoming::Silence | Incoming::End => return Ok(false),
            Incoming::Request(_) => return Err(HostError::Unfit("a message came out of order".into())),
            Incoming::Broken(error) => return Err(HostError::Unfit(error.to_string())),
        }
    }
    if hasher.try_finalize().ok() != Some(id.0) {
        return Err(HostError::Unfit(format!("blob {} was damaged on the way", id.short())));
    }
    fs::rename(&temporary, &path).during("rename", &temporary)?;
    Ok(true)
}

/// Why a stream of data ended before its time.
enum Cut {
    Gone,
    Protocol(String),
}

/// The bytes of [`Request::Data`] messages, one after the other. Takes no message more than the reader asks for.
struct DataStream<'a> {
    peer: &'a mut Peer,
    pending: Vec<u8>,
    at: usize,
    end: Option<Cut>,
}

impl Read for DataStream<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        while self.at == self.pending.len() {
            self.end = match self.peer.receive() {
                Incoming::Request(Request::Data(bytes)) => {
                    (self.pending, self.at) = (bytes.0, 0);
                    continue;
                }
                Incoming::Request(Request::Cancel) | Incoming::Silence | Incoming::End => Some(Cut::Gone),
                Incoming::Request(_) => Some(Cut::Protocol("the pack was cut off by another message".into())),
                Incoming::Broken(error) => Some(Cut::Protocol(error.to_string())),
            };
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let count = into.len().min(self.pending.len() - self.at);
        into[..count].copy_from_slice(&self.pending[self.at..self.at + count]);
        self.at += count;
        Ok(count)
    }
}
