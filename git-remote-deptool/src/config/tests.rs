use super::*;
use crate::model::offer::HostCheck;

fn settings(config: &str) -> Settings {
    Settings::read(&gix::config::File::try_from(config).unwrap(), Path::new("/top")).unwrap()
}

fn address(text: &str) -> Address {
    Address::parse(text.as_bytes()).unwrap()
}

/// `<host> <tracking name> <via>`, or the error.
fn host(settings: &Settings, remote: &str, url: &str) -> String {
    match settings.target(remote.into(), &address(url)) {
        Ok(Target::Host(host)) => shown(&host),
        Ok(other) => panic!("{other:?}"),
        Err(error) => error.to_string(),
    }
}

fn shown(HostRemote { host, tracking, via }: &HostRemote) -> String {
    match via {
        Via::Ssh(ssh) => format!("{host} {tracking} {ssh}"),
        Via::Local(path) => format!("{host} {tracking} {}", path.display()),
    }
}

const TWO: &str = "
[remote \"origin\"]
    url = git@example.org:config
[remote \"w\"]
    url = deptool::root@web1:22
[remote \"n\"]
    url = deptool::10.0.0.5
    deptoolHost = ns1
[remote \"cluster\"]
    url = deptool::@all
[deptool \"group\"]
    dns = ns1 ns2
    dns = ns3  ns1
    Bad = a/b
[deptool]
    cluster = prod
";

#[test]
fn a_host_is_tracked_under_the_remote_that_names_it() {
    let two = settings(TWO);
    assert_eq!(host(&two, "w", "root@web1:22"), "web1 w root@web1:22");
    assert_eq!(host(&two, "n", "10.0.0.5"), "ns1 n 10.0.0.5");
    assert_eq!(two.cluster.unwrap().as_str(), "prod");
}

#[test]
fn a_bare_url_finds_the_remote_by_host_or_by_place() {
    let two = settings(TWO);
    assert_eq!(host(&two, "deptool::web1", "web1"), "web1 w web1");
    assert_eq!(host(&two, "deptool::ns1", "ns1"), "ns1 n ns1");
    assert_eq!(host(&two, "deptool::me@10.0.0.5", "me@10.0.0.5"), "ns1 n me@10.0.0.5");
    // Another port may be another machine.
    assert_eq!(host(&two, "deptool::10.0.0.5:2222", "10.0.0.5:2222"), "10.0.0.5 10.0.0.5 10.0.0.5:2222");
}

#[test]
fn a_root_directory_is_not_taken_for_the_host_of_another_remote() {
    let one = settings("[remote \"web1\"]\n    url = deptool::/srv/a/web1\n");
    assert!(host(&one, "deptool::/srv/b/web1", "/srv/b/web1").contains("at another address"));
    assert!(host(&settings(TWO), "deptool::/srv/web1", "/srv/web1").contains("at another address"));
}

#[test]
fn a_host_without_a_remote_is_tracked_under_its_own_name() {
    assert_eq!(host(&settings(""), "deptool::root@web2", "root@web2"), "web2 web2 root@web2");
}

#[test]
fn a_local_root_is_named_by_its_last_component() {
    let none = settings("");
    assert_eq!(host(&none, "deptool::/srv/web1/", "/srv/web1/"), "web1 web1 /srv/web1");
    assert_eq!(host(&none, "deptool::./roots/../web1", "./roots/../web1"), "web1 web1 /top/web1");
    assert_eq!(host(&none, "deptool::.", "."), "top top /top");
    assert!(host(&none, "deptool::/", "/").contains("deptoolHost"));
    assert!(host(&none, "deptool::/my root", "/my root").contains("deptoolHost"));
    let named = settings("[remote \"r\"]\nurl = deptool::./root\ndeptoolHost = web1");
    assert_eq!(host(&named, "r", "./root"), "web1 r /top/root");
    assert_eq!(host(&named, "deptool::/top/root", "/top/root"), "web1 r /top/root");
}

#[test]
fn an_ipv6_address_needs_the_name_of_a_directory() {
    let v6 = settings("[remote \"six\"]\nurl = deptool::[::1]:22\ndeptoolHost = web6");
    assert_eq!(host(&v6, "six", "[::1]:22"), "web6 six [::1]:22");
    assert!(host(&settings(""), "deptool::[::1]", "[::1]").contains("deptoolHost"));
}

#[test]
fn two_remotes_for_one_host_are_an_error_for_that_host_alone() {
    let two = settings(
        "
        [remote \"a\"]\nurl = deptool::web1
        [remote \"b\"]\nurl = deptool::10.0.0.1\ndeptoolHost = web1
        [remote \"c\"]\nurl = deptool::web3",
    );
    let error = "remotes 'a' and 'b' are both for host 'web1'; remove one of them";
    assert_eq!(host(&two, "a", "web1"), error);
    assert_eq!(host(&two, "deptool::web1", "web1"), error);
    assert_eq!(host(&two, "c", "web3"), "web3 c web3");
}

#[test]
fn a_host_whose_name_another_remote_has_taken_is_refused() {
    let swapped = settings(
        "
        [remote \"origin\"]\nurl = git@example.org:config
        [remote \"web2\"]\nurl = deptool::web1",
    );
    for name in ["origin", "web2"] {
        assert!(host(&swapped, "deptool::x", name).contains("which belongs to something else"), "{name}");
    }
    assert_eq!(host(&swapped, "deptool::web1", "web1"), "web1 web2 web1");
}

#[test]
fn a_remote_with_other_urls_too_is_no_hosts_remote() {
    let mixed = settings(
        "
        [remote \"origin\"]\nurl = git@example.org:config\npushurl = deptool::web1
        [remote \"many\"]\nurl = deptool::web2\npushurl = deptool::web2\npushurl = deptool::web3",
    );
    assert_eq!(host(&mixed, "origin", "web1"), "web1 web1 web1");
    assert_eq!(host(&mixed, "many", "web3"), "web3 web3 web3");
    assert!(mixed.known_hosts().unwrap().is_empty());
}

#[test]
fn a_pushurl_for_the_same_host_is_where_groups_go() {
    let one = settings("[remote \"w\"]\nurl = deptool::web1\npushurl = deptool::root@web1");
    assert_eq!(shown(&one.host(&HostName::parse(b"web1").unwrap()).unwrap()), "web1 w root@web1");
}

#[test]
fn a_group_is_its_hosts_each_through_its_remote() {
    let two = settings(TWO);
    let group = |name| two.target("cluster".into(), &address(name)).map_err(|error| error.to_string());
    let Ok(Target::Group(_, hosts)) = group("@dns") else { panic!() };
    let hosts: Vec<String> = hosts.iter().map(shown).collect();
    assert_eq!(hosts, ["ns1 n 10.0.0.5", "ns2 ns2 ns2", "ns3 ns3 ns3"]);
    assert!(group("@none").unwrap_err().contains("deptool.group.none"));
    assert!(group("@bad").unwrap_err().contains("invalid host name 'a/b'"));
    assert_eq!(group("@all"), Ok(Target::All));
    let known: Vec<String> = two.known_hosts().unwrap().iter().map(shown).collect();
    assert_eq!(known, ["ns1 n 10.0.0.5", "web1 w root@web1:22"]);
}

#[test]
fn all_is_no_host() {
    assert_eq!(host(&settings(""), "deptool::all", "all"), "a host can't be named 'all'");
}

#[test]
fn shortened_urls_are_understood() {
    let short = settings(
        "
        [url \"deptool::\"]\ninsteadOf = d:
        [url \"deptool::root@\"]\ninsteadOf = d:r:
        [remote \"w\"]\nurl = d:web1
        [remote \"x\"]\nurl = d:r:web2",
    );
    assert_eq!(host(&short, "deptool::web1", "web1"), "web1 w web1");
    let known: Vec<String> = short.known_hosts().unwrap().iter().map(shown).collect();
    assert_eq!(known, ["web1 w web1", "web2 x root@web2"]);
}

#[test]
fn a_bad_name_is_an_error_where_it_counts() {
    let bad = settings("[remote \"w\"]\nurl = deptool::web1\ndeptoolHost = a/b\n[remote \"x\"]\nurl = deptool::web2");
    assert!(host(&bad, "w", "web1").contains("invalid host name 'a/b'"));
    assert_eq!(host(&bad, "x", "web2"), "web2 x web2");
    let config = gix::config::File::try_from("[deptool]\ncluster = a/b").unwrap();
    let error = Settings::read(&config, Path::new("/top")).unwrap_err();
    assert!(crate::model::error::chain(&error).starts_with("bad value of 'deptool.cluster': invalid cluster name"));
}

#[test]
fn a_remote_without_a_url_takes_no_name() {
    let none = settings("[remote \"web1\"]\nskipFetchAll = true");
    assert_eq!(host(&none, "deptool::web1", "web1"), "web1 web1 web1");
}

#[test]
fn a_check_can_be_asked_for_before_git_lists() {
    for (config, expected) in [
        ("", HostCheck::WhenInDoubt),
        ("[push]\npushOption = check", HostCheck::Always),
        ("[push]\npushOption = waves=2\npushOption = check", HostCheck::Always),
        ("[push]\npushOption = check\npushOption = \n", HostCheck::WhenInDoubt),
    ] {
        assert_eq!(settings(config).host_check, expected, "{config}");
    }
}
