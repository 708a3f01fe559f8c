//! Why a deployment is rolled back.

use super::home::HostError;
use crate::{
    system::{System, settle},
    text::{printable, printable_lines},
};

/// How much of a failed unit's journal is shown.
pub const JOURNAL_LINES: usize = 10;

#[derive(Debug)]
pub enum Why {
    Units(Vec<settle::Failure>),
    Text(String),
}

impl From<HostError> for Why {
    fn from(error: HostError) -> Why {
        Why::Text(error.to_string())
    }
}

impl Why {
    /// One line, and what else there is to know.
    pub fn explain(self, system: &mut dyn System) -> (String, String) {
        match self {
            Why::Text(text) => (text, String::new()),
            Why::Units(mut failures) => {
                settle::read_journals(system, &mut failures, JOURNAL_LINES);
                let line =
                    |failure: &settle::Failure| format!("{} {}", failure.unit, printable(failure.why.as_bytes()));
                let why = failures.iter().map(line).collect::<Vec<_>>().join("; ");
                let journals = failures.iter().map(|failure| printable_lines(failure.journal.as_bytes()));
                (why, journals.filter(|text| !text.is_empty()).collect::<Vec<_>>().join("\n"))
            }
        }
    }
}
