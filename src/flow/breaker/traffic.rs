//! The breaker under traffic drawn at random: calls that overlap, and end in another order than they started in.

use std::collections::BTreeSet;
use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::clock::Clock;
use crate::prop::cases;

/// One call: when it starts and how long it takes, in microseconds, whose it is, and whether it fails.
#[derive(Clone, Copy, Debug)]
struct Call {
    start: u64,
    takes: u64,
    key: u64,
    fails: bool,
}

/// What a breaker made of calls.
#[derive(Debug, Default)]
struct Ran {
    /// When it opened first, and how many calls had failed then, that one among them.
    opened: Option<(u64, usize)>,
    /// How many of those had started at or after the outage.
    of_outage: usize,
}

/// Plays calls, each admitted at its start and recorded at its end, until the breaker opens. Of what happens at one
/// moment, ends come first, in the order of the calls' starts.
fn play(calls: &[Call], outage: u64) -> Ran {
    let origin = Clock::system().now();
    let at = |micros| origin + Duration::from_micros(micros);
    let mut breaker = CircuitBreaker::new(BreakerConfig::default(), Random::seeded(1));
    let mut events: Vec<(u64, bool, usize)> = Vec::new();
    for (number, call) in calls.iter().enumerate() {
        events.push((call.start, true, number));
        events.push((call.start + call.takes.max(1), false, number));
    }
    events.sort_unstable();
    let mut tickets = vec![None; calls.len()];
    let mut ran = Ran::default();
    let mut failed = 0;
    for (time, starts, number) in events {
        if starts {
            let Admission::Run(ticket) = breaker.admit(at(time)) else {
                panic!("a closed breaker lets everything through");
            };
            tickets[number] = Some(ticket);
            continue;
        }
        let call = calls[number];
        failed += usize::from(call.fails);
        ran.of_outage += usize::from(call.fails && call.start >= outage);
        let verdict = if call.fails { Verdict::Failure } else { Verdict::Success };
        let recorded = breaker.record(at(time), tickets[number].take().unwrap(), call.key, verdict);
        if recorded.transition.is_some() {
            ran.opened = Some((time, failed));
            return ran;
        }
    }
    ran
}

#[test]
fn slow_timeouts_that_end_together_after_later_calls_succeeded_do_not_open_it() {
    // A thousand calls a second that take 5 ms, of which one batch of ten every second hangs and times out after 2 s.
    let calls: Vec<Call> = (0..60_000u64)
        .map(|n| {
            let hangs = n % 1_000 < 10;
            Call {
                start: if hangs { n / 1_000 * 1_000_000 } else { n * 1_000 },
                takes: if hangs { 2_000_000 } else { 5_000 },
                key: n,
                fails: hangs,
            }
        })
        .collect();
    assert_eq!(play(&calls, u64::MAX).opened, None);
}

#[test]
fn slow_successes_between_quick_failures_do_not_open_it() {
    // One call in five fails at once, the others answer after 10 s.
    let calls: Vec<Call> = (0..5_000u64)
        .map(|n| Call {
            start: n * 10_000,
            takes: if n % 5 == 0 { 1_000 } else { 10_000_000 },
            key: n,
            fails: n % 5 == 0,
        })
        .filter(|call| call.start > 10_000_000 || !call.fails)
        .collect();
    assert_eq!(play(&calls, u64::MAX).opened, None);
}

proptest! {
    #![proptest_config(cases(128))]

    /// Healthy traffic in which each call takes a time of its own, and an outage from which on every call fails, at once or
    /// by its timeout: those that were under way end as they please.
    #[test]
    fn inv04_an_outage_opens_it_by_the_fifth_failure_of_what_started_in_it(
        gap in prop_oneof![100u64..2_000, 2_000u64..1_000_000],
        longest in 1_000u64..3_000_000,
        fails_after in prop_oneof![Just(1u64), 1_000u64..3_000_000],
        under_way_fail in any::<bool>(),
        draws in prop::collection::vec(any::<u32>(), 600),
    ) {
        let outage = 300 * gap;
        let calls: Vec<Call> = (0u64..).zip(&draws).map(|(n, &draw)| {
            let (start, takes) = (n * gap, 1 + u64::from(draw) % longest);
            let (takes, fails) = match () {
                () if start >= outage => (fails_after, true),
                () if start + takes > outage && under_way_fail => (outage - start, true),
                () => (takes, false),
            };
            Call { start, takes, key: n, fails }
        }).collect();
        let ran = play(&calls, outage);
        let (opened, _) = ran.opened.expect("an outage opens it");
        prop_assert!(opened >= outage);
        // Old calls that succeed during it speak against an outage: then the row is of what follows the last of them.
        let last_success = calls.iter().filter(|call| !call.fails).map(|call| call.start + call.takes).max().unwrap_or(0);
        let after = calls.iter().filter(|call| {
            let end = call.start + call.takes;
            call.start >= outage && end > last_success && end <= opened
        });
        prop_assert!(after.count() <= 5, "{ran:?}");
        if under_way_fail {
            prop_assert!(ran.of_outage <= 5, "{ran:?}");
        }
    }

    /// The same where all calls take the same time: those under way when the outage begins started after all that succeeded.
    #[test]
    fn inv04_where_calls_take_the_same_time_an_outage_opens_it_by_the_fifth_failure_of_all(
        gap in prop_oneof![100u64..2_000, 2_000u64..1_000_000],
        takes in 1u64..3_000_000,
        fails_after in prop_oneof![Just(1u64), 1_000u64..3_000_000],
    ) {
        let outage = 300 * gap;
        let calls: Vec<Call> = (0u64..320 + fails_after / gap)
            .map(|n| {
                let start = n * gap;
                let fails = start + takes > outage;
                let takes = if start >= outage { fails_after } else { takes.min(outage - start) };
                Call { start, takes, key: n, fails }
            })
            .collect();
        let (_, failed) = play(&calls, outage).opened.expect("an outage opens it");
        prop_assert!(failed <= 5, "{failed}");
    }

    /// Against the rule in plain words, on traffic in which anything overlaps anything.
    #[test]
    fn inv04_it_opens_when_the_plain_rule_says(
        calls in prop::collection::vec((0u64..3_000, 1u64..3_000, 0u64..8, prop::bool::weighted(0.8)), 1..120),
    ) {
        let mut start = 0;
        let calls: Vec<Call> = calls.into_iter().map(|(gap, takes, key, fails)| {
            start += gap;
            Call { start, takes, key, fails }
        }).collect();
        let mut ends: Vec<usize> = (0..calls.len()).collect();
        ends.sort_by_key(|&n| (calls[n].start + calls[n].takes, n));
        let distinct = |ended: &[usize]| ended.iter().map(|&n| calls[n].key).collect::<BTreeSet<_>>().len() >= 3;
        let expected = (1..=ends.len()).find(|&count| {
            let ended = &ends[..count];
            let last = calls[ended[count - 1]];
            let newest_success = ended.iter().filter(|&&n| !calls[n].fails).max();
            let row: Vec<usize> = ended.iter().rev().take_while(|&&n| calls[n].fails).copied()
                .filter(|n| newest_success.is_none_or(|success| n > success)).collect();
            let failed: Vec<usize> = ended.iter().filter(|&&n| calls[n].fails).copied().collect();
            last.fails && ((row.len() >= 5 && distinct(&row))
                || (count >= 20 && failed.len() * 2 >= count && distinct(&failed)))
        });
        let opened = play(&calls, 0).opened.map(|(time, _)| time);
        prop_assert_eq!(opened, expected.map(|count| { let call = calls[ends[count - 1]]; call.start + call.takes }));
    }
}
