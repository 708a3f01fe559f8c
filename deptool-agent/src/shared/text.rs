//! Makes text of unknown origin safe to show, and converts hex digits.

/// `bytes` as one line that is safe on a terminal. Valid UTF-8 stays. Whatever could move the cursor, change colours or
/// reorder text becomes an escape (`\n`, `\x1b`, `\u{202e}`).
pub fn printable(bytes: &[u8]) -> String {
    let mut out = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        for c in chunk.valid().chars() {
            match c {
                '\n' | '\r' | '\t' => out.extend(c.escape_default()),
                c if c.is_control() => out.push_str(&format!("\\x{:02x}", c as u32)),
                c if is_invisible_format(c) => out.extend(c.escape_unicode()),
                c => out.push(c),
            }
        }
        for byte in chunk.invalid() {
            out.push_str(&format!("\\x{byte:02x}"));
        }
    }
    out
}

/// A list of this length fits into a message and a line of the attempts log, whatever paths it names.
pub const LISTED: usize = 50;

/// Shorten a list to `most` items. `text` of the last one tells how many more there were.
pub fn shorten<T>(list: &mut Vec<T>, most: usize, text: impl FnOnce(&mut T) -> &mut String) {
    let more = list.len().saturating_sub(most);
    list.truncate(most);
    if let (1.., Some(last)) = (more, list.last_mut()) {
        text(last).push_str(&format!(", and {more} more"));
    }
}

/// All these problems, or the first of very many, in one line.
pub fn in_one_line(mut problems: Vec<String>) -> String {
    shorten(&mut problems, LISTED, |problem| problem);
    problems.join("; ")
}

/// `bytes` as lower-case hex digits.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The bytes that [`hex`] wrote as `digits`, or `None` if [`hex`] can't have written them.
pub fn unhex(digits: &[u8]) -> Option<Vec<u8>> {
    let value = |digit: u8| match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        _ => None,
    };
    let (pairs, rest) = digits.as_chunks::<2>();
    let bytes = pairs.iter().map(|[high, low]| Some(value(*high)? << 4 | value(*low)?));
    if rest.is_empty() { bytes.collect() } else { None }
}

/// Like [`printable`], for text of several lines: line feeds and tabs stay.
pub fn printable_lines(bytes: &[u8]) -> String {
    let lines: Vec<String> = bytes
        .split(|b| *b == b'\n')
        .map(|line| line.split(|b| *b == b'\t').map(printable).collect::<Vec<_>>().join("\t"))
        .collect();
    lines.join("\n")
}

/// Characters that are invisible but change how the text around them is shown: bidirectional overrides, zero-width
/// characters, line and paragraph separators.
fn is_invisible_format(c: char) -> bool {
    matches!(c, '\u{ad}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{61c}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_can_move_the_cursor() {
        let shown = printable("a\x1b[2Jb\r\n\u{9b}31m\u{202e}ü".as_bytes());
        assert_eq!(shown, "a\\x1b[2Jb\\r\\n\\x9b31m\\u{202e}ü");
        assert_eq!(printable(b"\xff\xfe"), "\\xff\\xfe");
    }

    #[test]
    fn lines_and_tabs_survive_in_long_texts() {
        assert_eq!(printable_lines(b"a\tb\n\x07c\n"), "a\tb\n\\x07c\n");
    }
}
