//! Health probes: each probe of an app is repeated until it succeeds or its time is up.

use std::{
    io::{self, Read, Write},
    net::{SocketAddr, TcpStream},
    time::{Duration, Instant},
};

use crate::{
    host::deploy::failure::Failure,
    shared::{
        manifest::probe::{Probe, Target, Url},
        name::{AppName, UnitName},
        text::printable,
        time::seconds,
    },
    system::{
        JobKind, JobResult, System, SystemError,
        settle::{self, Deadline, Watch},
        verdict::{Started, Verdict, judge},
    },
};

/// The time between two attempts.
const PAUSE: Duration = Duration::from_millis(50);
/// An attempt may take the time that its probe has left, but at least this, because the machine may be busy.
const SHORTEST: Duration = Duration::from_millis(500);
/// Waits for the network are interrupted after this time, to send heartbeats.
const SLICE: Duration = Duration::from_millis(500);
/// The limit for a status line, in bytes.
const LONGEST_LINE: usize = 1024;

/// Wait until all `probes` succeed. If a watched unit fails meanwhile, this fails at once.
pub fn wait(
    probes: &[(AppName, Probe)],
    watch: &mut Watch,
    system: &mut dyn System,
    deadline: Deadline,
    tick: &mut dyn FnMut(&str),
) -> Result<(), Failure> {
    let began = system.clock();
    for (app, probe) in probes {
        let awaited = match &probe.target {
            Target::Unit(unit) => unit.to_string(),
            target @ (Target::Tcp(_) | Target::Http { .. }) => target.to_string(),
        };
        loop {
            let left = (began + probe.within).saturating_sub(system.clock()).min(deadline.left(system));
            let result = match &probe.target {
                Target::Unit(unit) => run(unit, left.max(SHORTEST), system, tick)?,
                Target::Tcp(_) | Target::Http { .. } => {
                    attempt(&probe.target, left.max(SHORTEST), tick).map_err(Asked::why)
                }
            };
            let Err(Asked { why, invocation }) = result else { break };
            watch.look(system, None).map_err(Failure::Units)?;
            if left.is_zero() {
                if let (Target::Unit(unit), Some(invocation)) = (&probe.target, invocation) {
                    let waited = seconds(system.clock() - began);
                    let why = format!("of '{app}' does not succeed after {waited}: it {why}");
                    let failure = settle::Failure { unit: unit.clone(), why, invocations: vec![invocation] };
                    return Err(Failure::Units(vec![failure]));
                }
                let (target, waited) = (&probe.target, seconds(system.clock() - began));
                return Err(Failure::Text(format!("{target} of '{app}' is not healthy after {waited}: {why}")));
            }
            tick(&awaited);
            if system.wait_for_change(PAUSE.min(left)).is_err() {
                std::thread::sleep(PAUSE);
            }
        }
    }
    Ok(())
}

/// The failure of an attempt.
struct Asked {
    why: String,
    /// The run of a probe unit, whose output is shown.
    invocation: Option<String>,
}

impl Asked {
    fn why(why: String) -> Asked {
        Asked { why, invocation: None }
    }
}

/// Run a probe unit once, to its end.
fn run(
    unit: &UnitName,
    limit: Duration,
    system: &mut dyn System,
    tick: &mut dyn FnMut(&str),
) -> Result<Result<(), Asked>, SystemError> {
    let units = std::slice::from_ref(unit);
    system.reset_failed(units)?;
    let before = system.detail(unit)?;
    let job = system.run_jobs(&[(unit.clone(), JobKind::Restart)], limit, tick)?.pop().unwrap_or(JobResult::TimedOut);
    let (now, ended) = (system.detail(unit)?, system.clock());
    let invocation = Some(now.invocation.clone()).filter(|id| !id.is_empty());
    let is_late = job == JobResult::TimedOut;
    let started = Started { kind: JobKind::Restart, job, ended, before, window: None };
    let verdict = judge(&started, &now, ended);
    if is_late {
        system.run_jobs(&[(unit.clone(), JobKind::Stop)], SHORTEST, tick)?;
    }
    // A probe unit is not meant to run, so it does not stay in the list of failed units.
    system.reset_failed(units)?;
    Ok(match verdict {
        _ if is_late => Err(Asked { why: "does not end".into(), invocation }),
        Verdict::Failed(why) => Err(Asked { why, invocation }),
        Verdict::Good | Verdict::Settling(_) => Ok(()),
    })
}

/// Try once. The error says what came instead of the expected answer.
fn attempt(target: &Target, limit: Duration, tick: &mut dyn FnMut(&str)) -> Result<(), String> {
    let until = Instant::now() + limit;
    let result = match target {
        Target::Tcp(address) => connect(&address.sockets, until, tick).map(drop),
        Target::Http { url, status } => match ask(url, until, tick) {
            Ok(answer) if answer == *status => Ok(()),
            Ok(answer) => return Err(format!("status {answer}, not {status}")),
            Err(error) => Err(error),
        },
        // Units are run by [`run`].
        Target::Unit(_) => Ok(()),
    };
    result.map_err(|error| match error.kind() {
        io::ErrorKind::TimedOut | io::ErrorKind::WouldBlock => "no answer".into(),
        io::ErrorKind::ConnectionRefused => "nothing listens".into(),
        _ => printable(error.to_string().split(" (os error").next().unwrap_or_default().as_bytes()),
    })
}

fn connect(sockets: &[SocketAddr], until: Instant, tick: &mut dyn FnMut(&str)) -> io::Result<TcpStream> {
    loop {
        let mut last = io::ErrorKind::TimedOut.into();
        for socket in sockets {
            match TcpStream::connect_timeout(socket, slice(until)?) {
                Ok(stream) => return Ok(stream),
                Err(error) => last = error,
            }
        }
        if last.kind() != io::ErrorKind::TimedOut {
            return Err(last);
        }
        tick("");
    }
}

/// Send a `GET` request. Returns the status of the answer.
fn ask(url: &Url, until: Instant, tick: &mut dyn FnMut(&str)) -> io::Result<u16> {
    let mut stream = connect(&url.sockets, until, tick)?;
    let Url { path, authority, .. } = url;
    let request = format!(
        "GET {path} HTTP/1.1\r\nHost: {authority}\r\nUser-Agent: deptool\r\nAccept: */*\r\nConnection: close\r\n\r\n"
    );
    stream.set_write_timeout(Some(slice(until)?))?;
    stream.write_all(request.as_bytes())?;
    let mut line = Vec::new();
    while !line.ends_with(b"\n") {
        let mut byte = [0];
        stream.set_read_timeout(Some(slice(until)?))?;
        match stream.read(&mut byte) {
            Ok(0) => return Err(io::Error::other("the connection was closed without an answer")),
            Ok(_) => line.extend(byte),
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => tick(""),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
        if line.len() > LONGEST_LINE {
            break;
        }
    }
    status_of(&line).ok_or_else(|| io::Error::other("the answer is not HTTP"))
}

/// The time until `until`, but at most [`SLICE`].
fn slice(until: Instant) -> io::Result<Duration> {
    match until.saturating_duration_since(Instant::now()) {
        Duration::ZERO => Err(io::ErrorKind::TimedOut.into()),
        left => Ok(left.min(SLICE)),
    }
}

/// Parse a status line such as `HTTP/1.1 200 OK` (RFC 9112, 4).
fn status_of(line: &[u8]) -> Option<u16> {
    let rest = line.strip_prefix(b"HTTP/1.1 ").or_else(|| line.strip_prefix(b"HTTP/1.0 "))?;
    match rest {
        [status @ .., b'\n'] if status.len() >= 3 => {
            let (digits, rest) = status.split_at(3);
            let is_status = digits.iter().all(u8::is_ascii_digit) && matches!(rest.first(), None | Some(b' ' | b'\r'));
            is_status.then(|| digits.iter().fold(0, |number, digit| number * 10 + u16::from(digit - b'0')))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::{net::TcpListener, thread};

    use super::*;
    use crate::{
        shared::manifest::Manifest,
        system::{
            Active, JobKind, JobResult, UnitDetail,
            fake::{Behaviour, Fake, unit},
            settle::Transaction,
            verdict::Started,
        },
    };

    fn probes(json: &str) -> Vec<Probe> {
        Manifest::parse(format!(r#"{{"health": {json}}}"#).as_bytes()).unwrap().health
    }

    /// Ask, with a unit under watch; returns why it failed.
    fn run(fake: &mut Fake, json: &str) -> Option<String> {
        let (app, probes) = (AppName::parse(b"web").unwrap(), probes(json));
        let ended = fake.clock();
        let before = UnitDetail::inactive();
        let started = Started { kind: JobKind::Restart, job: JobResult::Done, ended, before, window: None };
        let mut watch = Watch::new(vec![(unit("a.service"), started)], Transaction::default());
        let deadline = Deadline::after(fake, Duration::from_secs(90));
        let probes: Vec<_> = probes.into_iter().map(|probe| (app.clone(), probe)).collect();
        match wait(&probes, &mut watch, fake, deadline, &mut |_| ()) {
            Ok(()) => None,
            Err(Failure::Text(text)) => Some(text),
            Err(Failure::Units(failures)) => Some(format!("{}: {}", failures[0].unit, failures[0].why)),
        }
    }

    fn fake() -> Fake {
        let mut fake = Fake::default();
        fake.running("a.service");
        fake
    }

    /// A server that answers each connection with the next of `answers`, and its address.
    fn serve(answers: &'static [&'static str]) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        thread::spawn(move || {
            for answer in answers {
                let (mut stream, _) = listener.accept().unwrap();
                let mut request = [0; 1000];
                let count = stream.read(&mut request).unwrap();
                let expected = format!("GET /healthz HTTP/1.1\r\nHost: {address}\r\n");
                assert!(request[..count].starts_with(expected.as_bytes()));
                stream.write_all(answer.as_bytes()).unwrap();
            }
        });
        address
    }

    #[test]
    fn what_listens_is_healthy_and_what_does_not_is_not() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        assert_eq!(run(&mut fake(), &format!(r#"[{{"tcp": "{address}"}}]"#)), None);
        assert_eq!(run(&mut fake(), &format!(r#"[{{"tcp": "localhost:{}"}}]"#, address.port())), None);
        drop(listener);
        let (mut fake, json) = (fake(), format!(r#"[{{"tcp": "{address}", "within": "2s"}}]"#));
        let expected = format!("tcp {address} of 'web' is not healthy after 2.0 s: nothing listens");
        assert_eq!(run(&mut fake, &json), Some(expected));
        // Every 50 ms.
        assert_eq!(fake.calls.iter().filter(|call| *call == "wait-for-change").count(), 40);
    }

    #[test]
    fn a_page_is_asked_for_until_its_status_is_right() {
        let probe = |address| format!(r#"[{{"http": "http://{address}/healthz", "status": 204, "within": "100ms"}}]"#);
        let warming = serve(&["HTTP/1.1 503 Not yet\r\n\r\n", "", "HTTP/1.0 204\r\n\r\n"]);
        assert_eq!(run(&mut fake(), &probe(warming)), None);
        let wrong = serve(&["HTTP/1.1 200 OK\r\n\r\n", "HTTP/1.1 200 OK\r\n\r\n", "HTTP/1.1 200 OK\r\n\r\n"]);
        let expected = format!("http://{wrong}/healthz of 'web' is not healthy after 0.1 s: status 200, not 204");
        assert_eq!(run(&mut fake(), &probe(wrong)), Some(expected));
    }

    #[test]
    fn a_unit_that_fails_meanwhile_ends_it() {
        let mut fake = fake();
        fake.behave("a.service", Behaviour::DiesAfterLooks(3));
        let why = run(&mut fake, r#"[{"tcp": "127.0.0.1:1", "within": "60s"}]"#);
        assert_eq!(why.as_deref(), Some("a.service: exited with status 1 after 0.1 s"));
        assert_eq!(fake.units[&unit("a.service")].detail.active, Active::Failed);
    }

    #[test]
    fn only_a_status_line_is_one() {
        assert_eq!(status_of(b"HTTP/1.1 200 OK\r\n"), Some(200));
        assert_eq!(status_of(b"HTTP/1.0 503\n"), Some(503));
        for bad in [&b"HTTP/2 200\r\n"[..], b"HTTP/1.1 20\n", b"HTTP/1.1 2000\n", b"HTTP/1.1 200", b"SSH-2.0-x\n", b""]
        {
            assert_eq!(status_of(bad), None);
        }
    }
}
