//! Compares decrypted secrets with what is deployed.

use std::{
    fs::{self, File},
    io::Read,
    os::unix::fs::MetadataExt,
    path::Path,
};

use zeroize::Zeroizing;

use crate::{
    host::{
        owners::Owners,
        secrets::{current, has_any, has_stable_path, identity, open},
        state::{error::HostError, layout::Home},
    },
    shared::{
        manifest::FileAttributes,
        name::AppName,
        path::TreePath,
        secrets::{self, Secret},
        store::Store,
        tree::HostTree,
    },
};

/// How a secret differs from what is deployed.
pub struct Difference {
    pub app: AppName,
    /// The name of the decrypted file. `None` for the app's stable path.
    pub name: Option<String>,
    /// The encrypted file.
    pub file: Option<TreePath>,
    pub what: String,
    /// Whether a deployment puts it right.
    pub can_be_mended: bool,
}

/// How the secrets of the current generation differ from those of `tree`.
pub fn differences(home: &Home, tree: &HostTree) -> Result<Vec<Difference>, HostError> {
    let (mut found, mut owners) = (Vec::new(), Owners::of(home));
    if !has_any(tree) {
        return Ok(found);
    }
    let Some(store) = Store::open_to_read(&home.store())? else { return Ok(found) };
    let identity = match identity::load(home) {
        Err(HostError::Damaged(damage)) => Err(format!("can't be checked: {damage}")),
        identity => identity?.ok_or_else(|| "can't be checked: the host has lost its age identity".to_owned()),
    };
    let generation = current(home)?.map(|number| home.secrets().join(number.to_string()));
    for (name, app) in &tree.apps {
        for secret in secrets::of(app) {
            let path = generation.as_ref().map(|directory| directory.join(name.as_str()).join(secret.name));
            let plain = identity.as_ref().map_err(String::clone).and_then(|identity| {
                open(identity, &*store, secret.content).map_err(|why| format!("can't be checked: its file {why}"))
            });
            let (what, can_be_mended) = match plain {
                Ok(plain) => {
                    match path.map_or(Ok(Some("is missing")), |path| difference(&path, &plain, &secret, &mut owners)) {
                        Ok(what) => (what.map(str::to_owned), true),
                        Err(why) => (Some(format!("can't have its owner: {why}")), false),
                    }
                }
                Err(why) => (Some(why), false),
            };
            found.extend(what.map(|what| of(name, &secret, what, can_be_mended)));
        }
        if secrets::of(app).next().is_some() && !has_stable_path(home, name) {
            let what = "is not the link that was made".to_owned();
            found.push(Difference { app: name.clone(), name: None, file: None, what, can_be_mended: true });
        }
    }
    Ok(found)
}

fn of(app: &AppName, secret: &Secret<'_>, what: String, can_be_mended: bool) -> Difference {
    let (name, file) = (Some(secret.name.to_owned()), Some(secret.file.clone()));
    Difference { app: app.clone(), name, file, what, can_be_mended }
}

/// An error says why the owner is not known.
fn difference(
    path: &Path,
    plain: &[u8],
    secret: &Secret<'_>,
    owners: &mut Owners<'_>,
) -> Result<Option<&'static str>, String> {
    let Ok(meta) = fs::symlink_metadata(path) else { return Ok(Some("is missing")) };
    if !meta.is_file() {
        return Ok(Some("was replaced"));
    }
    if !has_content(path, plain) {
        return Ok(Some("was edited"));
    }
    let FileAttributes { mode, .. } = &secret.attributes;
    let (owner, group) = owners.ids(&secret.attributes)?;
    let is_owner = owner.unwrap_or_else(|| rustix::process::geteuid().as_raw()) == meta.uid();
    let is_group = group.is_none_or(|group| group == meta.gid());
    let is_mode = mode.is_none_or(|mode| mode.0 == meta.mode() & 0o7777);
    Ok((!is_owner || !is_group || !is_mode).then_some("has another mode or owner"))
}

fn has_content(path: &Path, plain: &[u8]) -> bool {
    // One byte more, to notice an addition. The buffer does not grow, which would leave a copy.
    let mut now = Zeroizing::new(vec![0; plain.len() + 1]);
    let Ok(mut file) = File::open(path) else { return false };
    let mut length = 0;
    while let Ok(count) = file.read(&mut now[length..]) {
        match count {
            0 => return now[..length] == *plain,
            count => length += count,
        }
    }
    false
}
