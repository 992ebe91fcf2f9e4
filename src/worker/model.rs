//! The worker's small state machines against models that keep everything and compute nothing ahead.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use proptest::prelude::*;

use super::batcher::Batcher;
use super::deadlines::Deadlines;
use super::drain::{Drain, Stage};
use super::fifo::Groups;
use super::intake::Intake;
use crate::clock::{Clock, Instant};
use crate::prop::cases;
use crate::queue::MAX_BATCH;

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

#[derive(Clone, Debug)]
enum Batching {
    Push(usize),
    Take { hurry: bool },
    Returned,
    Pass(u64),
}

fn batching() -> impl Strategy<Value = Batching> {
    prop_oneof![
        4 => (1usize..14).prop_map(Batching::Push),
        4 => prop::bool::weighted(0.1).prop_map(|hurry| Batching::Take { hurry }),
        2 => Just(Batching::Returned),
        4 => (0u64..9).prop_map(Batching::Pass),
    ]
}

proptest! {
    #![proptest_config(cases(256))]

    /// The rule: a batch is due when it is full, or when nothing was pushed or left behind for a linger; it is the first of
    /// what waits, in order; and no more are out than may be.
    #[test]
    fn inv05_inv11_the_batcher_gives_everything_once_in_order_and_no_later_than_it_says(
        size in 1usize..12,
        most in 1usize..5,
        steps in prop::collection::vec(batching(), 1..120),
    ) {
        const LINGER: Duration = Duration::from_millis(5);
        let mut now = Clock::system().now();
        let mut batcher = Batcher::new(size, LINGER, most);
        let (mut pushed, mut given, mut out) = (0u32, 0u32, 0usize);
        // Since when the first of what waits lingers.
        let mut since = now;
        for step in steps {
            match step {
                Batching::Push(count) => {
                    for _ in 0..count {
                        if pushed == given {
                            since = now;
                        }
                        batcher.push(now, pushed);
                        pushed += 1;
                    }
                }
                Batching::Take { hurry } => {
                    let waits = (pushed - given) as usize;
                    let due = waits >= size || waits > 0 && (hurry || now >= since + LINGER);
                    let batch = batcher.take(now, hurry);
                    prop_assert_eq!(batch.is_some(), due && out < most);
                    if let Some(batch) = batch {
                        let expected: Vec<u32> = (given..).take(waits.min(size)).collect();
                        prop_assert_eq!(&batch, &expected);
                        given += u32::try_from(batch.len()).unwrap();
                        out += 1;
                        since = now;
                    }
                }
                Batching::Returned if out > 0 => {
                    batcher.returned();
                    out -= 1;
                }
                Batching::Returned => {}
                Batching::Pass(millis) => now += ms(millis),
            }
            let expected = (pushed > given && out < most).then_some(since + LINGER);
            prop_assert_eq!(batcher.next_at(), expected);
        }
        while pushed > given {
            batcher.returned();
            let batch = batcher.take(now, true).unwrap();
            prop_assert_eq!(batch[0], given);
            given += u32::try_from(batch.len()).unwrap();
        }
        prop_assert_eq!((pushed, batcher.take(now, true)), (given, None));
    }

    /// Driven as the engine does, with places to spare, nothing waits longer than two lingers: its own, and that of what was
    /// ahead of it.
    #[test]
    fn inv05_nothing_lingers_in_the_batcher_longer_than_twice_the_linger(
        size in 1usize..12,
        gaps in prop::collection::vec(0u64..8_000, 1..200),
    ) {
        const LINGER: Duration = Duration::from_millis(5);
        let mut batcher = Batcher::new(size, LINGER, usize::MAX);
        let mut now = Clock::system().now();
        let drive = |batcher: &mut Batcher<Instant>, now: Instant| {
            while let Some(batch) = batcher.take(now, false) {
                assert!(batch.len() <= size);
                assert!(batch.iter().all(|pushed| now <= *pushed + LINGER * 2));
            }
        };
        for micros in gaps {
            let next = now + Duration::from_micros(micros);
            while let Some(at) = batcher.next_at().filter(|at| *at <= next) {
                drive(&mut batcher, at);
            }
            now = next;
            batcher.push(now, now);
            drive(&mut batcher, now);
        }
    }
}

#[derive(Clone, Debug)]
enum Timing {
    Set(u64, u64),
    Clear(u64),
    TakeDue(u64),
}

proptest! {
    #![proptest_config(cases(256))]

    #[test]
    fn each_id_has_the_deadline_that_was_set_last(
        steps in prop::collection::vec(prop_oneof![
            5 => (0u64..8, 0u64..100).prop_map(|(id, at)| Timing::Set(id, at)),
            2 => (0u64..8).prop_map(Timing::Clear),
            2 => (0u64..100).prop_map(Timing::TakeDue),
        ], 1..100),
    ) {
        let origin = Clock::system().now();
        let mut deadlines = Deadlines::default();
        let mut model: BTreeMap<u64, u64> = BTreeMap::new();
        for step in steps {
            match step {
                Timing::Set(id, at) => {
                    deadlines.set(id, origin + ms(at));
                    model.insert(id, at);
                }
                Timing::Clear(id) => prop_assert_eq!(deadlines.clear(id), model.remove(&id).is_some()),
                Timing::TakeDue(until) => {
                    let mut due: Vec<(u64, u64)> = model.iter().filter(|due| *due.1 <= until).map(|(id, at)| (*at, *id)).collect();
                    due.sort_unstable();
                    model.retain(|_, at| *at > until);
                    let ids: Vec<u64> = due.into_iter().map(|(_, id)| id).collect();
                    prop_assert_eq!(deadlines.take_due(origin + ms(until)), ids);
                }
            }
            prop_assert_eq!(deadlines.next_at(), model.values().min().map(|at| origin + ms(*at)));
        }
    }
}

#[derive(Clone, Debug)]
enum Grouping {
    Push(usize),
    Remove(prop::sample::Index),
    TakeBehind(prop::sample::Index),
}

proptest! {
    #![proptest_config(cases(256))]

    /// The model is one line of all that is held.
    #[test]
    fn inv07_only_the_first_of_a_group_runs_and_what_goes_back_takes_what_is_behind_it(
        steps in prop::collection::vec(prop_oneof![
            5 => (0usize..3).prop_map(Grouping::Push),
            3 => any::<prop::sample::Index>().prop_map(Grouping::Remove),
            1 => any::<prop::sample::Index>().prop_map(Grouping::TakeBehind),
        ], 1..100),
    ) {
        let names: [Arc<str>; 3] = ["a".into(), "b".into(), "a/b".into()];
        let mut groups = Groups::default();
        let mut line: Vec<(usize, u64)> = Vec::new();
        let first = |line: &[(usize, u64)], group: usize| line.iter().find(|held| held.0 == group).map(|held| held.1);
        for (id, step) in (0u64..).zip(steps) {
            match step {
                Grouping::Push(group) => {
                    groups.push(&names[group], id);
                    line.push((group, id));
                }
                Grouping::Remove(which) if !line.is_empty() => {
                    let (group, id) = line.remove(which.index(line.len()));
                    let was_first = first(&line, group).is_none_or(|other| other > id);
                    let expected = first(&line, group).filter(|_| was_first);
                    prop_assert_eq!(groups.remove(&names[group], id), expected);
                    prop_assert_eq!(groups.remove(&names[group], id), None, "it is out");
                }
                Grouping::TakeBehind(which) if !line.is_empty() => {
                    let (group, id) = line[which.index(line.len())];
                    let behind: Vec<u64> = line.iter().filter(|held| held.0 == group && held.1 > id).map(|held| held.1).collect();
                    line.retain(|held| !behind.contains(&held.1));
                    prop_assert_eq!(groups.take_behind(&names[group], id), behind);
                }
                _ => {}
            }
            for (group, id) in &line {
                prop_assert_eq!(groups.is_head(&names[*group], *id), first(&line, *group) == Some(*id));
            }
        }
    }

    #[test]
    fn inv08_a_drain_leaves_handlers_four_fifths_of_its_time_and_changes_when_it_says(
        deadline in prop_oneof![0u64..100, 100u64..10_000_000_000, 10_000_000_000u64..400_000_000_000],
        at in 0.0f64..1.2,
    ) {
        let (start, deadline) = (Clock::system().now(), Duration::from_nanos(deadline));
        let drain = Drain::begin(start, deadline);
        let now = start + deadline.mul_f64(at);
        let stage = drain.stage(now);
        let left = (start + deadline).saturating_duration_since(now);
        prop_assert_eq!(stage == Stage::Over, left.is_zero());
        // Handlers are let finish for four fifths of it at least, and for all but 10 s of a long one.
        let let_finish = (deadline * 4 / 5).max(deadline.saturating_sub(Duration::from_secs(10)));
        if now < start + let_finish {
            prop_assert_eq!(stage, Stage::Finishing);
        }
        // And a tenth is left for the last settles, or 5 s: nothing runs in it.
        let reserve = (deadline / 10).min(Duration::from_secs(5));
        if left <= reserve {
            prop_assert!(stage >= Stage::Flushing);
        }
        if left > reserve * 2 {
            prop_assert_eq!(stage, Stage::Finishing);
        }
        if stage != Stage::Over {
            let next = drain.next_at(now);
            prop_assert!(next > now && drain.stage(next) > stage);
            prop_assert_eq!(drain.stage(next - Duration::from_nanos(1)), stage, "nothing changes before");
        }
    }
}

#[derive(Clone, Debug)]
enum Receiving {
    Ask { probe: bool },
    Answer(prop::sample::Index, u8),
    Fail(prop::sample::Index, u64),
    Start,
    End(usize),
    Resize(usize),
    Pass(u64),
}

fn receiving() -> impl Strategy<Value = Receiving> {
    let which = any::<prop::sample::Index>;
    prop_oneof![
        8 => prop::bool::weighted(0.1).prop_map(|probe| Receiving::Ask { probe }),
        6 => (which(), prop_oneof![Just(0u8), Just(255), any::<u8>()]).prop_map(|(which, got)| Receiving::Answer(which, got)),
        1 => (which(), 0u64..5_000).prop_map(|(which, pause)| Receiving::Fail(which, pause)),
        6 => Just(Receiving::Start),
        4 => (1usize..12).prop_map(Receiving::End),
        1 => (1usize..70).prop_map(Receiving::Resize),
        5 => (0u64..700).prop_map(Receiving::Pass),
    ]
}

proptest! {
    #![proptest_config(cases(384))]

    /// What is asked for always has room, pauses are kept, no more receives are out than their fill earned, and an idle worker
    /// always asks.
    #[test]
    fn inv05_receives_ask_only_for_what_has_room_and_an_idle_worker_never_falls_silent(
        steps in prop::collection::vec(receiving(), 1..200),
        most in 1usize..6,
        long_poll in any::<bool>(),
        first_slots in 1usize..70,
    ) {
        let mut now = Clock::system().now();
        let wait = if long_poll { Duration::from_secs(20) } else { Duration::ZERO };
        let mut intake = Intake::new(most, Duration::from_secs(30), wait);
        let mut slots = first_slots;
        let mut out: Vec<usize> = Vec::new();
        let (mut held, mut earned, mut failures) = (0usize, 1usize, 0u32);
        let mut quiet_until: Option<Instant> = None;
        for step in steps {
            let expected: usize = out.iter().sum();
            match step {
                Receiving::Ask { probe } => {
                    let prefetch = intake.prefetch(slots, now);
                    prop_assert!((1..=(slots * 2).max(2 * MAX_BATCH)).contains(&prefetch));
                    let quiet = quiet_until.is_some_and(|until| now < until);
                    let asked = if probe { intake.ask_probe(now) } else { intake.ask(slots, held, now) };
                    prop_assert!(!quiet || asked.is_none(), "asked within a pause");
                    let places = if probe { 1 } else { earned };
                    prop_assert!(asked.is_none() || out.len() < places);
                    prop_assert!(asked.is_some() || quiet || !out.is_empty() || held > slots, "an idle worker asks: {intake:?}");
                    if probe {
                        prop_assert!(asked.is_none_or(|asked| asked == 1));
                    } else if let Some(asked) = asked {
                        prop_assert!((1..=MAX_BATCH).contains(&asked));
                        prop_assert!(held + expected + asked <= slots + prefetch, "no room for {asked}");
                    }
                    if let Some(asked) = asked {
                        intake.started(asked);
                        out.push(asked);
                    }
                }
                Receiving::Answer(which, got) if !out.is_empty() => {
                    let asked = out.swap_remove(which.index(out.len()));
                    let got = if got == 255 { asked } else { usize::from(got) * asked / 255 };
                    intake.received(now, asked, got);
                    held += got;
                    failures = 0;
                    quiet_until = (got == 0 && !long_poll).then(|| now + ms(250));
                    earned = match got {
                        0 => 1,
                        got if got == asked => (earned + 1).min(most),
                        _ => (earned - 1).max(1),
                    };
                }
                Receiving::Fail(which, pause) if !out.is_empty() => {
                    let asked = out.swap_remove(which.index(out.len()));
                    failures += 1;
                    intake.failed(asked, now, |count| {
                        assert_eq!(count, failures);
                        ms(pause)
                    });
                    earned = 1;
                    quiet_until = Some(now + ms(pause));
                }
                Receiving::Start => intake.message_started(now),
                Receiving::End(count) => held = held.saturating_sub(count),
                Receiving::Resize(to) => slots = to,
                Receiving::Pass(millis) => now += ms(millis),
                _ => {}
            }
            prop_assert_eq!(intake.in_flight(), out.len());
            prop_assert_eq!(intake.next_at(now), quiet_until.filter(|until| *until > now));
        }
    }

    /// Under a steady rate, what is fetched ahead starts within about a second, or a quarter of a short lease.
    #[test]
    fn what_is_fetched_ahead_is_what_starts_within_the_horizon(
        rate in 1u64..3_000,
        lease_s in 1u64..40,
        settle in 1_100u64..4_000,
    ) {
        let start = Clock::system().now();
        let mut intake = Intake::new(4, Duration::from_secs(lease_s), Duration::from_secs(20));
        let mut at = Duration::ZERO;
        while at < ms(settle) {
            intake.message_started(start + at);
            at += Duration::from_nanos(1_000_000_000 / rate);
        }
        let horizon = Duration::from_secs(1).min(Duration::from_secs(lease_s) / 4).as_secs_f64();
        let prefetch = intake.prefetch(10_000, start + ms(settle)) as f64;
        let within = rate as f64 * horizon;
        prop_assert!(prefetch <= (within * 1.15 + 2.0).min(20_000.0), "{prefetch} at {rate}/s within {horizon} s");
        prop_assert!(prefetch >= within * 0.8 - 1.0, "{prefetch} at {rate}/s within {horizon} s");
    }
}
