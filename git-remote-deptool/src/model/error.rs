//! Errors as text.

use std::error::Error;

/// An error and what caused it, as Git writes it.
pub fn chain(error: &dyn Error) -> String {
    let mut text = without_number(error.to_string());
    let mut cause = error.source();
    while let Some(error) = cause {
        let more = without_number(error.to_string());
        // Transparent variants have their source's text already.
        if !text.ends_with(&more) {
            text = format!("{text}: {more}");
        }
        cause = error.source();
    }
    text
}

/// An error's text without the number that Rust appends to what the system says.
fn without_number(text: String) -> String {
    match text.rfind(" (os error ") {
        Some(at) if text.ends_with(')') => text[..at].to_owned(),
        _ => text,
    }
}
