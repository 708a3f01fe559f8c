//! Text for people: columns that fit the terminal, times, and names.

use std::{
    io::{self, IsTerminal},
    time::{SystemTime, UNIX_EPOCH},
};

use rustix::termios::tcgetwinsize;

use crate::ui::columns;

/// The gap between two columns.
const GAP: &str = "  ";

/// The lines for `rows`. Each column but the last is as wide as its widest text. Lines are cut to `width` columns.
pub(super) fn lines<const N: usize>(rows: &[[String; N]], width: Option<usize>) -> Vec<String> {
    let mut widths = [0; N];
    for row in rows {
        for (widest, text) in widths.iter_mut().zip(row) {
            *widest = (*widest).max(columns::columns(text));
        }
    }
    let line = |row: &[String; N]| {
        let cells = row.iter().zip(widths).map(|(text, widest)| {
            let padding = " ".repeat(widest - columns::columns(text));
            format!("{text}{padding}")
        });
        let line = cells.collect::<Vec<_>>().join(GAP);
        cut(line.trim_end(), width)
    };
    rows.iter().map(line).collect()
}

/// `text` in at most `width` columns. `...` replaces what is cut off.
pub(super) fn cut(text: &str, width: Option<usize>) -> String {
    width.map_or_else(|| text.to_owned(), |width| columns::cut(text, width, "..."))
}

/// The width of the terminal, or `None` if stdout is not a terminal.
pub(super) fn terminal_width() -> Option<usize> {
    let stdout = io::stdout();
    let width = stdout.is_terminal().then(|| tcgetwinsize(&stdout).ok()).flatten()?.ws_col;
    (width > 0).then_some(width.into())
}

/// In seconds since 1970.
pub(super) fn now() -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    now.map_or(0, |now| i64::try_from(now.as_secs()).unwrap_or(i64::MAX))
}

/// The name in `Name <address>`.
pub(super) fn name_of(ident: &str) -> &str {
    ident.split(" <").next().unwrap_or(ident)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up_also_where_characters_are_wide() {
        let row = |a: &str, b: &str| [a.to_owned(), b.to_owned()];
        assert_eq!(lines(&[row("漢字", "x"), row("abcdef", "y")], None), ["漢字    x", "abcdef  y"]);
    }

    #[test]
    fn a_line_is_cut_to_the_terminal_and_says_so() {
        assert_eq!(cut("abcdefgh", Some(8)), "abcdefgh");
        assert_eq!(cut("abcdefghi", Some(8)), "abcde...");
        assert_eq!(cut("漢字漢字漢", Some(8)), "漢字...");
        assert_eq!(cut("abc", Some(2)), "..");
        assert_eq!(cut("abcdefghi", None), "abcdefghi");
    }

    #[test]
    fn an_address_is_no_part_of_a_name() {
        assert_eq!(name_of("Ada Operator <ada@example.org>"), "Ada Operator");
        assert_eq!(name_of("carol"), "carol");
    }
}
