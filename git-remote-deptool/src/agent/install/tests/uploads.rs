//! What an upload leaves behind, however it goes.

use deptool_agent::shared::seal;

use super::*;
use crate::agent::install::agents::{Packing, Upload};

fn content(size: u32) -> Vec<u8> {
    // Does not compress.
    (0..size).map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8).collect()
}

fn conversation(upload: &Upload) -> Vec<u8> {
    [hello().as_bytes(), upload.header.as_bytes(), &upload.bytes].concat()
}

#[test]
fn an_upload_that_is_cut_at_any_byte_leaves_nothing_behind() {
    for packing in [Packing::Gzip, Packing::Plain] {
        let host = Host::new();
        let upload = Upload::new(content(2000), packing);
        let whole = conversation(&upload);
        let header = whole.len() - upload.bytes.len();
        let cuts = (0..header).step_by(11).chain((header..whole.len()).step_by(211)).chain([whole.len() - 1]);
        for cut in cuts {
            let said = host.run_raw(&whole[..cut]);
            assert!(said.starts_with("deptool-absent "), "{said}");
            assert_eq!(host.installed(), [""; 0], "{packing}, cut at {cut}: {said}");
        }
    }
}

#[test]
fn an_upload_with_another_digest_is_refused_and_leaves_nothing_behind() {
    for packing in [Packing::Gzip, Packing::Plain] {
        let host = Host::new();
        let mut upload = Upload::new(content(2000), packing);
        upload.header = Upload::new(content(1999), packing).header.replace(" 1999 ", " 2000 ");
        let size = upload.bytes.len().to_string();
        let parts: Vec<&str> = upload.header.split(' ').collect();
        upload.header = [parts[0], &size, parts[2], parts[3]].join(" ");
        let said = host.run_raw(&conversation(&upload));
        assert!(said.contains("\ndeptool-error digest "), "{said}");
        assert_eq!(host.installed(), [""; 0]);
    }
}

#[test]
fn a_request_that_was_sent_ahead_to_an_absent_agent_does_nothing() {
    for request in [&b"\x00\x00\x00\x05\x93\x01\n\n\n"[..], &[b'x'; 100_000], b"deptool-uploads 5 x\n12345", b"\n\n\n"]
    {
        let host = Host::new();
        let said = host.run_raw(&[hello().as_bytes(), request].concat());
        assert!(said.starts_with("deptool-absent ") && said.lines().count() == 1, "{said}");
        assert!(host.nothing_was_written());
    }
}

#[test]
fn a_request_that_was_sent_ahead_arrives_once_also_if_the_agent_had_to_be_installed() {
    let host = Host::new();
    let request: Arc<[u8]> = content(3 << 20).into();
    let (link, stages) = host.connect_with(Some(&Early::new(vec![request.clone()])));
    assert!(matches!(stages[..], [Stage::Connecting, Stage::Installing { .. }]));
    let Link { connection, mut outgoing, mut incoming, socket: _ } = link.unwrap();
    let reader = std::thread::spawn(move || {
        let mut answer = Vec::new();
        incoming.read_to_end(&mut answer).map(|_| answer)
    });
    outgoing.write_all(b"end").unwrap();
    drop(outgoing);
    assert!(reader.join().unwrap().unwrap() == [&request, &b"end"[..]].concat());
    assert!(succeeds(&connection));
    assert_eq!(host.calls(), 2);
}

#[test]
fn a_gzip_that_does_not_work_is_not_used() {
    let host = Host::new();
    host.write("overlay/gzip", "echo 'gzip: broken' >&2; exit 1");
    host.bring_agent("#!/bin/sh\nread -r word build\necho deptool-agent VERSION $build\n");
    host.connect().unwrap();
}

#[test]
fn leftovers_of_killed_uploads_are_removed_and_those_under_way_are_not() {
    let host = Host::new();
    fs::create_dir_all(&host.connector.places.bin).unwrap();
    let mut child = Command::new("true").spawn().unwrap();
    let dead = child.id();
    child.wait().unwrap();
    let alive = std::process::id();
    for pid in [dead, alive] {
        fs::write(Path::new(&host.connector.places.bin).join(format!(".new-{pid}")), "half").unwrap();
    }
    assert_eq!(echo(host.connect().unwrap(), b"x"), b"x");
    let mut left = host.installed();
    left.sort();
    assert_eq!(left, [format!(".new-{alive}"), build::agent_file_name()]);
}

#[test]
fn two_operators_can_install_at_the_same_time() {
    let host = Host::new();
    std::thread::scope(|scope| {
        let sessions: Vec<_> = (0..4).map(|_| scope.spawn(|| echo(host.connect().unwrap(), b"x"))).collect();
        for session in sessions {
            assert_eq!(session.join().unwrap(), b"x");
        }
    });
    assert_eq!(host.installed(), [build::agent_file_name()]);
}

#[test]
fn an_agent_that_does_not_say_a_word_is_replaced_whatever_is_in_its_place() {
    let host = Host::new();
    let whole = vec![build::agent_file_name()];
    echo(host.connect().unwrap(), b"x");
    type Damage<'a> = (&'a str, &'a dyn Fn(&Path));
    let damages: [Damage<'_>; 6] = [
        ("found by the agent itself", &|agent| {
            write_program(agent, "#!/bin/sh\necho deptool-error damaged its file is damaged\n");
        }),
        ("killed by a signal", &|agent| write_program(agent, "#!/bin/sh\nexit 255\n")),
        ("emptied", &|agent| fs::File::options().write(true).open(agent).unwrap().set_len(0).unwrap()),
        ("other content", &|agent| write_program(agent, "#!/bin/sh\nexit 3\n")),
        ("a link", &|agent| {
            fs::remove_file(agent).unwrap();
            symlink("/bin/true", agent).unwrap();
        }),
        ("a directory", &|agent| {
            fs::remove_file(agent).unwrap();
            fs::create_dir(agent).unwrap();
        }),
    ];
    for (name, damage) in damages {
        damage(&host.agent());
        assert_eq!(echo(host.connect().unwrap(), b"after that"), b"after that", "{name}");
        assert_eq!(host.installed(), whole, "{name}");
        assert!(fs::symlink_metadata(host.agent()).unwrap().is_file(), "{name}");
        // A request that was sent ahead is sent again, once.
        // What a killed agent has read is not known.
        if name == "killed by a signal" {
            continue;
        }
        damage(&host.agent());
        let early = Early::new(vec![b"a request"[..].into()]);
        let (link, stages) = host.connect_with(Some(&early));
        assert_eq!(echo(link.unwrap(), b", and more"), b"a request, and more", "{name}: {stages:?}");
        damage(&host.agent());
        let early = Early::new(vec![b"a request"[..].into()]);
        let (link, stages) = host.connect_to(Present::Expected, Some(&early));
        assert_eq!(echo(link.unwrap(), b", and more"), b"a request, and more", "{name}: {stages:?}");
    }
}

#[test]
fn an_agent_that_is_damaged_where_it_comes_from_is_not_uploaded() {
    let host = Host::new();
    let mut agent = [&b"\x7fdeptool-sealed:"[..], &[0; 12], b"the rest"].concat();
    seal::seal(&mut agent).unwrap();
    *agent.last_mut().unwrap() ^= 1;
    for platform in Platform::ALL {
        fs::write(host.at(&format!("agents/{}-{platform}", build::agent_file_name())), &agent).unwrap();
    }
    let refusal = host.refusal();
    assert!(refusal.ends_with("is damaged: install git-deptool again"), "{refusal}");
    assert!(host.nothing_was_written());
}

#[test]
fn a_host_that_can_not_be_reached_is_not_asked_twice() {
    let host = Host::new();
    let ssh = fs::read_to_string(host.at("ssh")).unwrap();
    let count = ssh.lines().find(|line| line.starts_with("echo ")).unwrap().to_owned();
    host.write("ssh", &format!("{count}; echo 'ssh: connect to host web1 port 22: No route to host' >&2; exit 255"));
    assert_eq!(host.refusal(), "unreachable: connect to host web1 port 22: No route to host");
    assert_eq!(host.calls(), 1);
}
