//! Lists files in `/etc` that no package put there, or that were changed since, for an operator who chooses what to adopt.
//! Changes nothing.
//!
//! The host's own package manager says which files belong to packages and what was in them: the agent can't read rpm's
//! database, and has no MD5, which is what dpkg records.

use std::{
    collections::{BTreeMap, BTreeSet},
    ffi::OsStr,
    fs, io,
    path::PathBuf,
    time::Duration,
};

use rustix::fs::FileType;

use crate::{
    host::{
        connection::peer::Peer,
        external::place::Place,
        state::{error::HostError, layout::Home, ledger::Claims},
    },
    shared::{
        ordered::Ordered as _,
        path::ExternalPath,
        wire::{Candidate, MOST_CANDIDATES, PackageManager, Response, Why},
    },
    system::program,
};

const WHERE: &str = "/etc";
/// Directories may be nested this deep.
const DEPTH: usize = 32;
const PER_MESSAGE: usize = 50;
/// For each call of the package manager. The helper hears nothing meanwhile.
const LIMIT: Duration = Duration::from_secs(20);
/// As many paths as are passed to one `md5sum`.
const AT_ONCE: usize = 500;

/// What the package manager says about files in `/etc`.
#[derive(Default)]
struct Records {
    owned: BTreeSet<String>,
    /// The MD5 of files as their packages had them, in hex.
    digests: BTreeMap<String, String>,
    changed: BTreeSet<String>,
}

/// Send all candidates.
pub fn list(home: &Home, peer: &mut Peer) -> Result<(), HostError> {
    let claims = Claims::load(home)?.unwrap_or_default();
    let mut files = Vec::new();
    let etc = ExternalPath::parse(WHERE).map_err(|error| HostError::refused(error.to_string()))?;
    if let Some(place) = Place::existing(home, &etc)? {
        walk(&etc, &place, 0, &mut files)?;
    }
    files.retain(|file| !claims.paths.contains_key(&file.path));
    peer.tick();
    let packages = package_manager(home);
    if let Some(manager) = packages {
        let records = match manager {
            PackageManager::Dpkg => dpkg(home, peer, &files)?,
            PackageManager::Rpm => rpm(home, peer)?,
        };
        files.retain_mut(|file| {
            let path = file.path.as_str();
            file.why = if records.changed.contains(path) { Why::Changed } else { Why::Unowned };
            // What debconf and ucf have written and nobody has changed is in no package, but has a recorded digest.
            file.why == Why::Changed || !(records.owned.contains(path) || records.digests.contains_key(path))
        });
    }
    let mut parts = files.chunks(PER_MESSAGE);
    let first = parts.next().unwrap_or_default();
    for part in std::iter::once(first).chain(parts) {
        peer.send(&Response::Candidates { packages, list: part.to_vec() });
    }
    peer.send(&Response::End);
    Ok(())
}

/// Regular files below `path`. Links, devices and names that can't be managed are left out.
fn walk(path: &ExternalPath, place: &Place, depth: usize, files: &mut Vec<Candidate>) -> Result<(), HostError> {
    let Some(stamp) = place.stamp()? else { return Ok(()) };
    match FileType::from_raw_mode(stamp.mode as _) {
        FileType::RegularFile if files.len() < MOST_CANDIDATES => files.push(Candidate {
            path: path.clone(),
            why: Why::Unknown,
            size: stamp.size,
            modified: stamp.modified.0,
        }),
        FileType::Directory if depth < DEPTH => {
            for name in place.names()?.into_iter().into_set() {
                if let Some(Ok(below)) = name.to_str().map(|name| ExternalPath::parse(&format!("{path}/{name}"))) {
                    walk(&below, &place.enter(&name)?, depth + 1, files)?;
                }
            }
        }
        _ => {}
    }
    Ok(())
}

/// The package manager whose database is there.
fn package_manager(home: &Home) -> Option<PackageManager> {
    let has = |program, database: &str| program::exists(program) && home.root().join(database).exists();
    if has("dpkg-query", "var/lib/dpkg/status") {
        Some(PackageManager::Dpkg)
    } else if has("rpm", "var/lib/rpm") || has("rpm", "usr/lib/sysimage/rpm") {
        Some(PackageManager::Rpm)
    } else {
        None
    }
}

/// dpkg-query(1): `--search` prints `package: path` and, of diverted files, `diversion by package from: path`;
/// `${Conffiles}` is a list of ` path md5`. ucf(1) keeps what it has installed in a list that md5sum(1) could check.
fn dpkg(home: &Home, peer: &mut Peer, files: &[Candidate]) -> Result<Records, HostError> {
    let mut records = Records::default();
    let admin = format!("--admindir={}", home.root().join("var/lib/dpkg").display());
    ask(peer, "dpkg-query", &[&admin, "--search", "/etc/*"], &mut |line| {
        if let Some((_, path)) = line.split_once(": /etc/") {
            records.owned.insert(format!("/etc/{path}"));
        }
    })?;
    ask(peer, "dpkg-query", &[&admin, "--show", "--showformat=${Conffiles}\n"], &mut |line| {
        let mut words = line.trim().split(' ');
        if let (Some(path), Some(digest)) = (words.next(), words.next()) {
            records.digests.insert(path.to_owned(), digest.to_owned());
        }
    })?;
    let ucf = fs::read_to_string(home.root().join("var/lib/ucf/hashfile")).unwrap_or_default();
    let ucf = ucf.lines().filter_map(|line| line.split_once("  "));
    records.digests.extend(ucf.map(|(digest, path)| (path.to_owned(), digest.to_owned())));

    let known: Vec<&Candidate> = files.iter().filter(|file| records.digests.contains_key(file.path.as_str())).collect();
    for part in known.chunks(AT_ONCE) {
        let paths: Vec<PathBuf> = part.iter().map(|file| home.root().join(&file.path.as_str()[1..])).collect();
        let arguments: Vec<&OsStr> =
            std::iter::once(OsStr::new("--")).chain(paths.iter().map(|path| path.as_os_str())).collect();
        let root = home.root().to_string_lossy().trim_end_matches('/').to_owned();
        run(peer, "md5sum", &arguments, &mut |line| {
            // A file that is missing or unreadable is complained about on stderr.
            let Some((digest, path)) = line.split_once("  ") else { return };
            let path = path.strip_prefix(&root).unwrap_or(path);
            if records.digests.get(path).is_some_and(|recorded| recorded != digest) {
                records.changed.insert(path.to_owned());
            }
        })?;
    }
    Ok(records)
}

/// rpm(8), VERIFY OPTIONS: a line is nine characters, of which each is a dot or says what differs, then the kind of file
/// (`c` is configuration), then the path; or `missing` in place of the nine.
fn rpm(home: &Home, peer: &mut Peer) -> Result<Records, HostError> {
    let mut records = Records::default();
    let root = format!("--root={}", home.root().display());
    ask(peer, "rpm", &[&root, "--query", "--all", "--queryformat", "[%{FILENAMES}\n]"], &mut |line| {
        if line.starts_with("/etc/") {
            records.owned.insert(line.to_owned());
        }
    })?;
    let verify = [&root, "--verify", "--all", "--configfiles", "--nodeps", "--noscripts"].map(OsStr::new);
    // It fails if anything differs.
    run(peer, "rpm", &verify, &mut |line| {
        let (Some(flags), Some(at)) = (line.get(..9), line.find(" /etc/")) else { return };
        // Its content, size, mode, owner or group. Not its time.
        if flags.contains(['5', 'S', 'M', 'U', 'G']) && !flags.starts_with("missing") {
            records.changed.insert(line[at + 1..].to_owned());
        }
    })?;
    Ok(records)
}

/// Run a program that has to succeed.
fn ask(peer: &mut Peer, program: &str, arguments: &[&str], each: &mut dyn FnMut(&str)) -> Result<(), HostError> {
    let arguments: Vec<&OsStr> = arguments.iter().map(OsStr::new).collect();
    match run(peer, program, &arguments, each)? {
        true => Ok(()),
        false => Err(HostError::refused(format!("'{program}' failed; see what it says on the host"))),
    }
}

/// Run a program and pass on each line that is text. Returns whether it succeeded.
fn run(peer: &mut Peer, program: &str, arguments: &[&OsStr], each: &mut dyn FnMut(&str)) -> Result<bool, HostError> {
    peer.tick();
    let status = program::lines(program, arguments, LIMIT, &mut |line| {
        if let Ok(line) = std::str::from_utf8(line) {
            each(line);
        }
    });
    let failed = |error: io::Error| HostError::refused(format!("can't run '{program}': {error}"));
    Ok(status.map_err(failed)?.success())
}
