//! Resolves names of users and groups to ids.
//!
//! The agent is a static binary and can't use NSS. So it runs `getent` on a live host, and reads `etc/passwd` and
//! `etc/group` in a root directory.

use std::{ffi::OsStr, fs, io, time::Duration};

use crate::{
    host::state::{error::HostError, layout::Home},
    shared::{manifest::FileAttributes, name::Account},
    system::program,
};

/// How long the host's name service may take for one answer.
const PATIENCE: Duration = Duration::from_secs(30);

/// One of the two databases.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Database {
    Passwd,
    Group,
}

impl Database {
    fn name(self) -> &'static str {
        match self {
            Database::Passwd => "passwd",
            Database::Group => "group",
        }
    }
}

/// The numeric id of `account`, or `None` if there is no such account.
pub fn resolve(home: &Home, database: Database, account: &Account) -> Result<Option<u32>, HostError> {
    match home.is_live() {
        true => Ok(ask_host(home, database, account.as_str())?.and_then(|line| id_in(&line, account))),
        false => read_files(home, database, account),
    }
}

/// The ids of the owner and the group of a file.
type Ids = (Option<u32>, Option<u32>);

/// The ids of the owner and the group of a file, where the manifest sets them. Missing accounts are an error.
pub fn ids(home: &Home, attributes: &FileAttributes) -> Result<Ids, HostError> {
    let id = |database, account: &Option<Account>| {
        let Some(account) = account else { return Ok(None) };
        let missing = || HostError::refused(format!("there is no '{}' on the host", account.as_str()));
        resolve(home, database, account)?.ok_or_else(missing).map(Some)
    };
    Ok((id(Database::Passwd, &attributes.owner)?, id(Database::Group, &attributes.group)?))
}

/// The ids of the owners of many files. Each name is looked up once, as an answer may take long. One that is not known is no error
/// here: it is told why.
pub struct Owners<'a> {
    home: &'a Home,
    known: Vec<(FileAttributes, Result<Ids, String>)>,
}

impl<'a> Owners<'a> {
    pub fn of(home: &'a Home) -> Owners<'a> {
        Owners { home, known: Vec::new() }
    }

    /// See [`ids`].
    pub fn ids(&mut self, attributes: &FileAttributes) -> Result<Ids, String> {
        let same = |known: &FileAttributes| known.owner == attributes.owner && known.group == attributes.group;
        if let Some((_, known)) = self.known.iter().find(|(known, _)| same(known)) {
            return known.clone();
        }
        let answer = ids(self.home, attributes).map_err(|error| error.to_string());
        self.known.push((attributes.clone(), answer.clone()));
        answer
    }
}

/// The answer of the host's name service: a line of passwd(5) or group(5). `None` if it knows no such `key`. Of a group with very
/// many members, the line lacks some of them.
///
/// The service may ask other machines, which take long or never answer.
fn ask_host(home: &Home, database: Database, key: &str) -> Result<Option<String>, HostError> {
    let arguments = [database.name(), "--", key].map(OsStr::new);
    let answer = home.wait_for(|| program::beginning("getent", &arguments, PATIENCE));
    let (status, line) = answer.map_err(|error| match error.kind() {
        io::ErrorKind::TimedOut => HostError::refused(format!(
            "'getent {} {key}' did not answer within {} seconds: is the host's name service reachable?",
            database.name(),
            PATIENCE.as_secs()
        )),
        _ => HostError::refused(format!("can't run 'getent': {error}")),
    })?;
    match status.code() {
        Some(0) => Ok(Some(String::from_utf8_lossy(&line).into_owned())),
        // getent(1): "one or more supplied key could not be found in the database"
        Some(2) => Ok(None),
        _ => Err(HostError::refused(format!("'getent {} {key}' failed: {status}", database.name()))),
    }
}

fn read_files(home: &Home, database: Database, account: &Account) -> Result<Option<u32>, HostError> {
    let path = home.root().join("etc").join(database.name());
    match fs::read(&path) {
        Ok(bytes) => Ok(id_in(&String::from_utf8_lossy(&bytes), account)),
        // root has id 0 even in a root directory without these files.
        Err(_) => Ok((account.as_str() == "root").then_some(0)),
    }
}

/// The name of the account with this id, or `None` if there is none.
pub fn name_of(home: &Home, database: Database, id: u32) -> Result<Option<String>, HostError> {
    let text = match home.is_live() {
        true => ask_host(home, database, &id.to_string())?.unwrap_or_default(),
        false => {
            let text = fs::read(home.root().join("etc").join(database.name())).unwrap_or_default();
            String::from_utf8_lossy(&text).into_owned()
        }
    };
    let mut lines = text.lines().map(|line| line.split(':').collect::<Vec<_>>());
    let found = lines.find(|fields| fields.get(2).and_then(|field| field.parse().ok()) == Some(id));
    let found = found.map(|fields| fields[0].to_owned());
    // Whoever runs an agent on a root directory stands for root there.
    let own = match database {
        Database::Passwd => rustix::process::geteuid().as_raw(),
        Database::Group => rustix::process::getegid().as_raw(),
    };
    let is_root = id == 0 || (!home.is_live() && id == own);
    Ok(if is_root { Some("root".to_owned()) } else { found })
}

/// The third field of the line of `account`. See passwd(5) and group(5).
fn id_in(text: &str, account: &Account) -> Option<u32> {
    let line = text.lines().find(|line| line.split(':').next() == Some(account.as_str()))?;
    line.split(':').nth(2)?.parse().ok()
}

/// Whether a sysusers.d(5) snippet creates `account`.
pub fn is_declared(snippet: &str, database: Database, account: &Account) -> bool {
    snippet.lines().any(|line| {
        let mut fields = line.split_whitespace();
        let kind = fields.next().unwrap_or_default().trim_end_matches('!');
        let makes = match database {
            Database::Passwd => kind == "u",
            // A user line also creates a group of the same name.
            Database::Group => kind == "u" || kind == "g",
        };
        makes && fields.next().is_some_and(|name| name.trim_matches('"') == account.as_str())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn account(name: &str) -> Account {
        Account::try_from(name.to_owned()).unwrap()
    }

    #[test]
    fn a_root_directory_has_its_own_users() {
        let directory = tempfile::tempdir().unwrap();
        let home = Home::new(directory.path());
        assert_eq!(resolve(&home, Database::Passwd, &account("root")).unwrap(), Some(0));
        fs::create_dir(directory.path().join("etc")).unwrap();
        fs::write(directory.path().join("etc/passwd"), "root:x:0:0::/:/bin/sh\nweb:x:777:778::/:/bin/sh\n").unwrap();
        assert_eq!(resolve(&home, Database::Passwd, &account("web")).unwrap(), Some(777));
        assert_eq!(resolve(&home, Database::Passwd, &account("we")).unwrap(), None);
    }

    #[test]
    fn a_user_may_be_declared_by_a_snippet() {
        let snippet = "# users\nu web - \"Web\" /srv\ng logs -\nu! locked -\n";
        assert!(is_declared(snippet, Database::Passwd, &account("web")));
        assert!(is_declared(snippet, Database::Group, &account("web")));
        assert!(is_declared(snippet, Database::Group, &account("logs")));
        assert!(is_declared(snippet, Database::Passwd, &account("locked")));
        assert!(!is_declared(snippet, Database::Passwd, &account("logs")));
    }
}
