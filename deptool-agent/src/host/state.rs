//! The files in `/var/lib/deptool`, except the Git store: layout, lock, journal and records, generations and checkouts.

pub mod agents;
pub mod attempts;
pub mod boot;
pub mod checkout;
pub mod durable;
pub mod error;
pub mod failed_units;
pub mod generations;
pub mod heal;
pub mod identity;
pub mod journal;
pub mod kind;
pub mod labels;
pub mod layout;
pub mod ledger;
pub mod lock;
pub mod missing_branch;
pub mod stamp;
pub mod untidy;
