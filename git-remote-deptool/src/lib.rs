//! The operator's side: the remote helper that Git starts, and `git deptool`.
//!
//! Each folder uses only folders below it:
//!
//! ```text
//! bin        the two programs
//! protocol   Git's remote helper protocol                                      cli   git deptool, one file per command
//! push       a push: resolve, plan, run, record, report
//! fetch      asks hosts what they run, and gets those commits                  plan  what a push changes on each host
//! fleet      the deployment to one host; how the outcomes of several hosts affect each other
//! snapshot   a rendered directory as a commit
//! state      what the repository records of hosts: refs, facts, locks
//! repo       the operator's repository: history, packs
//! config     Git's configuration: urls, hosts, groups
//! secrets    files that are encrypted with age: recipients, identities
//! agent      connections to agents: transport, install, session                ui    progress, plans as text
//! model      types that all of these share, without I/O
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
pub mod secrets;
pub mod snapshot;
pub mod state;
pub mod ui;

#[cfg(target_env = "musl")]
#[global_allocator]
static ALLOCATOR: dlmalloc::GlobalDlmalloc = dlmalloc::GlobalDlmalloc;
