//! Messages with data that is read to where it is sent from.

use std::io::{self, Read};

use deptool_agent::shared::{
    frame::{FrameError, encode},
    wire::{Bytes, Request},
};

/// Encoded messages, each with equally many bytes of data, which is at the end of a message.
pub(super) struct DataFrames {
    pub bytes: Vec<u8>,
    /// The length of one message, and of the data in it.
    frame: usize,
    data: usize,
}

impl DataFrames {
    /// `count` messages with `data` bytes each.
    pub fn new(data: usize, count: usize) -> Result<DataFrames, FrameError> {
        let frame = encode(&Request::Data(Bytes(vec![0; data])))?;
        Ok(DataFrames { bytes: frame.repeat(count), frame: frame.len(), data })
    }

    /// The bytes of data in all messages together.
    pub fn size(&self) -> usize {
        self.bytes.len() / self.frame * self.data
    }

    /// Replace the data in all messages.
    pub fn read(&mut self, source: &mut dyn Read) -> io::Result<()> {
        let head = self.frame - self.data;
        self.bytes.chunks_exact_mut(self.frame).try_for_each(|frame| source.read_exact(&mut frame[head..]))
    }
}

#[cfg(test)]
mod tests {
    use deptool_agent::shared::frame::FrameReader;

    use super::*;

    #[test]
    fn the_data_arrives_in_as_many_messages() {
        let content: Vec<u8> = (0..60_000_u32).map(|n| n as u8).collect();
        for data in [1, 127, 128, 20_000] {
            let mut frames = DataFrames::new(data, 3).unwrap();
            assert_eq!(frames.size(), 3 * data);
            frames.read(&mut content.as_slice()).unwrap();
            let mut messages = FrameReader::new(frames.bytes.as_slice());
            for part in content.chunks(data).take(3) {
                assert_eq!(messages.receive().unwrap(), Some(Request::Data(Bytes(part.to_vec()))));
            }
            assert_eq!(messages.receive::<Request>().unwrap(), None);
        }
    }

    #[test]
    fn a_source_that_ends_early_is_an_error() {
        assert!(DataFrames::new(10, 2).unwrap().read(&mut &[0; 19][..]).is_err());
    }
}
