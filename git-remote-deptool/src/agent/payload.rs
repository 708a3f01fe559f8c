//! The objects that are sent to a host.

use std::sync::Arc;

use deptool_agent::shared::{
    frame::{CHUNK, FrameError, encode},
    id::BlobId,
    wire::{Bytes, Request},
};

/// A pack, and the blobs that are too large for it. Hosts that get the same objects share it.
#[derive(Debug, Clone)]
pub struct Payload {
    /// The pack, encoded as messages. If there are no large blobs, they include the message that ends the objects.
    pub messages: Arc<[u8]>,
    /// The large blobs that follow, with their sizes in bytes.
    pub large: Vec<(BlobId, u64)>,
}

impl Payload {
    pub fn new(pack: &[u8], large: Vec<(BlobId, u64)>) -> Result<Payload, FrameError> {
        let mut messages = Vec::with_capacity(pack.len() + pack.len() / CHUNK * 16 + 64);
        for chunk in pack.chunks(CHUNK) {
            messages.extend(encode(&Request::Data(Bytes(chunk.to_vec())))?);
        }
        messages.extend(encode(&Request::PackEnd)?);
        if large.is_empty() {
            messages.extend(encode(&Request::ObjectsEnd)?);
        }
        Ok(Payload { messages: messages.into(), large })
    }
}
