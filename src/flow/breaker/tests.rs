use std::collections::BTreeSet;
use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::clock::Clock;
use crate::prop::cases;

const SECOND: Duration = Duration::from_secs(1);

/// A breaker with its time, so that a test reads like a story.
struct Bench {
    breaker: CircuitBreaker,
    now: Instant,
}

impl Bench {
    fn new(config: BreakerConfig) -> Self {
        Self {
            breaker: CircuitBreaker::new(config, Random::seeded(11)),
            now: Clock::system().now(),
        }
    }

    /// Defaults, with open times that are exact.
    fn exact() -> Self {
        Self::new(BreakerConfig::default().jitter(0.0).unwrap())
    }

    fn open() -> Self {
        let mut bench = Self::exact();
        for key in 0..5 {
            bench.fail(key);
        }
        assert!(matches!(bench.state(), BreakerState::Open { .. }));
        bench
    }

    fn half_open() -> Self {
        let mut bench = Self::open();
        bench.now += SECOND * 30;
        assert_eq!(bench.state(), BreakerState::HalfOpen);
        bench
    }

    fn state(&self) -> BreakerState {
        self.breaker.state(self.now)
    }

    fn admit(&mut self) -> Admission {
        self.breaker.admit(self.now)
    }

    fn run(&mut self) -> Ticket {
        match self.admit() {
            Admission::Run(ticket) => {
                assert!(!ticket.is_probe());
                ticket
            }
            other => panic!("expected a run, not {other:?}"),
        }
    }

    fn probe(&mut self) -> Ticket {
        match self.admit() {
            Admission::Probe(ticket) => {
                assert!(ticket.is_probe());
                ticket
            }
            other => panic!("expected a probe, not {other:?}"),
        }
    }

    fn record(&mut self, ticket: Ticket, key: u64, verdict: Verdict) -> Recorded {
        self.breaker.record(self.now, ticket, key, verdict)
    }

    fn fail(&mut self, key: u64) -> Recorded {
        let ticket = self.run();
        self.record(ticket, key, Verdict::Failure)
    }

    fn succeed(&mut self) -> Recorded {
        let ticket = self.run();
        self.record(ticket, 0, Verdict::Success)
    }

    fn open_time(&self) -> Duration {
        match self.state() {
            BreakerState::Open { until } => until - self.now,
            other => panic!("expected it open, not {other:?}"),
        }
    }
}

const NOTHING: Recorded = Recorded {
    counts_as_attempt: false,
    transition: None,
};

#[test]
fn inv04_the_failure_that_opens_it_and_those_that_end_while_it_is_open_are_no_attempts() {
    let mut bench = Bench::exact();
    let started_before: Vec<Ticket> = (0..3).map(|_| bench.run()).collect();
    for key in 0..4 {
        assert!(bench.fail(key).counts_as_attempt);
    }
    let opening = bench.fail(4);
    assert_eq!(opening.transition, Some(Transition::Opened));
    assert!(!opening.counts_as_attempt);
    assert_eq!(bench.record(started_before[0], 5, Verdict::Failure), NOTHING);

    bench.now += SECOND * 30;
    let late = bench.record(started_before[1], 6, Verdict::Failure);
    assert_eq!(late.transition, Some(Transition::HalfOpened));
    assert!(!late.counts_as_attempt);
    let _probe = bench.probe();
    assert_eq!(bench.record(started_before[2], 7, Verdict::Failure), NOTHING);
    assert_eq!(bench.state(), BreakerState::HalfOpen);
}

#[test]
fn inv04_failed_probes_are_no_attempts() {
    let mut bench = Bench::half_open();
    for _ in 0..10 {
        let probe = bench.probe();
        let failed = bench.record(probe, 1, Verdict::Failure);
        assert_eq!(failed.transition, Some(Transition::Opened));
        assert!(!failed.counts_as_attempt);
        bench.now += SECOND * 300;
    }
}

#[test]
fn inv04_a_probe_that_fails_after_it_was_forgotten_is_no_attempt_either() {
    let mut bench = Bench::half_open();
    let lost = bench.probe();
    bench.breaker.forget(bench.now, lost);
    for _ in 0..3 {
        let probe = bench.probe();
        bench.record(probe, 1, Verdict::Success);
    }
    assert_eq!(bench.state(), BreakerState::Closed);
    assert_eq!(bench.record(lost, 1, Verdict::Failure), NOTHING);
}

#[test]
fn inv04_while_open_nothing_is_let_through() {
    let mut bench = Bench::open();
    let until = bench.now + bench.open_time();
    for _ in 0..29 {
        bench.now += SECOND;
        assert_eq!(bench.admit(), Admission::Wait { until: Some(until) });
    }
    bench.now += SECOND;
    bench.probe();
}

#[test]
fn one_poison_pill_does_not_open_it_by_failures_in_a_row_nor_by_their_share() {
    let mut bench = Bench::exact();
    for _ in 0..500 {
        assert_eq!(
            bench.fail(7),
            Recorded {
                counts_as_attempt: true,
                transition: None
            }
        );
    }
    bench.fail(8);
    assert_eq!(bench.state(), BreakerState::Closed);
    bench.fail(9);
    assert!(matches!(bench.state(), BreakerState::Open { .. }));
}

#[test]
fn half_of_twenty_outcomes_open_it_though_successes_come_between() {
    let mut bench = Bench::exact();
    for n in 0..10 {
        bench.succeed();
        assert_eq!(bench.state(), BreakerState::Closed, "after {n} failures");
        bench.fail(n);
        bench.now += SECOND;
    }
    assert!(matches!(bench.state(), BreakerState::Open { .. }));
}

#[test]
fn outcomes_older_than_the_window_do_not_count() {
    let mut bench = Bench::exact();
    for n in 0..200 {
        bench.succeed();
        bench.fail(n);
        bench.now += SECOND * 4;
    }
    assert_eq!(bench.state(), BreakerState::Closed);
}

#[test]
fn rejects_never_count_and_do_not_end_a_row() {
    let mut bench = Bench::exact();
    for key in 0..1_000 {
        let ticket = bench.run();
        assert!(bench.record(ticket, key, Verdict::Ignored).counts_as_attempt);
    }
    for key in 0..5 {
        bench.fail(key);
        if bench.state() == BreakerState::Closed {
            let ticket = bench.run();
            bench.record(ticket, key, Verdict::Ignored);
        }
    }
    assert!(matches!(bench.state(), BreakerState::Open { .. }));
}

#[test]
fn it_probes_one_at_a_time_and_closes_after_three_successes() {
    let mut bench = Bench::half_open();
    for n in 1..=3 {
        let probe = bench.probe();
        assert_eq!(bench.admit(), Admission::Wait { until: None });
        let recorded = bench.record(probe, n, Verdict::Success);
        assert_eq!(recorded.transition, (n == 3).then_some(Transition::Closed));
    }
    assert_eq!(bench.state(), BreakerState::Closed);
    assert!(bench.fail(1).counts_as_attempt);
    assert_eq!(bench.state(), BreakerState::Closed);
}

#[test]
fn a_success_of_a_run_from_before_the_outage_does_not_close_it() {
    let mut bench = Bench::exact();
    let old: Vec<Ticket> = (0..10).map(|_| bench.run()).collect();
    for key in 0..5 {
        bench.fail(key);
    }
    bench.now += SECOND * 30;
    let probe = bench.probe();
    for ticket in old {
        assert_eq!(bench.record(ticket, 0, Verdict::Success).transition, None);
        assert_eq!(bench.admit(), Admission::Wait { until: None });
    }
    assert_eq!(bench.record(probe, 0, Verdict::Success).transition, None);
    assert_eq!(bench.state(), BreakerState::HalfOpen);
}

#[test]
fn failures_of_an_older_generation_do_not_open_it_again() {
    let mut bench = Bench::exact();
    let old: Vec<Ticket> = (0..50).map(|_| bench.run()).collect();
    for key in 0..5 {
        bench.fail(key);
    }
    bench.now += SECOND * 30;
    for _ in 0..3 {
        let probe = bench.probe();
        bench.record(probe, 0, Verdict::Success);
    }
    for (key, ticket) in old.into_iter().enumerate() {
        let recorded = bench.record(ticket, key as u64, Verdict::Failure);
        assert!(recorded.counts_as_attempt);
        assert_eq!(recorded.transition, None);
    }
    assert_eq!(bench.state(), BreakerState::Closed);
}

#[test]
fn an_ignored_or_lost_probe_makes_room_for_the_next() {
    let mut bench = Bench::half_open();
    let rejected = bench.probe();
    assert_eq!(bench.record(rejected, 1, Verdict::Ignored), NOTHING);
    let lost = bench.probe();
    bench.breaker.forget(bench.now, lost);
    let third = bench.probe();
    // What was forgotten neither counts nor frees the place of the probe that is out.
    assert_eq!(bench.record(lost, 1, Verdict::Failure), NOTHING);
    bench.breaker.forget(bench.now, rejected);
    assert_eq!(bench.admit(), Admission::Wait { until: None });
    assert_eq!(bench.record(third, 1, Verdict::Success).transition, None);
    bench.probe();
}

#[test]
fn the_open_time_doubles_to_its_cap_and_starts_over_once_it_closed() {
    let mut bench = Bench::open();
    for seconds in [30, 60, 120, 240, 300, 300] {
        assert_eq!(bench.open_time(), SECOND * seconds);
        bench.now += SECOND * seconds;
        let probe = bench.probe();
        bench.record(probe, 1, Verdict::Failure);
    }
    bench.now += SECOND * 300;
    for _ in 0..3 {
        let probe = bench.probe();
        bench.record(probe, 1, Verdict::Success);
    }
    for key in 0..5 {
        bench.fail(key);
    }
    assert_eq!(bench.open_time(), SECOND * 30);
}

#[test]
fn jitter_shortens_open_times_by_a_fifth_at_most() {
    let mut seen = BTreeSet::new();
    let random = Random::seeded(2);
    for _ in 0..200 {
        let mut bench = Bench::new(BreakerConfig::default());
        bench.breaker.random = random.clone();
        for key in 0..5 {
            bench.fail(key);
        }
        let time = bench.open_time();
        assert!(time >= SECOND * 24 && time <= SECOND * 30, "{time:?}");
        seen.insert(time);
    }
    assert!(seen.len() > 150);
}

#[test]
fn the_turn_to_half_open_is_told_once() {
    let mut bench = Bench::open();
    assert_eq!(bench.breaker.turn(bench.now), None);
    bench.now += SECOND * 30;
    assert_eq!(bench.breaker.turn(bench.now), Some(Transition::HalfOpened));
    assert_eq!(bench.breaker.turn(bench.now), None);
}

#[test]
fn inv05_its_memory_does_not_grow_with_traffic() {
    let mut bench = Bench::new(BreakerConfig::default().failure_share(1.0, 1).unwrap());
    for key in 0..100_000 {
        bench.succeed();
        bench.fail(key);
        bench.now += Duration::from_millis(3);
    }
    let Phase::Closed(evidence) = &mut bench.breaker.phase else {
        panic!("half of the outcomes are successes");
    };
    let kept: usize = evidence.window.live(bench.now).map(|tally| tally.keys.0.len()).sum();
    assert!(kept <= 30, "{kept}");
    assert!(evidence.row_keys.0.len() <= 3);
}

#[test]
fn absurd_settings_are_refused_by_name() {
    let config = BreakerConfig::default;
    for (result, setting) in [
        (config().failures_in_a_row(0), "breaker.failures_in_a_row"),
        (config().distinct_keys(0), "breaker.distinct_keys"),
        (config().distinct_keys(65), "breaker.distinct_keys"),
        (config().failure_share(0.0, 20), "breaker.failure_share"),
        (config().failure_share(f64::NAN, 20), "breaker.failure_share"),
        (config().failure_share(1.1, 20), "breaker.failure_share"),
        (config().failure_share(0.5, 0), "breaker.failure_share.of_at_least"),
        (config().window(Duration::ZERO), "breaker.window"),
        (config().open_for(Duration::ZERO, SECOND), "breaker.open_for.first"),
        (config().open_for(SECOND * 2, SECOND), "breaker.open_for.first"),
        (config().open_for(SECOND, SECOND * 100_000), "breaker.open_for.longest"),
        (config().jitter(-0.1), "breaker.jitter"),
        (config().jitter(f64::NAN), "breaker.jitter"),
        (config().probe_successes(0), "breaker.probe_successes"),
    ] {
        let error = result.unwrap_err().to_string();
        assert!(error.starts_with(&format!("{setting} is ")), "{error}");
    }
}

/// The rules written down again in the plainest way: all outcomes kept, nothing incremental.
struct Model {
    generation: u64,
    closed: bool,
    until: Option<Instant>,
    openings: u32,
    successes: u32,
    probe_out: Option<u64>,
    outcomes: Vec<Outcome>,
    origin: Option<Instant>,
}

struct Outcome {
    second: u64,
    key: u64,
    failed: bool,
    serial: usize,
}

const WINDOW: u64 = 10;

impl Model {
    fn new() -> Self {
        Self {
            generation: 0,
            closed: true,
            until: None,
            openings: 0,
            successes: 0,
            probe_out: None,
            outcomes: Vec::new(),
            origin: None,
        }
    }

    fn is_half_open(&self, now: Instant) -> bool {
        !self.closed && self.until.is_none_or(|until| until <= now)
    }

    fn turn(&mut self, now: Instant) {
        if self.is_half_open(now) {
            self.until = None;
        }
    }

    fn open(&mut self, now: Instant) {
        let seconds = (10u64 << self.openings.min(10)).min(40);
        self.closed = false;
        self.until = Some(now + Duration::from_secs(seconds));
        self.openings += 1;
        self.successes = 0;
        self.probe_out = None;
        self.generation += 1;
    }

    fn close(&mut self) {
        self.closed = true;
        self.openings = 0;
        self.outcomes.clear();
        self.origin = None;
        self.generation += 1;
    }

    fn should_open(&self, second: u64) -> bool {
        let newest_success = self.outcomes.iter().filter(|o| !o.failed).map(|o| o.serial).max();
        let row: Vec<u64> = (self.outcomes.iter().rev().take_while(|o| o.failed))
            .filter(|o| newest_success.is_none_or(|success| o.serial > success))
            .map(|o| o.key)
            .collect();
        let distinct = |keys: &[u64]| keys.iter().collect::<BTreeSet<_>>().len() >= 3;
        let recent: Vec<_> = self.outcomes.iter().filter(|o| o.second + WINDOW > second).collect();
        let failed: Vec<u64> = recent.iter().filter(|o| o.failed).map(|o| o.key).collect();
        (row.len() >= 4 && distinct(&row))
            || (recent.len() >= 8 && failed.len() * 2 >= recent.len() && distinct(&failed))
    }

    /// Whether the run, failed, is an attempt; and whether it opened or closed it.
    fn record(&mut self, now: Instant, run: &Run, key: u64, verdict: Verdict) -> (bool, Option<Transition>) {
        let was_half_open_unturned = self.is_half_open(now) && self.until.is_some();
        self.turn(now);
        let turned = was_half_open_unturned.then_some(Transition::HalfOpened);
        if let Some(serial) = run.probe {
            if self.probe_out != Some(serial) {
                return (false, turned);
            }
            self.probe_out = None;
            return match verdict {
                Verdict::Ignored => (false, turned),
                Verdict::Failure => {
                    self.open(now);
                    (false, Some(Transition::Opened))
                }
                Verdict::Success => {
                    self.successes += 1;
                    if self.successes < 2 {
                        return (false, turned);
                    }
                    self.close();
                    (false, Some(Transition::Closed))
                }
            };
        }
        if !self.closed {
            return (false, turned);
        }
        if run.generation == self.generation && verdict != Verdict::Ignored {
            let second = (now - *self.origin.get_or_insert(now)).as_secs();
            let failed = verdict == Verdict::Failure;
            self.outcomes.push(Outcome {
                second,
                key,
                failed,
                serial: run.serial,
            });
            if failed && self.should_open(second) {
                self.open(now);
                return (false, Some(Transition::Opened));
            }
        }
        (true, None)
    }
}

struct Run {
    ticket: Ticket,
    serial: usize,
    generation: u64,
    probe: Option<u64>,
}

#[derive(Clone, Debug)]
enum Step {
    Admit,
    Record(usize, u64, Verdict),
    Forget(usize),
    Wait(u64),
}

fn any_step() -> impl Strategy<Value = Step> {
    let verdict = prop_oneof![
        4 => Just(Verdict::Failure),
        3 => Just(Verdict::Success),
        1 => Just(Verdict::Ignored),
    ];
    prop_oneof![
        6 => Just(Step::Admit),
        6 => (any::<usize>(), 0u64..6, verdict).prop_map(|(run, key, verdict)| Step::Record(run, key, verdict)),
        1 => any::<usize>().prop_map(Step::Forget),
        2 => (0u64..6_000).prop_map(Step::Wait),
    ]
}

proptest! {
    #![proptest_config(cases(1_000))]

    #[test]
    fn inv04_it_does_what_the_plain_rules_say(steps in proptest::collection::vec(any_step(), 1..250)) {
        let config = BreakerConfig::default()
            .failures_in_a_row(4).unwrap()
            .failure_share(0.5, 8).unwrap()
            .window(Duration::from_secs(WINDOW)).unwrap()
            .open_for(SECOND * 10, SECOND * 40).unwrap()
            .jitter(0.0).unwrap()
            .probe_successes(2).unwrap();
        let mut bench = Bench::new(config);
        let mut model = Model::new();
        let mut runs: Vec<Run> = Vec::new();
        let mut probes = 0;
        for (serial, step) in steps.into_iter().enumerate() {
            match step {
                Step::Admit => {
                    model.turn(bench.now);
                    let expected_generation = model.generation;
                    let admits = bench.breaker.admits(bench.now);
                    match bench.admit() {
                        Admission::Run(ticket) => {
                            prop_assert!(admits && model.closed);
                            runs.push(Run { ticket, serial, generation: expected_generation, probe: None });
                        }
                        Admission::Probe(ticket) => {
                            prop_assert!(admits && model.is_half_open(bench.now) && model.probe_out.is_none());
                            probes += 1;
                            model.probe_out = Some(probes);
                            runs.push(Run { ticket, serial, generation: expected_generation, probe: Some(probes) });
                        }
                        Admission::Wait { until: None } => prop_assert!(!admits && model.probe_out.is_some()),
                        Admission::Wait { until } => {
                            prop_assert!(!admits && !model.closed && until == model.until && until.unwrap() > bench.now);
                        }
                    }
                }
                Step::Record(run, key, verdict) if !runs.is_empty() => {
                    let run = runs.swap_remove(run % runs.len());
                    let (counts_as_attempt, transition) = model.record(bench.now, &run, key, verdict);
                    let recorded = bench.record(run.ticket, key, verdict);
                    prop_assert_eq!(recorded, Recorded { counts_as_attempt, transition });
                }
                Step::Forget(run) if !runs.is_empty() => {
                    let run = runs.swap_remove(run % runs.len());
                    bench.breaker.forget(bench.now, run.ticket);
                    model.turn(bench.now);
                    if run.probe.is_some() && run.probe == model.probe_out {
                        model.probe_out = None;
                    }
                }
                Step::Wait(ms) => bench.now += Duration::from_millis(ms),
                _ => {}
            }
            let expected = match (model.closed, model.until) {
                (true, _) => BreakerState::Closed,
                (false, Some(until)) if until > bench.now => BreakerState::Open { until },
                (false, _) => BreakerState::HalfOpen,
            };
            prop_assert_eq!(bench.state(), expected);
        }
    }
}
