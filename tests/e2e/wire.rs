//! Neither side trusts the other's bytes: messages that are truncated, too long, malformed or out of order change
//! nothing.

use std::io::{BufRead as _, BufReader, Write as _};
use std::process::Stdio;

use deptool_agent::shared::{
    build::{BUILD_ID, VERSION},
    env_request,
    frame::{FrameReader, encode},
    outcome::Outcome,
    wire::{Bytes, Request, Response},
};
use deptool_tests::is_quick;
use deptool_tests::process::{Cmd, Run};
use deptool_tests::sandbox::{Repo, Sandbox};

use crate::{
    seen::{at_rest, refs, state_of, unchanged, visible},
    stand_in::{agent, with_stand_in},
};

fn operator(sandbox: &Sandbox) -> Repo<'_> {
    let operator = sandbox.repo("operator");
    operator.write("web1/web/file", "1\n");
    operator.write("web1/web/manifest.json", r#"{"symlinks": {"/etc/a.conf": "file"}}"#);
    operator.add_root("web1");
    operator
}

/// Runs the agent on the root `web1` with this input, which then ends.
#[track_caller]
fn talk(sandbox: &Sandbox, input: &[u8]) -> Run {
    let agent = Cmd::new(agent()).env_clear().env("PATH", "/usr/bin:/bin").env("DEPTOOL_ROOT", sandbox.root("web1"));
    let run = agent.input(input).run().unwrap_or_else(|error| panic!("{error:#}"));
    assert!(run.success() && run.stderr().is_empty(), "{run}");
    run
}

/// The answer of the agent after its first line.
fn answers(run: &Run) -> Vec<Response> {
    let end = run.stdout.iter().position(|byte| *byte == b'\n').unwrap_or_else(|| panic!("{run}"));
    let mut reader = FrameReader::new(&run.stdout[end + 1..]);
    std::iter::from_fn(|| reader.receive().unwrap()).collect()
}

fn error_of(run: &Run) -> String {
    match answers(run).pop() {
        Some(Response::Error(why)) => why,
        other => panic!("{other:?}"),
    }
}

fn hello() -> Vec<u8> {
    format!("deptool-hello {BUILD_ID}\n").into_bytes()
}

/// A hello, followed by these bytes.
fn after_hello(bytes: impl AsRef<[u8]>) -> Vec<u8> {
    [&hello(), bytes.as_ref()].concat()
}

#[test]
fn an_agent_that_is_not_asked_for_anything_writes_nothing() {
    let sandbox = Sandbox::new();
    let root = sandbox.root("web1");
    for input in [&b""[..], b"deptool", b"\n", b"GET / HTTP/1.0\r\n\r\n", &hello()] {
        let run = talk(&sandbox, input);
        assert!(run.stdout().starts_with(&format!("deptool-agent {VERSION} {BUILD_ID}\n")), "{run}");
        assert_eq!(state_of(&root).len(), 1);
    }
}

#[test]
fn a_host_tells_its_age_recipient_and_never_its_identity() {
    let sandbox = Sandbox::new();
    let ours = sandbox.root("web1").join("var/lib/deptool");
    std::fs::create_dir_all(&ours).unwrap();
    let told = || {
        let run = talk(&sandbox, &hello());
        assert!(!run.stdout().contains("SECRET"), "{run}");
        match answers(&run).remove(0) {
            Response::Hello(hello) => (hello.recipient, hello.notes),
            other => panic!("{other:?}"),
        }
    };
    let (recipient, notes) = told();
    assert_eq!(notes, [""; 0]);
    assert_eq!(told().0, recipient, "it stays the same");
    let identity = ours.join("state/identity");
    let text = std::fs::read_to_string(&identity).unwrap();
    assert!(text.contains(&recipient.unwrap()) && text.contains("\nAGE-SECRET-KEY-1"));
    let damaged = &text[..text.len() / 2];
    std::fs::write(&identity, damaged).unwrap();
    let (recipient, notes) = told();
    assert_eq!(recipient, None);
    assert!(matches!(&notes[..], [note] if note.contains("'/") && note.contains("does not hold an age identity")));
    assert_eq!(std::fs::read_to_string(&identity).unwrap(), damaged);
}

#[test]
fn what_comes_in_a_variable_is_not_done_again_when_stdin_brings_it() {
    let sandbox = Sandbox::new();
    let ping = encode(&Request::Ping).unwrap();
    let pongs = |variable: &[u8], stdin: &[u8]| {
        let agent = Cmd::new(agent()).env_clear().env("DEPTOOL_ROOT", sandbox.root("web1"));
        let run = agent.env(env_request::VARIABLE, env_request::encode(variable)).input(stdin).run().unwrap().ok();
        let answers = answers(&run);
        let pongs = answers.iter().filter(|answer| matches!(answer, Response::Pong)).count();
        (pongs, answers.into_iter().find_map(|answer| if let Response::Error(why) = answer { Some(why) } else { None }))
    };
    let early = after_hello(&ping);
    let (one, two) = ((1, None), (2, None));
    assert_eq!(pongs(&early, &early), one);
    assert_eq!(pongs(&early, &[&early[..], &ping].concat()), two);
    assert_eq!(pongs(&early, &early[..early.len() - 1]), one, "cut off after it has arrived in the variable");
    assert_eq!(pongs(&hello(), &early), one, "only the beginning came early");
    assert_eq!(pongs(b"", &early), one);
    let (_, why) = pongs(&early, &after_hello(encode(&Request::Verify).unwrap()));
    assert!(why.is_some_and(|why| why.contains("stdin and the environment bring different requests")));
    assert_eq!(state_of(&sandbox.root("web1")).len(), 1);
}

#[test]
fn helpers_of_other_builds_are_refused() {
    let sandbox = Sandbox::new();
    for line in ["deptool-hello 0123456789abcdef\n", "deptool-hello\n", "x\n"] {
        assert_eq!(error_of(&talk(&sandbox, line.as_bytes())), "helper and agent are of different builds");
    }
    assert_eq!(state_of(&sandbox.root("web1")).len(), 1);
}

#[test]
fn messages_that_make_no_sense_end_the_connection() {
    let sandbox = Sandbox::new();
    let root = sandbox.root("web1");
    let frame = |body: &[u8]| [&(body.len() as u32).to_be_bytes()[..], body].concat();
    let heartbeat = encode(&Request::Heartbeat).unwrap();
    let mut stuffed = heartbeat.clone();
    stuffed.extend(b"more");
    stuffed[..4].copy_from_slice(&(heartbeat.len() as u32).to_be_bytes());
    let cases: Vec<(Vec<u8>, &str)> = vec![
        (0xffff_ffff_u32.to_be_bytes().to_vec(), "a message of 4294967295 bytes is too long"),
        ((1_u32 << 20 | 1).to_be_bytes().to_vec(), "a message of 1048577 bytes is too long"),
        (vec![0, 0], "the stream was cut off in the middle of a message"),
        (vec![0, 0, 0, 9, 1], "the stream was cut off in the middle of a message"),
        (frame(b""), "a message can't be decoded"),
        (frame(b"nonsense"), "a message can't be decoded"),
        (frame(&[0x91; 100_000]), "a message can't be decoded"),
        (frame(&[0xdf, 0xff, 0xff, 0xff, 0xff]), "a message can't be decoded"),
        (stuffed, ""),
        (encode(&Request::Data(Bytes(vec![1, 2, 3]))).unwrap(), "a message came out of order"),
        (encode(&Request::Activate).unwrap(), "a message came out of order"),
        (encode(&Request::Keep).unwrap(), "a message came out of order"),
        (encode(&Request::Cancel).unwrap(), "a message came out of order"),
        (encode(&Request::ObjectsEnd).unwrap(), "a message came out of order"),
    ];
    for (bytes, expected) in cases {
        let why = error_of(&talk(&sandbox, &after_hello(&bytes)));
        assert!(why.starts_with(expected), "{why}");
        assert_eq!(state_of(&root).len(), 1, "{why}");
    }
}

/// All bytes that a helper sends for a first deployment.
fn recorded(sandbox: &Sandbox, repo: &Repo<'_>) -> Vec<u8> {
    let script = r#"tee "$DEPTOOL_ROOT/../recorded" | "$DEPTOOL_AGENT""#;
    with_stand_in(sandbox, repo, &["push", "web1", "prod"], script).run().unwrap().ok();
    std::fs::read(sandbox.dir().join("roots/recorded")).unwrap()
}

#[test]
fn a_deployment_that_is_cut_off_at_any_byte_changes_nothing() {
    let sandbox = Sandbox::new();
    let operator = operator(&sandbox);
    let one = operator.commit("One");
    let bytes = recorded(&sandbox, &operator);
    at_rest(&sandbox, "web1", Some(&one));
    let root = sandbox.root("web1");
    std::fs::remove_dir_all(&root).unwrap();
    std::fs::create_dir(&root).unwrap();
    let before = visible(&root);
    // Up to the last byte: then the client closes the connection without waiting for the answer.
    let step = bytes.len() / 60;
    for cut in (0..bytes.len()).step_by(step).chain(bytes.len() - 12..=bytes.len()) {
        talk(&sandbox, &bytes[..cut]);
        unchanged(&visible(&root), &before);
        assert!(!root.join("var/lib/deptool/current").exists(), "{cut}");
    }
    at_rest(&sandbox, "web1", None);
    operator.git(&["fetch", "web1"]).ok();
    operator.git(&["push", "web1", "prod"]).ok();
    at_rest(&sandbox, "web1", Some(&one));
}

#[test]
fn a_deployment_with_a_damaged_byte_is_not_carried_out() {
    let sandbox = Sandbox::new();
    let operator = operator(&sandbox);
    operator.commit("One");
    let bytes = recorded(&sandbox, &operator);
    let root = sandbox.root("web1");
    std::fs::remove_dir_all(&root).unwrap();
    std::fs::create_dir(&root).unwrap();
    let before = visible(&root);
    for at in (hello().len()..bytes.len()).step_by(bytes.len() / 60) {
        let mut damaged = bytes.clone();
        damaged[at] ^= 0x15;
        talk(&sandbox, &damaged);
        unchanged(&visible(&root), &before);
    }
}

#[test]
fn a_deployment_is_not_begun_over_one_that_was_interrupted_meanwhile() {
    let sandbox = Sandbox::new();
    let operator = operator(&sandbox);
    let one = operator.commit("One");
    let bytes = recorded(&sandbox, &operator);
    operator.git(&["push", "web1", ":prod"]).ok();
    let root = sandbox.root("web1");
    let mut agent = Cmd::new(agent()).env("DEPTOOL_ROOT", &root).into_inner();
    let mut agent = agent.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let (mut input, mut output) = (agent.stdin.take().unwrap(), BufReader::new(agent.stdout.take().unwrap()));
    output.read_until(b'\n', &mut Vec::new()).unwrap();
    let mut output = FrameReader::new(output);
    assert!(matches!(output.receive().unwrap(), Some(Response::Hello(hello)) if hello.busy.is_none()));
    // The agent has found the host at rest. Now another deployment begins, and its agent is killed.
    let before = visible(&root);
    std::fs::write(root.join("var/lib/deptool/state/journal"), "what only the next agent can deal with").unwrap();
    input.write_all(&bytes).unwrap();
    assert!(matches!(output.receive().unwrap(), Some(Response::Came { .. })));
    let Some(Response::Ended(outcome)) = output.receive().unwrap() else { panic!() };
    let Outcome::Refused { why, .. } = *outcome else { panic!("{outcome:?}") };
    assert!(why.starts_with("an earlier deployment is neither finished nor undone"), "{why}");
    agent.wait().unwrap();
    unchanged(&visible(&root), &before);
    operator.git(&["push", "web1", "prod"]).ok();
    at_rest(&sandbox, "web1", Some(&one));
}

/// The reaction of `git push` and `git fetch` to an agent that sends this and exits.
fn heard(sandbox: &Sandbox, operator: &Repo<'_>, said: &[u8]) -> (Run, Run) {
    std::fs::write(sandbox.dir().join("roots/said"), said).unwrap();
    let script = r#"cat "$DEPTOOL_ROOT/../said""#;
    let git = |args: &[&str]| with_stand_in(sandbox, operator, args, script).run().unwrap().fails();
    (git(&["push", "web1", "prod"]), git(&["fetch", "web1"]))
}

#[test]
fn an_agent_that_talks_nonsense_changes_nothing_here() {
    if is_quick() {
        return;
    }
    let sandbox = Sandbox::new();
    let operator = operator(&sandbox);
    operator.commit("One");
    operator.git(&["push", "web1", "prod"]).ok();
    operator.write("web1/web/file", "2\n");
    let two = operator.commit("Two");
    let before = refs(&operator);
    let line = format!("deptool-agent {VERSION} {BUILD_ID}\n").into_bytes();
    let speak = |responses: &[Response]| {
        let frames = responses.iter().flat_map(|response| encode(response).unwrap());
        [line.clone(), frames.collect()].concat()
    };
    let cases: Vec<(&str, Vec<u8>)> = vec![
        ("nothing", vec![]),
        ("text", b"Welcome to web1!\n".to_vec()),
        ("endless text", vec![b'x'; 3 << 20]),
        ("another build", b"deptool-agent 0.1.0 0123456789abcdef\n".to_vec()),
        ("nothing more", line.clone()),
        ("a length that is too long", [&line[..], &[0xff; 8]].concat()),
        ("half a frame", [&line[..], &[0, 0, 0, 9, 1]].concat()),
        ("nonsense", [&line[..], b"\0\0\0\x08nonsense"].concat()),
        ("data first", speak(&[Response::Data(Bytes(vec![1]))])),
        ("an error with control characters", speak(&[Response::Error("\x1b[2Jgone\nok refs/heads/prod\n".into())])),
    ];
    for (what, said) in cases {
        let (push, fetch) = heard(&sandbox, &operator, &said);
        for run in [&push, &fetch] {
            assert!(!run.stderr().contains('\x1b') && run.stderr().len() < 2000, "{what}: {run}");
        }
        // Some agents were sent the request before they spoke. The deployment is in doubt until the host reports its
        // outcome.
        let known = refs(&operator);
        let known: String = known.split_inclusive('\n').filter(|line| !line.contains("unsettled")).collect();
        assert_eq!(known, before, "{what}: {push}");
        operator.git(&["fetch", "web1"]).ok();
        assert_eq!(refs(&operator), before, "{what}: {push}");
    }
    operator.git(&["push", "web1", "prod"]).ok();
    at_rest(&sandbox, "web1", Some(&two));
}

#[test]
fn an_end_of_input_in_the_middle_of_a_batch_does_nothing() {
    let sandbox = Sandbox::new();
    let operator = operator(&sandbox);
    let one = operator.commit("One");
    let url = sandbox.root("web1");
    let url = url.to_str().unwrap();
    let lines = "capabilities\noption verbosity 1\nlist for-push\npush refs/heads/prod:refs/heads/prod\n";
    for cut in 0..=lines.len() {
        let helper = sandbox.command("git-remote-deptool").dir(&operator.dir).args(["web1", url]);
        let run = helper.env("GIT_DIR", operator.dir.join(".git")).input(&lines.as_bytes()[..cut]).run().unwrap();
        assert!(!run.success(), "{cut}: {run}");
    }
    assert_eq!(state_of(&sandbox.root("web1")).len(), 1);
    // Git keeps its end open until it has read the report.
    let helper = sandbox.command("git-remote-deptool").dir(&operator.dir).args(["web1", url]);
    let mut helper = helper.env("GIT_DIR", operator.dir.join(".git")).into_inner();
    let mut helper = helper.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut git = helper.stdin.take().unwrap();
    git.write_all(format!("{lines}\n\n").as_bytes()).unwrap();
    let output = helper.wait_with_output().unwrap();
    drop(git);
    assert!(String::from_utf8(output.stdout).unwrap().contains("ok refs/heads/prod\n"));
    at_rest(&sandbox, "web1", Some(&one));
}
