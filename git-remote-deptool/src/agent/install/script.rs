//! The one command that `ssh` runs on a host: it starts the agent, or takes it in and then starts it.
//!
//! Login shells differ (bash, dash, busybox, fish, tcsh, zsh), so the command is `exec sh -c '…' deptool '…'` and what
//! stands between the quotes has no single quote, no backslash, no `!` and no line feed: every one of them passes it on
//! as it is. It is the same for every host; nothing that a user, a tree or a host says is ever part of it.
//!
//! The first script is on the way of every deployment: where the agent is there it forks nothing for root, and only
//! `id` and `sudo` for others. The second, its `$1`, is the installer. It runs as root, speaks first, and reads its
//! lines with `read`, which takes no byte beyond them from a pipe.

/// Starts the agent as root if it is there, else runs the installer as root.
///
/// `-O /` says whether we own `/`, which a shell knows without a fork; where `/` belongs to nobody (user namespaces)
/// `id` decides. A `sudo` that refuses says so on stderr: nothing here stays behind to put it into words, because
/// that would be one more process for as long as the agent runs.
const START: &str = concat!(
    "A=@AGENT@; ",
    "if [ -O @ROOT@ ] || [ \"$(id -u)\" = 0 ]; then r=; ",
    "elif command -v sudo >/dev/null; then r=\"sudo -n\"; ",
    "elif command -v doas >/dev/null; then r=\"doas -n\"; ",
    "else echo deptool-error no-root; exit 1; fi; ",
    "LC_ALL=C; export LC_ALL; ",
    "[ -x $A ] && exec $r $A; ",
    "[ \"$r\" ] && exec $r sh -c \"$1\" deptool; ",
    "eval \"$1\"",
);

/// Says *absent*, takes the agent from stdin, and starts it.
///
/// - The agent is looked for once more: its directory need not be readable for the login.
/// - `gzip` is tried out: one that is there and does not work is not used.
/// - `/etc/hostname` is sent before anything is written, for the helper to compare (comments and empty lines skipped).
/// - The temporary file's name ends in our process id, so that leftovers of uploads that were killed can be told from
///   those under way. A file that runs there before the upload tells of a file system mounted noexec.
/// - `dd … iflag=fullblock` takes exactly the upload; `gzip` or `head` would read ahead and eat what follows it.
/// - The name that counts appears by `mv` only, after the digest was right and the content is on disk.
const INSTALL: &str = concat!(
    "A=@AGENT@; D=@BIN@; T=$D/.new-$$; ",
    "[ -x $A ] && exec $A; ",
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

/// Where on a host the command looks. Tests use directories of their own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Places {
    /// The directory of the agents.
    pub bin: String,
    /// The file with the host's own name.
    pub hostname: String,
    /// A path that belongs to root.
    pub root: String,
}

impl Default for Places {
    fn default() -> Self {
        Places { bin: "/var/lib/deptool/bin".into(), hostname: "/etc/hostname".into(), root: "/".into() }
    }
}

/// What is done with an agent that is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Present {
    Started,
    /// It did not say a word: its file may be damaged, whatever that is by now.
    Replaced,
}

/// The command for an agent that has the file name `agent` on hosts.
pub fn remote_command(places: &Places, agent: &str, present: Present) -> String {
    let fill = |script: &str| {
        let script = match present {
            Present::Started => script.to_owned(),
            Present::Replaced => script
                .replace("[ -x $A ] && exec $r $A; ", "")
                .replace("[ -x $A ] && exec $A; ", "[ -h $A ] || { [ -d $A ] && rm -rf $A; }; "),
        };
        script
            .replace("@AGENT@", &format!("{}/{agent}", places.bin))
            .replace("@BIN@", &places.bin)
            .replace("@HOSTNAME@", &places.hostname)
            .replace("@ROOT@", &places.root)
    };
    let (start, install) = (fill(START), fill(INSTALL));
    for script in [&start, &install] {
        assert!(!script.contains(['\'', '\\', '!', '\n']), "every login shell must take it as it is");
    }
    for place in [&places.bin, &places.hostname, &places.root] {
        assert!(place.bytes().all(|b| b.is_ascii_alphanumeric() || b"/.-_".contains(&b)), "it is not quoted");
    }
    format!("exec sh -c '{start}' deptool '{install}'")
}
