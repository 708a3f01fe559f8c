//! Sends files of the host that no deployment put there, for an operator who adopts them. Changes nothing.

use std::{
    collections::BTreeMap,
    io::{Read, Write},
};

use rustix::fs::FileType;

use crate::{
    host::{
        connection::peer::Peer,
        export::Chunks,
        external::place::{Found, Place},
        owners::{Database, name_of},
        state::{
            error::{Context, HostError},
            layout::Home,
            ledger::{Claims, Content},
        },
    },
    shared::{
        frame::CHUNK,
        ordered::Ordered as _,
        path::{ExternalPath, STATE_DIR, is_within},
        text::printable,
        wire::{Entry, Look, Response, UnitNow},
    },
    system::{System, UnitFile},
};

/// Directories may be nested this deep.
const DEPTH: usize = 32;
/// Places without configuration, and our own.
const CLOSED: [&str; 4] = [STATE_DIR, "/proc", "/sys", "/dev"];

/// Send all that `request` asks for.
pub fn look(home: &Home, peer: &mut Peer, request: &Look, system: &mut dyn System) -> Result<(), HostError> {
    let claims = Claims::load(home)?.unwrap_or_default();
    let names = (BTreeMap::new(), BTreeMap::new());
    let mut looking = Looking { home, peer, claims, names, files: request.files, bytes: request.bytes };
    for path in &request.paths {
        looking.path(path)?;
    }
    if !request.units.is_empty() {
        let loaded = system.snapshot_of_runs()?;
        for unit in &request.units {
            let file = system.unit_file(unit)?;
            let now = UnitNow {
                unit: unit.clone(),
                exists: file != UnitFile::Absent,
                enabled: matches!(file, UnitFile::Enabled),
                runs: loaded.get(unit).is_some_and(|state| state.active.is_up()),
            };
            looking.peer.send(&Response::UnitNow(now));
        }
    }
    peer.send(&Response::End);
    Ok(())
}

struct Looking<'a> {
    home: &'a Home,
    peer: &'a mut Peer,
    claims: Claims,
    /// Names of users and groups by their ids.
    names: (BTreeMap<u32, Option<String>>, BTreeMap<u32, Option<String>>),
    /// How many more may be sent.
    files: u32,
    bytes: u64,
}

impl Looking<'_> {
    fn path(&mut self, path: &ExternalPath) -> Result<(), HostError> {
        if let Some(closed) = CLOSED.iter().find(|closed| is_within(&path.normalized(), closed)) {
            return self.refuse(path, format!("nothing below '{closed}' can be managed"));
        }
        match Place::existing(self.home, path) {
            Ok(Some(place)) => self.visit(path, &place, 0),
            Ok(None) => self.refuse(path, "does not exist"),
            Err(HostError::External(why)) => self.refuse(path, why),
            Err(error) => Err(error),
        }
    }

    fn refuse(&mut self, path: &ExternalPath, why: impl Into<String>) -> Result<(), HostError> {
        self.send(path, Entry::Refused { why: why.into() })
    }

    fn send(&mut self, path: &ExternalPath, entry: Entry) -> Result<(), HostError> {
        self.peer.send(&Response::Entry { path: path.clone(), entry });
        Ok(())
    }

    /// What is at `path`: a file is sent, of a directory all that is in it. Links are told, and not followed.
    fn visit(&mut self, path: &ExternalPath, place: &Place, depth: usize) -> Result<(), HostError> {
        if is_within(path.as_str(), STATE_DIR) {
            return Ok(());
        }
        if self.claims.paths.contains_key(path) {
            return self.refuse(path, "is deployed already");
        }
        let Some(stamp) = place.stamp()? else { return self.refuse(path, "does not exist") };
        match FileType::from_raw_mode(stamp.mode as _) {
            FileType::RegularFile => self.file(path, place),
            FileType::Symlink => {
                let Found::Content(Content::Link(target)) = place.found()? else { return Ok(()) };
                self.send(path, Entry::Link { target: printable(target.as_bytes()) })
            }
            FileType::Directory if depth == DEPTH => self.refuse(path, "is nested too deeply"),
            FileType::Directory => self.directory(path, place, depth),
            FileType::Socket => self.refuse(path, "is a socket"),
            FileType::Fifo => self.refuse(path, "is a named pipe"),
            FileType::CharacterDevice | FileType::BlockDevice => self.refuse(path, "is a device"),
            _ => self.refuse(path, "is a special file"),
        }
    }

    fn directory(&mut self, path: &ExternalPath, place: &Place, depth: usize) -> Result<(), HostError> {
        for name in place.names()?.into_iter().into_set() {
            let below = name.to_str().map(|name| ExternalPath::parse(&format!("{path}/{name}")));
            match below {
                Some(Ok(below)) => self.visit(&below, &place.enter(&name)?, depth + 1)?,
                Some(Err(_)) | None => {
                    let name = printable(name.as_encoded_bytes());
                    self.refuse(path, format!("has '{name}' in it, whose name can't be managed"))?;
                }
            }
        }
        Ok(())
    }

    fn file(&mut self, path: &ExternalPath, place: &Place) -> Result<(), HostError> {
        let file = place.file()?;
        // Of the opened file: what is sent is what is described.
        let stat = rustix::fs::fstat(&file).during("look at", path.relative())?;
        let size = u64::try_from(stat.st_size).unwrap_or(0);
        self.files = self.files.checked_sub(1).ok_or_else(too_much)?;
        self.bytes = self.bytes.checked_sub(size).ok_or_else(too_much)?;
        let owner = self.name(Database::Passwd, stat.st_uid)?;
        let group = self.name(Database::Group, stat.st_gid)?;
        let mode = (stat.st_mode as u32) & 0o7777;
        self.send(path, Entry::File { mode, owner, group, size })?;
        let mut out = std::io::BufWriter::with_capacity(CHUNK, Chunks { peer: self.peer });
        let sent = std::io::copy(&mut file.take(size), &mut out).and_then(|sent| out.flush().map(|()| sent));
        match sent.during("send", path.relative())? {
            sent if sent == size => Ok(()),
            _ => Err(HostError::refused(format!("'{path}' has changed while it was read; try again"))),
        }
    }

    fn name(&mut self, database: Database, id: u32) -> Result<Option<String>, HostError> {
        let known = match database {
            Database::Passwd => &mut self.names.0,
            Database::Group => &mut self.names.1,
        };
        if let Some(name) = known.get(&id) {
            return Ok(name.clone());
        }
        let name = name_of(self.home, database, id)?;
        known.insert(id, name.clone());
        Ok(name)
    }
}

fn too_much() -> HostError {
    HostError::refused("there are more files, or larger ones, than are adopted without --force")
}
