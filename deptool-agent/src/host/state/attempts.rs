//! The attempts log: every deployment that was activated, and how it ended, as one JSON object per line.
//!
//! Lines that can't be parsed are skipped. If something else than a regular file is in the log's place, the log counts as
//! empty, until the next agent that holds the lock moves it away.

use std::{
    fs::File,
    io::{self, Read, Seek, SeekFrom, Write},
};

use crate::{
    host::state::{
        durable::{self, Writing},
        error::{Context, HostError},
        layout::Home,
    },
    shared::{
        id::DeploymentId,
        outcome::{Attempt, AttemptResult},
    },
};

/// A log that is longer than `MOST` bytes is shortened to its last `KEPT` bytes.
const MOST: u64 = 256 * 1024;
const KEPT: usize = 128 * 1024;
/// `RECENT` bytes at the end are read first, because they have the last attempts. No more than `ALL` bytes are ever read.
const RECENT: u64 = 4 * 1024;
const ALL: u64 = 2 * MOST;

/// Add `attempt` to the log, unless it already is the last one. The caller syncs the file system.
pub fn record(home: &Home, attempt: &Attempt) -> Result<(), HostError> {
    if latest(home, 1)?.first() == Some(attempt) {
        return Ok(());
    }
    let path = home.attempts();
    shorten(home)?;
    let mut line = serde_json::to_vec(attempt).map_err(|error| HostError::refused(error.to_string()))?;
    line.push(b'\n');
    let mut file = durable::open_to_write(&path, Writing::Append)?;
    // A crash may have left half a line. Do not append to it.
    if !ends_with_newline(&mut file).during("read", &path)? {
        line.insert(0, b'\n');
    }
    file.write_all(&line).during("write", &path)
}

/// Shorten a log that has become too long. The last deployment that was kept stays in it.
fn shorten(home: &Home) -> Result<(), HostError> {
    let path = home.attempts();
    let length = durable::open(&path)?.map_or(Ok(0), |file| file.metadata().map(|meta| meta.len()));
    if length.during("look at", &path)? <= MOST {
        return Ok(());
    }
    let log = end(home, ALL)?;
    let (before, kept) = log.split_at(log.len() - KEPT);
    let is_done = |log: &[u8]| newest_first(log).find(|attempt| attempt.result == AttemptResult::Done);
    let mut short = Vec::new();
    if is_done(kept).is_none()
        && let Some(done) = is_done(before)
    {
        short = serde_json::to_vec(&done).map_err(|error| HostError::refused(error.to_string()))?;
    }
    // The first line may be only half a line, which is skipped when it is read.
    short.push(b'\n');
    short.extend(kept);
    durable::replace(&path, &short)
}

fn ends_with_newline(file: &mut File) -> std::io::Result<bool> {
    if file.seek(SeekFrom::End(0))? == 0 {
        return Ok(true);
    }
    file.seek(SeekFrom::End(-1))?;
    let mut last = [0];
    file.read_exact(&mut last)?;
    Ok(last == *b"\n")
}

/// The last `most` attempts, newest first.
pub fn latest(home: &Home, most: usize) -> Result<Vec<Attempt>, HostError> {
    let recent: Vec<Attempt> = newest_first(&end(home, RECENT)?).take(most).collect();
    if recent.len() == most {
        return Ok(recent);
    }
    Ok(newest_first(&end(home, ALL)?).take(most).collect())
}

/// The attempt with this id.
pub fn find(home: &Home, id: DeploymentId) -> Result<Option<Attempt>, HostError> {
    Ok(newest_first(&end(home, ALL)?).find(|attempt| attempt.id == id))
}

/// The last attempt that was kept.
pub fn last_done(home: &Home) -> Result<Option<Attempt>, HostError> {
    let is_done = |attempt: &Attempt| attempt.result == AttemptResult::Done;
    match newest_first(&end(home, RECENT)?).find(is_done) {
        Some(attempt) => Ok(Some(attempt)),
        None => Ok(newest_first(&end(home, ALL)?).find(is_done)),
    }
}

/// The last `most` bytes of the log. They may begin within a line.
fn end(home: &Home, most: u64) -> Result<Vec<u8>, HostError> {
    let path = home.attempts();
    let file = match durable::open(&path) {
        Ok(Some(file)) => file,
        Ok(None) | Err(HostError::Damaged(_)) => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let read = |mut file: File| -> io::Result<Vec<u8>> {
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(length.saturating_sub(most)))?;
        let mut bytes = Vec::with_capacity(length.min(most) as usize);
        file.take(most).read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    read(file).during("read", &path)
}

/// The attempts in the log. They are parsed lazily, because mostly only the last few are needed.
fn newest_first(log: &[u8]) -> impl Iterator<Item = Attempt> {
    log.split(|b| *b == b'\n').rev().filter_map(|line| serde_json::from_slice(line).ok())
}

#[cfg(test)]
mod tests {
    use std::fs::{self, OpenOptions};

    use super::*;
    use crate::shared::{name::ClusterName, outcome::Goal};

    fn attempt(when: i64, result: AttemptResult) -> Attempt {
        let cluster = ClusterName::parse(b"prod").unwrap();
        // The same time gives the same id.
        let id = format!("{when:032x}").parse().unwrap();
        Attempt { id, when, by: "carol".into(), cluster, from: None, to: Goal::Nothing, result, mended: Vec::new() }
    }

    #[test]
    fn attempts_are_remembered_once_newest_first_even_after_a_cut_line() {
        let directory = tempfile::tempdir().unwrap();
        let home = Home::new(directory.path());
        home.create().unwrap();
        record(&home, &attempt(1, AttemptResult::Done)).unwrap();
        record(&home, &attempt(1, AttemptResult::Done)).unwrap();
        let mut file = OpenOptions::new().append(true).open(home.attempts()).unwrap();
        file.write_all(b"{\"when\":").unwrap();
        record(&home, &attempt(2, AttemptResult::Interrupted)).unwrap();
        let whens: Vec<_> = latest(&home, 9).unwrap().iter().map(|a| a.when).collect();
        assert_eq!(whens, [2, 1]);
        let first = attempt(1, AttemptResult::Done);
        assert_eq!(find(&home, first.id).unwrap(), Some(first));
        assert_eq!(find(&home, attempt(3, AttemptResult::Done).id).unwrap(), None);
        assert_eq!(last_done(&home).unwrap().unwrap().when, 1);
    }

    #[test]
    fn the_log_does_not_grow_for_ever_and_knows_what_was_deployed_last() {
        let directory = tempfile::tempdir().unwrap();
        let home = Home::new(directory.path());
        home.create().unwrap();
        record(&home, &attempt(1, AttemptResult::Done)).unwrap();
        let line = |when| serde_json::to_string(&attempt(when, AttemptResult::Interrupted)).unwrap() + "\n";
        let mut log = fs::read_to_string(home.attempts()).unwrap();
        log.extend((2..2999).map(line));
        fs::write(home.attempts(), log).unwrap();
        record(&home, &attempt(2999, AttemptResult::Interrupted)).unwrap();
        assert!(fs::metadata(home.attempts()).unwrap().len() < 2 * KEPT as u64);
        let latest = latest(&home, 100).unwrap();
        assert_eq!(
            latest.iter().map(|attempt| attempt.when).collect::<Vec<_>>(),
            (2900..3000).rev().collect::<Vec<_>>()
        );
        assert_eq!(last_done(&home).unwrap().unwrap().when, 1);
    }
}
