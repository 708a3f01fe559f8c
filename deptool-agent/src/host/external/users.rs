//! The users in whose service managers the host's tree has units.

use std::{collections::BTreeSet, fs};

use crate::{
    host::{
        owners::{Database, resolve},
        state::{error::HostError, layout::Home},
    },
    shared::{
        desired::{Claim, Desired},
        name::Account,
        ordered::Ordered as _,
    },
    system::System,
};

/// Include the units of these users' managers. Returns the users whose manager can't be reached.
pub fn join(home: &Home, system: &mut dyn System, users: BTreeSet<Account>) -> Result<BTreeSet<Account>, HostError> {
    let mut absent = BTreeSet::new();
    for user in users {
        let runs = match resolve(home, Database::Passwd, &user)? {
            Some(uid) => system.join(&user, uid),
            None => false,
        };
        if !runs {
            absent.insert(user);
        }
    }
    Ok(absent)
}

/// Whether the manager of this user runs without a session. systemd-logind keeps this as files: see loginctl(1).
pub fn lingers(home: &Home, user: &Account) -> bool {
    home.root().join("var/lib/systemd/linger").join(user.as_str()).exists()
}

/// The unit file that a user's manager has loaded, if that is not the deployed one: the user's own takes precedence.
pub fn other_file<'a>(home: &Home, loaded: &'a str, deployed: &str) -> Option<&'a str> {
    let real = |path: &str| fs::canonicalize(home.root().join(path.trim_start_matches('/'))).ok();
    // On Debian, /etc/xdg/systemd/user is a link to /etc/systemd/user, and systemd looks there first.
    let is_ours = loaded.is_empty() || loaded == deployed || (real(loaded).is_some() && real(loaded) == real(deployed));
    (!is_ours).then_some(loaded)
}

/// The users who have units or unit files.
pub fn of(desired: &Desired) -> BTreeSet<Account> {
    let named = desired.enabled.keys().chain(desired.watched.keys()).filter_map(|unit| unit.user());
    let files = desired.external.values().flat_map(Claim::all).filter_map(Claim::user);
    named.chain(files).into_set()
}
