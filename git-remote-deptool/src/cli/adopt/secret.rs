//! What looks like a secret, which does not belong into a repository by accident. Pure.

use crate::secrets::plain_text;

/// Files that are readable by their owner alone are taken for a secret from this much randomness on, in bits a byte.
const RANDOM: f64 = 4.5;
/// Shorter ones say too little about that.
const SHORT: usize = 20;

/// Why a file looks like a secret, if it does: the rest of a sentence that begins with its path.
pub(super) fn looks_like_one(path: &str, mode: u32, content: &[u8]) -> Option<&'static str> {
    let name = path.rsplit('/').next().unwrap_or_default();
    if plain_text::has_private_key(content) {
        return Some("has a private key in it");
    }
    if matches!(name.trim_end_matches('-'), "shadow" | "gshadow") || is_shadow_like(content) {
        return Some("has password hashes in it");
    }
    let is_private = mode & 0o077 == 0;
    let longest =
        content.split(|byte| byte.is_ascii_whitespace() || b"=\"':".contains(byte)).max_by_key(|word| word.len());
    let is_random = longest.is_some_and(|word| word.len() >= SHORT && entropy(word) >= RANDOM * 0.8);
    if is_private && (is_random || (content.len() >= SHORT && entropy(content) >= 6.0)) {
        return Some("is readable by its owner alone, and looks random");
    }
    None
}

/// Lines such as `root:$6$salt$hash:…`.
fn is_shadow_like(content: &[u8]) -> bool {
    let hashes = ["$1$", "$2a$", "$2b$", "$2y$", "$5$", "$6$", "$7$", "$y$", "$apr1$", "$argon2"];
    String::from_utf8_lossy(content).lines().any(|line| {
        let field = line.split(':').nth(1).unwrap_or_default();
        hashes.iter().any(|hash| field.starts_with(hash))
    })
}

/// Bits a byte.
fn entropy(bytes: &[u8]) -> f64 {
    let mut counts = [0u32; 256];
    bytes.iter().for_each(|byte| counts[usize::from(*byte)] += 1);
    let all = bytes.len() as f64;
    counts.iter().filter(|count| **count > 0).map(|count| f64::from(*count) / all).map(|part| -part * part.log2()).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_hashes_and_random_private_files_look_like_secrets_and_configuration_does_not() {
        let looks = |path: &str, mode: u32, content: &str| looks_like_one(path, mode, content.as_bytes()).is_some();
        assert!(looks(
            "/etc/ssl/x.pem",
            0o644,
            "-----BEGIN RSA PRIVATE KEY-----\nMIIEvQIBADANBgkqhkiG9w0BAQEFAASCBKcwggSjAgEA\n"
        ));
        assert!(looks(
            "/etc/wireguard/wg0.conf",
            0o600,
            "[Interface]\nPrivateKey = yAnz5TF+lXXJte14tji3zlMNq+hd2rYUIgJBgB3fBmk=\n"
        ));
        assert!(looks("/etc/shadow", 0o640, "root:*:1:\n"));
        assert!(looks("/etc/nginx/htpasswd", 0o644, "ada:$apr1$x$y\n"));
        assert!(looks("/etc/app/token", 0o600, "d41d8cd98f00b204e9800998ecf8427e5f3c9a17\n"));
        assert!(!looks("/etc/app/app.conf", 0o600, "# who may come in\nallow_everybody = no\nport = 8080\n"));
        assert!(!looks("/etc/nginx/nginx.conf", 0o644, "events {}\nhttp { server { listen 80; } }\n"));
        assert!(!looks("/etc/ssl/cert.pem", 0o644, "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n"));
    }
}
