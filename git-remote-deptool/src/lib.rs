//! What runs on the operator's machine: the remote helper that Git starts, and `git deptool`.
//!
//! Each folder uses those below it, and none above:
//!
//! ```text
//! bin        the two programs
//! protocol   Git's dialogue: lines become a batch of refs, outcomes become lines     cli   git deptool, one file a command
//! push       the parent of a push: resolve, plan, run, record, report
//! fetch      what hosts run is asked for and brought home                            plan  what a push means for each host
//! fleet      one host's delivery; what the others' outcomes mean for it
//! state      what is remembered of hosts: refs, facts, locks
//! repo       the operator's repository: history, packs, snapshots
//! config     Git's configuration: urls, hosts, groups
//! agent      the far end: transport, install, session                                ui    progress, plans as text
//! model      words for all of these, without I/O
//! ```

pub mod agent;
pub mod cli;
pub mod config;
pub mod fetch;
pub mod fleet;
pub mod model;
pub mod plan;
pub mod protocol;
pub mod push;
pub mod repo;
pub mod state;
pub mod ui;
