//! The failures for which a deployment is rolled back.

use crate::{
    host::state::error::HostError,
    shared::{
        name::UnitName,
        text::{printable, printable_lines},
    },
    system::{System, SystemError, settle},
};

/// How many lines of a failed unit's journal are shown.
const JOURNAL_LINES: usize = 10;

#[derive(Debug)]
pub enum Failure {
    Units(Vec<settle::Failure>),
    Text(String),
}

impl From<HostError> for Failure {
    fn from(error: HostError) -> Failure {
        Failure::Text(error.to_string())
    }
}

impl From<SystemError> for Failure {
    fn from(error: SystemError) -> Failure {
        Failure::Text(error.0)
    }
}

impl Failure {
    /// One line, and details of several lines, which may be empty.
    pub fn explain(self, system: &mut dyn System) -> (String, String) {
        match self {
            Failure::Text(text) => (text, String::new()),
            Failure::Units(failures) => {
                let line =
                    |failure: &settle::Failure| format!("{} {}", failure.unit, printable(failure.why.as_bytes()));
                let why = failures.iter().map(line).collect::<Vec<_>>().join("; ");
                let journals = failures
                    .iter()
                    .filter_map(|failure| journal_of(system, &failure.unit, &failure.invocations, JOURNAL_LINES));
                (why, journals.collect::<Vec<_>>().join("\n"))
            }
        }
    }
}

/// The last lines that a unit wrote to the journal, if there are any.
pub fn journal_of(system: &mut dyn System, unit: &UnitName, invocations: &[String], lines: usize) -> Option<String> {
    let text = system.journal_tail(unit, invocations, lines);
    let text = printable_lines(text.trim_end().as_bytes());
    (!text.is_empty()).then_some(text)
}
