//! First contact: the agent is installed on hosts of every kind, or the error says exactly why not and nothing is left
//! behind.

use std::path::Path;
use std::time::Duration;

use deptool_tests::build::{self, Version};
use deptool_tests::lab::{Host, HostSpec, Lab, State as Disk, start_or_skip};
use deptool_tests::process::{Run, poll, write_program};
use deptool_tests::sandbox::{Repo, Sandbox};

use crate::state::State;

const BIN: &str = "/var/lib/deptool/bin";

/// The file name of our agent on hosts.
fn agent_name() -> String {
    let version = Version::of(&build::lab().join("bin/git-remote-deptool")).unwrap();
    format!("deptool-agent-{}-{}", version.version, version.build)
}

/// A repository with one app for each of the hosts.
fn operator<'a>(sandbox: &'a Sandbox, hosts: &[&str]) -> Repo<'a> {
    let operator = sandbox.repo("operator");
    for host in hosts {
        operator.write(format!("{host}/app/file"), "content\n");
        operator.add_remote(host, &format!("deptool::{host}"));
    }
    operator.commit("One app");
    operator
}

/// The files in the directory of the agents, including hidden ones.
#[track_caller]
fn agents(host: &Host) -> String {
    host.sh(&format!("ls -A {BIN} 2>/dev/null || true"))
}

/// A push that can't install the agent on a host, and leaves the host untouched.
#[track_caller]
fn refused(host: &Host, push: Run, why: &str) {
    let push = push.fails().says(why).does_not_say("installing the agent");
    assert_eq!(host.sh("ls -A /var/lib/deptool 2>/dev/null || true"), "", "{push}");
}

/// The lab's ssh with these additional lines of configuration, which come first.
fn ssh_with(lab: &Lab, sandbox: &Sandbox, name: &str, lines: &str) -> String {
    let config = std::fs::read_to_string(lab.host("web1").ssh_config.as_path()).unwrap();
    let file = sandbox.dir().join(name);
    std::fs::write(&file, format!("{lines}{config}")).unwrap();
    format!("ssh -F {}", file.display())
}

#[test]
fn the_first_push_brings_the_agent_along_and_later_ones_find_it() {
    let Some(lab) = start_or_skip(&[HostSpec::new("web1"), HostSpec::new("web2")]) else { return };
    let sandbox = Sandbox::for_lab(&lab);
    let operator = operator(&sandbox, &["web1", "web2"]);
    let host = lab.host("web1");
    operator.git(&["push", "web1", "prod"]).ok().says("web1: installing the agent");
    assert_eq!(agents(host), agent_name());
    assert_eq!(host.sh("cat /var/lib/deptool/apps/app/current/file"), "content");

    // Our agent is found again. Of the others, the last two used ones are kept. An interrupted upload is removed.
    let used = |name: &str, days: u32| host.sh(&format!("touch -d '{days} days ago' {BIN}/{name}"));
    for (name, days) in [("deptool-agent-0.0.1-a", 4), ("deptool-agent-0.0.1-b", 2), ("deptool-agent-0.0.2-c", 3)] {
        used(name, days);
    }
    used(&agent_name(), 9);
    operator.write("web1/app/file", "changed\n");
    operator.commit("Change it");
    operator.git(&["push", "web1", "prod"]).ok().does_not_say("installing");
    assert_eq!(agents(host), format!("deptool-agent-0.0.1-b\ndeptool-agent-0.0.2-c\n{}", agent_name()));
    assert_eq!(host.sh(&format!("find {BIN} -name {} -mtime -1", agent_name())), format!("{BIN}/{}", agent_name()));

    // Somebody has removed it. The next push, which expects it to be there, installs it again.
    host.sh(&format!("rm {BIN}/{}; echo half >{BIN}/.new-999999", agent_name()));
    operator.write("web1/app/file", "changed again\n");
    operator.commit("Change it again");
    operator.git(&["push", "web1", "prod"]).ok().says("installing the agent");
    assert_eq!(host.sh("cat /var/lib/deptool/apps/app/current/file"), "changed again");
    assert_eq!(agents(host), format!("deptool-agent-0.0.1-b\ndeptool-agent-0.0.2-c\n{}", agent_name()));

    // As a user with sudo without a password.
    operator.git(&["remote", "set-url", "web2", "deptool::core@web2"]).ok();
    operator.git(&["push", "web2", "prod"]).ok().says("web2: installing the agent");
    let installed = lab.host("web2").sh(&format!("stat -c '%U %a %n' {BIN}/*"));
    assert_eq!(installed, format!("root 755 {BIN}/{}", agent_name()));
    operator.write("web2/app/file", "changed\n");
    operator.commit("Change it");
    operator.git(&["push", "web2", "prod"]).ok().does_not_say("installing");
    assert_eq!(lab.host("web2").sh("cat /var/lib/deptool/apps/app/current/file"), "changed");
}

#[test]
fn a_host_that_can_not_take_the_agent_says_why_and_stays_untouched() {
    let Some(lab) = start_or_skip(&[HostSpec::new("web1")]) else { return };
    let mut sandbox = Sandbox::for_lab(&lab);
    let host = lab.host("web1");
    let push = |sandbox: &Sandbox, url: &str| {
        let operator = sandbox.repo_at(sandbox.dir().join("operator"));
        operator.git(&["push", url, "HEAD:prod"])
    };
    operator(&sandbox, &["web1"]);
    let password = "can't install the agent on 'web1': sudo asks for a password: allow it without one (NOPASSWD, \
                    nopass) or log in as root";
    for user in ["plain", "asks"] {
        refused(host, push(&sandbox, &format!("deptool::{user}@web1")), password);
    }
    host.sh("mv /usr/bin/sudo /usr/bin/sudo.away");
    let neither = "can't install the agent on 'web1': the login is not root, and there is neither sudo nor doas";
    refused(host, push(&sandbox, "deptool::core@web1"), neither);
    host.sh("mv /usr/bin/sudo.away /usr/bin/sudo");

    // Platforms: an unknown one, and one without an agent here.
    let uname = |answer: &str| {
        let script =
            format!("printf '#!/bin/sh\\necho {answer}\\n' >/usr/local/bin/uname; chmod 755 /usr/local/bin/uname");
        host.sh(&script)
    };
    uname("Linux s390x");
    let platforms =
        "no agent for 'Linux s390x'; there are agents for linux-x86_64, linux-aarch64, linux-armv7, linux-riscv64";
    refused(host, push(&sandbox, "deptool::web1"), platforms);
    let other = if cfg!(target_arch = "aarch64") { "x86_64" } else { "aarch64" };
    uname(&format!("Linux {other}"));
    refused(host, push(&sandbox, "deptool::web1"), &format!("no agent for linux-{other} found; "));
    host.sh("rm /usr/local/bin/uname");

    host.sh("echo db7.example.org >/etc/hostname");
    let told = "'web1' calls itself 'db7.example.org' in /etc/hostname; if it is the right host, set remote.<name>.deptoolHost";
    refused(host, push(&sandbox, "deptool::web1"), told);
    host.sh("echo web1 >/etc/hostname");

    host.sh("echo 'echo Welcome to the machine' | cat - /home/core/.bashrc >/tmp/rc; cat /tmp/rc >/home/core/.bashrc");
    let noise =
        "the login shell of 'web1' prints text ('Welcome to the machine'): silence it for non-interactive sessions";
    refused(host, push(&sandbox, "deptool::core@web1"), noise);

    refused(host, push(&sandbox, "deptool::nobody-known@web1"), "unreachable: ");
    refused(host, push(&sandbox, "deptool::web1:2222"), "unreachable: connect to host ");
    let unknown = ssh_with(&lab, &sandbox, "unknown", "UserKnownHostsFile none\n");
    sandbox.set_env("GIT_SSH_COMMAND", &unknown);
    refused(host, push(&sandbox, "deptool::web1"), "unreachable: Host key verification failed");
}

#[test]
fn a_host_that_answers_nothing_is_given_up_after_ten_seconds() {
    let Some(lab) = start_or_skip(&[HostSpec::new("web1")]) else { return };
    let mut sandbox = Sandbox::for_lab(&lab);
    let host = lab.host("web1");
    // The configuration sets no time limits, which is common.
    let config = std::fs::read_to_string(&host.ssh_config).unwrap().replace("ConnectTimeout", "# ConnectTimeout");
    let file = sandbox.dir().join("config");
    std::fs::write(&file, config).unwrap();
    sandbox.set_env("GIT_SSH_COMMAND", &format!("ssh -F {}", file.display()));
    let operator = operator(&sandbox, &["web1"]);
    let gives_up = |what: &str| {
        let push = operator.command(&["push", "web1", "prod"]).timeout(Duration::from_secs(60));
        let push = push.run().unwrap().fails().says("unreachable: ");
        assert!(push.took < Duration::from_secs(12), "{what}: {:?} {push}", push.took);
        assert_eq!(operator.id_if_any("refs/remotes/web1/prod"), None);
        push
    };
    // Its packets are dropped.
    let ours =
        host.ip.rsplit_once('.').map(|(net, last)| format!("{net}.{}", last.parse::<u8>().unwrap() - 1)).unwrap();
    host.sh(&format!("ip route add blackhole {ours}/32"));
    gives_up("no route back").says("timed out");
    host.sh(&format!("ip route del blackhole {ours}/32"));
    // It accepts the connection and sends nothing.
    host.sh("kill -STOP $(systemctl show --value --property MainPID ssh.service)");
    gives_up("a stopped sshd");
    host.sh("kill -CONT $(systemctl show --value --property MainPID ssh.service)");
    operator.git(&["push", "web1", "prod"]).ok();
    // The same for a known host, whose request would be sent ahead: nothing is in doubt.
    operator.write("web1/app/file", "changed\n");
    operator.commit("Change it");
    host.kill();
    let good = operator.id("refs/remotes/web1/prod");
    operator.git(&["push", "web1", "prod"]).fails().says("unreachable: ").does_not_say("unknown");
    assert_eq!(operator.id("refs/remotes/web1/prod"), good);
    host.boot().unwrap();
    operator.git(&["push", "web1", "prod"]).ok();
}

#[test]
fn disks_that_are_full_read_only_or_noexec_are_named() {
    let spec = |name: &str, state| HostSpec { state, ..HostSpec::new(name) };
    let specs = [
        spec("tiny", Disk::Disk { mib: 2 }),
        spec("small", Disk::Disk { mib: 5 }),
        spec("ro", Disk::ReadOnly),
        spec("noexec", Disk::NoExec),
    ];
    let Some(lab) = start_or_skip(&specs) else { return };
    let sandbox = Sandbox::for_lab(&lab);
    let operator = operator(&sandbox, &["tiny", "small", "ro", "noexec"]);
    let fill = |host: &str, kib: u32| {
        let script = "cd /var/lib/deptool; free=$(df --output=avail -k . | tail -n 1); dd if=/dev/zero of=filler bs=1K";
        lab.host(host).sh(&format!("{script} count=$((free - {kib})) 2>/dev/null || true"));
    };
    fill("tiny", 300);
    let push = |host: &str| operator.git(&["push", host, "prod"]).fails();
    push("tiny").says("can't install the agent on 'tiny': no space left (");
    assert_eq!(agents(lab.host("tiny")), "");
    push("ro").says("can't install the agent on 'ro': the file system is read-only (");
    push("noexec").says("can't install the agent on 'noexec': the file system is mounted noexec");
    assert_eq!(agents(lab.host("noexec")), "");
    for host in ["tiny", "ro", "noexec"] {
        assert_eq!(operator.id_if_any(&format!("refs/remotes/{host}/prod")), None);
    }

    // The agent is installed, but the deployment does not fit: nothing of it remains, and what ran keeps running.
    operator.git(&["push", "small", "prod"]).ok();
    let good = operator.id("prod");
    operator.write("small/app/file", noise(3 << 20));
    operator.write("small/app/other", noise(3 << 20));
    operator.commit("Too much");
    push("small").says("No space left on device").does_not_say("rolled back");
    let host = lab.host("small");
    assert_eq!(host.sh("cat /var/lib/deptool/apps/app/current/file; ls /var/lib/deptool/generations"), "content\n1");
    operator.git(&["reset", "--quiet", "--hard", &good]).ok();
    operator.write("small/app/file", "fits\n");
    operator.commit("It fits");
    operator.git(&["push", "small", "prod"]).ok();
    assert_eq!(host.sh("cat /var/lib/deptool/apps/app/current/file"), "fits");
    // A rollback needs no space, not even for another line in a log whose last block is full.
    host.sh("cd /var/lib/deptool/state; size=$(stat -c %s attempts); head -c $((4095 - size)) /dev/zero >>attempts; echo >>attempts");
    let before = State::of(host);
    let good = operator.id("prod");
    let fills =
        "[Service]\nType=oneshot\nExecStart=-/bin/dd if=/dev/zero of=/var/lib/deptool/filler\nExecStart=/bin/false\n";
    operator.write("small/fills/systemd/fills.service", fills);
    operator.write("small/fills/manifest.json", r#"{"systemd": {"units_enabled": ["fills.service"]}}"#);
    operator.write("small/app/file", "never seen\n");
    operator.commit("Fill the disk, and fail");
    let push = push("small").says("rolled back: fills.service exited with status 1").does_not_say("while rolling back");
    assert_eq!(operator.id("refs/remotes/small/prod"), good, "{push}");
    before.assert_same(host, "rolled back on a full disk");
    let fetch = operator.git(&["fetch", "small"]).ok();
    assert_eq!(operator.id("refs/remotes/small/prod"), good, "{fetch}");
    host.sh("rm /var/lib/deptool/filler");
    operator.git(&["push", "-f", "small", &format!("{good}:prod")]).ok();
}

/// Bytes that can't be compressed.
fn noise(length: usize) -> Vec<u8> {
    let mut state: u64 = 1;
    let next = |_| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (state >> 56) as u8
    };
    (0..length).map(next).collect()
}

#[test]
fn an_upload_that_is_cut_off_leaves_no_agent_and_the_next_push_works() {
    let Some(lab) = start_or_skip(&[HostSpec::new("web1")]) else { return };
    let mut sandbox = Sandbox::for_lab(&lab);
    let host = lab.host("web1");
    operator(&sandbox, &["web1"]);
    let operator = |sandbox: &Sandbox| sandbox.repo_at(sandbox.dir().join("operator")).dir;
    // The connection is lost after this many bytes to the host.
    let relay = sandbox.dir().join("relay");
    write_program(
        &relay,
        "#!/bin/bash\nexec 3<>/dev/tcp/$1/$2\ncat <&3 & reader=$!\ndd bs=1 count=$3 2>/dev/null >&3\nkill $reader\n",
    )
    .unwrap();
    for bytes in [10_000, 60_000, 300_000] {
        let proxy = format!("ProxyCommand {} %h %p {bytes}\n", relay.display());
        let cut = ssh_with(&lab, &sandbox, "cut", &proxy);
        sandbox.set_env("GIT_SSH_COMMAND", &cut);
        let operator = sandbox.repo_at(operator(&sandbox));
        let push = operator.git(&["push", "web1", "prod"]).fails().says("installing the agent");
        assert_eq!(operator.id_if_any("refs/remotes/web1/prod"), None, "{push}");
        let is_swept = || agents(host).is_empty().then_some(());
        poll("the end of a cut upload", Duration::from_secs(30), is_swept).unwrap();
        assert_eq!(host.sh("ls -A /var/lib/deptool 2>/dev/null | grep -v '^bin$' || true"), "");
    }
    sandbox.set_env("GIT_SSH_COMMAND", &lab.ssh_command(deptool_tests::lab::Link::Plain).unwrap());
    // ssh is stopped, as on a laptop that is closed: the upload has begun, and no more bytes arrive.
    let stall = sandbox.dir().join("stall");
    write_program(
        &stall,
        "#!/bin/bash\nexec 3<>/dev/tcp/$1/$2\ncat <&3 & dd bs=1 count=$3 2>/dev/null >&3\necho stalled >&2\nexec sleep 1000\n",
    )
    .unwrap();
    let proxy = format!("ProxyCommand {} %h %p 200000\n", stall.display());
    let command = ssh_with(&lab, &sandbox, "stalled", &proxy);
    let operator = sandbox.repo_at(operator(&sandbox));
    let mut push = operator.command(&["push", "web1", "prod"]).env("GIT_SSH_COMMAND", command).start().unwrap();
    push.wait_until_it_says("stalled").unwrap();
    // In the meantime, it does not block another upload.
    operator.git(&["push", "web1", "prod"]).ok();
    drop(push);
    let is_swept = || (agents(host) == agent_name()).then_some(());
    poll("the end of a killed upload", Duration::from_secs(30), is_swept).unwrap();
    assert_eq!(host.sh("cat /var/lib/deptool/apps/app/current/file"), "content");
}

/// What may become of the agent's file `$A` on a host, as scripts.
const DAMAGES: [(&str, &str); 14] = [
    ("the last byte cut off", "truncate -s -1 $A"),
    ("cut in half", "truncate -s $(($(stat -c %s $A) / 2)) $A"),
    ("emptied", ": >$A"),
    ("longer", "echo more >>$A"),
    ("zeros", "s=$(stat -c %s $A); : >$A; truncate -s $s $A"),
    ("not executable", "chmod 644 $A"),
    ("without any mode", "chmod 0 $A"),
    ("removed", "rm $A"),
    ("a directory", "rm $A; mkdir $A; echo x >$A/file"),
    ("a link to nothing", "ln -sf nothing $A"),
    ("a link to something else", "ln -sf /bin/true $A"),
    ("a FIFO", "rm $A; mkfifo -m 755 $A"),
    ("a program that is killed", "echo 'kill -SEGV $$' >$A"),
    ("of another processor", "printf '\\050\\000' | dd of=$A bs=1 seek=18 conv=notrunc 2>/dev/null"),
];

/// The parts of the file, in thousandths, at which a bit is flipped: in its headers, its constants and its code.
const FLIPPED: [usize; 14] = [0, 20, 50, 100, 200, 300, 400, 500, 600, 700, 800, 900, 990, 999];

/// What a damage is called, and what does it to the host.
type Damage<'a> = (String, Box<dyn Fn(&Host) + 'a>);

fn damages(agent: &Path) -> Vec<Damage<'_>> {
    let flips = FLIPPED.map(|part| -> Damage<'_> {
        let flip = move |_: &Host| {
            let mut bytes = std::fs::read(agent).unwrap();
            let at = bytes.len() * part / 1000;
            bytes[at] ^= 4;
            // The last agent may still be running, so its file can't be written to.
            std::fs::remove_file(agent).unwrap();
            write_program(agent, bytes).unwrap();
        };
        (format!("a bit flipped at {part}/1000"), Box::new(flip))
    });
    let scripts = DAMAGES.map(|(what, script)| -> Damage<'_> {
        let script = format!("A={BIN}/{}; cp -p $A $A.copy; mv $A.copy $A; {script}", agent_name());
        let run = move |host: &Host| drop(host.sh(&script));
        (what.to_owned(), Box::new(run))
    });
    flips.into_iter().chain(scripts).collect()
}

#[test]
fn a_damaged_agent_is_replaced_by_whatever_is_asked_of_the_host_next() {
    let Some(lab) = start_or_skip(&[HostSpec::new("web1")]) else { return };
    let sandbox = Sandbox::for_lab(&lab);
    let operator = operator(&sandbox, &["web1"]);
    let host = lab.host("web1");
    operator.git(&["push", "web1", "prod"]).ok();
    let agent = format!("{BIN}/{}", agent_name());
    let digest = host.sh(&format!("sha256sum <{agent}"));
    let mut wrong = Vec::new();
    for (number, (what, damage)) in damages(&host.path(&agent)).into_iter().enumerate() {
        for verb in ["push", "fetch", "verify"] {
            damage(host);
            let content = format!("{number}\n");
            let arguments: &[&str] = match verb {
                "push" => {
                    operator.write("web1/app/file", &content);
                    operator.commit(&what);
                    &["push", "web1", "prod"]
                }
                "fetch" => &["fetch", "web1"],
                _ => &["deptool", "verify", "web1"],
            };
            let run = operator.command(arguments).timeout(Duration::from_secs(60)).run().unwrap();
            let is_deployed = host.sh("cat /var/lib/deptool/apps/app/current/file") == content.trim();
            let installed = host.sh(&format!("[ -h {agent} ] || stat -c %F:%a {agent}; sha256sum <{agent}"));
            if !run.success() || !is_deployed || installed != format!("regular file:755\n{digest}") {
                wrong.push(format!("{what}, {verb}: {run} {installed}"));
            }
            if operator.git(&["for-each-ref", "refs/deptool/unsettled"]).ok().line() != "" {
                wrong.push(format!("{what}, {verb}: in doubt"));
            }
        }
    }
    assert_eq!(agents(host), agent_name());
    assert!(wrong.is_empty(), "{}: {}", wrong.len(), wrong.join("\n"));
}

#[test]
fn several_first_contacts_at_once_leave_one_agent_and_nothing_else() {
    let Some(lab) = start_or_skip(&[HostSpec::new("web1")]) else { return };
    let sandbox = Sandbox::for_lab(&lab);
    let first = operator(&sandbox, &["web1"]);
    let host = lab.host("web1");
    for round in 0..3 {
        host.sh("rm -rf /var/lib/deptool");
        // Operators who have never heard of the host.
        let clone = |number| sandbox.clone_of(&first, &format!("operator-{round}-{number}"));
        let operators: Vec<_> = (0..5).map(clone).collect();
        let pushes: Vec<_> = operators
            .iter()
            .map(|operator| operator.command(&["push", "deptool::web1", "HEAD:prod"]).start().unwrap())
            .collect();
        let pushes: Vec<Run> = pushes.into_iter().map(|push| push.wait().unwrap()).collect();
        // The others find what they wanted to deploy, or that somebody else was first.
        assert!(pushes.iter().any(Run::success), "round {round}: {pushes:?}");
        assert!(pushes.iter().all(|push| !push.stderr().contains("unknown")), "round {round}: {pushes:?}");
        let is_swept = || (agents(host) == agent_name()).then_some(());
        poll("one agent under its name", Duration::from_secs(30), is_swept).unwrap();
        assert_eq!(host.sh("cat /var/lib/deptool/apps/app/current/file"), "content");
        operators[0].git(&["fetch", "deptool::web1", "prod"]).ok().does_not_say("installing the agent");
    }
}

#[test]
fn a_question_of_ssh_reaches_the_terminal_and_is_answered_there() {
    let Some(lab) = start_or_skip(&[HostSpec::new("web1")]) else { return };
    let sandbox = Sandbox::for_lab(&lab);
    let operator = operator(&sandbox, &["web1"]);
    let known = sandbox.dir().join("known");
    let lines = format!("UserKnownHostsFile {}\nStrictHostKeyChecking ask\nBatchMode no\n", known.display());
    let ssh = ssh_with(&lab, &sandbox, "asking", &lines);
    // A terminal on which somebody answers the question.
    let typescript = sandbox.dir().join("typescript");
    let answer = format!(
        "(until grep -q 'fingerprint\\])?' {0}; do sleep 0.02; done; echo yes) | script -qefc 'git push web1 prod' {0}",
        typescript.display()
    );
    std::fs::write(&typescript, "").unwrap();
    let run = sandbox.command("sh").args(["-c", &answer]).dir(&operator.dir).env("GIT_SSH_COMMAND", ssh);
    let run = run.env("SHELL", "/bin/sh").run().unwrap().ok();
    let text = run.stdout().replace('\r', "");
    assert!(text.contains("Are you sure you want to continue connecting (yes/no/[fingerprint])? yes\n"), "{text}");
    assert!(text.contains(" * [new branch]      prod -> prod"), "{text}");
    assert!(std::fs::read_to_string(&known).unwrap().contains("web1"));
    assert_eq!(lab.host("web1").sh("cat /var/lib/deptool/apps/app/current/file"), "content");
}

#[test]
fn a_login_that_waits_or_eats_the_input_is_given_up_and_named() {
    let Some(lab) = start_or_skip(&[HostSpec::new("web1"), HostSpec::new("web2")]) else { return };
    let sandbox = Sandbox::for_lab(&lab);
    let operator = operator(&sandbox, &["web1", "web2"]);
    operator.add_remote("cluster", "deptool::@all");
    // bash reads it at every login over ssh.
    for trouble in ["cat >/dev/null", "sleep 1000", "yes flood >&2"] {
        lab.host("web2").sh(&format!("cp -n ~/.bashrc ~/.bashrc.before; echo '{trouble}' >~/.bashrc"));
        let push = operator.command(&["push", "cluster", "prod"]).timeout(Duration::from_secs(150)).run().unwrap();
        push.code(1).says("web2: unreachable: no answer for 30 seconds").says("not attempted on web1");
        assert_eq!(lab.host("web1").sh("ls -A /var/lib/deptool/apps 2>/dev/null || true"), "");
    }
    lab.host("web2").sh("mv ~/.bashrc.before ~/.bashrc");
    operator.git(&["push", "cluster", "prod"]).ok();
}
