//! Records the attributes of external copies from when their content was last read.
//!
//! A copy with the same attributes need not be read again. A copy without a record is read.

use std::collections::BTreeMap;

use crate::{
    host::{
        deploy::action::Action,
        external::place::{Found, Place},
        state::{
            durable::{self, RECORD},
            error::HostError,
            journal::Record,
            layout::Home,
            ledger::Content,
            stamp::Stamp,
        },
    },
    shared::{encoding, path::ExternalPath},
};

/// The attributes of copies, by path.
pub type Stamps = BTreeMap<ExternalPath, Stamp>;

/// Load the record. Empty if it can't be read.
pub fn load(home: &Home) -> Stamps {
    let bytes = durable::read(&home.stamps(), RECORD).ok().flatten();
    bytes.and_then(|bytes| encoding::from_slice(&bytes).ok()).unwrap_or_default()
}

/// Record the attributes of the copies that the deployment of `record` has written, and of those without a record.
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

/// The attributes of a copy, if it has the right content and did not change meanwhile.
fn take(place: &Place, ours: &Content) -> Result<Option<Stamp>, HostError> {
    let before = place.stamp()?;
    let is_ours = matches!(place.found()?, Found::Content(content) if content == *ours);
    Ok(before.filter(|stamp| is_ours && place.stamp().ok().flatten() == Some(*stamp)))
}
