//! Secrets of tests, and the search for their plain text.

use std::fs;
use std::path::Path;

use crate::process::Cmd;

/// The directory of decrypted secrets, below a root.
pub const DECRYPTED: &str = "run/deptool/secrets";
const PATH: &str = "var/lib/deptool/state/identity";
/// An identity for hosts that are made again and again, as the file of a host.
pub const IDENTITY: &str = "# public key: age1xmwwc06ly3ee5rytxm9mflaz2u56jjj36s0mypdrwsvlul66mv4q47ryef
AGE-SECRET-KEY-1EGTZVFFV20835NWYV6270LXYVK2VKNX2MMDKWYKLMGR48UAWX40Q2P2LM0
";
/// Its recipient.
pub const RECIPIENT: &str = "age1xmwwc06ly3ee5rytxm9mflaz2u56jjj36s0mypdrwsvlul66mv4q47ryef";

/// The age recipient of the host at `root`, which has had its first contact.
pub fn recipient(root: &Path) -> String {
    let path = root.join(PATH);
    let text = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    text.lines().find_map(|line| line.strip_prefix("# public key: ")).unwrap().to_owned()
}

/// Encrypt `plain` to an age recipient, as any age tool does.
pub fn encrypt(recipient: &str, plain: impl AsRef<[u8]>) -> Vec<u8> {
    let recipient: age::x25519::Recipient = recipient.parse().unwrap();
    age::encrypt(&recipient, plain.as_ref()).unwrap()
}

/// A recipient that nobody can decrypt for.
pub fn somebody() -> String {
    age::x25519::Identity::generate().to_public().to_string()
}

/// The files in `directory` that have `plain` in them, except those of `root` where decrypted secrets are. Of Git repositories,
/// the objects are searched, too.
pub fn found_in(directory: &Path, root: &Path, plain: &str) -> Vec<String> {
    let mut found = Vec::new();
    search(directory, &root.join(DECRYPTED), plain.as_bytes(), &mut found);
    found
}

fn search(at: &Path, except: &Path, plain: &[u8], found: &mut Vec<String>) {
    let Ok(meta) = fs::symlink_metadata(at) else { return };
    if at == except {
        return;
    }
    if meta.is_dir() {
        if at.join("objects").is_dir() && at.join("HEAD").is_file() {
            let all = ["cat-file", "--batch", "--batch-all-objects"];
            let run = Cmd::new("git").arg("--git-dir").arg(at).args(all).run().unwrap();
            note(at, &run.stdout, plain, found);
        }
        for entry in fs::read_dir(at).unwrap() {
            search(&entry.unwrap().path(), except, plain, found);
        }
    } else if meta.is_file() {
        note(at, &fs::read(at).unwrap_or_default(), plain, found);
    } else if meta.is_symlink() {
        note(at, fs::read_link(at).unwrap_or_default().as_os_str().as_encoded_bytes(), plain, found);
    }
}

fn note(at: &Path, bytes: &[u8], plain: &[u8], found: &mut Vec<String>) {
    if bytes.windows(plain.len()).any(|part| part == plain) {
        found.push(at.display().to_string());
    }
}
