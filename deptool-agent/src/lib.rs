//! The agent: the part of git-deptool that runs on hosts. The helper uses its [`shared`] half, too.
//!
//! A deployment flows through these files from top to bottom:
//!
//! ```text
//! main.rs                        stdin and stdout become a `Peer`; the request may also arrive in the environment
//! host/session.rs                recovers what an earlier agent left, says hello, takes one `wire::Request` after another
//! host/deploy.rs                 owns the order of a deployment, and every early exit
//!   deploy/admission.rs            the right host, nobody else deploys, the lease holds                → or Refused, Busy, Stale
//!   deploy/stage.rs                everything that is not visible yet:
//!     deploy/receive.rs              bytes from the helper → objects in the host's Git store
//!     shared/tree.rs                 objects → `HostTree`: the apps and their files, checked
//!     shared/desired.rs              `HostTree` → the units and external paths that the apps ask for
//!     shared/plan.rs                 old and new state → `HostPlan`; its digest must be the one that the operator saw
//!     deploy/prepare.rs              files → `generations/<n>`; the plan and the machine → a list of `Action`s
//!   deploy/gates.rs                waits until all hosts are prepared                                  → or Cancelled
//!   host/state/journal.rs          the actions and how to undo them, on disk before anything changes
//!   deploy/apply.rs                carries the actions out; one of them renames a link to `current`: all apps switch at once
//!   system/settle.rs               watches the units that were started
//!   deploy/gates.rs                waits for confirmation and for the verdict of all hosts
//!   host/state/journal.rs          the deployment is kept                                              → or undo.rs, RolledBack
//!   deploy/finish.rs               the branch moves to the new commit, old generations go              → Done
//! host/session.rs                the helper was told the `Outcome`; the connection ends
//! ```
//!
//! Until the journal is open, a failure leaves the host as it was. From then on the deployment no longer depends on its
//! connection: it is kept or rolled back, and if the agent dies, the next agent or the next boot does that
//! (`host/recover.rs`).
//!
//! Folders use only what is below them: `host` uses `system` and `shared`, `system` uses `shared`.

#[cfg(target_os = "linux")]
pub mod host;
pub mod shared;
#[cfg(target_os = "linux")]
pub mod system;
