//! The command that `ssh` runs on a host. It starts the agent, or installs it first.
//!
//! Login shells differ (bash, dash, busybox, fish, tcsh, zsh). So the command is `exec sh -c '…' deptool '…'`, and the
//! quoted text contains no single quote, backslash, `!` or line feed: every shell passes it on unchanged. The command
//! is the same for every host. Nothing that comes from a user, a tree or a host is part of it.
//!
//! If the agent is installed, the first script forks nothing for root, and only `id` and `sudo` for other users. The
//! second script, its `$1`, is the installer. It runs as root, prints the first line, and reads its input with `read`,
//! which does not read beyond the line feed from a pipe.
//!
//! Most deployments need neither: a host that had the agent and let root log in at the last contact is told to run the
//! agent, and nothing else. That saves the start of a shell. If it fails, the scripts run on another connection.

/// Starts the agent as root if it is installed, or else runs the installer as root.
///
/// `-O /` tests whether we own `/`, without a fork. Where nobody owns `/` (user namespaces), `id` decides. If `sudo`
/// refuses, the helper reads the reason from stderr. The script does not translate it, because that would take another
/// process for as long as the agent runs.
const START: &str = concat!(
    "A=@AGENT@; ",
    "if [ -O @ROOT@ ] || [ \"$(id -u)\" = 0 ]; then r=; ",
    "elif command -v sudo >/dev/null; then r=\"sudo -n\"; ",
    "elif command -v doas >/dev/null; then r=\"doas -n\"; ",
    "else echo deptool-error no-root; exit 1; fi; ",
    "LC_ALL=C; export LC_ALL; ",
    "@PRESENT@",
    "[ \"$r\" ] && exec $r sh -c \"$1\" deptool; ",
    "eval \"$1\"",
);

/// Prints `deptool-absent`, reads the agent from stdin, and starts it.
///
/// - It looks for the agent again, because the login user may not be able to read its directory.
/// - It tries `gzip` out, and does not use one that fails.
/// - It sends `/etc/hostname` before it writes anything, without comments and empty lines; the helper compares the
///   name.
/// - The temporary file's name ends in the script's process id. This distinguishes the leftovers of killed uploads from
///   uploads in progress. A small script is run from that file before the upload, to detect a file system mounted
///   noexec.
/// - `dd … iflag=fullblock` reads exactly the upload. `gzip` or `head` would read ahead, and swallow the bytes after
///   it.
/// - The agent's final name appears by `mv`, after the digest was verified and the content was synced.
const INSTALL: &str = concat!(
    "A=@AGENT@; D=@BIN@; T=$D/.new-$$; ",
    "@PRESENT@",
    "LC_ALL=C; export LC_ALL; umask 022; ",
    "die() { rm -f $T; set -f; echo deptool-error $*; exit 1; }; ",
    "for c in uname mkdir rm dd sha256sum chmod mv; do command -v $c >/dev/null || die missing $c; done; ",
    "z=plain; [ \"$(echo x | gzip -c 2>/dev/null | gzip -dc 2>/dev/null)\" = x ] && z=gzip; ",
    "n=-; if [ -r @HOSTNAME@ ]; then while read -r l || [ \"$l\" ]; do ",
    "case $l in \"\"|\"#\"*) l=;; *) n=$l; break;; esac; done <@HOSTNAME@; fi; ",
    "echo deptool-absent $(uname -sm) $z \"$n\"; ",
    "read -r m x || exit 1; [ \"$m\" = deptool-hello ] || exit 1; ",
    "read -r m s d p || exit 1; [ \"$m\" = deptool-upload ] || exit 1; ",
    "trap \"rm -f $T\" 0; trap \"exit 1\" 1 2 13 15; ",
    "e=$(mkdir -p $D 2>&1) || die mkdir $e; ",
    "for t in $D/.new-*; do [ -d \"/proc/${t##*-}\" ] || rm -f \"$t\"; done; ",
    "e=$( { echo exit 0 >$T; } 2>&1 ) || die write $e; ",
    "chmod 755 $T; $T </dev/null >/dev/null 2>&1 || die noexec; ",
    "e=$( { if [ \"$p\" = gzip ]; then dd bs=$s count=1 iflag=fullblock | gzip -dc >$T; ",
    "else dd bs=$s count=1 iflag=fullblock >$T; fi; } 2>&1 ) || die write $e; ",
    "set -- $(sha256sum <$T); [ \"$1\" = \"$d\" ] || die digest $1; ",
    "{ sync $T || sync; } 2>/dev/null; ",
    "e=$(mv -f $T $A 2>&1) || die write $e; ",
    "sync $D 2>/dev/null; ",
    "exec $A",
);

/// The paths that the command uses on a host. Tests use directories of their own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Places {
    /// The directory with the agents.
    pub bin: String,
    /// The file with the host's name.
    pub hostname: String,
    /// A path that belongs to root.
    pub root: String,
}

impl Default for Places {
    fn default() -> Self {
        Places { bin: "/var/lib/deptool/bin".into(), hostname: "/etc/hostname".into(), root: "/".into() }
    }
}

/// What to do if the agent is already installed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Present {
    /// It is installed as far as we know, and the login is root's: start it. If that is wrong, nothing happens.
    Expected,
    /// Start it as root.
    Started,
    /// Install it again: it ended without its first line, so its file may be damaged.
    Replaced,
}

/// The command for the agent whose file on hosts is named `agent`.
pub fn remote_command(places: &Places, agent: &str, present: Present) -> String {
    let (start_present, install_present) = match present {
        Present::Expected => return format!("exec {}/{agent}", plain(&places.bin)),
        Present::Started => ("[ -x $A ] && exec $r $A; ", "[ -x $A ] && exec $A; "),
        // `mv` replaces anything but a directory.
        Present::Replaced => ("", "[ -h $A ] || { [ -d $A ] && rm -rf $A; }; "),
    };
    let fill = |script: &str, if_present: &str| {
        script
            .replace("@PRESENT@", if_present)
            .replace("@AGENT@", &format!("{}/{agent}", plain(&places.bin)))
            .replace("@BIN@", plain(&places.bin))
            .replace("@HOSTNAME@", plain(&places.hostname))
            .replace("@ROOT@", plain(&places.root))
    };
    let (start, install) = (fill(START, start_present), fill(INSTALL, install_present));
    for script in [&start, &install] {
        assert!(!script.contains(['\'', '\\', '!', '\n']), "every login shell must take it as it is");
    }
    format!("exec sh -c '{start}' deptool '{install}'")
}

/// A place, which no shell takes for anything else.
fn plain(place: &str) -> &str {
    assert!(place.bytes().all(|b| b.is_ascii_alphanumeric() || b"/.-_".contains(&b)), "it is not quoted");
    place
}
