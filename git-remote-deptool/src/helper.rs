//! The dialogue with Git: gitremote-helpers(7), read from stdin and answered on stdout.
//!
//! [`command`] turns Git's lines into commands, [`options`] and [`push_option`] collect what `option` lines ask for,
//! [`batch`] holds the refs of one push, [`list`] and [`report`] make the lines of the answers; all of them are pure.
//! [`serve()`] is the loop that reads and writes, and calls a [`Backend`] for everything that needs a repository or a
//! host.
//!
//! What may be relied on:
//!
//! - An end of input anywhere but after a blank line means that Git died. Nothing is begun then.
//! - Every destination of a push gets exactly one line, whatever the backend does. A ref that nobody reported on is
//!   an error, never a success.
//! - No answer has more than one line where Git expects one, whatever text it was made from.

pub mod batch;
pub mod command;
pub mod list;
pub mod options;
pub mod push_option;
pub mod report;
pub mod serve;

pub use batch::{PushBatch, PushCommand, Source};
pub use list::{Knowledge, Offer, offers};
pub use options::Options;
pub use push_option::PushOptions;
pub use report::{Outcome, Report, Update};
pub use serve::{Backend, End, ServeError, Want, chain, serve};
