//! A connection between helper and agent that is cut, or stalls, at a message. It runs instead of the agent; see
//! `stand_in`.

use std::io::{ErrorKind, Read, Write};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail};
use deptool_agent::shared::frame::MAX_FRAME;

/// Ends as ssh does when its connection is lost.
pub fn lost() -> ! {
    eprintln!("Connection to host closed by remote host.");
    std::process::exit(255)
}

/// The direction of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// From the helper to the agent.
    Up,
    Down,
}

/// The fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// The connection is cut before the message.
    Cut,
    /// The connection is cut in the middle of the message.
    CutInside,
    /// Nothing passes in that direction any more, without an error.
    Stall,
}

/// A fault at the message with this number, counted from 0. The first line of each side is message 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fault {
    pub way: Way,
    pub at: usize,
    pub fate: Fate,
}

impl Fault {
    /// Parses the output of [`Fault::words`].
    pub fn parse(words: &[&str]) -> Result<Fault> {
        let [way, at, fate] = words else { bail!("usage: link up|down N cut|cut-inside|stall AGENT") };
        let way = match *way {
            "up" => Way::Up,
            "down" => Way::Down,
            _ => bail!("no such way: '{way}'"),
        };
        let fate = match *fate {
            "cut" => Fate::Cut,
            "cut-inside" => Fate::CutInside,
            "stall" => Fate::Stall,
            _ => bail!("no such fate: '{fate}'"),
        };
        Ok(Fault { way, at: at.parse().context("not a number")?, fate })
    }

    pub fn words(self) -> String {
        let way = match self.way {
            Way::Up => "up",
            Way::Down => "down",
        };
        let fate = match self.fate {
            Fate::Cut => "cut",
            Fate::CutInside => "cut-inside",
            Fate::Stall => "stall",
        };
        format!("{way} {} {fate}", self.at)
    }
}

/// Runs `agent` behind a connection with that fault. As on a host, the agent keeps running when the connection is cut.
/// The file `hit` is created when the fault happens.
pub fn run(fault: Fault, agent: &str, hit: &str) -> Result<()> {
    let mut child = Command::new(agent).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
    let (stdin, stdout) = (child.stdin.take().context("no input")?, child.stdout.take().context("no output")?);
    let of = |way: Way| (fault.way == way).then(|| (fault, hit.to_owned()));
    let (up, down) = (of(Way::Up), of(Way::Down));
    std::thread::spawn(move || match carry(std::io::stdin(), stdin, up) {
        End::Cut => lost(),
        End::Closed if fault.fate == Fate::Stall => {
            // Nor does it report the agent's end to whoever writes.
            let _ = std::io::copy(&mut std::io::stdin(), &mut std::io::sink());
            std::process::exit(0);
        }
        End::Closed => {}
    });
    match carry(stdout, std::io::stdout(), down) {
        End::Cut => lost(),
        End::Closed if fault.fate != Fate::Stall => std::process::exit(0),
        End::Closed => {}
    }
    child.wait()?;
    // A stalled connection does not report the agent's exit, either.
    if fault.way == Way::Down && fault.fate == Fate::Stall {
        loop {
            std::thread::park();
        }
    }
    Ok(())
}

/// How one direction ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    Closed,
    Cut,
}

fn carry(mut from: impl Read, mut to: impl Write, fault: Option<(Fault, String)>) -> End {
    for number in 0.. {
        let Ok(message) = message(&mut from, number == 0) else { return End::Closed };
        let fate = fault.as_ref().filter(|(fault, _)| fault.at == number).map(|(fault, hit)| {
            let _ = std::fs::write(hit, "");
            fault.fate
        });
        let passed = match fate {
            Some(Fate::Cut) => return End::Cut,
            Some(Fate::CutInside) => {
                let _ = to.write_all(&message[..message.len() / 2]).and_then(|()| to.flush());
                return End::Cut;
            }
            // Discard the rest until the sender gives up.
            Some(Fate::Stall) => {
                let _ = std::io::copy(&mut from, &mut std::io::sink());
                std::mem::forget(to);
                return End::Closed;
            }
            None => to.write_all(&message).and_then(|()| to.flush()),
        };
        if passed.is_err() {
            return End::Closed;
        }
    }
    End::Closed
}

/// The next message, with its delimiter.
fn message(from: &mut impl Read, is_line: bool) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    if is_line {
        while bytes.last() != Some(&b'\n') {
            let mut byte = [0];
            from.read_exact(&mut byte)?;
            bytes.extend(byte);
        }
        return Ok(bytes);
    }
    let mut length = [0; 4];
    from.read_exact(&mut length)?;
    let size = u32::from_be_bytes(length) as usize;
    if size > MAX_FRAME {
        return Err(ErrorKind::InvalidData.into());
    }
    bytes.extend(length);
    bytes.resize(4 + size, 0);
    from.read_exact(&mut bytes[4..])?;
    Ok(bytes)
}
