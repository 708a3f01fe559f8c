use proptest::prelude::*;

use super::*;
use crate::model::outcome::RefUpdate;

const HEX: &str = "0123456789abcdef0123456789abcdef01234567";

#[derive(Debug, thiserror::Error)]
#[error("host 'web1' is unreachable")]
struct Unreachable(#[source] io::Error);

/// Remembers what it was asked, reports the first ref as done and fails then, if told to.
#[derive(Default)]
struct Recorder {
    pushed: Vec<PushBatch>,
    finished: usize,
    fails: bool,
}

impl Recorder {
    fn result(&self) -> Result<(), Unreachable> {
        match self.fails {
            true => Err(Unreachable(io::Error::other("no route"))),
            false => Ok(()),
        }
    }
}

impl Backend for Recorder {
    type Error = Unreachable;

    fn offers(&mut self, _: &Options) -> Result<Vec<Offer>, Unreachable> {
        self.result().map(|()| Vec::new())
    }

    fn advertised(&mut self, _: &Options) -> Result<Vec<Advertised>, Unreachable> {
        self.result().map(|()| Vec::new())
    }

    fn push(&mut self, batch: &PushBatch, _: &Options, report: &mut RefReport) -> Result<(), Unreachable> {
        self.pushed.push(batch.clone());
        let done = RefOutcome::Done { old: None, new: None, update: RefUpdate::FastForward };
        report.set(batch.commands()[0].dst.as_ref(), done).unwrap();
        self.result()
    }

    fn finish(&mut self, _: &Options) -> Result<(), Unreachable> {
        self.finished += 1;
        Ok(())
    }
}

fn dialogue(input: impl AsRef<[u8]>, backend: &mut Recorder) -> (Result<End, ServeError<Unreachable>>, String) {
    let mut output = Vec::new();
    let end = serve(&mut input.as_ref(), &mut output, backend);
    (end, String::from_utf8(output).unwrap())
}

#[test]
fn an_end_of_input_in_a_batch_does_nothing() {
    let whole = "push a:refs/heads/a\npush b:refs/heads/b\n\n";
    for cut in 0..whole.len() {
        let mut backend = Recorder::default();
        let (end, output) = dialogue(&whole[..cut], &mut backend);
        assert_eq!(end.unwrap(), End::HungUp, "cut at {cut}");
        assert!(backend.pushed.is_empty() && output.is_empty(), "cut at {cut}");
    }
    let whole = format!("fetch {HEX} refs/heads/a\n\n");
    for cut in 0..whole.len() {
        let (end, output) = dialogue(&whole[..cut], &mut Recorder::default());
        assert_eq!((end.unwrap_or(End::HungUp), &output[..]), (End::HungUp, ""), "cut at {cut}");
    }
}

#[test]
fn a_failed_push_reports_the_reason_for_the_refs_that_are_left() {
    let mut backend = Recorder { fails: true, ..Recorder::default() };
    let (end, output) = dialogue("push a:refs/heads/a\npush b:refs/heads/b\n\n\n", &mut backend);
    assert_eq!(end.unwrap(), End::Finished);
    assert_eq!(output, "ok refs/heads/a\nerror refs/heads/b host 'web1' is unreachable: no route\n\n");
}

#[test]
fn a_ref_that_the_backend_forgot_is_an_error() {
    let (_, output) = dialogue("push a:refs/heads/a\npush b:refs/heads/b\n\n\n", &mut Recorder::default());
    assert_eq!(output, "ok refs/heads/a\nerror refs/heads/b not attempted\n\n");
}

#[test]
fn a_bad_option_refuses_each_ref_and_asks_no_host() {
    let mut backend = Recorder::default();
    let (_, output) = dialogue("option push-option typo\npush a:refs/heads/a\n\n\n", &mut backend);
    assert_eq!(output, "ok\nerror refs/heads/a unknown push option 'typo'\n\n");
    assert!(backend.pushed.is_empty());
}

#[test]
fn a_failed_list_ends_the_dialogue_without_an_answer() {
    for input in ["list\n\n", "list for-push\n\n"] {
        let mut backend = Recorder { fails: true, ..Recorder::default() };
        let (end, output) = dialogue(input, &mut backend);
        assert!(matches!(end, Err(ServeError::Backend(_))), "{input}");
        assert_eq!(output, "", "{input}");
    }
}

#[test]
fn capabilities_are_what_the_helper_does() {
    let (end, output) = dialogue("capabilities\n\n", &mut Recorder::default());
    assert_eq!(end.unwrap(), End::Finished);
    assert_eq!(output, "option\npush\nfetch\nobject-format\n\n");
}

#[test]
fn the_summary_comes_only_when_git_is_done() {
    let mut backend = Recorder::default();
    let _ = dialogue("push a:refs/heads/a\n\n", &mut backend);
    assert_eq!(backend.finished, 0);
    let _ = dialogue("push a:refs/heads/a\n\n\n", &mut backend);
    assert_eq!(backend.finished, 1);
}

#[test]
fn a_batch_of_fetches_is_answered_once() {
    let line = format!("fetch {HEX} HEAD\n");
    let (end, output) = dialogue(format!("{line}{line}\n\n"), &mut Recorder::default());
    assert_eq!((end.unwrap(), &output[..]), (End::Finished, "\n"));
}

#[test]
fn an_endless_line_is_refused() {
    let (end, _) = dialogue(vec![b'x'; MAX_LINE + 10], &mut Recorder::default());
    assert!(matches!(end, Err(ServeError::TooLong)));
}

#[test]
fn a_command_in_the_middle_of_a_batch_is_refused() {
    let mut backend = Recorder::default();
    let (end, _) = dialogue("push a:refs/heads/a\nlist\n\n", &mut backend);
    assert!(matches!(end, Err(ServeError::OutOfPlace("list"))));
    assert!(backend.pushed.is_empty());
}

proptest! {
    #[test]
    fn no_input_makes_it_panic(lines in prop::collection::vec(
        prop_oneof![
            any::<Vec<u8>>(),
            "(push|fetch|option|list|capabilities)?( .*)?".prop_map(String::into_bytes),
            "push \\+?[a-z]*:refs/heads/[a-c]".prop_map(String::into_bytes),
            Just(Vec::new()),
        ], 0..12)) {
        let _ = dialogue(lines.join(&b'\n'), &mut Recorder::default());
    }
}
