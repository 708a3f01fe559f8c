//! Secrets: files of apps that are encrypted to this host with age, and are decrypted into memory.
//!
//! ```text
//! /run/deptool/secrets/          memory that is never swapped to a disk, see `memory`
//!   <generation>/<app>/<name>    decrypted while the generation is staged, complete before it gets its name
//!   <app>                        stable path, a symlink to /var/lib/deptool/current/.secrets/<app>
//! /var/lib/deptool/
//!   generations/<n>/.secrets     a symlink to /run/deptool/secrets/<n>
//! ```
//!
//! So the rename that switches `current` switches the secrets, too, and undoing it switches back. Secrets are made again when
//! they are gone, as after a boot. Plain text is nowhere else, and is cleared from this process's memory.

use std::{
    fs,
    io::Write,
    path::{Path, PathBuf},
};

use gix_object::Find;
use zeroize::Zeroizing;

use crate::{
    host::{
        external::place::set_owner_and_mode,
        owners::Owners,
        secrets::{
            age::AgeError,
            identity::{Identity, load_or_make},
        },
        state::{
            boot::BootUnit,
            durable,
            error::{Context, HostError},
            generations::{self, Note, SECRETS},
            identity::load_tree,
            layout::{Home, names, set_mode},
        },
    },
    shared::{
        id::BlobId,
        manifest::FileAttributes,
        name::AppName,
        outcome::Goal,
        path::STATE_DIR,
        secrets,
        store::Store,
        text::{in_one_line, printable},
        tree::{Apps, HostTree, TreeError, read_blob},
    },
};

pub mod age;
pub mod drift;
pub mod identity;
mod memory;

/// The largest encrypted file, in bytes. systemd takes credentials of this size, too.
const LARGEST: usize = 1 << 20;
/// A directory that everybody may pass through, and nobody may list.
const PASSAGE: u32 = 0o711;

/// A decrypted secret.
pub struct Opened {
    app: AppName,
    name: String,
    plain: Zeroizing<Vec<u8>>,
    attributes: FileAttributes,
}

/// The path of a decrypted secret, as other configuration refers to it.
pub fn stable_path(app: &AppName, name: &str) -> String {
    format!("/run/deptool/secrets/{app}/{name}")
}

/// The target of the link in generation `number`. In a root directory it must not lead out.
pub fn target(home: &Home, number: u32) -> String {
    let root = if home.is_live() { "" } else { "../../../../.." };
    format!("{root}/run/deptool/secrets/{number}")
}

/// Whether a tree has secrets.
pub fn has_any(tree: &HostTree) -> bool {
    tree.apps.values().any(|app| secrets::of(app).next().is_some())
}

/// Decrypt all secrets of a tree. If any can't be opened, all of those are named.
pub fn open_all(home: &Home, tree: &HostTree, objects: &dyn Find) -> Result<Vec<Opened>, HostError> {
    let identity = load_or_make(home)?;
    let (mut opened, mut problems) = (Vec::new(), Vec::new());
    for (app, secret) in tree.apps.iter().flat_map(|(name, app)| secrets::of(app).map(move |secret| (name, secret))) {
        match open(&identity, objects, secret.content) {
            Ok(plain) => {
                let (name, attributes) = (secret.name.to_owned(), secret.attributes);
                opened.push(Opened { app: app.clone(), name, plain, attributes });
            }
            Err(why) => problems.push(format!("'{app}/{}' {why}", secret.file)),
        }
    }
    if problems.is_empty() { Ok(opened) } else { Err(HostError::refused(in_one_line(problems))) }
}

/// The plain text of an encrypted file, or the rest of a sentence that begins with its path.
fn open(identity: &Identity, objects: &dyn Find, content: BlobId) -> Result<Zeroizing<Vec<u8>>, String> {
    let file = match read_blob(objects, content) {
        Ok(file) if file.len() <= LARGEST => file,
        Ok(_) => return Err("is larger than 1 MiB, which is too much for a secret".into()),
        // The store has no large files.
        Err(TreeError::Missing { .. }) => return Err("is missing in the host's store, or larger than 1 MiB".into()),
        Err(error) => return Err(printable(error.to_string().as_bytes())),
    };
    age::open(identity, &file).map_err(|error: AgeError| error.to_string())
}

/// Write the secrets of generation `number`, and the stable paths of their apps. Nothing uses them before the generation is
/// current. Owners are set by [`own`]: the deployment may create the users. Until then, only root can read such files.
pub fn write(home: &Home, number: u32, opened: Vec<Opened>) -> Result<(), HostError> {
    let directory = memory::open(home)?;
    let temporary = directory.join(format!(".{number}.new"));
    durable::remove_all(&temporary)?;
    make_passage(&temporary)?;
    for Opened { app, name, plain, attributes } in &opened {
        let of_app = temporary.join(app.as_str());
        make_passage(&of_app)?;
        let path = of_app.join(name);
        durable::create(&path, 0o400)?.write_all(plain).during("write", &path)?;
        if attributes.owner.is_none() && attributes.group.is_none() {
            set_owner_and_mode(&path, None, None, mode_of(attributes))?;
        }
    }
    let complete = directory.join(number.to_string());
    durable::remove_all(&complete)?;
    fs::rename(&temporary, &complete).during("name", &complete)?;
    opened.iter().try_for_each(|one| link_stable_path(home, &directory, &one.app))
}

/// Make a directory, if it is not there, that everybody may pass through.
fn make_passage(path: &Path) -> Result<(), HostError> {
    fs::create_dir_all(path).during("create", path)?;
    set_mode(path, PASSAGE)
}

fn mode_of(attributes: &FileAttributes) -> u32 {
    attributes.mode.map_or(0o400, |mode| mode.0)
}

/// Set the owners and modes of secrets of generation `number`. Each file is `<app>/<name>`. One whose owner is not known must not
/// take the others along: it stays for root only, and is told of.
pub fn own(home: &Home, number: u32, files: &[(String, FileAttributes)]) -> Result<Vec<String>, HostError> {
    let directory = home.secrets().join(number.to_string());
    let (mut owners, mut unknown) = (Owners::of(home), Vec::new());
    for (file, attributes) in files {
        match owners.ids(attributes) {
            Ok((owner, group)) => set_owner_and_mode(&directory.join(file), owner, group, mode_of(attributes))?,
            Err(why) => unknown.push(format!("only root can read the secret '{file}': {why}")),
        }
    }
    Ok(unknown)
}

/// The files for [`own`]: those with an owner or a group.
pub fn to_own(tree: &HostTree) -> Vec<(String, FileAttributes)> {
    let all = tree.apps.iter().flat_map(|(name, app)| secrets::of(app).map(move |secret| (name, secret)));
    all.filter(|(_, secret)| secret.attributes.owner.is_some() || secret.attributes.group.is_some())
        .map(|(app, secret)| (format!("{app}/{}", secret.name), secret.attributes))
        .collect()
}

/// The target of an app's stable path. In a root directory it must not lead out.
fn link_target(home: &Home, app: &AppName) -> String {
    let root = if home.is_live() { "" } else { "../../.." };
    format!("{root}{STATE_DIR}/current/{SECRETS}/{app}")
}

fn has_stable_path(home: &Home, app: &AppName) -> bool {
    let link = home.secrets().join(app.as_str());
    fs::read_link(link).is_ok_and(|target| target == Path::new(&link_target(home, app)))
}

fn link_stable_path(home: &Home, directory: &Path, app: &AppName) -> Result<(), HostError> {
    if has_stable_path(home, app) {
        return Ok(());
    }
    let (link, temporary) = (directory.join(app.as_str()), directory.join(".link.new"));
    durable::remove_all(&temporary)?;
    std::os::unix::fs::symlink(link_target(home, app), &temporary).during("make", &temporary)?;
    if link.is_dir() && !link.is_symlink() {
        durable::remove_all(&link)?;
    }
    fs::rename(&temporary, &link).during("name", &link)
}

/// The generation that runs, if it has secrets.
fn current(home: &Home) -> Result<Option<u32>, HostError> {
    let number = generations::current(home)?;
    Ok(number.filter(|number| home.generation(*number).join(SECRETS).is_symlink()))
}

/// Whether the secrets of the current generation are gone, as after a boot.
pub fn are_gone(home: &Home) -> Result<bool, HostError> {
    Ok(current(home)?.is_some_and(|number| !home.secrets().join(number.to_string()).is_dir()))
}

/// Make the secrets of the current generation again. The caller holds the host lock. Returns what [`own`] tells.
pub fn restore(home: &Home) -> Result<Vec<String>, HostError> {
    let Some(number) = current(home)? else { return Ok(Vec::new()) };
    let Some((store, note)) = Store::open_to_read(&home.store())?.zip(Note::read(home, number)) else {
        return Err(HostError::refused(format!("it is unknown what generation {number} is")));
    };
    let Goal::Commit(commit) = note.commit else { return Ok(Vec::new()) };
    let tree = load_tree(&store, &note.host, commit, &mut Apps::new())
        .map_err(|error| HostError::tree(crate::host::state::error::Whose::Deployed, error))?;
    write(home, number, open_all(home, &tree, &*store)?)?;
    let unknown = own(home, number, &to_own(&tree))?;
    // It may be why they are gone: a reset of `/etc` removes it.
    install_unit(home)?;
    Ok(unknown)
}

/// Install the unit that makes secrets at boot, durably, if it is not there.
pub fn install_unit(home: &Home) -> Result<(), HostError> {
    let written = BootUnit::Secrets.install(home)?;
    if written.is_empty() { Ok(()) } else { durable::sync(home, &written) }
}

/// Remove all secrets but those of the current generation. If it has none, remove the unit, too. The caller holds the lock, and
/// no deployment is under way.
pub fn prune(home: &Home) -> Result<(), HostError> {
    let (directory, current) = (home.secrets(), current(home)?);
    let kept: Option<PathBuf> = current.map(|number| directory.join(number.to_string()));
    for name in names(&directory)? {
        let path = directory.join(&name);
        let is_generation = name.parse::<u32>().is_ok();
        let is_needed = match &kept {
            Some(kept) if is_generation => path == *kept,
            Some(kept) => !name.starts_with('.') && kept.join(&name).is_dir(),
            None => false,
        };
        if !is_needed {
            durable::remove_all(&path)?;
        }
    }
    if current.is_none() {
        BootUnit::Secrets.remove(home)?;
        memory::close(home);
    }
    Ok(())
}
