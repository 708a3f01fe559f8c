//! The remote helper protocol of gitremote-helpers(7): requests on stdin, answers on stdout.
//!
//! [`command`] turns Git's lines into commands, [`option`] collects what `option` lines ask for, [`list`] and [`report`]
//! make the lines of the answers; all of them are pure.
//! [`serve()`] is the loop that reads and writes, and calls a [`Backend`] for everything that needs a repository or a
//! host.
//!
//! Guarantees:
//!
//! - If the input ends anywhere but after a blank line, Git has died: nothing is begun.
//! - Every destination of a push gets exactly one line, whatever the backend does. A ref without an outcome is an
//!   error, never a success.
//! - Where Git expects one line, the answer has one line, whatever text it contains.

pub mod command;
pub mod dialogue;
pub mod list;
pub mod option;
pub mod report;
pub mod serve;

pub use serve::{Backend, End, ServeError, serve};
