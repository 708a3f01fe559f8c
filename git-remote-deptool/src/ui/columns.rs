//! The width of text on a terminal.

use unicode_width::{UnicodeWidthChar, UnicodeWidthStr};

/// The number of columns that `text` takes.
pub fn columns(text: &str) -> usize {
    UnicodeWidthStr::width(text)
}

/// `text` in at most `most` columns. If it is cut off, it ends with `mark`, or with as much of `mark` as fits.
pub fn cut(text: &str, most: usize, mark: &str) -> String {
    if columns(text) <= most {
        return text.to_owned();
    }
    let (mut used, room) = (0, most.saturating_sub(columns(mark)));
    let fits = |c: &char| {
        used += c.width().unwrap_or(0);
        used <= room
    };
    text.chars().take_while(fits).chain(mark.chars().take(most)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wide_characters_are_cut_where_they_would_not_fit() {
        assert_eq!(cut("ab日本", 6, "…"), "ab日本");
        assert_eq!(cut("ab日本", 5, "…"), "ab日…");
        assert_eq!(cut("ab日本", 4, "…"), "ab…");
        assert_eq!(cut("abc", 0, "…"), "");
    }
}
