//! A terminal where text scrolls by above a block of lines that is redrawn in place.

use std::io::{self, Write};

use rustix::termios::{LocalModes, tcgetattr, tcgetwinsize};

use crate::ui::locale::Shown;

/// The size of a terminal, in characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Size {
    pub columns: u16,
    pub rows: u16,
}

/// The operations that a screen needs from a terminal.
pub trait Terminal: Write + Send {
    /// The current size; it may change.
    fn size(&self) -> Size;

    /// Whether a program has turned echo off, because it asks for a secret. Its question must not be erased.
    fn hides_what_is_typed(&self) -> bool;
}

impl Terminal for io::Stderr {
    fn size(&self) -> Size {
        match tcgetwinsize(self) {
            Ok(size) if size.ws_col > 0 && size.ws_row > 0 => Size { columns: size.ws_col, rows: size.ws_row },
            Ok(_) | Err(_) => Size { columns: 80, rows: 24 },
        }
    }

    fn hides_what_is_typed(&self) -> bool {
        tcgetattr(self).is_ok_and(|modes| !modes.local_modes.contains(LocalModes::ECHO))
    }
}

impl<T: Terminal> Terminal for Shown<T> {
    fn size(&self) -> Size {
        self.get_ref().size()
    }

    fn hides_what_is_typed(&self) -> bool {
        self.get_ref().hides_what_is_typed()
    }
}

/// The screen. Text that is written to it appears above the block at [`flush`](Write::flush).
///
/// The cursor is always at the beginning of the line below the block, or, if text without a line feed was written,
/// after that text; then there is no block. So the terminal is in order however the program ends.
pub struct Screen {
    terminal: Box<dyn Terminal>,
    text: Vec<u8>,
    /// The lines of the block, and the widths of the lines that are currently drawn: none while the block is hidden.
    block: Vec<String>,
    drawn: Vec<usize>,
    within_line: bool,
}

impl Screen {
    /// An empty screen.
    pub fn new(terminal: impl Terminal + 'static) -> Screen {
        Screen {
            terminal: Box::new(terminal),
            text: Vec::new(),
            block: Vec::new(),
            drawn: Vec::new(),
            within_line: false,
        }
    }

    pub fn size(&self) -> Size {
        self.terminal.size()
    }

    /// Replace the block. Each line must be shorter than the terminal is wide, and safe to show.
    pub fn draw(&mut self, lines: Vec<String>) {
        if self.within_line {
            return;
        }
        if self.terminal.hides_what_is_typed() {
            // The question is below the block, which therefore becomes ordinary text.
            return self.drawn.clear();
        }
        if self.block != lines || self.drawn.len() != lines.len() {
            self.block = lines;
            self.show();
        }
    }

    /// Erase the block.
    pub fn clear(&mut self) {
        self.block = Vec::new();
        self.show();
    }

    /// Write pending text and the block in one piece, so that nothing flickers.
    fn show(&mut self) {
        let mut out = Vec::new();
        let is_asking = self.terminal.hides_what_is_typed();
        match self.rows_drawn() {
            0 => {}
            _ if is_asking => out.push(b'\n'),
            rows => out.extend_from_slice(format!("\x1b[{rows}A\r\x1b[J").as_bytes()),
        }
        out.append(&mut self.text);
        self.drawn.clear();
        if !self.within_line && !is_asking {
            for line in &self.block {
                out.extend_from_slice(line.as_bytes());
                out.push(b'\n');
                self.drawn.push(crate::ui::columns::columns(line));
            }
        }
        // A closed terminal is no reason to stop a deployment.
        let _ = self.terminal.write_all(&out).and_then(|()| self.terminal.flush());
    }

    /// The number of rows that the block takes. Its lines wrap if the terminal has become narrower.
    fn rows_drawn(&self) -> usize {
        let columns = usize::from(self.terminal.size().columns).max(1);
        self.drawn.iter().map(|width| width.div_ceil(columns).max(1)).sum()
    }
}

impl Write for Screen {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.text.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        if let Some(last) = self.text.last() {
            self.within_line = *last != b'\n';
            self.show();
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    /// A terminal that interprets what we use: text, line feeds, `\r`, cursor up, erase below. It wraps.
    #[derive(Default)]
    struct Fake {
        rows: Vec<String>,
        row: usize,
        column: usize,
        columns: usize,
        is_secret: bool,
    }

    #[derive(Clone, Default)]
    struct Shared(Arc<Mutex<Fake>>);

    impl Fake {
        fn put(&mut self, c: char) {
            if self.column == self.columns {
                (self.row, self.column) = (self.row + 1, 0);
            }
            while self.rows.len() <= self.row {
                self.rows.push(String::new());
            }
            let line = &mut self.rows[self.row];
            let before: String = line.chars().take(self.column).collect();
            let after: String = line.chars().skip(self.column + 1).collect();
            *line = format!("{before}{c}{after}");
            self.column += 1;
        }

        fn interpret(&mut self, text: &str) {
            let mut rest = text;
            while let Some(c) = rest.chars().next() {
                rest = &rest[c.len_utf8()..];
                match c {
                    '\n' => (self.row, self.column) = (self.row + 1, 0),
                    '\r' => self.column = 0,
                    '\x1b' => {
                        let end = rest.find(|c: char| c.is_ascii_alphabetic()).unwrap();
                        match (&rest[1..end], &rest[end..=end]) {
                            (count, "A") => self.row -= count.parse::<usize>().unwrap(),
                            ("", "J") => self.rows.truncate(self.row),
                            other => panic!("{other:?}"),
                        }
                        rest = &rest[end + 1..];
                    }
                    c => self.put(c),
                }
            }
        }
    }

    impl Write for Shared {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().interpret(std::str::from_utf8(bytes).unwrap());
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    impl Terminal for Shared {
        fn size(&self) -> Size {
            Size { columns: self.0.lock().unwrap().columns as u16, rows: 24 }
        }

        fn hides_what_is_typed(&self) -> bool {
            self.0.lock().unwrap().is_secret
        }
    }

    fn screen() -> (Screen, Shared) {
        let shared = Shared::default();
        shared.0.lock().unwrap().columns = 20;
        (Screen::new(shared.clone()), shared)
    }

    fn block(lines: &[&str]) -> Vec<String> {
        lines.iter().map(ToString::to_string).collect()
    }

    fn shown(shared: &Shared) -> String {
        shared.0.lock().unwrap().rows.join("\n")
    }

    #[test]
    fn text_scrolls_by_above_the_block() {
        let (mut screen, shared) = screen();
        screen.draw(block(&["  web1: a", "  web2: a"]));
        writeln!(screen, "a note").unwrap();
        assert_eq!(shown(&shared), "  web1: a\n  web2: a", "text waits until it is flushed");
        screen.flush().unwrap();
        assert_eq!(shown(&shared), "a note\n  web1: a\n  web2: a");
        screen.draw(block(&["  web1: b"]));
        assert_eq!(shown(&shared), "a note\n  web1: b");
        screen.clear();
        assert_eq!(shown(&shared), "a note");
        let fake = shared.0.lock().unwrap();
        assert_eq!((fake.row, fake.column), (1, 0));
    }

    #[test]
    fn there_is_no_block_behind_half_a_line() {
        let (mut screen, shared) = screen();
        screen.draw(block(&["  web1: a"]));
        write!(screen, "touch your key ").unwrap();
        screen.flush().unwrap();
        screen.draw(block(&["  web1: b"]));
        assert_eq!(shown(&shared), "touch your key ");
        writeln!(screen, "now").unwrap();
        screen.flush().unwrap();
        screen.draw(block(&["  web1: b"]));
        assert_eq!(shown(&shared), "touch your key now\n  web1: b");
    }

    #[test]
    fn a_terminal_that_became_narrower_is_drawn_on_in_place() {
        let (mut screen, shared) = screen();
        writeln!(screen, "before").unwrap();
        screen.flush().unwrap();
        screen.draw(block(&["  web1: connecting"]));
        {
            // As terminals do it: what was one row is two by now, and the cursor is below them.
            let mut fake = shared.0.lock().unwrap();
            fake.rows = block(&["before", "  web1: co", "nnecting"]);
            (fake.columns, fake.row) = (10, 3);
        }
        screen.draw(block(&["  web1: d…"]));
        assert_eq!(shown(&shared), "before\n  web1: d…");
    }

    #[test]
    fn a_question_for_a_secret_is_not_wiped_away() {
        let (mut screen, shared) = screen();
        screen.draw(block(&["  web1: a"]));
        shared.0.lock().unwrap().is_secret = true;
        shared.0.lock().unwrap().interpret("password: ");
        screen.draw(block(&["  web1: b"]));
        assert_eq!(shown(&shared), "  web1: a\npassword: ");
        shared.0.lock().unwrap().interpret("\n");
        shared.0.lock().unwrap().is_secret = false;
        screen.draw(block(&["  web1: b"]));
        assert_eq!(shown(&shared), "  web1: a\npassword: \n  web1: b");
    }
}
