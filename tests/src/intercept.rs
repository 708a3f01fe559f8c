//! Sits between a helper and an agent, and injects a fault when one of them sends a certain message.

use std::fmt::Debug;
use std::io::{Read, Write};
use std::os::fd::AsFd as _;
use std::process::{ChildStdin, Command, Stdio};

use anyhow::{Context as _, Result, bail};
use deptool_agent::shared::{
    frame::FrameBuffer,
    wire::{Request, Response},
};
use rustix::process::{Signal, getppid, kill_process};
use serde::de::DeserializeOwned;

use crate::trace::has_words;

/// The message to wait for, and the fault.
pub struct Rule {
    from: From,
    /// The name of a request or response.
    word: String,
    act: Act,
}

#[derive(Clone, Copy, PartialEq)]
enum From {
    Helper,
    Agent,
}

#[derive(Clone, Copy, PartialEq)]
enum Act {
    /// The helper, which is our parent, is killed (-9). The message does not arrive.
    KillHelper,
    /// Both connections end. The message does not arrive.
    Cut,
    /// The same, but the agent does not notice.
    CutUnheard,
    /// Nothing passes in that direction any more, without an error.
    Stall,
}

impl Rule {
    /// `kill-helper:agent:Prepared`, `cut:helper:Keep`.
    pub fn parse(text: &str) -> Result<Rule> {
        let parts: Vec<&str> = text.split(':').collect();
        let [act, from, word] = parts[..] else { bail!("'{text}' is no rule") };
        let act = match act {
            "kill-helper" => Act::KillHelper,
            "cut" => Act::Cut,
            "cut-unheard" => Act::CutUnheard,
            "stall" => Act::Stall,
            _ => bail!("'{act}' is no act"),
        };
        let from = match from {
            "helper" => From::Helper,
            "agent" => From::Agent,
            _ => bail!("'{from}' says nothing"),
        };
        Ok(Rule { from, word: word.to_owned(), act })
    }
}

/// Runs an agent with our own stdin and stdout, until the message of the rule arrives.
///
/// Messages before it are passed on only if they arrive in an earlier chunk. They are written one by one.
pub fn run(rule: &Rule, agent: &str) -> Result<()> {
    let mut child =
        Command::new(agent).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().context("cannot run it")?;
    let (to_agent, from_agent) = (child.stdin.take().context("no stdin")?, child.stdout.take().context("no stdout")?);
    if rule.act == Act::CutUnheard {
        hold_open(&to_agent, child.id())?;
    }
    std::thread::scope(|scope| {
        scope.spawn(|| {
            copy::<Request>(std::io::stdin(), to_agent, (rule.from == From::Helper).then_some(rule));
            if rule.act == Act::Stall {
                std::process::exit(0);
            }
        });
        copy::<Response>(from_agent, std::io::stdout(), (rule.from == From::Agent).then_some(rule));
        // The helper may send more, but nobody reads it.
        std::process::exit(0);
    })
}

/// Keeps the agent's input open for as long as it lives.
fn hold_open(input: &ChildStdin, agent: u32) -> Result<()> {
    let script = r#"while kill -0 "$1" 2>/dev/null; do sleep 0.1; done"#;
    let input = input.as_fd().try_clone_to_owned()?;
    let mut holder = Command::new("sh");
    holder.args(["-c", script, "sh", &agent.to_string()]).stdin(Stdio::null()).stdout(input).stderr(Stdio::null());
    holder.spawn().context("cannot run sh")?;
    Ok(())
}

fn copy<T: DeserializeOwned + Debug>(mut from: impl Read, mut to: impl Write, rule: Option<&Rule>) {
    let mut buffer = [0; 65536];
    let mut frames = FrameBuffer::default();
    let mut is_greeted = false;
    while let Ok(count @ 1..) = from.read(&mut buffer) {
        let piece = &buffer[..count];
        frames.push(piece);
        is_greeted = is_greeted || frames.take_line().is_some();
        while let Some(message) = is_greeted.then(|| frames.take::<T>().ok().flatten()).flatten() {
            if let Some(rule) = rule.filter(|rule| has_words(&message, &[&rule.word])) {
                act(rule.act);
            }
        }
        if to.write_all(piece).and_then(|()| to.flush()).is_err() {
            return;
        }
    }
}

fn act(act: Act) -> ! {
    match (act, getppid()) {
        (Act::KillHelper, Some(helper)) => {
            let _ = kill_process(helper, Signal::KILL);
        }
        (Act::Stall, _) => loop {
            std::thread::park();
        },
        (Act::KillHelper, None) | (Act::Cut | Act::CutUnheard, _) => {}
    }
    crate::link::lost()
}
