//! Secrets of apps: files in `<host>/<app>/secrets/` that are encrypted with age, to the host and to all operators.
//!
//! ```text
//! recipient    who a file is encrypted to: public keys, as in cluster.json
//! identity     who can open a file: private keys, read from files
//! age_file     what an encrypted file tells without a key; encrypting and decrypting
//! plain_text   what must not be in a commit: private keys and passwords in plain text
//! ```

pub mod age_file;
pub mod identity;
pub mod plain_text;
pub mod recipient;

pub use deptool_agent::shared::secrets::{DIRECTORY, SUFFIX};
