//! The state of each host, as lines. Pure.

use std::time::Duration;

use deptool_agent::shared::{name::HostName, outcome::Phase, text::printable};

use super::Size;
use crate::ui::columns::cut;

/// If there are more hosts, they are counted.
pub const MANY: usize = 20;
/// Show at most this many hosts below the counts.
const NOTABLE: usize = 10;
/// After this time, the line shows how long the host has been in its state.
const SLOW: Duration = Duration::from_secs(3);

/// The state of a host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum State {
    /// It waits for its turn.
    Queued,
    Connecting,
    /// ssh asks the operator something.
    Prompting,
    /// Another deployment holds the host's lock.
    Waiting,
    /// The agent is being uploaded.
    Installing,
    /// The host is asked what it runs.
    Asking,
    At(Phase),
    /// It waits for this unit or health probe.
    WaitsFor(String),
    Done,
    /// It ended in another way, in one line.
    Failed(String),
    /// It was cancelled because of another host.
    NotAttempted,
}

/// Whether ssh may ask about the host's key on this terminal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FirstContact {
    /// There was a connection to the host before, so its key is known.
    No,
    /// This is the first contact, so ssh may ask.
    Possible,
}

/// A host to be shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Host {
    pub name: HostName,
    pub first_contact: FirstContact,
}

/// The states of all hosts.
#[derive(Debug)]
pub struct Board(Vec<Row>);

#[derive(Debug)]
struct Row {
    host: Host,
    state: State,
    /// Since when, counted from the start.
    since: Duration,
}

impl Board {
    /// All hosts are queued.
    pub fn new(hosts: Vec<Host>) -> Board {
        let row = |host| Row { host, state: State::Queued, since: Duration::ZERO };
        Board(hosts.into_iter().map(row).collect())
    }

    /// Set the state of the host with index `at`. `now` is counted from the start.
    pub fn set(&mut self, at: usize, state: State, now: Duration) {
        let Some(row) = self.0.get_mut(at) else { return };
        if row.state != state {
            (row.state, row.since) = (state, now);
        }
    }

    /// Whether ssh may be asking, so that drawing the block would erase the question.
    pub fn is_being_asked(&self) -> bool {
        let may_ask = |row: &Row| row.state == State::Connecting && row.host.first_contact == FirstContact::Possible;
        self.0.iter().any(|row| row.state == State::Prompting || may_ask(row))
    }

    /// The block at `now`. If there are few hosts and they fit, each has a line. Otherwise they are counted, and hosts
    /// that failed or are slow have a line. Lines are shorter than the terminal is wide.
    pub fn lines(&self, size: Size, now: Duration) -> Vec<String> {
        // The line below the block is for the cursor.
        let room = usize::from(size.rows).saturating_sub(1).max(1);
        let lines = match self.0.len() <= room.min(MANY) {
            true => self.0.iter().map(|row| row.line(now)).collect(),
            false => self.summary(room, now),
        };
        lines.iter().map(|line| cut(line, usize::from(size.columns).saturating_sub(1), "…")).collect()
    }

    fn summary(&self, room: usize, now: Duration) -> Vec<String> {
        let mut counts: Vec<(usize, &str, usize)> = Vec::new();
        for row in &self.0 {
            let (order, word) = row.state.kind();
            match counts.iter_mut().find(|(known, ..)| *known == order) {
                Some((_, _, count)) => *count += 1,
                None => counts.push((order, word, 1)),
            }
        }
        counts.sort();
        let counts: Vec<String> = counts.iter().map(|(_, word, count)| format!("{count} {word}")).collect();
        let mut lines = vec![format!("  {} hosts: {}", self.0.len(), counts.join(", "))];

        let mut notable: Vec<&Row> = self.0.iter().filter(|row| row.is_notable(now)).collect();
        // Failures first, then the slowest hosts.
        notable.sort_by_key(|row| (!matches!(row.state, State::Failed(_)), row.since));
        let fitting = NOTABLE.min(room - 1);
        let shown = if notable.len() > fitting { fitting.saturating_sub(1) } else { notable.len() };
        lines.extend(notable[..shown].iter().map(|row| row.line(now)));
        if fitting > 0 && shown < notable.len() {
            lines.push(format!("  … and {} more", notable.len() - shown));
        }
        lines
    }
}

impl Row {
    fn line(&self, now: Duration) -> String {
        let took = now.saturating_sub(self.since);
        let line = format!("  {}: {}", self.host.name, printable(self.state.words().as_bytes()));
        if self.state.is_work() && took >= SLOW { format!("{line} ({} s)", took.as_secs()) } else { line }
    }

    fn is_notable(&self, now: Duration) -> bool {
        match self.state {
            State::Failed(_) => true,
            _ => self.state.is_work() && now.saturating_sub(self.since) >= SLOW,
        }
    }
}

impl State {
    /// The state in words, for one host.
    fn words(&self) -> String {
        match self {
            State::Failed(why) => why.clone(),
            State::WaitsFor(what) => format!("waiting for {what}"),
            _ => self.kind().1.to_owned(),
        }
    }

    /// The position of the state in the order, and its word in the counts.
    fn kind(&self) -> (usize, &'static str) {
        match self {
            State::Queued => (0, "waiting to connect"),
            State::Waiting => (1, "waiting for another deployment"),
            State::Connecting => (2, "connecting"),
            State::Prompting => (2, "connecting"),
            State::Installing => (3, "installing the agent"),
            State::Asking => (4, "being asked"),
            // The phases are declared in their order.
            State::At(phase) => (5 + *phase as usize, phase.word()),
            State::WaitsFor(_) => (5 + Phase::Settling as usize, Phase::Settling.word()),
            State::Done => (100, "done"),
            State::Failed(_) => (101, "failed"),
            State::NotAttempted => (102, "not attempted"),
        }
    }

    /// Whether the host itself is at work, so that taking long means to be slow.
    fn is_work(&self) -> bool {
        match self {
            State::Connecting | State::Installing | State::Asking | State::WaitsFor(_) => true,
            State::At(phase) => match phase {
                Phase::Preparing | Phase::Activating | Phase::Settling | Phase::RollingBack | Phase::Finishing => true,
                Phase::Prepared | Phase::AwaitingVerdict | Phase::AwaitingConfirmation | Phase::AwaitingRelease => {
                    false
                }
            },
            State::Queued
            | State::Prompting
            | State::Waiting
            | State::Done
            | State::Failed(_)
            | State::NotAttempted => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WIDE: Size = Size { columns: 100, rows: 40 };

    fn seconds(count: u64) -> Duration {
        Duration::from_secs(count)
    }

    fn board(names: &[&str]) -> Board {
        let host =
            |name: &&str| Host { name: HostName::parse(name.as_bytes()).unwrap(), first_contact: FirstContact::No };
        Board::new(names.iter().map(host).collect())
    }

    fn many(count: usize) -> Board {
        let names: Vec<String> = (0..count).map(|n| format!("web{n}")).collect();
        board(&names.iter().map(String::as_str).collect::<Vec<_>>())
    }

    #[test]
    fn each_host_has_a_line_that_says_how_far_it_is() {
        let mut board = board(&["web1", "web2", "db", "ns1", "ns2"]);
        board.set(0, State::Connecting, seconds(0));
        board.set(1, State::Installing, seconds(1));
        board.set(2, State::At(Phase::Settling), seconds(2));
        board.set(3, State::Failed("rolled back: nsd.service failed".into()), seconds(3));
        let expected = "  web1: connecting (4 s)\n  web2: installing the agent (3 s)\n  db: settling\n  \
                        ns1: rolled back: nsd.service failed\n  ns2: waiting to connect";
        assert_eq!(board.lines(WIDE, seconds(4)).join("\n"), expected);
        board.set(2, State::WaitsFor("slow.service".into()), seconds(4));
        assert_eq!(board.lines(WIDE, seconds(9))[2], "  db: waiting for slow.service (5 s)");
        board.set(2, State::Done, seconds(9));
        board.set(4, State::At(Phase::Prepared), seconds(9));
        let lines = board.lines(WIDE, seconds(60));
        assert_eq!(lines[2..], ["  db: done", "  ns1: rolled back: nsd.service failed", "  ns2: prepared"]);
    }

    #[test]
    fn many_hosts_are_counted_and_those_that_failed_or_are_slow_are_named() {
        let mut board = many(500);
        for at in 0..400 {
            board.set(at, State::At(Phase::Prepared), seconds(1));
        }
        for at in 400..420 {
            board.set(at, State::Connecting, seconds(2));
        }
        board.set(7, State::Failed("unreachable: no route".into()), seconds(3));
        board.set(420, State::At(Phase::Preparing), seconds(0));
        let expected = "  500 hosts: 79 waiting to connect, 20 connecting, 1 preparing, 399 prepared, 1 failed\n  \
                        web7: unreachable: no route\n  web420: preparing (4 s)";
        assert_eq!(board.lines(WIDE, seconds(4)).join("\n"), expected);
        let lines = board.lines(WIDE, seconds(9));
        assert_eq!(lines.len(), 1 + NOTABLE);
        assert_eq!(lines[3], "  web400: connecting (7 s)");
        assert_eq!(lines[NOTABLE], "  … and 13 more");
    }

    #[test]
    fn the_block_fits_into_the_terminal_however_small() {
        let mut board = many(30);
        for at in 0..30 {
            board.set(at, State::Failed("rolled back: 日本語のサービス failed".into()), seconds(at as u64));
        }
        for rows in 0..35 {
            for columns in 0..45 {
                let lines = board.lines(Size { columns, rows }, seconds(40));
                assert!(lines.len() < usize::from(rows).max(2), "{rows}: {lines:#?}");
                for line in lines {
                    let width = crate::ui::columns::columns(&line);
                    assert!(width < usize::from(columns).max(1), "{columns}: {line}");
                }
            }
        }
        let few = self::board(&["web1", "web2", "web3"]);
        assert_eq!(few.lines(Size { columns: 80, rows: 3 }, seconds(0)), ["  3 hosts: 3 waiting to connect"]);
    }

    #[test]
    fn nothing_that_a_host_says_moves_the_cursor() {
        let mut board = board(&["web1", "web2"]);
        board.set(0, State::Failed("a\x1b[2Jb\r\nc\u{202e}".into()), seconds(0));
        assert_eq!(board.lines(WIDE, seconds(0))[0], "  web1: a\\x1b[2Jb\\r\\nc\\u{202e}");
    }

    #[test]
    fn a_question_about_a_new_hosts_key_is_not_wiped_away() {
        let mut board = board(&["web1", "web2"]);
        board.0[1].host.first_contact = FirstContact::Possible;
        board.set(0, State::Connecting, seconds(0));
        assert!(!board.is_being_asked());
        board.set(1, State::Connecting, seconds(0));
        assert!(board.is_being_asked());
        board.set(1, State::At(Phase::Preparing), seconds(0));
        assert!(!board.is_being_asked());
    }
}
