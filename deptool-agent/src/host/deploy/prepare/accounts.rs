//! Owners and modes of files, and whether the users and groups exist or will be created.

use std::collections::BTreeSet;

use crate::{
    host::{
        deploy::{
            action::Action,
            prepare::{Deciding, Staged},
        },
        owners::{self, Database, resolve},
        secrets,
        state::error::HostError,
    },
    shared::{
        desired::{ClaimKind, Snippet},
        manifest::{FileAttributes, Mode},
        name::{Account, AppName},
        path::TreePath,
        tree::{App, FileKind},
    },
};

impl Deciding<'_> {
    /// The owners and modes for the checkouts that were just written.
    pub(super) fn own(&mut self, fresh: &BTreeSet<AppName>) -> Result<Vec<Action>, HostError> {
        let mut actions = Vec::new();
        for (name, tree) in self.staged.checkouts.iter().filter(|(name, _)| fresh.contains(name)) {
            let Some(app) = self.sides.new.apps.get(name) else { continue };
            if app.manifest.files.is_empty() {
                continue;
            }
            for attributes in app.manifest.files.values() {
                self.check_account(name, Database::Passwd, attributes.owner.as_ref())?;
                self.check_account(name, Database::Group, attributes.group.as_ref())?;
            }
            // The others are of decrypted secrets.
            let files = app.manifest.files.clone().into_iter().filter(|(path, _)| app.files.contains_key(path));
            let files = files.map(|(path, attributes)| with_mode(app, path, attributes));
            actions.push(Action::Own { tree: tree.clone(), files: files.collect() });
        }
        // Each generation has secrets of its own, those of unchanged apps as well.
        let generation = self.staged.generations.1;
        actions.push(Action::OwnSecrets { generation, files: secrets::to_own(self.sides.new) });
        Ok(actions)
    }

    fn check_account(&mut self, app: &AppName, database: Database, account: Option<&Account>) -> Result<(), HostError> {
        let Some(account) = account else { return Ok(()) };
        if let Some(id) = resolve(self.home, database, account)? {
            let (uid, gid) = (rustix::process::geteuid(), rustix::process::getegid());
            let own = if database == Database::Passwd { uid.as_raw() } else { gid.as_raw() };
            if !uid.is_root() && id != own {
                let name = account.as_str();
                self.problems.push(format!("{app}/manifest.json: only root can give a file to '{name}'"));
            }
            return Ok(());
        }
        if is_declared(self.staged, database, account) {
            return Ok(());
        }
        let kind = if database == Database::Passwd { "user" } else { "group" };
        self.problems.push(format!("{app}/manifest.json: there is no {kind} '{}' on the host", account.as_str()));
        Ok(())
    }
}

/// Whether a sysusers snippet of any app creates `account`.
pub(super) fn is_declared(staged: &Staged<'_>, database: Database, account: &Account) -> bool {
    let snippets = staged.sides.wants.external.values();
    let mut snippets = snippets.filter(|claim| matches!(claim.kind, ClaimKind::Copy(Snippet::Sysusers, _)));
    snippets.any(|claim| {
        let text = std::fs::read(staged.file(&claim.app, &claim.file)).unwrap_or_default();
        owners::is_declared(&String::from_utf8_lossy(&text), database, account)
    })
}

/// The attributes of a file with an explicit mode: that of the manifest, or else that of the tree.
fn with_mode(app: &App, path: TreePath, mut attributes: FileAttributes) -> (TreePath, FileAttributes) {
    let executable = app.files.get(&path).is_some_and(|entry| entry.kind == FileKind::Executable);
    let default = Mode(if executable { 0o755 } else { 0o644 });
    attributes.mode.get_or_insert(default);
    (path, attributes)
}
