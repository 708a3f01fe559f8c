//! Makes a stream of bytes safe to show, piece by piece, without waiting for whole lines.

use deptool_agent::shared::text::printable_lines;

/// The part of a stream that is not shown yet.
#[derive(Debug, Default)]
pub(super) struct Filter {
    /// The end of the last piece, if its meaning depends on the next piece: an incomplete character, or a carriage
    /// return.
    held: Vec<u8>,
    within_line: bool,
}

impl Filter {
    pub(super) fn push(&mut self, bytes: &[u8]) -> String {
        self.held.extend_from_slice(bytes);
        let undecided = match self.held.utf8_chunks().last() {
            Some(last) if is_half_a_character(last.invalid()) => last.invalid().len(),
            _ if self.held.ends_with(b"\r") => 1,
            _ => 0,
        };
        let rest = self.held.split_off(self.held.len() - undecided);
        let ready = std::mem::replace(&mut self.held, rest);
        self.shown(&ready)
    }

    pub(super) fn finish(&mut self) -> String {
        let rest = std::mem::take(&mut self.held);
        self.shown(&rest)
    }

    /// `bytes` without control characters. The carriage returns that ssh puts at the ends and beginnings of lines are
    /// removed.
    fn shown(&mut self, bytes: &[u8]) -> String {
        let mut kept = Vec::with_capacity(bytes.len());
        for (at, byte) in bytes.iter().enumerate() {
            let line_end_follows = bytes[at + 1..].iter().find(|b| **b != b'\r').is_none_or(|b| *b == b'\n');
            if *byte == b'\r' && (!self.within_line || line_end_follows) {
                continue;
            }
            self.within_line = *byte != b'\n';
            kept.push(*byte);
        }
        printable_lines(&kept)
    }
}

/// Whether `bytes` is the beginning of a character.
fn is_half_a_character(bytes: &[u8]) -> bool {
    let length = match bytes.first() {
        Some(0xc2..=0xdf) => 2,
        Some(0xe0..=0xef) => 3,
        Some(0xf0..=0xf4) => 4,
        _ => return false,
    };
    bytes.len() < length && std::str::from_utf8(bytes).is_err_and(|error| error.error_len().is_none())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prompt_without_a_line_end_is_shown_at_once() {
        let mut filter = Filter::default();
        assert_eq!(filter.push(b"\rConfirm user presence for key "), "Confirm user presence for key ");
        assert_eq!(filter.push(b"\r\nnext\r\n"), "\nnext\n");
    }

    #[test]
    fn control_characters_from_a_host_do_not_reach_the_terminal() {
        let mut filter = Filter::default();
        assert_eq!(filter.push(b"a\x1b]0;x\x07\r\nb\rc"), "a\\x1b]0;x\\x07\nb\\rc");
        assert_eq!(filter.push(b"\r") + &filter.push(b"d") + &filter.finish(), "\\rd");
    }

    #[test]
    fn a_character_that_came_in_two_pieces_stays_whole() {
        for text in ["zürich", "a…b", "😀"] {
            for cut in 0..=text.len() {
                let mut filter = Filter::default();
                let shown = filter.push(&text.as_bytes()[..cut]) + &filter.push(&text.as_bytes()[cut..]);
                assert_eq!(shown + &filter.finish(), text, "{cut}");
            }
        }
        let mut filter = Filter::default();
        assert_eq!(filter.push(b"x\xc3") + &filter.finish(), "x\\xc3");
    }
}
