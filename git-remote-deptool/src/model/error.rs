//! Errors as text.

use std::error::Error;

/// An error and its causes, formatted like Git's messages.
pub fn chain(error: &dyn Error) -> String {
    let mut text = without_number(error.to_string());
    let mut cause = error.source();
    while let Some(error) = cause {
        let more = without_number(error.to_string());
        // The text of a transparent variant is that of its source.
        if !text.ends_with(&more) {
            text = format!("{text}: {more}");
        }
        cause = error.source();
    }
    text
}

/// The text of an error without the number that Rust appends to system errors.
fn without_number(text: String) -> String {
    match text.rfind(" (os error ") {
        Some(at) if text.ends_with(')') => text[..at].to_owned(),
        _ => text,
    }
}
