//! What a session asks a host without changing anything.

use deptool_agent::shared::{
    outcome::Drift,
    path::ExternalPath,
    wire::{Bytes, Candidate, Entry, Look, MOST_CANDIDATES, PackageManager, Request, Response, UnitNow},
};

use super::{Session, SessionError};

impl Session {
    /// Ask the host what differs from what was deployed.
    pub fn verify(&mut self) -> Result<Vec<Drift>, SessionError> {
        self.send(&Request::Verify)?;
        let mut all = Vec::new();
        loop {
            match self.receive()? {
                Response::Drift(found) => all.extend(found),
                Response::End => return Ok(all),
                _ => return Err(SessionError::OutOfOrder),
            }
        }
    }

    /// Ask the host for files that no deployment put there, and for units. `each` gets every file with its content.
    pub fn look(
        &mut self,
        request: Look,
        each: &mut dyn FnMut(ExternalPath, Entry, Vec<u8>),
    ) -> Result<Vec<UnitNow>, SessionError> {
        let most = request.bytes;
        self.send(&Request::Look(Box::new(request)))?;
        let mut units = Vec::new();
        loop {
            match self.receive()? {
                Response::Entry { path, entry } => {
                    let size = if let Entry::File { size, .. } = &entry { *size } else { 0 };
                    let mut content = Vec::new();
                    while (content.len() as u64) < size.min(most) {
                        let Response::Data(Bytes(data)) = self.receive()? else { return Err(SessionError::OutOfOrder) };
                        content.extend(data);
                    }
                    if content.len() as u64 != size {
                        return Err(SessionError::OutOfOrder);
                    }
                    each(path, entry, content);
                }
                Response::UnitNow(unit) => units.push(unit),
                Response::End => return Ok(units),
                _ => return Err(SessionError::OutOfOrder),
            }
        }
    }

    /// The files in `/etc` that may be worth adopting, and the package manager that was asked about them.
    pub fn candidates(&mut self) -> Result<(Option<PackageManager>, Vec<Candidate>), SessionError> {
        self.send(&Request::Candidates)?;
        let (mut asked, mut candidates) = (None, Vec::new());
        loop {
            match self.receive()? {
                Response::Candidates { packages, list } if candidates.len() + list.len() <= MOST_CANDIDATES => {
                    asked = packages;
                    candidates.extend(list);
                }
                Response::End => return Ok((asked, candidates)),
                _ => return Err(SessionError::OutOfOrder),
            }
        }
    }
}
