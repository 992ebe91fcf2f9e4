//! What the limit finds, and what must not move it.

#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

use std::time::Duration;

use proptest::prelude::*;

use super::model::{Downstream, Kind, Limit, Noise, Sim};
use super::{AdaptiveConcurrency, AdaptiveLimit};
use crate::clock::{Clock, Instant};
use crate::prop::cases;

fn start() -> Instant {
    Clock::system().now()
}

fn downstream(kind: Kind, noise: Noise) -> Downstream {
    Downstream {
        kind,
        knee: 100.0,
        time: 0.03,
        noise,
    }
}

/// Goes on for two minutes; what is done in the second is compared with the limit fixed at the knee.
fn finds_the_knee(kind: Kind, noise: Noise) {
    let downstream = downstream(kind, noise);
    let mut best = Sim::new(downstream, Limit::Fixed(100), start(), 1);
    best.until(40.0);
    let (rate, p99) = (best.rate(10.0, 40.0), best.p99(10.0, 40.0));
    for (seed, begin) in [(2, 4), (3, 100), (4, 800)] {
        let setting = AdaptiveConcurrency::between(4, 800).start_at(begin);
        let mut sim = Sim::adaptive(downstream, setting, start(), seed);
        sim.until(120.0);
        let found = (sim.rate(60.0, 120.0), sim.p99(60.0, 120.0));
        assert!(
            found.0 >= 0.9 * rate && found.1 <= 1.1 * p99,
            "{downstream:?} from {begin}: {found:?}, not {rate} and {p99}"
        );
    }
}

#[test]
fn it_finds_the_knee_of_a_queue() {
    for noise in [Noise::None, Noise::Exponential, Noise::Bimodal] {
        finds_the_knee(Kind::Queue, noise);
    }
}

#[test]
fn it_finds_the_knee_where_all_share() {
    for noise in [Noise::Even, Noise::Exponential] {
        finds_the_knee(Kind::Share { lost: 0.0 }, noise);
    }
}

#[test]
fn it_finds_the_knee_where_throughput_collapses_beyond() {
    for noise in [Noise::None, Noise::Exponential] {
        finds_the_knee(Kind::Share { lost: 0.5 }, noise);
    }
}

#[test]
fn it_finds_where_refusals_begin_and_runs_into_few() {
    for noise in [Noise::None, Noise::Bimodal] {
        finds_the_knee(Kind::Throttle, noise);
        let setting = AdaptiveConcurrency::between(4, 800).start_at(800);
        let mut sim = Sim::adaptive(downstream(Kind::Throttle, noise), setting, start(), 5);
        sim.until(120.0);
        // The first 800 at once, less those that are served, and what its steps run into later.
        assert!(sim.failed(0.0, 10.0) < 1_500, "{}", sim.failed(0.0, 10.0));
        let later = sim.failed(60.0, 120.0);
        assert!(later < 200, "{later} of {}", sim.between(60.0, 120.0).count());
    }
}

#[test]
fn it_is_there_within_seconds_where_nothing_varies() {
    for begin in [4, 800] {
        let setting = AdaptiveConcurrency::between(4, 800).start_at(begin);
        let mut sim = Sim::adaptive(downstream(Kind::Queue, Noise::None), setting, start(), 6);
        sim.until(12.0);
        let off = sim.between(9.0, 12.0).find(|ended| !(90..=112).contains(&ended.limit));
        assert!(off.is_none(), "{off:?} from {begin}");
    }
}

#[test]
fn it_follows_a_knee_that_moves_and_a_downstream_that_becomes_slower() {
    let cases = [
        (20.0, 0.1, Noise::None),
        (80.0, 0.1, Noise::None),
        (40.0, 0.2, Noise::None),
        (40.0, 0.05, Noise::None),
        (20.0, 0.1, Noise::Exponential),
        (80.0, 0.1, Noise::Exponential),
    ];
    for (knee, time, noise) in cases {
        let before = Downstream {
            kind: Kind::Queue,
            knee: 40.0,
            time: 0.1,
            noise,
        };
        let mut sim = Sim::adaptive(before, AdaptiveConcurrency::between(4, 320), start(), 7);
        sim.until(90.0);
        sim.downstream = Downstream { knee, time, ..before };
        sim.until(240.0);
        let (rate, most) = (sim.rate(180.0, 240.0), knee / time);
        assert!(rate >= 0.9 * most, "{rate} of {most} for {knee} and {time}, {noise:?}");
        let limits: Vec<usize> = sim.between(180.0, 240.0).map(|ended| ended.limit).collect();
        let mean = limits.iter().sum::<usize>() as f64 / limits.len() as f64;
        assert!(mean <= 1.1 * knee, "{mean} for {knee} and {time}, {noise:?}");
    }
}

#[test]
fn without_a_knee_it_stops_where_most_of_what_is_added_only_waits() {
    for begin in [4, 800] {
        let setting = AdaptiveConcurrency::between(4, 800).start_at(begin);
        let mut sim = Sim::adaptive(downstream(Kind::Soft, Noise::None), setting, start(), 10);
        sim.until(300.0);
        // At the hundredth call half of each further one is lost to the others.
        let limit = sim.limit_now();
        assert!((75..=250).contains(&limit), "{limit} from {begin}");
    }
}

#[test]
fn it_does_not_grow_while_something_else_holds_work_up() {
    for noise in [Noise::None, Noise::Exponential, Noise::Bimodal] {
        let setting = AdaptiveConcurrency::between(4, 800).start_at(40);
        let mut sim = Sim::adaptive(downstream(Kind::Queue, noise), setting, start(), 8);
        sim.wanted = 20;
        sim.until(300.0);
        assert_eq!(sim.limit_now(), 40, "{noise:?}");
    }
}

#[test]
fn a_baseline_measured_under_load_does_not_keep_the_limit_up() {
    // Never anything but overload: there is no time without it that could be remembered.
    let setting = AdaptiveConcurrency::between(4, 800).start_at(800);
    let mut sim = Sim::adaptive(downstream(Kind::Queue, Noise::Exponential), setting, start(), 9);
    sim.until(300.0);
    let highest = sim.between(120.0, 300.0).map(|ended| ended.limit).max();
    assert!(highest.is_some_and(|limit| limit <= 220), "{highest:?}");
    assert!(sim.p99(240.0, 300.0) <= sim.p99(60.0, 120.0) * 1.1);
}

/// What fails whatever the load is.
fn run_with_failures(limit: &mut AdaptiveLimit, now: &mut Instant, seconds: f64, fails: impl Fn(usize) -> bool) {
    let mut n = 0;
    for _ in 0..(seconds / 0.05) as usize {
        limit.running(*now, limit.limit());
        *now += Duration::from_millis(50);
        for _ in 0..limit.limit() {
            n += 1;
            let failed = usize::from(fails(n));
            limit.ended(*now, Duration::from_millis(50), 1 - failed, failed);
        }
    }
}

#[test]
fn failures_that_have_nothing_to_do_with_the_load_do_not_hold_it_down() {
    let mut now = start();
    let mut limit = AdaptiveLimit::new(AdaptiveConcurrency::between(4, 256), now);
    run_with_failures(&mut limit, &mut now, 60.0, |n| n % 5 == 0);
    assert!(limit.limit() >= 200, "{}", limit.limit());
}

#[test]
fn an_outage_takes_it_down_and_it_comes_up_again() {
    let mut now = start();
    let mut limit = AdaptiveLimit::new(AdaptiveConcurrency::between(4, 256), now);
    run_with_failures(&mut limit, &mut now, 30.0, |_| false);
    assert!(limit.limit() >= 200, "{}", limit.limit());
    run_with_failures(&mut limit, &mut now, 30.0, |_| true);
    assert_eq!(limit.limit(), 4);
    run_with_failures(&mut limit, &mut now, 60.0, |_| false);
    assert!(limit.limit() >= 200, "{}", limit.limit());
}

#[test]
fn bounds_that_are_one_leave_nothing_to_find() {
    let mut now = start();
    let mut limit = AdaptiveLimit::new(AdaptiveConcurrency::between(7, 7), now);
    run_with_failures(&mut limit, &mut now, 60.0, |n| n % 3 == 0);
    assert_eq!(limit.limit(), 7);
}

#[test]
fn contradictions_are_named() {
    let problem = |setting: AdaptiveConcurrency| setting.problem(100_000).unwrap_or_default();
    assert!(problem(AdaptiveConcurrency::between(0, 4)).contains("minimum of 0"));
    assert!(problem(AdaptiveConcurrency::between(5, 4)).contains("over the maximum"));
    assert!(problem(AdaptiveConcurrency::between(1, 100_001)).contains("over 100000"));
    assert!(problem(AdaptiveConcurrency::between(4, 8).start_at(9)).contains("outside 4 to 8"));
    assert_eq!(problem(AdaptiveConcurrency::between(4, 8)), "");
    assert_eq!(AdaptiveConcurrency::between(4, 8).start(), 8);
    assert_eq!(AdaptiveConcurrency::between(32, 64).start(), 32);
}

#[derive(Clone, Copy, Debug)]
enum Step {
    Wait(u64),
    Running(usize),
    Ended { took_ms: u64, done: usize, failed: usize },
    Back(u64),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        2 => (0u64..100_000).prop_map(Step::Wait),
        2 => (0usize..2_000).prop_map(Step::Running),
        8 => (prop_oneof![Just(0u64), 0u64..50, 0u64..10_000_000], 0usize..3, 0usize..3)
            .prop_map(|(took_ms, done, failed)| Step::Ended { took_ms, done, failed }),
        1 => (0u64..100).prop_map(Step::Back),
    ]
}

proptest! {
    #![proptest_config(cases(512))]

    #[test]
    fn whatever_it_is_told_the_limit_is_within_its_bounds(
        min in 1usize..50,
        more in 0usize..500,
        at in 0.0f64..1.0,
        steps in proptest::collection::vec((step(), 1usize..60), 1..120),
    ) {
        let max = min + more;
        let begin = min + (at * more as f64) as usize;
        let mut now = start();
        let mut limit = AdaptiveLimit::new(AdaptiveConcurrency::between(min, max).start_at(begin), now);
        for (step, times) in steps {
            for _ in 0..times {
                match step {
                    Step::Wait(ms) => now += Duration::from_millis(ms),
                    Step::Running(n) => limit.running(now, n),
                    Step::Ended { took_ms, done, failed } => {
                        limit.ended(now, Duration::from_millis(took_ms), done, failed);
                    }
                    Step::Back(ms) => {
                        limit.running(now.checked_sub(Duration::from_millis(ms)).unwrap_or(now), 3);
                    }
                }
                prop_assert!((min..=max).contains(&limit.limit()), "{}", limit.limit());
            }
        }
    }
}
