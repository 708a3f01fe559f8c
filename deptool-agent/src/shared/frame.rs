//! Frames: the length in four bytes, big-endian, then that many bytes of postcard.
//!
//! A stream that stops between two frames has ended. A stream that stops anywhere else was cut off, which is an error.

use std::io::{self, Read};

use serde::{Serialize, de::DeserializeOwned};

use crate::shared::encoding;

/// The longest frame that either side sends or accepts, in bytes. Bulk data travels in many frames.
pub const MAX_FRAME: usize = 1 << 20;
/// The bulk data in one frame, in bytes.
///
/// musl's allocator gets any block of more than about 24 KiB from the kernel and returns it when it is freed. With
/// chunks of 64 KiB that took longer than everything else that the agent does with a large file.
pub const CHUNK: usize = 16 * 1024;
/// The most that is read at once, in bytes.
const READ: usize = 64 * 1024;

#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    #[error("the stream was cut off in the middle of a message")]
    CutOff,
    #[error("a message of {0} bytes is too long")]
    TooLong(usize),
    #[error("a message can't be decoded: {0}")]
    Malformed(String),
    #[error("{0}")]
    Io(#[from] io::Error),
}

/// Encode `message` as one frame.
pub fn encode<T: Serialize>(message: &T) -> Result<Vec<u8>, FrameError> {
    let mut frame = encoding::append(vec![0; 4], message).map_err(|error| FrameError::Malformed(error.to_string()))?;
    let length = frame.len() - 4;
    if length > MAX_FRAME {
        return Err(FrameError::TooLong(length));
    }
    frame[..4].copy_from_slice(&(length as u32).to_be_bytes());
    Ok(frame)
}

/// Collects received bytes until they are whole messages.
#[derive(Default)]
pub struct FrameBuffer {
    /// The bytes at `taken..end` were received and not yet taken. What follows is room for more, so that it is cleared only once.
    bytes: Vec<u8>,
    taken: usize,
    end: usize,
}

impl FrameBuffer {
    /// Add bytes that were received.
    pub fn push(&mut self, bytes: &[u8]) {
        self.room(bytes.len())[..bytes.len()].copy_from_slice(bytes);
        self.end += bytes.len();
    }

    /// Add what `read` puts at the beginning of the memory that it is given. Returns the number of bytes.
    pub fn fill<E>(&mut self, read: impl FnOnce(&mut [u8]) -> Result<usize, E>) -> Result<usize, E> {
        let count = read(self.room(READ))?;
        self.end += count;
        Ok(count)
    }

    /// Room for at least `size` more bytes.
    fn room(&mut self, size: usize) -> &mut [u8] {
        self.bytes.copy_within(self.taken..self.end, 0);
        (self.taken, self.end) = (0, self.waiting());
        if self.bytes.len() < self.end + size {
            self.bytes.resize(self.end + size, 0);
        }
        &mut self.bytes[self.end..]
    }

    /// Take the next message, if all of it was received.
    pub fn take<T: DeserializeOwned>(&mut self) -> Result<Option<T>, FrameError> {
        let rest = &self.bytes[self.taken..self.end];
        let Some((length, rest)) = rest.split_first_chunk::<4>() else { return Ok(None) };
        let length = u32::from_be_bytes(*length) as usize;
        if length > MAX_FRAME {
            return Err(FrameError::TooLong(length));
        }
        let Some(body) = rest.get(..length) else { return Ok(None) };
        let message = encoding::from_slice(body)
            .map_err(|error| FrameError::Malformed(crate::shared::text::printable(error.to_string().as_bytes())))?;
        self.taken += 4 + length;
        Ok(Some(message))
    }

    /// Take the bytes before the next line feed, if one was received. Every stream begins with a line of text.
    pub fn take_line(&mut self) -> Option<Vec<u8>> {
        let rest = &self.bytes[self.taken..self.end];
        let line = rest[..rest.iter().position(|byte| *byte == b'\n')?].to_vec();
        self.taken += line.len() + 1;
        Some(line)
    }

    /// The number of bytes that were received and not yet taken.
    pub fn waiting(&self) -> usize {
        self.end - self.taken
    }

    /// Take all bytes that are left, undecoded.
    pub fn take_rest(&mut self) -> Vec<u8> {
        let rest = self.bytes[self.taken..self.end].to_vec();
        *self = FrameBuffer::default();
        rest
    }

    /// Whether the stream may end here without having been cut off.
    pub fn is_between_frames(&self) -> bool {
        self.waiting() == 0
    }
}

/// Reads messages from a blocking stream.
pub struct FrameReader<R> {
    stream: R,
    buffer: FrameBuffer,
}

impl<R: Read> FrameReader<R> {
    pub fn new(stream: R) -> Self {
        FrameReader { stream, buffer: FrameBuffer::default() }
    }

    /// Wait for the next message. `None` means the end of the stream.
    pub fn receive<T: DeserializeOwned>(&mut self) -> Result<Option<T>, FrameError> {
        let mut chunk = [0; 16 * 1024];
        loop {
            if let Some(message) = self.buffer.take()? {
                return Ok(Some(message));
            }
            match self.stream.read(&mut chunk) {
                Ok(0) if self.buffer.is_between_frames() => return Ok(None),
                Ok(0) => return Err(FrameError::CutOff),
                Ok(n) => self.buffer.push(&chunk[..n]),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn messages(stream: &[u8]) -> Result<Vec<(u32, String)>, FrameError> {
        let mut reader = FrameReader::new(stream);
        let mut all = Vec::new();
        while let Some(message) = reader.receive()? {
            all.push(message);
        }
        Ok(all)
    }

    #[test]
    fn the_end_of_a_stream_is_told_from_a_cut_at_any_byte() {
        let sent = vec![(1, "one".to_owned()), (2, String::new())];
        let frames: Vec<Vec<u8>> = sent.iter().map(|m| encode(m).unwrap()).collect();
        let stream = frames.concat();
        assert_eq!(messages(&stream).unwrap(), sent);
        for cut in 0..stream.len() {
            let result = messages(&stream[..cut]);
            if cut == 0 || cut == frames[0].len() {
                assert!(result.is_ok(), "{cut}");
            } else {
                assert!(matches!(result, Err(FrameError::CutOff)), "{cut}: {result:?}");
            }
        }
    }

    #[test]
    fn messages_are_the_same_in_whatever_pieces_they_arrive() {
        let sent: Vec<(u32, String)> = (0..40).map(|n| (n, "x".repeat(n as usize * 50))).collect();
        let stream: Vec<u8> = sent.iter().flat_map(|message| encode(message).unwrap()).collect();
        for size in [1, 7, 1000, READ] {
            let (mut buffer, mut received) = (FrameBuffer::default(), Vec::new());
            for (n, mut piece) in stream.chunks(size).enumerate() {
                match n % 2 {
                    0 => drop(buffer.fill(|room| piece.read(room)).unwrap()),
                    _ => buffer.push(piece),
                }
                while let Some(message) = buffer.take::<(u32, String)>().unwrap() {
                    received.push(message);
                }
            }
            assert!(buffer.is_between_frames());
            assert_eq!(received, sent);
        }
    }

    #[test]
    fn an_oversized_frame_is_refused_before_it_is_read() {
        let result = messages(&u32::MAX.to_be_bytes());
        assert!(matches!(result, Err(FrameError::TooLong(_))), "{result:?}");
        assert!(matches!(encode(&vec![1u8; MAX_FRAME * 2]), Err(FrameError::TooLong(_))));
    }

    #[test]
    fn trailing_bytes_in_a_frame_are_refused() {
        let mut frame = encode(&(1, "x")).unwrap();
        frame.push(0);
        frame[3] += 1;
        assert!(matches!(messages(&frame), Err(FrameError::Malformed(_))));
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes: Vec<u8>) {
            let _ = messages(&bytes);
            let mut framed = (bytes.len() as u32).to_be_bytes().to_vec();
            framed.extend(&bytes);
            let _ = messages(&framed);
            let mut reader = FrameReader::new(framed.as_slice());
            let _ = reader.receive::<crate::shared::wire::Request>();
            let mut reader = FrameReader::new(framed.as_slice());
            let _ = reader.receive::<crate::shared::wire::Response>();
        }
    }
}
