//! A web server whose certificate is renewed by a timer, and two name servers.

use std::time::Duration;

use deptool_tests::lab::{Base, Host, HostSpec};
use deptool_tests::process::poll;

use super::{Example, run_of};
use crate::net::{dns_a, http_get};

const PATIENCE: Duration = Duration::from_secs(20);

/// Let's Encrypt can't be reached: its test server takes its place. It asks for the challenge like the real one. Its
/// certificates are valid for ten days, so that lego renews them at once.
const ACME_SERVER: &str = r#"
mkdir /srv/pebble && cd /srv/pebble
openssl req -x509 -newkey rsa:2048 -nodes -days 2 -keyout key.pem -out cert.pem -subj /CN=localhost \
    -addext subjectAltName=DNS:localhost 2>/dev/null
cat >config.json <<END
{"pebble": {"listenAddress": "127.0.0.1:14000", "managementListenAddress": "127.0.0.1:15000",
 "certificate": "/srv/pebble/cert.pem", "privateKey": "/srv/pebble/key.pem", "httpPort": 80, "tlsPort": 443,
 "ocspResponderURL": "", "externalAccountBindingRequired": false, "certificateValidityPeriod": 864000}}
END
echo 127.0.0.1 www.example.org example.org >>/etc/hosts
cat >/etc/default/acme <<END
ACME_SERVER=https://localhost:14000/dir
LEGO_CA_CERTIFICATES=/srv/pebble/cert.pem
END
systemd-run --quiet --unit=pebble --setenv=PEBBLE_VA_NOSLEEP=1 --setenv=PEBBLE_WFE_NONCEREJECT=0 \
    /usr/bin/pebble -config /srv/pebble/config.json
"#;

/// Who issued the certificate that nginx serves, to whom, and its serial number.
fn certificate(host: &Host) -> String {
    let ask = "openssl s_client -connect 127.0.0.1:443 -servername www.example.org </dev/null 2>/dev/null";
    host.sh(&format!("{ask} | openssl x509 -noout -issuer -ext subjectAltName -serial"))
}

fn https_get(host: &Host, path: &str) -> String {
    let request = format!(r"GET {path} HTTP/1.0\r\nHost: www.example.org\r\n\r\n");
    host.sh(&format!("printf '{request}' | openssl s_client -quiet -connect 127.0.0.1:443 2>/dev/null"))
}

#[test]
fn a_web_server_with_tls_and_two_name_servers_do_what_their_readme_says() {
    let names = [HostSpec::new("ns1"), HostSpec::new("ns2")];
    let web = HostSpec { base: Base::Servers, ..HostSpec::new("web1") };
    let Some(example) = Example::new("web-and-dns", &[&[web][..], &names].concat()) else { return };
    let (web1, ns1, ns2) = (example.host("web1"), example.host("ns1"), example.host("ns2"));
    web1.sh(ACME_SERVER);
    let before = example.before();
    example.try_it();

    certificates(&example, web1);
    zones(&example, ns1, ns2);
    sites(&example, web1);
    example.give_back(before, "");
}

fn certificates(example: &Example, web1: &Host) {
    assert!(http_get(&web1.ip, "/page").unwrap().contains("Location: https://www.example.org/page"));
    let nginx = run_of(web1, "nginx.service");
    assert_eq!(example.commands("The first certificate").trim(), "ssh root@web1 systemctl start acme.service");
    web1.sh("systemctl start acme.service");
    let served = || https_get(web1, "/").contains("It works").then_some(());
    poll("the page over TLS", PATIENCE, served).unwrap();
    let first = certificate(web1);
    assert!(first.contains("Pebble") && first.contains("DNS:example.org") && first.contains("DNS:www.example.org"));
    assert_eq!(web1.sh("stat -c '%a %U' /var/lib/tls/www.example.org.pem"), "600 root");

    web1.sh("systemctl start acme.service");
    poll("the renewed certificate", PATIENCE, || (certificate(web1) != first).then_some(())).unwrap();
    assert_eq!(run_of(web1, "nginx.service"), nginx, "nginx was reloaded");
    assert_eq!(web1.unit_property("acme.timer", "Triggers"), "acme.service");
    assert_eq!(web1.unit_state("acme.timer"), "active");
}

fn zones(example: &Example, ns1: &Host, ns2: &Host) {
    let both = [ns1, ns2];
    let answer = |name: &str, ip: &str| {
        let answers = |host: &Host| dns_a(&host.ip, name).is_some_and(|found| found.to_string() == ip);
        poll(name, PATIENCE, || both.into_iter().all(answers).then_some(())).unwrap();
    };
    let file = |name: &str| std::fs::read_to_string(example.dir().join(name)).unwrap();
    answer("www.example.org", "192.0.2.10");
    let runs = both.map(|host| run_of(host, "nsd.service"));
    for name in ["ns1", "ns2"] {
        example.edit(&format!("{name}/nsd/zones/example.org.zone"), "www   IN A     192.0.2.10", "www IN A 192.0.2.11");
    }
    example.push("Another address").ok().does_not_say("web1").does_not_say("did not take");
    answer("www.example.org", "192.0.2.11");
    for name in ["ns1", "ns2"] {
        let operator = example.operator();
        let zone = file(&format!("{name}/nsd/zones/example.org.zone")).replace("example.org", "example.com");
        operator.write(format!("{name}/nsd/zones/example.com.zone"), zone);
        let conf = file(&format!("{name}/nsd/nsd.conf"));
        let (_, block) = conf.split_once("zone:\n").unwrap();
        let more = format!("{conf}\nzone:\n{}", block.replace("example.org", "example.com"));
        operator.write(format!("{name}/nsd/nsd.conf"), more);
    }
    example.push("Another zone").ok();
    answer("www.example.com", "192.0.2.11");
    assert_eq!(both.map(|host| run_of(host, "nsd.service")), runs, "nsd was reloaded");

    // An error in the zone of one host keeps both as they are.
    example.edit("ns1/nsd/zones/example.org.zone", "www IN A 192.0.2.11", "www IN A 192.0.2.12");
    example.edit("ns2/nsd/zones/example.org.zone", "www IN A 192.0.2.11", "www IN A 192.0.2.300");
    example.push_fails("A typing error").says("check 'nsd-check.service' of 'nsd' failed").says("192.0.2.300");
    answer("www.example.org", "192.0.2.11");
}

fn sites(example: &Example, web1: &Host) {
    let nginx = run_of(web1, "nginx.service");
    let reloads = || web1.sh("journalctl -q -u nginx.service | grep -c Reloaded");
    let before = reloads();
    example.edit("web1/site/www/index.html", "It works", "It still works");
    example.push("Another page").ok();
    assert!(https_get(web1, "/").contains("It still works"));
    assert_eq!(reloads(), before, "a page needs no reload");

    example.edit("web1/nginx/tls.conf", "ssl_protocols", "ssl_protocol");
    example.push_fails("A typing error").says("unknown directive \"ssl_protocol\"").says("nginx-check.service");
    // Nothing is wrong with it until it is asked.
    example.edit("web1/nginx/nginx.conf", "return 200", "return 503");
    example.push_fails("Out of order").says("rolled back: http://127.0.0.1/healthz of 'nginx'");
    let healthy = || http_get(&web1.ip, "/healthz").unwrap_or_default().contains(" 200 ").then_some(());
    poll("a healthy web server", PATIENCE, healthy).unwrap();
    assert_eq!(run_of(web1, "nginx.service"), nginx);
}
