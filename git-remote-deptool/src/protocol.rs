//! The dialogue with Git: gitremote-helpers(7), read from stdin and answered on stdout.
//!
//! [`command`] turns Git's lines into commands, [`option`] collects what `option` lines ask for, [`list`] and [`report`]
//! make the lines of the answers; all of them are pure.
//! [`serve()`] is the loop that reads and writes, and calls a [`Backend`] for everything that needs a repository or a
//! host.
//!
//! What may be relied on:
//!
//! - An end of input anywhere but after a blank line means that Git died. Nothing is begun then.
//! - Every destination of a push gets exactly one line, whatever the backend does. A ref that nobody reported on is
//!   an error, never a success.
//! - No answer has more than one line where Git expects one, whatever text it was made from.

pub mod command;
pub mod dialogue;
pub mod list;
pub mod option;
pub mod report;
pub mod serve;

pub use serve::{Backend, End, ServeError, Want, serve};
