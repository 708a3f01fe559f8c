//! Output: results on stdout, everything else on stderr.

use std::{
    borrow::Cow,
    cell::{Cell, RefCell},
    env, fmt,
    io::{self, BufWriter, IsTerminal, Write},
};

use gix::config::File;
use serde::Serialize;

use super::Common;
use crate::ui::locale::Charset;

/// Buffered stdout, with the settings for colour and `-q`.
pub struct Output {
    out: RefCell<Box<dyn Write>>,
    quiet: bool,
    colour: Colour,
    charset: Charset,
    has_document: Cell<bool>,
}

/// When to use colour.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Colour {
    /// On a terminal, unless NO_COLOR or color.ui says otherwise.
    Auto,
    Always,
    Never,
}

/// The kind of a piece of text, which determines its colour.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Style {
    Plain,
    /// The first line of a section, such as a host's name.
    Heading,
    Added,
    Changed,
    Removed,
    /// Less important text.
    Faint,
}

impl Style {
    /// The escape sequence that Git uses for the same kind of text.
    fn sequence(self) -> Option<&'static str> {
        match self {
            Style::Plain => None,
            Style::Heading => Some("\x1b[1m"),
            Style::Added => Some("\x1b[32m"),
            Style::Changed => Some("\x1b[33m"),
            Style::Removed => Some("\x1b[31m"),
            Style::Faint => Some("\x1b[2m"),
        }
    }
}

impl Output {
    pub(super) fn to_stdout(common: &Common) -> Self {
        let out = BufWriter::new(io::stdout());
        Output {
            out: RefCell::new(Box::new(out)),
            quiet: common.quiet,
            colour: common.color,
            charset: Charset::of_process(),
            has_document: Cell::new(false),
        }
    }

    /// Print a result, one or more lines without the final line feed, even with `-q`.
    pub fn line(&self, text: impl fmt::Display) -> io::Result<()> {
        let text = text.to_string();
        writeln!(self.out.borrow_mut(), "{}", self.charset.shown(&text))
    }

    /// Print a result, whole lines with their line feeds.
    pub fn text(&self, text: &str) -> io::Result<()> {
        self.raw(self.charset.shown(text).as_bytes())
    }

    /// `text`, escaped for the locale's character set.
    pub fn shown<'a>(&self, text: &'a str) -> Cow<'a, str> {
        self.charset.shown(text)
    }

    /// Print bytes unchanged.
    pub fn raw(&self, bytes: &[u8]) -> io::Result<()> {
        self.out.borrow_mut().write_all(bytes)
    }

    /// Print what was done, unless `-q` was given.
    pub fn note(&self, text: impl fmt::Display) -> io::Result<()> {
        if self.quiet { Ok(()) } else { self.line(text) }
    }

    /// Print a note on stderr, unless `-q` was given.
    pub fn remark(&self, text: impl fmt::Display) -> io::Result<()> {
        if self.quiet { Ok(()) } else { self.complain(format_args!("note: {text}")) }
    }

    /// Print a warning on stderr. Errors are ignored.
    pub fn warn(&self, text: impl fmt::Display) {
        let _ = self.complain(format_args!("warning: {text}"));
    }

    /// Print an error on stderr, even with `-q`, after everything that was printed before.
    pub fn complain(&self, text: impl fmt::Display) -> io::Result<()> {
        self.flush()?;
        // If stderr can't be written to, there is nowhere to report that.
        let _ = writeln!(io::stderr(), "{}", self.charset.shown(&text.to_string()));
        Ok(())
    }

    /// Print a JSON document on one line.
    pub fn json(&self, value: &impl Serialize) -> io::Result<()> {
        self.has_document.set(true);
        let mut out = self.out.borrow_mut();
        serde_json::to_writer(&mut *out, value)?;
        out.write_all(b"\n")
    }

    /// Whether a JSON document was printed.
    pub fn has_document(&self) -> bool {
        self.has_document.get()
    }

    /// Whether only errors and results are wanted.
    pub fn is_quiet(&self) -> bool {
        self.quiet
    }

    /// Flush stdout, before a question or before another program prints.
    pub fn flush(&self) -> io::Result<()> {
        self.out.borrow_mut().flush()
    }

    /// Whether to use colour on stdout, in a repository with the configuration `config`.
    pub fn has_colour(&self, config: &File) -> bool {
        let wish = match self.colour {
            Colour::Auto => configured(config),
            asked => asked,
        };
        match wish {
            Colour::Always => true,
            Colour::Never => false,
            Colour::Auto => {
                let refused = env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
                let is_dumb = env::var_os("TERM").is_none_or(|term| term == "dumb");
                !refused && !is_dumb && io::stdout().is_terminal()
            }
        }
    }
}

/// `color.ui`, as Git interprets it.
fn configured(config: &File) -> Colour {
    match config.string("color.ui").as_ref().map(|value| value.as_slice()) {
        Some(b"always") => Colour::Always,
        Some(b"never" | b"false" | b"no" | b"off" | b"0") => Colour::Never,
        Some(_) | None => Colour::Auto,
    }
}

/// `text` in the colour of `style`, if `colour` is set.
pub fn painted(text: &str, style: Style, colour: bool) -> String {
    match style.sequence() {
        Some(sequence) if colour => format!("{sequence}{text}\x1b[m"),
        Some(_) | None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(text: &str) -> File {
        File::try_from(text).unwrap()
    }

    #[test]
    fn color_ui_means_what_it_means_to_git() {
        let ui = |value: &str| configured(&config(&format!("[color]\n\tui = {value}\n")));
        assert_eq!([ui("always"), ui("never"), ui("false")], [Colour::Always, Colour::Never, Colour::Never]);
        assert_eq!([ui("auto"), ui("true"), configured(&config(""))], [Colour::Auto; 3]);
    }

    #[test]
    fn without_colour_text_is_as_it_was() {
        assert_eq!(painted("x", Style::Added, false), "x");
        assert_eq!(painted("x", Style::Plain, true), "x");
        assert_eq!(painted("x", Style::Added, true), "\x1b[32mx\x1b[m");
    }
}
