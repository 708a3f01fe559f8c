//! `git deptool secret textconv`: what Git shows in the place of an encrypted file. See `diff.<driver>.textconv` in
//! gitattributes(5).

use std::{collections::BTreeMap, fs::File, io::Read as _, path::PathBuf};

use deptool_agent::shared::text::{hex, printable};
use sha2::{Digest as _, Sha256};

use super::super::{CliError, exit::ExitStatus, output::Output};
use crate::secrets::age_file::{self, Stanza};

/// Print what an encrypted file tells without a key, for 'git diff'
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The encrypted file
    #[arg(value_name = "file")]
    file: PathBuf,
}

pub(super) fn run(output: &Output, args: Args) -> Result<ExitStatus, CliError> {
    let mut bytes = Vec::new();
    File::open(&args.file)?.take(64 * 1024 * 1024).read_to_end(&mut bytes)?;
    output.text(&text(&bytes))?;
    Ok(ExitStatus::Done)
}

fn text(bytes: &[u8]) -> String {
    let (Some(stanzas), Some(size)) = (age_file::stanzas(bytes), age_file::plain_size(bytes)) else {
        return format!("not an age file, {} bytes\n", bytes.len());
    };
    // Each encryption of the same text makes another file.
    let digest = hex(&Sha256::digest(bytes)[..8]);
    format!("age-encrypted to {}\n{size} bytes of plain text\nencrypted as {digest}\n", in_words(&stanzas))
}

/// How many recipients of each kind.
pub(super) fn in_words(stanzas: &[Stanza]) -> String {
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    stanzas.iter().for_each(|stanza| *counts.entry(&stanza.kind).or_default() += 1);
    let counts: Vec<String> =
        counts.iter().map(|(kind, count)| format!("{count} {}", printable(kind.as_bytes()))).collect();
    counts.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::secrets::recipient::Recipient;

    #[test]
    fn what_is_shown_says_to_how_many_and_how_much() {
        let key = age::x25519::Identity::generate().to_public().to_string();
        let recipient = Recipient::parse(&key).unwrap();
        let file = age_file::encrypt(b"secret", [recipient.key(); 2].into_iter()).unwrap();
        let shown = text(&file);
        assert!(shown.starts_with("age-encrypted to 2 X25519\n6 bytes of plain text\nencrypted as "), "{shown}");
        assert_eq!(text(b"\x1b[31m"), "not an age file, 5 bytes\n");
    }
}
