//! What runs on the operator's machine: the remote helper that Git starts, and `git deptool`.
//!
//! A push flows through these from top to bottom:
//!
//! ```text
//! helper        Git's lines become a batch of refs            url, cluster   which hosts, reached how
//! push          the parent                                    tracking       what was last heard of hosts
//! cluster_plan  what it means for each host
//! delivery      one host's deployment; fleet: all of them     pack, history  what a host is sent
//! session       messages to an agent; said: made safe         transport, install   ssh, and an agent at its end
//! helper        outcomes become lines for Git                 progress, render   and text for people
//! ```
//!
//! [`cli`] is `git deptool`; [`snapshot`] commits what was rendered. A fetch asks the hosts ([`fetch`]) and brings home what they run ([`projection`]).

pub mod ask;
pub mod backend;
pub mod cli;
pub mod cluster;
pub mod cluster_plan;
pub mod context;
pub mod delivery;
pub mod drift;
pub mod fetch;
pub mod fleet;
pub mod git;
pub mod helper;
pub mod history;
pub mod install;
pub mod lease;
pub mod locale;
pub mod open_files;
pub mod pack;
pub mod parcel;
pub mod progress;
pub mod projection;
pub mod push;
pub mod remote;
pub mod render;
pub mod said;
pub mod session;
pub mod snapshot;
pub mod tracking;
pub mod transport;
pub mod url;
