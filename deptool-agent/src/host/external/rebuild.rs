//! Rebuilds a lost ledger from what is deployed.

use sha2::{Digest as _, Sha256};

use crate::{
    host::{
        external::backup,
        state::{
            error::{HostError, Whose},
            layout::Home,
            ledger::{Before, Claims, Content, PathClaim, UnitClaim},
        },
    },
    shared::{
        desired::{Claim, ClaimKind, Desired, Snippet},
        store::Store,
        text::hex,
        tree::read_blob,
    },
    system::UnitFile,
};

/// A ledger that was rebuilt.
pub struct Rebuilt {
    pub claims: Claims,
    /// What can't be known, in sentences.
    pub unknown: Vec<String>,
}

/// The ledger for a host on which `wants` is deployed.
pub fn rebuild(home: &Home, store: &Store, wants: &Desired) -> Result<Rebuilt, HostError> {
    let mut claims = Claims::default();
    let mut unknown = Vec::new();
    for (path, claim) in &wants.external {
        let ours = match &claim.kind {
            ClaimKind::Link => Content::Link(format!("{}/{}", Home::stable_path(&claim.app), claim.file)),
            ClaimKind::Copy(_, id) => {
                let content = read_blob(store, *id).map_err(|error| HostError::tree(Whose::Deployed, error))?;
                Content::File(hex(&Sha256::digest(content)))
            }
        };
        let before = if backup::exists(home, path) { Before::Kept } else { Before::Absent };
        claims.paths.insert(path.clone(), PathClaim { app: claim.app.clone(), before, ours });
    }
    for unit in wants.enabled.keys() {
        let mut made = wants.external.values().flat_map(Claim::all).map(|claim| &claim.kind);
        let is_ours = made.any(|kind| matches!(kind, ClaimKind::Copy(Snippet::Unit(made), _) if made == unit));
        if !is_ours {
            unknown
                .push(format!("what '{unit}' was before is not known: it is stopped and disabled when it is released"));
        }
        let file = if is_ours { UnitFile::Absent } else { UnitFile::Disabled };
        claims.units.insert(unit.clone(), UnitClaim { file, active: false, ..UnitClaim::default() });
    }
    Ok(Rebuilt { claims, unknown })
}
