//! What a session asks a host without changing anything.

use std::mem;

use deptool_agent::shared::{
    outcome::{Drift, Subject},
    path::{ExternalPath, is_within},
    wire::{Bytes, Candidate, Entry, Look, MOST_CANDIDATES, PackageManager, Request, Response, UnitNow},
};

use super::{Session, SessionError};

/// The most paths that a host may send that are not files.
const MOST: u64 = 10_000;
/// The most bytes of text about drift. A host may have many thousands of files, and all of them can have been changed by one
/// command.
const MOST_DRIFT: u64 = 16 << 20;
/// The most bytes of edited files that are kept.
const MOST_EDITED: u64 = 8 << 20;

impl Session {
    /// Ask the host what differs from what was deployed.
    pub fn verify(&mut self) -> Result<Vec<Drift>, SessionError> {
        self.send(&Request::Verify)?;
        let (mut all, mut left, mut edited) = (Vec::new(), MOST_DRIFT, MOST_EDITED);
        loop {
            match self.receive()? {
                Response::Drift(found) if !found.is_empty() => {
                    found.iter().try_for_each(|drift| take(&mut left, memory_of(drift)))?;
                    all.extend(found.into_iter().map(|mut drift| {
                        // Beyond the limit, the file is named, but its diff is not shown.
                        drift.edit = drift.edit.filter(|edit| take(&mut edited, edit.now.len() as u64).is_ok());
                        drift
                    }));
                }
                Response::End => return Ok(all),
                _ => return Err(SessionError::OutOfOrder),
            }
        }
    }

    /// Ask the host for files that no deployment put there, and for units. `each` gets every file with its content. More
    /// than was asked for is refused.
    pub fn look(
        &mut self,
        request: Look,
        each: &mut dyn FnMut(ExternalPath, Entry, Vec<u8>),
    ) -> Result<Vec<UnitNow>, SessionError> {
        let (mut files, mut bytes, mut others) = (request.files.into(), request.bytes, MOST);
        let (mut units, mut left) = (Vec::new(), request.units.len() as u64);
        let (asked, wanted) = (request.paths.clone(), request.units.clone());
        self.send(&Request::Look(Box::new(request)))?;
        loop {
            match self.receive()? {
                Response::Entry { path, entry } if asked.iter().any(|top| is_within(path.as_str(), top.as_str())) => {
                    let (kind, size) = match &entry {
                        Entry::File { size, .. } => (&mut files, *size),
                        Entry::Link { .. } | Entry::Refused { .. } => (&mut others, 0),
                    };
                    take(kind, 1)?;
                    take(&mut bytes, size)?;
                    each(path, entry, self.content(size)?);
                }
                Response::UnitNow(unit) if wanted.contains(&unit.unit) => {
                    take(&mut left, 1)?;
                    units.push(unit);
                }
                Response::End => return Ok(units),
                _ => return Err(SessionError::OutOfOrder),
            }
        }
    }

    fn content(&mut self, size: u64) -> Result<Vec<u8>, SessionError> {
        let mut content = Vec::new();
        while (content.len() as u64) < size {
            match self.receive()? {
                Response::Data(Bytes(data)) if !data.is_empty() => content.extend(data),
                _ => return Err(SessionError::OutOfOrder),
            }
        }
        if content.len() as u64 == size { Ok(content) } else { Err(SessionError::OutOfOrder) }
    }

    /// The files in `/etc` that may be worth adopting, and the package manager that was asked about them.
    pub fn candidates(&mut self) -> Result<(Option<PackageManager>, Vec<Candidate>), SessionError> {
        self.send(&Request::Candidates)?;
        let (mut asked, mut candidates, mut left) = (None, Vec::new(), MOST_CANDIDATES as u64);
        let mut is_first = true;
        loop {
            match self.receive()? {
                // If there are none, one empty list says so.
                Response::Candidates { packages, list } if is_first || !list.is_empty() => {
                    take(&mut left, list.len() as u64)?;
                    (is_first, asked) = (false, packages);
                    candidates.extend(list);
                }
                Response::End => return Ok((asked, candidates)),
                _ => return Err(SessionError::OutOfOrder),
            }
        }
    }
}

/// The memory that this takes, without the edited file.
fn memory_of(drift: &Drift) -> u64 {
    let subject = match &drift.subject {
        Subject::Path(path) => path.len(),
        Subject::Unit(unit) => unit.as_str().len(),
    };
    (mem::size_of::<Drift>() + subject + drift.what.len()) as u64
}

/// Count what the host has sent, so that it can't fill our memory.
fn take(left: &mut u64, count: u64) -> Result<(), SessionError> {
    *left = left.checked_sub(count).ok_or(SessionError::Idle("sent more than was asked for"))?;
    Ok(())
}
