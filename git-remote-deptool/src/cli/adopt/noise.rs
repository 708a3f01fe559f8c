//! What is in `/etc` of every host and is not worth adopting. Pure.

/// Written by programs or at installation: identities, accounts, caches, keys that a package makes for itself.
const FILES: &[&str] = &[
    ".pwd.lock",
    ".updated",
    "adjtime",
    "aliases.db",
    "apparmor.d/cache",
    "bind/rndc.key",
    "blkid.tab",
    "ca-certificates.conf",
    "credstore",
    "credstore.encrypted",
    "debian_version",
    "environment",
    "group",
    "gshadow",
    "hostid",
    "hostname",
    "hosts.allow",
    "hosts.deny",
    "ld.so.cache",
    "localtime",
    "lvm/archive",
    "lvm/backup",
    "lvm/cache",
    "machine-id",
    "motd",
    "mtab",
    "nsd/nsd_control.key",
    "nsd/nsd_control.pem",
    "nsd/nsd_server.key",
    "nsd/nsd_server.pem",
    "nsswitch.conf",
    "os-release",
    "passwd",
    "pki/ca-trust/extracted",
    "profile",
    "resolv.conf",
    "security/opasswd",
    "shadow",
    "shells",
    "ssl/certs/ca-certificates.crt",
    "ssl/certs/java",
    "ssl/certs/ssl-cert-snakeoil.pem",
    "ssl/private/ssl-cert-snakeoil.key",
    "subgid",
    "subuid",
    "timezone",
    "udev/hwdb.bin",
    // Others that manage /etc.
    ".etckeeper",
    ".git",
    "alternatives",
    "selinux/targeted",
];

/// With any ending: host keys, the PAM stack that pam-auth-update writes, links for other inits, hashes of certificates.
const BEGINNINGS: &[&str] =
    &["ssh/ssh_host_", "pam.d/common-", "rc0.d/", "rc1.d/", "rc2.d/", "rc3.d/", "rc4.d/", "rc5.d/", "rc6.d/", "rcS.d/"];

/// Copies that editors and package managers leave, and compiled tables.
const ENDINGS: &[&str] = &[
    "-",
    "~",
    ".bak",
    ".db",
    ".dpkg-bak",
    ".dpkg-dist",
    ".dpkg-new",
    ".dpkg-old",
    ".dpkg-tmp",
    ".lock",
    ".rpmnew",
    ".rpmorig",
    ".rpmsave",
    ".swp",
    ".ucf-dist",
    ".ucf-new",
    ".ucf-old",
];

/// Whether a file is noise.
pub(super) fn is_noise(path: &str) -> bool {
    let Some(path) = path.strip_prefix("/etc/") else { return false };
    let is_within =
        |known: &str| path.strip_prefix(known).is_some_and(|rest: &str| rest.is_empty() || rest.starts_with('/'));
    FILES.iter().any(|known| is_within(known))
        || BEGINNINGS.iter().any(|beginning| path.starts_with(beginning))
        || ENDINGS.iter().any(|ending| path.ends_with(ending))
        || is_hash_of_certificate(path)
}

/// `ssl/certs/0a775a30.0`
fn is_hash_of_certificate(path: &str) -> bool {
    let name = path.strip_prefix("ssl/certs/").and_then(|name| name.split_once('.'));
    name.is_some_and(|(hash, number)| {
        hash.len() == 8 && hash.bytes().all(|b| b.is_ascii_hexdigit()) && number.bytes().all(|b| b.is_ascii_digit())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_machines_write_is_noise_and_what_people_write_is_not() {
        for path in [
            "/etc/.pwd.lock",
            "/etc/shadow",
            "/etc/shadow-",
            "/etc/ld.so.cache",
            "/etc/mtab",
            "/etc/machine-id",
            "/etc/ssh/ssh_host_ed25519_key.pub",
            "/etc/ssl/certs/0a775a30.0",
            "/etc/rc3.d/S01nginx",
            "/etc/alternatives/editor",
            "/etc/resolv.conf",
            "/etc/nginx/nginx.conf.dpkg-old",
            "/etc/motd",
        ] {
            assert!(is_noise(path), "{path}");
        }
        for path in [
            "/etc/nginx/nginx.conf",
            "/etc/ssl/certs/own.pem",
            "/etc/ssh/sshd_config",
            "/etc/fstab",
            "/etc/profile.d/own.sh",
            "/etc/hosts",
            "/etc/wireguard/wg0.conf",
            "/etc/postfix/main.cf",
            "/etc/passwdqc.conf",
        ] {
            assert!(!is_noise(path), "{path}");
        }
    }
}
