//! Restricts output to the character set of the user's locale.
//!
//! A terminal that does not expect UTF-8 takes some of its bytes for control characters. On such a terminal, only ASCII
//! is printed.

use std::{
    borrow::Cow,
    env,
    ffi::OsString,
    io::{self, Write},
};

/// The character set of the terminal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Charset {
    Utf8,
    /// Any other; only its ASCII part is used.
    Other,
}

impl Charset {
    /// The character set of this process's locale.
    pub fn of_process() -> Self {
        Self::of(env::var_os)
    }

    fn of(variable: impl Fn(&'static str) -> Option<OsString>) -> Self {
        let set = |name| variable(name).filter(|value| !value.is_empty());
        let locale = ["LC_ALL", "LC_CTYPE", "LANG"].into_iter().find_map(set).unwrap_or_default();
        let locale = locale.to_string_lossy().to_ascii_lowercase();
        // On macOS, LC_CTYPE may contain just the name of the character set.
        let charset = locale.split('@').next().unwrap_or_default().rsplit('.').next().unwrap_or_default();
        if charset == "utf-8" || charset == "utf8" { Charset::Utf8 } else { Charset::Other }
    }

    /// `text` for this character set. If that is not UTF-8, characters beyond ASCII become `\u{fc}`.
    pub fn shown(self, text: &str) -> Cow<'_, str> {
        match self {
            Charset::Other if !text.is_ascii() => {
                let mut out = String::with_capacity(text.len() + 16);
                for c in text.chars() {
                    if c.is_ascii() { out.push(c) } else { out.extend(c.escape_unicode()) }
                }
                out.into()
            }
            Charset::Utf8 | Charset::Other => text.into(),
        }
    }
}

/// A writer that adapts text to the character set. Each write must contain whole characters.
pub struct Shown<W> {
    charset: Charset,
    out: W,
}

impl<W: Write> Shown<W> {
    pub fn new(out: W, charset: Charset) -> Self {
        Shown { charset, out }
    }

    /// The underlying writer.
    pub fn get_ref(&self) -> &W {
        &self.out
    }
}

impl<W: Write> Write for Shown<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self.charset {
            Charset::Utf8 => self.out.write_all(bytes)?,
            Charset::Other => self.out.write_all(self.charset.shown(&String::from_utf8_lossy(bytes)).as_bytes())?,
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(variables: &[(&str, &str)]) -> Charset {
        Charset::of(|name| variables.iter().find(|(known, _)| *known == name).map(|(_, value)| value.into()))
    }

    #[test]
    fn the_first_variable_that_is_set_decides() {
        assert_eq!(of(&[("LC_ALL", "C.UTF-8")]), Charset::Utf8);
        assert_eq!(of(&[("LC_ALL", "C"), ("LANG", "en_GB.UTF-8")]), Charset::Other);
        assert_eq!(of(&[("LC_ALL", ""), ("LANG", "de_AT.utf8@euro")]), Charset::Utf8);
        assert_eq!(of(&[("LC_CTYPE", "UTF-8")]), Charset::Utf8);
        assert_eq!([of(&[("LANG", "de_AT.ISO-8859-1")]), of(&[])], [Charset::Other; 2]);
    }

    #[test]
    fn without_utf_8_text_is_ascii() {
        assert_eq!(Charset::Other.shown("a\u{fc}\u{1f600}"), "a\\u{fc}\\u{1f600}");
        assert_eq!(Charset::Utf8.shown("a\u{fc}"), "a\u{fc}");
        let mut out = Vec::new();
        write!(Shown::new(&mut out, Charset::Other), "{}\u{fc}", 1).unwrap();
        assert_eq!(out, b"1\\u{fc}");
    }
}
