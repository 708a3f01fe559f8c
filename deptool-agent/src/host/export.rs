//! Sends deployed commits and files to an operator who lacks them.

use std::{
    fs,
    io::{self, Write},
    path::PathBuf,
};

use crate::{
    host::{
        connection::peer::Peer,
        state::{
            checkout::{self, Earlier},
            error::{Context, HostError, Whose},
            identity::{deployed, load_tree},
            layout::Home,
        },
    },
    shared::{
        frame::CHUNK,
        id::{BlobId, CommitId},
        store::Store,
        tree::Apps,
        wire::{Bytes, Response},
    },
};

/// Send the objects of `want` and its history that `have` does not reach.
pub fn objects(home: &Home, peer: &mut Peer, want: CommitId, have: &[CommitId]) -> Result<(), HostError> {
    let store = Store::open_to_read(&home.store())?;
    let store = store.ok_or_else(|| HostError::refused("nothing was ever deployed here"))?;
    let Some(deployed) = deployed(home)? else {
        return Err(HostError::refused("nothing is deployed here"));
    };
    let mut out = io::BufWriter::with_capacity(CHUNK, Chunks { peer });
    store.export_pack(&want, have, &deployed.host, &mut out)?;
    out.flush().during("send", &home.store())?;
    drop(out);
    peer.send(&Response::End);
    Ok(())
}

/// Send a large blob from the checked-out files.
pub fn blob(home: &Home, peer: &mut Peer, id: BlobId) -> Result<(), HostError> {
    let Some(path) = checked_out(home, id)? else {
        peer.send(&Response::Blob { size: None });
        return Ok(());
    };
    let file = fs::File::open(&path).during("open", &path)?;
    let size = file.metadata().during("look at", &path)?.len();
    peer.send(&Response::Blob { size: Some(size) });
    let mut out = io::BufWriter::with_capacity(CHUNK, Chunks { peer });
    io::copy(&mut io::Read::take(file, size), &mut out).and_then(|_| out.flush()).during("send", &path)
}

/// A file with the content `id` in the current generation.
fn checked_out(home: &Home, id: BlobId) -> Result<Option<PathBuf>, HostError> {
    let store = Store::open_to_read(&home.store())?;
    let number = home.linked_generation(&home.current())?;
    let (Some(store), Some(deployed), Some(number)) = (store, deployed(home)?, number) else { return Ok(None) };
    let tree = load_tree(&store, &deployed.host, deployed.commit, &mut Apps::new())
        .map_err(|error| HostError::tree(Whose::Deployed, error))?;
    let (apps, mut buffer) = (checkout::apps(home, number), Vec::new());
    let unchanged = apps.iter().filter_map(|app| checkout::unchanged(home, number, app, &mut buffer)).collect();
    Ok(Earlier::all(home, unchanged, &tree).iter().find_map(|earlier| earlier.file_with(id)))
}

/// Sends whatever is written to it as data messages.
pub(super) struct Chunks<'a> {
    pub(super) peer: &'a mut Peer,
}

impl Write for Chunks<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = bytes.len().min(CHUNK);
        self.peer.send(&Response::Data(Bytes(bytes[..count].to_vec())));
        if self.peer.is_lost() { Err(io::ErrorKind::BrokenPipe.into()) } else { Ok(count) }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
