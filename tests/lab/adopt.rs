//! A host that was set up by hand with Debian's packages is adopted, deployed, changed and given back.

use deptool_tests::lab::{Base, Host, HostSpec, start_or_skip};
use deptool_tests::sandbox::Sandbox;

/// By hand: nginx with a drop-in and a file of its group, a name server's configuration, and a timer.
const BY_HAND: &str = r#"
mkdir -p /etc/systemd/system/nginx.service.d /etc/nginx/private
printf '[Service]\nLimitNOFILE=4096\n' >/etc/systemd/system/nginx.service.d/limits.conf
printf 'server { listen 8080; root /srv; }\n' >/etc/nginx/conf.d/own.conf
printf 'deny all;\n' >/etc/nginx/private/deny
chown root:www-data /etc/nginx/private/deny && chmod 0640 /etc/nginx/private/deny
printf '[Service]\nType=oneshot\nExecStart=/bin/true\n' >/etc/systemd/system/backup.service
printf '[Timer]\nOnCalendar=yearly\n[Install]\nWantedBy=timers.target\n' >/etc/systemd/system/backup.timer
touch -d '2020-02-02 02:02:02.123456789' /etc/nginx/conf.d/own.conf /etc/systemd/system/backup.timer
systemctl daemon-reload
systemctl --quiet enable --now nginx.service backup.timer
"#;

/// Everything of files and links in /etc: kind, mode, owner, time, target and content.
fn everything(host: &Host) -> String {
    let what = r"find /etc \( -type f -o -type l \) -printf '%p %y %m %u %g %T@ %l\n'";
    host.sh(&format!("{{ {what}; find /etc -type f -exec sha256sum {{}} +; }} | sort"))
}

/// The same as a program sees it that follows links: mode, owner and content.
fn as_read(host: &Host) -> String {
    // What is mounted is no file of the host.
    host.sh("cd /etc && find -L . -type f ! -name mtab -exec stat -L -c '%n %a %U %G' {} + -exec sha256sum {} + | sort")
}

fn units(host: &Host) -> Vec<String> {
    let state = |unit| [host.unit_state(unit), host.unit_file_state(unit), host.unit_property(unit, "InvocationID")];
    ["nginx.service", "backup.timer", "nsd.service", "ssh.service"].map(state).concat()
}

#[test]
fn a_host_set_up_by_hand_is_adopted_without_a_restart_and_given_back_byte_for_byte() {
    let Some(lab) = start_or_skip(&[HostSpec::new("web1")]) else { return };
    let sandbox = Sandbox::for_lab(&lab);
    let (host, operator) = (lab.host("web1"), sandbox.repo("operator"));
    operator.add_remote("web1", "deptool::web1");
    operator.git(&["config", "deptool.cluster", "prod"]).ok();
    host.sh(BY_HAND);
    let (before, read, ran) = (everything(host), as_read(host), units(host));
    let adopt = ["deptool", "adopt", "web1", "--yes", "--app"];
    operator.git(&[&adopt[..], &["web", "/etc/nginx", "nginx.service"]].concat()).ok();
    operator.git(&[&adopt[..], &["backup", "backup.timer", "backup.service"]].concat()).ok();
    operator.git(&[&adopt[..], &["dns", "/etc/nsd/nsd.conf"]].concat()).ok();
    assert_eq!(everything(host), before, "adopting changes nothing");
    let web = std::fs::read_to_string(operator.dir.join("web1/web/manifest.json")).unwrap();
    assert!(web.contains(r#""group": "www-data""#) && web.contains(r#""nginx.service""#), "{web}");
    let backup = std::fs::read_to_string(operator.dir.join("web1/backup/manifest.json")).unwrap();
    assert!(backup.contains(r#""backup.timer""#) && !backup.contains(r#""backup.service""#), "{backup}");

    operator.commit("Adopt the host as it is");
    operator.git(&["push", "web1", "prod"]).ok().does_not_say("restarted");
    assert_eq!(as_read(host), read, "programs read the same files as before");
    assert_eq!(units(host), ran, "nothing was restarted");
    assert!(host.path("/etc/nginx/nginx.conf").is_symlink());
    host.sh("nginx -t -q");
    operator.git(&["push", "web1", ":prod"]).ok();
    assert_eq!(everything(host), before, "everything is given back");
    let is_up = |host: &Host| [host.unit_state("nginx.service"), host.unit_state("backup.timer")];
    assert_eq!(is_up(host), ["active", "active"]);

    // Changed in between, it is still given back as it was.
    operator.git(&["push", "web1", "prod"]).ok();
    operator.write("web1/web/etc/nginx/conf.d/own.conf", "server { listen 8081; root /srv; }\n");
    operator
        .write("web1/backup/systemd/backup.timer", "[Timer]\nOnCalendar=monthly\n[Install]\nWantedBy=timers.target\n");
    operator.commit("Change");
    operator.git(&["push", "web1", "prod"]).ok();
    host.sh("grep -q 8081 /etc/nginx/conf.d/own.conf && grep -q monthly /etc/systemd/system/backup.timer");
    operator.git(&["push", "web1", ":prod"]).ok();
    assert_eq!(everything(host), before, "everything is given back after a change, too");
    assert_eq!(is_up(host), ["active", "active"]);
    assert_eq!(host.unit_property("nginx.service", "LimitNOFILE"), "4096");
}

/// By hand: a mail server with a table of its own, a tunnel's key, and a tunnel that is brought up at boot.
const SERVERS_BY_HAND: &str = r#"
set -e
postconf -e 'inet_interfaces = loopback-only' 'virtual_alias_maps = hash:/etc/postfix/virtual'
printf 'ada@example.org root\n' >/etc/postfix/virtual
postmap /etc/postfix/virtual
(umask 077; printf '[Interface]\nPrivateKey = %s\n' "$(wg genkey)" >/etc/wireguard/wg0.conf)
mkdir -p /etc/systemd/system/wg-quick@wg0.service.d
printf '[Service]\nRestartSec=5\n' >/etc/systemd/system/wg-quick@wg0.service.d/own.conf
systemctl daemon-reload
systemctl --quiet enable wg-quick@wg0.service
systemctl restart postfix.service
"#;

fn invocations(host: &Host) -> Vec<String> {
    let state = |unit| [host.unit_state(unit), host.unit_property(unit, "InvocationID")];
    ["postfix@-.service", "nginx.service", "ssh.service"].map(state).concat()
}

#[test]
fn what_dpkg_knows_is_not_listed_and_mail_and_tunnels_are_adopted_and_given_back() {
    let spec = HostSpec { base: Base::ByHand, ..HostSpec::new("web1") };
    let Some(lab) = start_or_skip(&[spec]) else { return };
    let sandbox = Sandbox::for_lab(&lab);
    let (host, operator) = (lab.host("web1"), sandbox.repo("operator"));
    operator.add_remote("web1", "deptool::web1");
    operator.git(&["config", "deptool.cluster", "prod"]).ok();
    host.sh(SERVERS_BY_HAND);
    host.sh(BY_HAND);
    let (before, read, ran) = (everything(host), as_read(host), invocations(host));

    let list = operator.git(&["deptool", "adopt", "web1", "--list", "--json"]).ok().stdout();
    let list: serde_json::Value = serde_json::from_str(&list).unwrap();
    let of = |kind: &str, name: &str| -> Vec<String> {
        let found = list[kind].as_array().unwrap().iter();
        found.map(|one| one[name].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(list["packages"], "dpkg");
    let (units, files) = (of("units", "unit"), of("files", "path"));
    assert_eq!(units, ["backup.service", "backup.timer", "nginx.service", "wg-quick@wg0.service"]);
    for path in
        ["/etc/nginx/conf.d/own.conf", "/etc/postfix/main.cf", "/etc/postfix/virtual", "/etc/wireguard/wg0.conf"]
    {
        assert!(files.iter().any(|file| file == path), "{path} is not in {files:#?}");
    }
    for path in ["/etc/nginx/nginx.conf", "/etc/ssh/sshd_config", "/etc/postfix/virtual.db", "/etc/shadow"] {
        assert!(files.iter().all(|file| file != path), "{path} is in {files:#?}");
    }
    assert!(files.len() < 40, "{files:#?}");
    host.sh("echo '# changed' >>/etc/nginx/nginx.conf");
    let changed = operator.git(&["deptool", "adopt", "web1", "--list"]).ok().stdout();
    let is_changed = |line: &str| line.starts_with("/etc/nginx/nginx.conf ") && line.contains(" changed ");
    assert!(changed.lines().any(is_changed), "{changed}");
    host.sh("sed -i '$d' /etc/nginx/nginx.conf");
    let before_times = before.lines().filter(|line| !line.contains("/etc/nginx/nginx.conf ")).collect::<Vec<_>>();
    let same = everything(host);
    assert_eq!(same.lines().filter(|line| !line.contains("/etc/nginx/nginx.conf ")).collect::<Vec<_>>(), before_times);

    let before = same;
    let adopt = ["deptool", "adopt", "web1", "--yes", "--app"];
    operator.git(&[&adopt[..], &["mail", "/etc/postfix/main.cf", "/etc/postfix/virtual"]].concat()).ok();
    let tunnel = ["tunnel", "/etc/wireguard/wg0.conf", "wg-quick@wg0.service"];
    operator.git(&[&adopt[..], &tunnel].concat()).ok().says("has a private key in it; --secrets adopts it");
    operator.git(&[&adopt[..], &tunnel, &["--secrets"]].concat()).ok();
    let manifest = std::fs::read_to_string(operator.dir.join("web1/tunnel/manifest.json")).unwrap();
    assert!(manifest.contains(r#""0600""#), "{manifest}");
    operator.commit("Adopt the host as it is");
    operator.git(&["push", "web1", "prod"]).fails().says("'tunnel/etc/wireguard/wg0.conf' has a private key in it");
    operator.git(&["push", "-o", "allow-plain", "web1", "prod"]).ok().does_not_say("restarted");
    assert_eq!(as_read(host), read, "programs read the same files as before");
    assert_eq!(invocations(host), ran, "nothing was restarted");
    host.sh("postfix check && test \"$(postmap -q ada@example.org hash:/etc/postfix/virtual)\" = root");

    operator.write("web1/mail/etc/postfix/virtual", "ada@example.org root\nbob@example.org root\n");
    operator.commit("Another alias");
    operator.git(&["push", "web1", "prod"]).ok();
    host.sh("grep -q bob /etc/postfix/virtual");
    operator.git(&["push", "web1", ":prod"]).ok();
    assert_eq!(everything(host), before, "everything is given back");
    assert_eq!(invocations(host), ran);
}
