//! Receives objects over a session.

use std::{
    io::{self, BufRead, BufReader, Read},
    time::{Duration, Instant},
};

use deptool_agent::shared::{
    id::{BlobId, CommitId},
    wire::{Request, Response},
};

use super::projection::HostObjects;
use crate::agent::session::{Session, SessionError};

/// A host that sends less than [`SPAN_BYTES`] within this time is given up.
const SPAN: Duration = Duration::from_secs(60);
const SPAN_BYTES: usize = 4096;
/// The most bytes of blobs that are too large for a pack. Without this limit, a host could fill the disk.
const LARGE: u64 = 32 << 30;

/// Receives objects over a session.
pub(super) struct FromHost<'a> {
    session: &'a mut Session,
    /// The message that ends the requested pack was not received yet.
    is_sending: bool,
    pace: Pace,
    /// How many more bytes of blobs that are too large for a pack may be received.
    large: u64,
}

/// Checks that data arrive at a minimum rate.
struct Pace {
    since: Instant,
    bytes: usize,
}

impl Pace {
    fn begin(now: Instant) -> Pace {
        Pace { since: now, bytes: 0 }
    }

    fn took(&mut self, bytes: usize, now: Instant) -> Result<(), &'static str> {
        self.bytes += bytes;
        if now.duration_since(self.since) < SPAN {
            return Ok(());
        }
        if self.bytes < SPAN_BYTES {
            return Err("sends too slowly");
        }
        *self = Pace::begin(now);
        Ok(())
    }
}

impl<'a> FromHost<'a> {
    pub fn new(session: &'a mut Session) -> Self {
        FromHost { session, is_sending: false, pace: Pace::begin(Instant::now()), large: LARGE }
    }

    /// The reader of a pack stops at its last byte. Receive the message that follows.
    fn end_pack(&mut self) -> io::Result<()> {
        if std::mem::take(&mut self.is_sending)
            && !matches!(self.session.receive().map_err(io::Error::other)?, Response::End)
        {
            return Err(io::Error::other(SessionError::OutOfOrder));
        }
        Ok(())
    }

    /// The next data message, or the one that ends the data.
    fn data(&mut self) -> io::Result<Response> {
        let response = self.session.receive().map_err(io::Error::other)?;
        if let Response::Data(bytes) = &response {
            if bytes.0.is_empty() {
                return Err(io::Error::other(SessionError::OutOfOrder));
            }
            self.pace.took(bytes.0.len(), Instant::now()).map_err(|why| io::Error::other(SessionError::Idle(why)))?;
        }
        Ok(response)
    }
}

impl HostObjects for FromHost<'_> {
    fn pack(&mut self, want: CommitId, have: &[CommitId]) -> io::Result<Box<dyn BufRead + '_>> {
        self.end_pack()?;
        self.session.send(&Request::Export { want, have: have.to_vec() }).map_err(io::Error::other)?;
        self.is_sending = true;
        Ok(Box::new(BufReader::new(DataStream { source: self, left: None, pending: Vec::new(), at: 0 })))
    }

    fn large_blob(&mut self, blob: BlobId) -> io::Result<Option<(u64, Box<dyn Read + '_>)>> {
        self.end_pack()?;
        self.session.send(&Request::ExportBlob(blob)).map_err(io::Error::other)?;
        match self.session.receive().map_err(io::Error::other)? {
            Response::Blob { size: None } => Ok(None),
            Response::Blob { size: Some(size) } => {
                let left = self.large.checked_sub(size);
                self.large = left.ok_or_else(|| io::Error::other(SessionError::Idle("has too much to send")))?;
                let stream = DataStream { source: self, left: Some(size), pending: Vec::new(), at: 0 };
                Ok(Some((size, Box::new(stream))))
            }
            _ => Err(io::Error::other(SessionError::OutOfOrder)),
        }
    }
}

/// The content of data messages: a given number of bytes, or up to the message that ends them.
struct DataStream<'a, 'b> {
    source: &'a mut FromHost<'b>,
    left: Option<u64>,
    pending: Vec<u8>,
    at: usize,
}

impl Read for DataStream<'_, '_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        while self.at == self.pending.len() {
            if self.left == Some(0) {
                return Ok(0);
            }
            match self.source.data()? {
                Response::Data(bytes) => {
                    if let Some(left) = &mut self.left {
                        let too_much = || io::Error::other(SessionError::OutOfOrder);
                        *left = left.checked_sub(bytes.0.len() as u64).ok_or_else(too_much)?;
                    }
                    (self.pending, self.at) = (bytes.0, 0);
                }
                Response::End if self.left.is_none() => {
                    self.left = Some(0);
                    self.source.is_sending = false;
                }
                _ => return Err(io::Error::other(SessionError::OutOfOrder)),
            }
        }
        let count = into.len().min(self.pending.len() - self.at);
        into[..count].copy_from_slice(&self.pending[self.at..self.at + count]);
        self.at += count;
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn data_that_drip_are_given_up_and_slow_ones_are_not() {
        let begin = Instant::now();
        let come_to = |bytes: usize| {
            let mut pace = Pace::begin(begin);
            (1..300).try_for_each(|second| pace.took(bytes, begin + Duration::from_secs(second)))
        };
        assert_eq!(come_to(1), Err("sends too slowly"));
        assert_eq!(come_to(0), Err("sends too slowly"));
        assert_eq!(come_to(100), Ok(()));
    }
}
