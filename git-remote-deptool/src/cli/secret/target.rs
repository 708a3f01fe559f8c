//! The secrets that a command writes, and who they are for.

use super::{
    super::{CliError, output::Output},
    hosts::{self, Asked, Record},
    keys::{self, Keys, Named, Recipients},
    place::{Place, WorkTree},
};
use crate::{fleet::remote::Remote, secrets::recipient::Recipient};

/// One secret of a host, or the same of each host of a group.
pub(super) struct Target<'a> {
    remote: &'a Remote,
    output: &'a Output,
    pub tree: WorkTree,
    pub keys: Keys,
    recipients: Recipients,
    pub places: Vec<Place>,
    operators: Vec<Named>,
}

impl<'a> Target<'a> {
    /// Those that `<host|@group>/<app>/<name>` stands for.
    pub fn of(remote: &'a Remote, output: &'a Output, text: &str) -> Result<Self, CliError> {
        let tree = WorkTree::of(&remote.repo)?;
        let keys = Keys::load(&remote.repo)?;
        let recipients = Recipients::read(remote)?;
        let places = Place::parse(&recipients.settings, text)?;
        let operators = recipients.operators(&keys.identities)?;
        Ok(Target { remote, output, tree, keys, recipients, places, operators })
    }

    /// The recipient of each host. One that is not recorded yet is asked for, and recorded.
    pub fn hosts(&self) -> Result<Vec<Recipient>, CliError> {
        let names: Vec<_> = self.places.iter().map(|place| place.host.clone()).collect();
        hosts::recipients(self.remote, self.output, &self.recipients, &names, Asked::Unknown, Record::Yes)
    }

    /// Encrypt `plain` to each of `hosts` and to all operators, and write the files.
    pub fn write(&self, plain: &[u8], hosts: &[Recipient]) -> Result<(), CliError> {
        if plain.is_empty() {
            return Err(CliError::Text("the secret is empty; nothing was written".into()));
        }
        for (place, host) in self.places.iter().zip(hosts) {
            self.tree.write(place, &keys::encrypt(plain, host, &self.operators)?)?;
            let names = keys::names(&place.host, &self.operators);
            self.output.note(format_args!("{}: for {}", place.path(), names.join(", ")))?;
        }
        Ok(())
    }
}
