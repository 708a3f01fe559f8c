//! A dialogue with an agent, message by message, instead of a helper.

use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Child, ChildStdin, ChildStdout, Stdio};

use deptool_agent::shared::{
    build::BUILD_ID,
    frame::{FrameReader, encode},
    wire::{Hello, Request, Response},
};
use deptool_tests::process::{Cmd, Pid, Signal};
use deptool_tests::sandbox::{Repo, Sandbox};

use crate::stand_in::{agent, with_stand_in};

/// A running agent on a local root.
pub struct Talk {
    process: Child,
    input: ChildStdin,
    output: FrameReader<BufReader<ChildStdout>>,
    pub hello: Hello,
}

impl Talk {
    /// Starts an agent on that root.
    pub fn with(sandbox: &Sandbox, root: &str) -> Talk {
        let mut command = Cmd::new(agent()).env("DEPTOOL_ROOT", sandbox.root(root)).into_inner();
        let mut process = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let mut input = process.stdin.take().unwrap();
        let mut output = BufReader::new(process.stdout.take().unwrap());
        output.read_until(b'\n', &mut Vec::new()).unwrap();
        input.write_all(format!("deptool-hello {BUILD_ID}\n").as_bytes()).unwrap();
        let mut output = FrameReader::new(output);
        let Some(Response::Hello(hello)) = output.receive().unwrap() else { panic!("no hello") };
        Talk { process, input, output, hello: *hello }
    }

    pub fn send(&mut self, request: &Request) {
        self.send_all(std::slice::from_ref(request));
    }

    pub fn send_all(&mut self, requests: &[Request]) {
        let frames: Vec<u8> = requests.iter().flat_map(|request| encode(request).unwrap()).collect();
        self.input.write_all(&frames).unwrap();
    }

    /// The next message that is not a sign of life; `None` at the end.
    pub fn next(&mut self) -> Option<Response> {
        loop {
            match self.output.receive().unwrap() {
                Some(
                    Response::Heartbeat
                    | Response::Came { .. }
                    | Response::Progress(_)
                    | Response::WaitsFor(_)
                    | Response::Note(_),
                ) => {}
                response => return response,
            }
        }
    }

    /// Asserts the next message.
    #[track_caller]
    pub fn says(&mut self, expected: &Response) -> &mut Self {
        assert_eq!(self.next().as_ref(), Some(expected));
        self
    }

    /// Closes the connection: the agent reads the end of its input, and nobody reads its output.
    pub fn hang_up(self) {}

    /// Closes the connection, and waits until the agent has exited.
    pub fn end(mut self) {
        drop((self.input, self.output));
        self.process.wait().unwrap();
    }

    /// Kills the agent that carries out the deployment, and waits until it has exited.
    pub fn kill(mut self) {
        let children = format!("/proc/{0}/task/{0}/children", self.process.id());
        for child in std::fs::read_to_string(children).unwrap().split_whitespace() {
            let child = Pid::from_raw(child.parse().unwrap()).unwrap();
            rustix::process::kill_process(child, Signal::KILL).unwrap();
        }
        self.process.wait().unwrap();
    }
}

/// Everything that a helper sends for a push to `web1`, recorded with another host.
pub fn recorded(sandbox: &Sandbox, repo: &Repo<'_>) -> Vec<Request> {
    // Afterwards, the helper asks what runs there. We want what it sends first.
    let script = r#"tee -a "$DEPTOOL_ROOT/../recorded" | DEPTOOL_ROOT="$DEPTOOL_ROOT/../other" "$DEPTOOL_AGENT""#;
    let record = sandbox.dir().join("roots/recorded");
    std::fs::write(&record, "").unwrap();
    std::fs::create_dir_all(sandbox.root("other")).unwrap();
    loop {
        with_stand_in(sandbox, repo, &["push", "web1", "prod"], script).run().unwrap().fails();
        repo.git(&["fetch", "-q", "web1"]).ok();
        // The other host refuses the request, and the helper may be gone before it has sent the rest.
        if let Some(requests) = complete(&std::fs::read(&record).unwrap()) {
            return requests;
        }
        std::fs::write(&record, "").unwrap();
    }
}

/// The requests of one deployment; `None` if some are missing.
fn complete(bytes: &[u8]) -> Option<Vec<Request>> {
    let hello = bytes.iter().position(|byte| *byte == b'\n')? + 1;
    let mut reader = FrameReader::new(&bytes[hello..]);
    let mut requests = Vec::new();
    while requests.last() != Some(&Request::ObjectsEnd) {
        requests.push(reader.receive().ok()??);
    }
    Some(requests)
}
