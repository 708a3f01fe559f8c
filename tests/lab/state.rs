//! Everything on a host that a deployment can change, as text for comparisons.

use deptool_tests::lab::Host;

/// Files and units. Files that the machine itself writes, users (which stay), and units that come and go with logins
/// are left out; see [`SCRIPT`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct State {
    /// One line per path in `/etc`: type, mode, owner, group, target, SHA-256.
    pub etc: String,
    /// One line per unit that is not inactive, and per unit file with its enablement.
    pub units: String,
    /// Our own records of what runs: symlinks, claims, the branch, and whether the journal is at rest.
    pub deptool: String,
}

const ETC: &str = r"
    find /etc -xdev ! -name 'passwd*' ! -name 'shadow*' ! -name 'group*' ! -name 'gshadow*' ! -name '.pwd.lock' \
        ! -name 'resolv.conf' ! -name 'ld.so.cache' ! -path /etc -printf '%p %y %m %U:%G %l\n' | LC_ALL=C sort
    find /etc -xdev -type f ! -name 'passwd*' ! -name 'shadow*' ! -name 'group*' ! -name 'gshadow*' ! -name '.pwd.lock' \
        ! -name 'resolv.conf' ! -name 'ld.so.cache' -exec sha256sum {} + | LC_ALL=C sort -k 2
";
const UNITS: &str = r"
    # Podman's health checks have such names, and run all the time.
    systemctl list-units --all --plain --no-legend --full | grep -Ev '^[0-9a-f]{64}-' |
        while read -r unit load active sub rest; do
            case $unit in
                *.scope|*.slice|*.device|user@*|user-runtime-dir@*|run-user-*|run-credentials-*|systemd-*|var-lib-containers-*|netavark-*|run-netns*) continue ;;
            esac
            case $active in inactive) ;; *) echo $unit $load $active $sub ;; esac
        done | LC_ALL=C sort
    systemctl list-unit-files --plain --no-legend --full | sed 's/ *$//' | grep -v '[.]scope ' | LC_ALL=C sort
";
const DEPTOOL: &str = r"
    [ -d /var/lib/deptool/store ] || exit 0
    cd /var/lib/deptool
    find current previous apps generations trees state/incoming -maxdepth 2 ! -path 'trees/*/*' -printf '%p %y %l\n' 2>/dev/null |
        LC_ALL=C sort
    find state/host state/claims state/journal -size +0 -exec sha256sum {} + 2>/dev/null || true
    cat store/HEAD
    find store/refs/heads -type f -exec cat {} +
";

impl State {
    /// Waits until the agent is done, because it answers before it cleans up.
    #[track_caller]
    pub fn of(host: &Host) -> State {
        host.sh("[ ! -e /var/lib/deptool/state/lock ] || flock -w 60 /var/lib/deptool/state/lock true");
        State { etc: host.sh(ETC), units: host.sh(UNITS), deptool: host.sh(DEPTOOL) }
    }

    /// Asserts that the host is as before, and shows the differences otherwise.
    #[track_caller]
    pub fn assert_same(&self, host: &Host, when: &str) {
        let now = State::of(host);
        for (before, after) in [(&self.etc, &now.etc), (&self.units, &now.units), (&self.deptool, &now.deptool)] {
            let gone: Vec<&str> = before.lines().filter(|line| !after.lines().any(|other| other == *line)).collect();
            let new: Vec<&str> = after.lines().filter(|line| !before.lines().any(|other| other == *line)).collect();
            let (gone, new) = (gone.join("\n- "), new.join("\n+ "));
            assert!(before == after, "{when}: '{}' is not as it was\n- {gone}\n+ {new}", host.name);
        }
    }
}
