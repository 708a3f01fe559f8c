//! What must not be in a commit: secrets in plain text. Pure.
//!
//! This is a safety net, which is meant to catch what was added by mistake without stopping what is fine. Texts about keys,
//! templates and placeholders are no secrets.

use super::{DIRECTORY, SUFFIX, age_file};

/// Files that are longer than this hold no keys or passwords. Those below `secrets/` are looked at in any case.
pub const LONGEST: u64 = 64 * 1024;
/// A key has at least so many characters.
const SHORTEST_KEY: usize = 32;
/// The names of settings for passwords have one of these words.
const PASSWORDS: [&str; 10] = [
    "PASSWORD",
    "PASSWD",
    "PASSPHRASE",
    "SECRET",
    "TOKEN",
    "API_KEY",
    "APIKEY",
    "ACCESS_KEY",
    "PRIVATE_KEY",
    "CREDENTIALS",
];
/// The names of settings that say where a password is.
const PLACES: [&str; 5] = ["_FILE", "_PATH", "_DIR", "_URL", "_NAME"];
/// Files that show how a file of settings is written.
const EXAMPLES: [&str; 5] = ["example", "sample", "template", "dist", "default"];
/// Values that stand for a password.
const PLACEHOLDERS: [&str; 8] = ["changeme", "change-me", "change_me", "secret", "password", "none", "null", "true"];

/// What a file has that should be encrypted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Finding {
    /// It is below `secrets/`, and its name does not end in `.age`.
    NotEncrypted,
    /// Its name does, and it is something else.
    NotAge,
    /// It was made with `age --armor`.
    Armored,
    PrivateKey,
    Passwords,
}

impl Finding {
    /// The rest of a sentence that begins with the file's path.
    pub fn words(self) -> &'static str {
        match self {
            Finding::NotEncrypted => "is below secrets/ and not encrypted",
            Finding::NotAge => "is not an age file",
            Finding::Armored => "is ASCII-armored, and hosts read only binary age files",
            Finding::PrivateKey => "has a private key in it in plain text",
            Finding::Passwords => "has passwords in it in plain text",
        }
    }

    /// Whether an operator may want it so. A host would refuse the others.
    pub fn may_be_meant(self) -> bool {
        match self {
            Finding::NotEncrypted | Finding::PrivateKey | Finding::Passwords => true,
            Finding::NotAge | Finding::Armored => false,
        }
    }
}

/// Whether a file of an app is below `secrets/`.
pub fn is_secret(path: &[u8]) -> bool {
    path.strip_prefix(DIRECTORY.as_bytes()).is_some_and(|rest| rest.starts_with(b"/"))
}

/// What is found in a file of an app, whose path is relative to the app's directory.
pub fn find(path: &[u8], content: &[u8]) -> Option<Finding> {
    if is_secret(path) {
        return match path.ends_with(SUFFIX.as_bytes()) {
            true if content.starts_with(age_file::MAGIC) => None,
            true if content.starts_with(age_file::ARMOR) => Some(Finding::Armored),
            true => Some(Finding::NotAge),
            false => Some(Finding::NotEncrypted),
        };
    }
    if has_private_key(content) {
        return Some(Finding::PrivateKey);
    }
    let name = path.rsplit(|byte| *byte == b'/').next().unwrap_or_default();
    (is_settings(name) && has_passwords(content)).then_some(Finding::Passwords)
}

/// Keys in PEM (also within JSON and YAML), of age and of WireGuard. Encrypted keys and texts about keys are none.
pub fn has_private_key(content: &[u8]) -> bool {
    pem(content) || age_key(content) || wireguard(content)
}

fn pem(content: &[u8]) -> bool {
    positions(content, b"-----BEGIN ").any(|at| {
        let rest = &content[at..];
        let Some(end) = rest.windows(5).skip(11).position(|window| window == b"-----").map(|end| end + 11) else {
            return false;
        };
        let label = &rest[11..end];
        let is_label = label.len() < 64
            && label.iter().all(|byte| byte.is_ascii_uppercase() || *byte == b' ' || byte.is_ascii_digit());
        let is_key = label.ends_with(b"PRIVATE KEY") || label.ends_with(b"PRIVATE KEY BLOCK");
        if !is_label || !is_key || label.starts_with(b"ENCRYPTED") {
            return false;
        }
        let body = &rest[end + 5..];
        let head = &body[..body.len().min(256)];
        let is_encrypted = positions(head, b"4,ENCRYPTED").next().is_some();
        !is_encrypted
            && longest_run(&body[..body.len().min(1024)], |byte| byte.is_ascii_alphanumeric() || b"+/=".contains(&byte))
                >= SHORTEST_KEY
    })
}

fn age_key(content: &[u8]) -> bool {
    positions(content, b"AGE-SECRET-KEY-1").any(|at| {
        let key = &content[at + 16..];
        key.iter().take_while(|byte| byte.is_ascii_uppercase() || byte.is_ascii_digit()).count() >= SHORTEST_KEY
    })
}

/// `PrivateKey = …`: 32 bytes in base64.
fn wireguard(content: &[u8]) -> bool {
    settings(content).any(|(name, value)| {
        // A comment may follow.
        let value = value.split_ascii_whitespace().next().unwrap_or_default();
        ["PrivateKey", "PresharedKey"].iter().any(|key| name.eq_ignore_ascii_case(key))
            && value.len() == 44
            && value.ends_with('=')
            && value[..43].bytes().all(|byte| byte.is_ascii_alphanumeric() || b"+/".contains(&byte))
    })
}

/// `.env`, `.env.production`, `app.env` and `environment`, but not `.env.example`.
fn is_settings(name: &[u8]) -> bool {
    let name = String::from_utf8_lossy(name).to_ascii_lowercase();
    let mut parts = name.split('.');
    let is_one = parts.clone().any(|part| part == "env") || name == "environment";
    is_one && !parts.any(|part| EXAMPLES.contains(&part))
}

fn has_passwords(content: &[u8]) -> bool {
    settings(content).any(|(name, value)| {
        let name = name.strip_prefix("export ").unwrap_or(name).trim().to_ascii_uppercase();
        let is_password =
            PASSWORDS.iter().any(|word| name.contains(word)) && !PLACES.iter().any(|end| name.ends_with(end));
        (is_password && is_value(value)) || has_password_in_url(value)
    })
}

/// Whether it is a value and does not stand for one.
fn is_value(value: &str) -> bool {
    let lower = value.to_ascii_lowercase();
    let stands_for_one = PLACEHOLDERS.contains(&lower.as_str())
        || value.starts_with(['/', '$', '<', '{', '%'])
        || value.bytes().all(|byte| b"*xX.-".contains(&byte))
        || lower.starts_with("your")
        || value.bytes().all(|byte| byte.is_ascii_digit()) && value.len() < 6
        || lower == "false";
    !value.is_empty() && !stands_for_one
}

/// `postgres://user:password@host/`.
fn has_password_in_url(value: &str) -> bool {
    let Some((scheme, rest)) = value.split_once("://") else { return false };
    let authority = rest.split('/').next().unwrap_or_default();
    let is_scheme =
        !scheme.is_empty() && scheme.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte));
    let password = authority.rsplit_once('@').and_then(|(user, _)| user.split_once(':'));
    is_scheme && password.is_some_and(|(_, password)| is_value(password))
}

/// Lines such as `name = "value"`, without comments.
fn settings(content: &[u8]) -> impl Iterator<Item = (&str, &str)> {
    let lines = content.split(|byte| *byte == b'\n').filter_map(|line| std::str::from_utf8(line).ok());
    lines.map(str::trim).filter(|line| !line.starts_with(['#', ';'])).filter_map(|line| {
        let (name, value) = line.split_once('=')?;
        Some((name.trim(), value.trim().trim_matches(['"', '\'']).trim()))
    })
}

fn positions<'a>(content: &'a [u8], text: &'a [u8]) -> impl Iterator<Item = usize> + 'a {
    content.windows(text.len()).enumerate().filter(move |(_, window)| *window == text).map(|(at, _)| at)
}

/// The longest row of bytes that are as asked.
fn longest_run(content: &[u8], is: impl Fn(u8) -> bool) -> usize {
    content.split(|byte| !is(*byte)).map(<[u8]>::len).max().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const BODY: &str = "MIIEvQIBADANBgkqhkiG9w0BAQEFAASCBKcwggSjAgEAAoIBAQC7VJTUt9Us8cKj";

    fn in_file(path: &str, content: &str) -> Option<Finding> {
        find(path.as_bytes(), content.as_bytes())
    }

    #[test]
    fn private_keys_are_found_in_whatever_they_are_written() {
        for text in [
            format!("-----BEGIN PRIVATE KEY-----\n{BODY}\n-----END PRIVATE KEY-----\n"),
            format!("cert\n-----BEGIN RSA PRIVATE KEY-----\r\n{BODY}\r\n"),
            format!("-----BEGIN OPENSSH PRIVATE KEY-----\n{BODY}\n"),
            format!("-----BEGIN PGP PRIVATE KEY BLOCK-----\n\n{BODY}\n"),
            format!(r#"{{"private_key": "-----BEGIN PRIVATE KEY-----\n{BODY}\n-----END"}}"#),
            format!("key: |\n  -----BEGIN EC PRIVATE KEY-----\n  {BODY}\n"),
            "# a key\nAGE-SECRET-KEY-1EGTZVFFV20835NWYV6270LXYVK2VKNX2MMDKWYKLMGR48UAWX40Q2P2LM0\n".into(),
            "[Interface]\nPrivateKey = yAnz5TF+lXXJte14tji3zlMNq+hd2rYUIgJBgB3fBmk=\n".into(),
            "PresharedKey=yAnz5TF+lXXJte14tji3zlMNq+hd2rYUIgJBgB3fBmk= # of web1\n".into(),
        ] {
            assert_eq!(in_file("any/file", &text), Some(Finding::PrivateKey), "{text}");
        }
    }

    #[test]
    fn texts_about_keys_and_encrypted_keys_are_fine() {
        for text in [
            "grep -q -- '-----BEGIN PRIVATE KEY-----' \"$1\" || exit 1\n".to_owned(),
            "The file begins with -----BEGIN OPENSSH PRIVATE KEY-----, then follow lines of base64.\n".into(),
            "-----BEGIN PRIVATE KEY-----\n...\n-----END PRIVATE KEY-----\n".into(),
            format!("-----BEGIN ENCRYPTED PRIVATE KEY-----\n{BODY}\n"),
            format!("-----BEGIN RSA PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\nDEK-Info: AES-128-CBC,00\n\n{BODY}\n"),
            format!("-----BEGIN CERTIFICATE-----\n{BODY}\n"),
            format!("-----BEGIN PUBLIC KEY-----\n{BODY}\n"),
            "AGE-SECRET-KEY-1... is how it begins\n".into(),
            "[Interface]\nPrivateKey = /etc/wireguard/key\nPrivateKeyFile=/run/deptool/secrets/wg/key\n".into(),
            "ssl_certificate_key /run/deptool/secrets/web/tls.key;\n".into(),
        ] {
            assert_eq!(in_file("any/file", &text), None, "{text}");
        }
    }

    #[test]
    fn passwords_are_looked_for_in_files_of_settings_and_placeholders_are_none() {
        for line in [
            "DB_PASSWORD=hunter2x",
            "export API_KEY='abc123def'",
            "token = \"t0k3n\"",
            "DATABASE_URL=postgres://app:pw12@db/x",
        ] {
            for name in [".env", "conf/.env.production", "app.env", "environment"] {
                assert_eq!(in_file(name, &format!("A=1\n{line}\n")), Some(Finding::Passwords), "{name}: {line}");
            }
            for name in [".env.example", "app.env.sample", "app.conf", "README"] {
                assert_eq!(in_file(name, line), None, "{name}: {line}");
            }
        }
        for line in [
            "DB_PASSWORD=",
            "#DB_PASSWORD=hunter2x",
            "DB_PASSWORD=${DB_PASSWORD}",
            "DB_PASSWORD=changeme",
            "DB_PASSWORD=<password>",
            "DB_PASSWORD=********",
            "DB_PASSWORD_FILE=/run/deptool/secrets/app/db",
            "TOKEN_URL=https://example.org/token",
            "SECRET_FROM=/run/secrets/x",
            "USE_TOKENS=true",
            "MAX_TOKENS=4096",
            "DATABASE_URL=postgres://app@db/x",
            "DATABASE_URL=postgres://app:$PASSWORD@db/x",
        ] {
            assert_eq!(in_file(".env", &format!("{line}\n")), None, "{line}");
        }
    }

    #[test]
    fn what_is_below_secrets_is_encrypted() {
        assert_eq!(in_file("secrets/db", "x"), Some(Finding::NotEncrypted));
        assert_eq!(in_file("secrets/db.age", "x"), Some(Finding::NotAge));
        assert_eq!(in_file("secrets/db.age", "-----BEGIN AGE ENCRYPTED FILE-----\n"), Some(Finding::Armored));
        assert_eq!(in_file("secrets/db.age", "age-encryption.org/v1\n"), None);
        assert_eq!([in_file("secrets", "x"), in_file("secrets.d/db", "x"), in_file("x/secrets/db", "x")], [None; 3]);
    }

    proptest! {
        #[test]
        fn no_file_makes_it_panic(path in any::<Vec<u8>>(), content in any::<Vec<u8>>(), text in "(-----BEGIN |PRIVATE KEY|-----|AGE-SECRET-KEY-1|[=\n:/@ \"]|é){0,12}") {
            let _ = find(&path, &content);
            let _ = find(b".env", text.as_bytes());
        }
    }
}
