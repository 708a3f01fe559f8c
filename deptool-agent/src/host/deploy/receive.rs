//! Taking in what a deployment needs: a pack, and blobs too large for one.

use std::{
    fs::{self, File},
    io::{self, BufReader, Read, Write},
};

use crate::{
    host::{
        connection::peer::{Incoming, Peer},
        state::{
            checkout::{Contents, Earlier},
            error::{Context, HostError, ProtocolError, Whose},
            identity::load_tree,
            layout::Home,
        },
    },
    shared::{
        id::BlobId,
        outcome::Goal,
        store::{Store, pack::Limits},
        tree::{HostTree, TreeError},
        wire::{Deploy, Lease, Request, Response},
    },
};

/// Takes in what one deployment needs. `None` is what comes of it when the helper goes away or changes its mind.
pub struct Receiving<'a> {
    pub home: &'a Home,
    pub request: &'a Deploy,
    pub store: &'a mut Store,
    pub peer: &'a mut Peer,
    /// The last pack that may be asked for was taken in.
    is_complete: bool,
}

impl<'a> Receiving<'a> {
    pub fn new(home: &'a Home, request: &'a Deploy, store: &'a mut Store, peer: &'a mut Peer) -> Self {
        Receiving { home, request, store, peer, is_complete: false }
    }

    /// What is deployed: a deployment needs to know what it takes away. If the store has lost it, it is asked for again,
    /// with everything else.
    pub fn deployed(&mut self) -> Result<Option<HostTree>, HostError> {
        let Lease::At(commit) = self.request.expected else { return Ok(Some(HostTree::default())) };
        let unfit = |error: TreeError| HostError::tree(Whose::Deployed, error);
        match load_tree(self.store, &self.request.host, commit) {
            Err(TreeError::Missing { .. } | TreeError::Unreadable { .. }) => {}
            tree => return tree.map(Some).map_err(unfit),
        }
        // What is on its way may assume what is lost; and it has to be taken in before anything else can be.
        if !self.transfer()? {
            return Ok(None);
        }
        if !self.ask_for_all()? {
            return Ok(None);
        }
        match load_tree(self.store, &self.request.host, commit) {
            Err(TreeError::Missing { .. } | TreeError::Unreadable { .. }) => Err(HostError::refused(format!(
                "the host's store has lost what is deployed; push from a repository that has {commit}"
            ))),
            tree => {
                let said = "the host's store had lost part of what is deployed: it was sent again";
                self.peer.send(&Response::Note(said.into()));
                tree.map(Some).map_err(unfit)
            }
        }
    }

    /// What is to be deployed, all of which can be had then.
    pub fn target(&mut self, earlier: &[Earlier<'_>]) -> Result<Option<HostTree>, HostError> {
        if !self.is_complete && !self.transfer()? {
            return Ok(None);
        }
        let Goal::Commit(target) = self.request.target else { return Ok(Some(HostTree::default())) };
        loop {
            match load_tree(self.store, &self.request.host, target) {
                Ok(tree) => {
                    let contents = Contents { objects: self.store, incoming: self.home.incoming(), earlier };
                    if has_all(&tree, &contents) {
                        return Ok(Some(tree));
                    }
                }
                Err(TreeError::Missing { .. } | TreeError::Unreadable { .. }) => {}
                Err(error) => return Err(HostError::tree(Whose::New, error)),
            }
            if self.is_complete {
                return Err(HostError::refused("objects are missing from the pack"));
            }
            if !self.ask_for_all()? {
                return Ok(None);
            }
        }
    }

    /// The pack assumes what is not here, or can't be read any more: take in one that assumes nothing.
    fn ask_for_all(&mut self) -> Result<bool, HostError> {
        self.peer.send(&Response::NeedFull);
        self.store.doubt();
        self.is_complete = true;
        self.transfer()
    }

    fn transfer(&mut self) -> Result<bool, HostError> {
        transfer(self.home, self.store, self.peer)
    }
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
        (_, Some(Cut::Protocol(error))) => return Err(error.into()),
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
            Incoming::Broken(error) => return Err(ProtocolError::from(error).into()),
        }
    }
}

fn expect_pack_end(peer: &mut Peer) -> Result<(), HostError> {
    match peer.receive() {
        Incoming::Request(Request::PackEnd) => Ok(()),
        _ => Err(ProtocolError::PackWithoutEnd.into()),
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
            Incoming::Request(_) => return Err(ProtocolError::OutOfOrder.into()),
            Incoming::Broken(error) => return Err(ProtocolError::from(error).into()),
        }
    }
    if hasher.try_finalize().ok() != Some(id.0) {
        return Err(ProtocolError::DamagedBlob(id.short()).into());
    }
    fs::rename(&temporary, &path).during("rename", &temporary)?;
    Ok(true)
}

/// Why a stream of data ended before its time.
enum Cut {
    Gone,
    Protocol(ProtocolError),
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
                Incoming::Request(_) => Some(Cut::Protocol(ProtocolError::PackCutOff)),
                Incoming::Broken(error) => Some(Cut::Protocol(error.into())),
            };
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let count = into.len().min(self.pending.len() - self.at);
        into[..count].copy_from_slice(&self.pending[self.at..self.at + count]);
        self.at += count;
        Ok(count)
    }
}
