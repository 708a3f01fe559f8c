//! What the system said of our copies outside when their content was last read.
//!
//! Only a help: a copy whose stamp is as it was need not be read to be known as ours. What is missing here is read.

use std::collections::BTreeMap;

use crate::{
    host::{
        deploy::action::Action,
        external::place::{Found, Place, Stamp},
        state::{
            durable::{self, RECORD},
            error::HostError,
            journal::Record,
            layout::Home,
            ledger::Content,
        },
    },
    shared::{encoding, path::ExternalPath},
};

/// The stamps of copies, by their paths.
pub type Stamps = BTreeMap<ExternalPath, Stamp>;

/// What is known. Nothing if it can't be read.
pub fn load(home: &Home) -> Stamps {
    let bytes = durable::read(&home.stamps(), RECORD).ok().flatten();
    bytes.and_then(|bytes| encoding::from_slice(&bytes).ok()).unwrap_or_default()
}

/// Take stamps of what the deployment of `record` has placed, and of whatever has none.
pub fn update(home: &Home, record: &Record) -> Result<(), HostError> {
    let before = load(home);
    let mut stamps = before.clone();
    for action in &record.actions {
        if let Action::Place(placement) = action {
            stamps.remove(&placement.path);
        }
    }
    stamps.retain(|path, _| record.claims.paths.contains_key(path));
    for (path, claim) in &record.claims.paths {
        if matches!(claim.ours, Content::File(_))
            && !stamps.contains_key(path)
            && let Ok(Some(place)) = Place::existing(home, path)
            && let Some(stamp) = take(&place, &claim.ours)?
        {
            stamps.insert(path.clone(), stamp);
        }
    }
    if stamps == before {
        return Ok(());
    }
    let bytes = encoding::to_vec(&stamps).map_err(|error| HostError::refused(error.to_string()))?;
    durable::replace(&home.stamps(), &bytes)
}

/// The stamp of a copy, if it has the content that it is to have, and had all the while.
fn take(place: &Place, ours: &Content) -> Result<Option<Stamp>, HostError> {
    let before = place.stamp()?;
    let is_ours = matches!(place.found()?, Found::Content(content) if content == *ours);
    Ok(before.filter(|stamp| is_ours && place.stamp().ok().flatten() == Some(*stamp)))
}
