use proptest::prelude::*;

use super::*;
use crate::model::push_option::PushOptions;

fn rules(atomicity: Atomicity, options: &[&str]) -> Rules {
    let mut all = PushOptions::default();
    options.iter().for_each(|option| all.set(option.as_bytes()).unwrap());
    Rules { atomicity, unreachable: all.unreachable, waves: all.waves }
}

fn per_host(options: &[&str]) -> Rules {
    rules(Atomicity::PerHost, options)
}

fn atomic(options: &[&str]) -> Rules {
    rules(Atomicity::AllOrNothing, options)
}

const DONE: Input = Input::Ended(Ending::Done);
const FAILED: Input = Input::Ended(Ending::Failed);
const UNREACHABLE: Input = Input::Ended(Ending::Unreachable);

/// All steps that follow from these, in order.
fn all(decision: &mut Decision, input: &[(usize, Input)]) -> Steps {
    input.iter().flat_map(|(at, input)| decision.apply(*at, *input)).collect()
}

/// So many hosts, all of which are prepared, and the first wave was told to activate.
fn begun(hosts: usize, rules: Rules) -> Decision {
    let mut decision = Decision::new(hosts, rules);
    (0..hosts).for_each(|at| drop(decision.apply(at, Input::Prepared)));
    decision
}

#[test]
fn nobody_activates_before_everybody_is_prepared() {
    let mut decision = Decision::new(2, per_host(&[]));
    assert_eq!(decision.apply(0, Input::Prepared), []);
    assert_eq!(decision.apply(1, Input::Prepared), [(0, Step::Activate), (1, Step::Activate)]);
    assert_eq!(all(&mut decision, &[(0, FAILED), (1, DONE)]), []);
    assert!(decision.is_over());
}

#[test]
fn a_failure_before_the_barrier_cancels_the_others() {
    for failure in [FAILED, UNREACHABLE, DONE] {
        let mut decision = Decision::new(3, per_host(&[]));
        decision.apply(0, Input::Prepared);
        assert_eq!(decision.apply(1, failure), [(0, Step::Cancel), (2, Step::Cancel)]);
        assert_eq!(all(&mut decision, &[(2, Input::Prepared), (2, FAILED), (0, FAILED)]), []);
        assert!(decision.is_over());
    }
}

#[test]
fn who_can_not_be_reached_is_left_out_if_that_was_asked_for() {
    let mut decision = Decision::new(3, per_host(&["skip-unreachable", "waves=1"]));
    assert_eq!(all(&mut decision, &[(0, UNREACHABLE), (1, Input::Prepared)]), []);
    assert_eq!(decision.apply(2, Input::Prepared), [(1, Step::Activate)], "the canary is one that can be reached");
    assert_eq!(decision.apply(1, DONE), [(2, Step::Activate)]);
    assert_eq!(decision.apply(2, UNREACHABLE), [], "too late to be left out");
    assert!(decision.is_over() && decision.is_skipped(0) && !decision.is_skipped(2));

    let mut decision = Decision::new(2, per_host(&["skip-unreachable"]));
    assert_eq!(all(&mut decision, &[(0, UNREACHABLE), (1, UNREACHABLE)]), []);
    assert!(decision.is_over());
    let mut decision = Decision::at_once(Unreachable::IsSkipped);
    decision.apply(0, UNREACHABLE);
    assert!(decision.is_skipped(0));
}

#[test]
fn a_wave_begins_when_the_one_before_is_done_and_the_first_failure_is_the_last() {
    let mut decision = begun(5, per_host(&["waves=1,60%"]));
    assert_eq!(decision.apply(0, DONE), [(1, Step::Activate), (2, Step::Activate)]);
    assert_eq!(decision.apply(1, FAILED), [(3, Step::Cancel), (4, Step::Cancel)]);
    assert_eq!(all(&mut decision, &[(2, DONE), (3, FAILED), (4, FAILED)]), []);
    assert!(decision.is_over());
}

#[test]
fn a_later_wave_that_does_not_hold_out_stops_the_waves() {
    let mut decision = begun(3, per_host(&["waves=1"]));
    assert_eq!(decision.apply(2, UNREACHABLE), [(1, Step::Cancel)]);
    assert_eq!(decision.apply(0, DONE), []);
}

#[test]
fn all_or_nothing_keeps_when_all_waves_are_healthy_and_releases_when_all_have_kept() {
    let mut decision = begun(3, atomic(&["waves=1"]));
    assert_eq!(decision.apply(0, Input::Healthy), [(1, Step::Activate), (2, Step::Activate)]);
    assert_eq!(decision.apply(2, Input::Healthy), []);
    assert_eq!(decision.apply(1, Input::Healthy), [(0, Step::Keep), (1, Step::Keep), (2, Step::Keep)]);
    assert_eq!(all(&mut decision, &[(0, Input::Kept), (1, Input::Lost), (2, Input::Kept)]), []);
    // It has kept it, and needs no release: it waited for none when its connection was lost.
    assert_eq!(decision.apply(1, DONE), [(0, Step::Release), (2, Step::Release)]);
    assert_eq!(all(&mut decision, &[(0, DONE), (2, DONE)]), []);
    assert!(decision.is_over());
}

#[test]
fn a_host_that_the_order_to_keep_it_did_not_reach_is_told_again() {
    let mut decision = begun(2, atomic(&[]));
    let steps = all(&mut decision, &[(0, Input::Healthy), (1, Input::Healthy), (0, Input::Kept), (1, Input::Lost)]);
    assert_eq!(steps, [(0, Step::Keep), (1, Step::Keep)]);
    assert_eq!(decision.apply(1, Input::Healthy), [(1, Step::Keep)]);
    assert_eq!(decision.apply(1, Input::Kept), [(0, Step::Release), (1, Step::Release)]);
}

#[test]
fn one_failure_after_activation_takes_all_back() {
    for failure in [FAILED, Input::Lost] {
        let mut decision = begun(4, atomic(&["waves=3"]));
        decision.apply(0, Input::Healthy);
        let steps = decision.apply(1, failure);
        let reverted = steps.iter().filter(|(_, step)| *step == Step::Revert).map(|(at, _)| *at);
        let expected = if failure == FAILED { vec![0, 2] } else { vec![0, 1, 2] };
        assert_eq!(reverted.collect::<Vec<_>>(), expected);
        assert!(steps.contains(&(3, Step::Cancel)));
        assert_eq!(all(&mut decision, &[(2, Input::Healthy), (0, FAILED), (2, FAILED), (3, FAILED)]), []);
    }
}

#[test]
fn one_that_did_not_keep_it_takes_back_those_that_have() {
    let mut decision = begun(3, atomic(&[]));
    all(&mut decision, &[(0, Input::Healthy), (1, Input::Healthy), (2, Input::Healthy)]);
    all(&mut decision, &[(0, Input::Kept), (1, Input::Lost)]);
    assert_eq!(decision.apply(1, FAILED), [(0, Step::Revert), (2, Step::Revert)]);
    assert_eq!(all(&mut decision, &[(2, Input::Kept), (0, FAILED), (2, FAILED)]), []);
}

#[test]
fn an_interruption_cancels_before_and_reverts_after_but_not_once_all_keep() {
    let mut decision = Decision::new(2, per_host(&[]));
    decision.apply(0, Input::Prepared);
    assert_eq!(decision.interrupt(), [(0, Step::Cancel), (1, Step::Cancel)]);
    assert_eq!(decision.interrupt(), []);
    assert_eq!(Decision::at_once(Unreachable::Fails).interrupt(), [(0, Step::Cancel)]);
    let mut decision = begun(2, atomic(&[]));
    assert_eq!(decision.interrupt(), [(0, Step::Revert), (1, Step::Revert)]);
    let mut decision = begun(2, atomic(&[]));
    all(&mut decision, &[(0, Input::Healthy), (1, Input::Healthy)]);
    assert_eq!(decision.interrupt(), []);
}

#[test]
fn a_host_that_claims_what_it_was_not_told_to_do_changes_nothing() {
    let mut decision = Decision::new(2, atomic(&[]));
    let lies = [Input::Healthy, Input::Kept, Input::Lost];
    lies.iter().for_each(|lie| assert_eq!(decision.apply(0, *lie), []));
    decision.apply(0, Input::Prepared);
    assert_eq!(decision.apply(1, Input::Prepared).len(), 2);
}

/// What a simulated host does next, when it is its turn: go on, or one of the ways to fail.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Turn {
    GoOn,
    Fail,
    LoseLink,
}

/// A host that does what it is told, if it does not fail.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Host {
    Preparing,
    Prepared,
    Active,
    Healthy,
    Keeping,
    Kept,
    /// It has ended, and whether it runs the new deployment then.
    Ended {
        new: bool,
    },
}

struct Simulation {
    decision: Decision,
    hosts: Vec<Host>,
    /// Which hosts were told to activate, in order; where a failure was reported.
    activated: Vec<usize>,
    told: Vec<Vec<Step>>,
    is_atomic: bool,
}

impl Simulation {
    fn carry_out(&mut self, steps: Steps) {
        let mut left: std::collections::VecDeque<_> = steps.into();
        while let Some((at, step)) = left.pop_front() {
            assert!(!matches!(self.hosts[at], Host::Ended { .. }), "{at} has ended, and is told {step:?}");
            self.told[at].push(step);
            match (step, self.hosts[at]) {
                (Step::Activate, Host::Prepared) => {
                    let all_prepared = self.hosts.iter().all(|host| *host != Host::Preparing);
                    assert!(all_prepared, "{at} activates before all are prepared: {:?}", self.hosts);
                    self.activated.push(at);
                    self.hosts[at] = Host::Active;
                }
                (Step::Keep, Host::Healthy) => self.hosts[at] = Host::Keeping,
                (Step::Release, Host::Kept) => left.extend(self.end(at, true)),
                (Step::Cancel, Host::Preparing | Host::Prepared) => left.extend(self.end(at, false)),
                (Step::Revert, Host::Active | Host::Healthy | Host::Keeping | Host::Kept) if self.is_atomic => {
                    left.extend(self.end(at, false));
                }
                (step, host) => panic!("{at} is {host:?}, and is told {step:?}"),
            }
        }
    }

    fn end(&mut self, at: usize, new: bool) -> Steps {
        self.hosts[at] = Host::Ended { new };
        self.decision.apply(at, if new { DONE } else { FAILED })
    }

    fn turn(&mut self, at: usize, turn: Turn) {
        let steps = match (self.hosts[at], turn) {
            (Host::Ended { .. }, _) => return,
            (Host::Preparing, Turn::GoOn) => {
                self.hosts[at] = Host::Prepared;
                self.decision.apply(at, Input::Prepared)
            }
            (Host::Preparing | Host::Prepared, Turn::LoseLink) => {
                self.hosts[at] = Host::Ended { new: false };
                self.decision.apply(at, UNREACHABLE)
            }
            (Host::Active, Turn::GoOn) if self.is_atomic => {
                self.hosts[at] = Host::Healthy;
                self.decision.apply(at, Input::Healthy)
            }
            (Host::Active, Turn::GoOn | Turn::LoseLink) if !self.is_atomic => self.end(at, true),
            (Host::Keeping, Turn::GoOn) => {
                self.hosts[at] = Host::Kept;
                self.decision.apply(at, Input::Kept)
            }
            // The order did not arrive, and whoever asks is told that it is waited for.
            (Host::Keeping, Turn::LoseLink) => {
                self.hosts[at] = Host::Healthy;
                let steps = self.decision.apply(at, Input::Lost);
                self.carry_out(steps);
                self.decision.apply(at, Input::Healthy)
            }
            // The verdict is durable: it is kept without a release in the end.
            (Host::Kept, Turn::LoseLink) => self.end(at, true),
            (Host::Kept, Turn::Fail) | (Host::Prepared | Host::Healthy | Host::Kept, Turn::GoOn) => return,
            (_, Turn::Fail | Turn::LoseLink | Turn::GoOn) => self.end(at, false),
        };
        self.carry_out(steps);
    }
}

proptest! {
    #[test]
    fn whatever_happens_nobody_goes_too_early_and_all_come_to_an_end(
        is_atomic in any::<bool>(),
        hosts in 1usize..7,
        waves in prop_oneof![Just("waves=1"), Just("waves=1,50%"), Just("waves=2,3,4"), Just("waves=100%")],
        skips in any::<bool>(),
        turns in prop::collection::vec((0usize..7, prop_oneof![
            12 => Just(Turn::GoOn), 1 => Just(Turn::Fail), 1 => Just(Turn::LoseLink),
        ]), 0..60),
    ) {
        let mut rules = rules(if is_atomic { Atomicity::AllOrNothing } else { Atomicity::PerHost }, &[waves]);
        rules.unreachable = if skips && !is_atomic { Unreachable::IsSkipped } else { Unreachable::Fails };
        let mut simulation = Simulation {
            decision: Decision::new(hosts, rules),
            hosts: vec![Host::Preparing; hosts],
            activated: Vec::new(),
            told: vec![Vec::new(); hosts],
            is_atomic,
        };
        turns.iter().for_each(|(at, turn)| simulation.turn(at % hosts, *turn));
        // From here on nothing fails any more.
        for _ in 0..6 * hosts {
            (0..hosts).for_each(|at| simulation.turn(at, Turn::GoOn));
        }
        prop_assert!(simulation.decision.is_over(), "{:?}", simulation.hosts);
        prop_assert!(simulation.activated.is_sorted(), "in the order of the waves: {:?}", simulation.activated);
        for steps in &simulation.told {
            let ends = steps.iter().filter(|step| matches!(step, Step::Cancel | Step::Revert | Step::Release));
            prop_assert!(ends.count() <= 1, "{steps:?}");
        }
        let new = |host: &Host| *host == Host::Ended { new: true };
        let lost_after_kept = turns.iter().any(|(_, turn)| *turn == Turn::LoseLink);
        if is_atomic && !lost_after_kept {
            let count = simulation.hosts.iter().filter(|host| new(host)).count();
            prop_assert!(count == 0 || count == hosts, "{:?}", simulation.hosts);
        }
    }
}
