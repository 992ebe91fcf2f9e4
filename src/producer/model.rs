//! The buffer's plans against the rules, checked on a list of all that waits.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use proptest::prelude::*;

use super::buffer::{Buffer, Entry, Plan};
use crate::clock::{Clock, Instant};
use crate::message::Outgoing;
use crate::prop::cases;
use crate::queue::{MAX_BATCH, MAX_BYTES};

const LINGER: Duration = Duration::from_millis(5);

#[derive(Clone, Debug)]
enum Step {
    Push {
        group: Option<u8>,
        size: usize,
    },
    Plan {
        place: bool,
    },
    /// A batch comes back: of its entries, these bits are to be sent again, later or alone.
    Back {
        which: prop::sample::Index,
        again: u16,
        alone: bool,
        pause_ms: u64,
    },
    Remove(prop::sample::Index),
    Fail(u8),
    Flush,
    Pass(u64),
}

fn step() -> impl Strategy<Value = Step> {
    let which = any::<prop::sample::Index>;
    let size = prop_oneof![8 => 1usize..2_000, 1 => MAX_BYTES / 4..=MAX_BYTES];
    prop_oneof![
        10 => (prop::option::of(0u8..3), size).prop_map(|(group, size)| Step::Push { group, size }),
        8 => prop::bool::weighted(0.9).prop_map(|place| Step::Plan { place }),
        4 => (which(), any::<u16>(), prop::bool::weighted(0.2), 0u64..20)
            .prop_map(|(which, again, alone, pause_ms)| Step::Back { which, again, alone, pause_ms }),
        1 => which().prop_map(Step::Remove),
        1 => (0u8..3).prop_map(Step::Fail),
        1 => Just(Step::Flush),
        5 => (0u64..4_000).prop_map(Step::Pass),
    ]
}

#[derive(Clone, Debug)]
struct Waits {
    group: Option<String>,
    size: usize,
    joined: Instant,
    not_before: Instant,
    lingers: bool,
    alone: bool,
}

proptest! {
    #![proptest_config(cases(384))]

    #[test]
    fn inv05_inv07_inv11_every_plan_keeps_the_rules_and_nothing_is_forgotten(steps in prop::collection::vec(step(), 1..150)) {
        let mut now = Clock::system().now();
        let mut buffer: Buffer<()> = Buffer::new(LINGER);
        let mut waiting: BTreeMap<u64, Waits> = BTreeMap::new();
        let mut out: Vec<Vec<(u64, Entry<()>)>> = Vec::new();
        for step in steps {
            let flying: BTreeSet<String> = out.iter().flatten().filter_map(|(_, entry)| entry.group.clone()).collect();
            match step {
                Step::Push { group, size } => {
                    let group = group.map(|group| group.to_string());
                    let entry = Entry {
                        outgoing: Outgoing::new("x"), size, group: group.clone(), joined: now, not_before: now,
                        tries: 0, alone: false, answer: (),
                    };
                    let number = buffer.push(entry);
                    prop_assert!(waiting.keys().chain(out.iter().flatten().map(|(number, _)| number)).all(|other| *other < number));
                    waiting.insert(number, Waits { group, size, joined: now, not_before: now, lingers: true, alone: false });
                }
                Step::Plan { place } => {
                    // What may go: the first of each group that is not out, if its pause is over.
                    let mut seen = flying.clone();
                    let heads: Vec<(u64, Waits)> = (waiting.iter())
                        .filter(|(_, waits)| waits.group.as_ref().is_none_or(|group| seen.insert(group.clone())))
                        .map(|(number, waits)| (*number, waits.clone()))
                        .collect();
                    let ready: Vec<&(u64, Waits)> = heads.iter().filter(|(_, waits)| waits.not_before <= now).collect();
                    let due = |waits: &Waits| if waits.lingers { waits.joined + LINGER } else { waits.not_before.max(waits.joined) };
                    match buffer.plan(now, &flying, place) {
                        Plan::Send(batch) => {
                            let numbers: Vec<u64> = batch.iter().map(|(number, _)| *number).collect();
                            let size: usize = batch.iter().map(|(_, entry)| entry.size).sum();
                            prop_assert!(place && !batch.is_empty() && batch.len() <= MAX_BATCH);
                            prop_assert!(size <= MAX_BYTES || batch.len() == 1);
                            // The first of what is ready, none left out.
                            let first: Vec<u64> = ready.iter().take(batch.len()).map(|(number, _)| *number).collect();
                            prop_assert_eq!(&numbers, &first);
                            prop_assert!(batch.len() == 1 || batch.iter().all(|(_, entry)| !entry.alone));
                            let next = ready.get(batch.len());
                            let full = batch.len() == MAX_BATCH
                                || batch[0].1.alone
                                || next.is_some_and(|(_, waits)| waits.alone || size + waits.size > MAX_BYTES);
                            prop_assert!(full || ready.iter().any(|(_, waits)| due(waits) <= now), "sent before its time");
                            prop_assert!(full || batch.len() == ready.len(), "not all that fits");
                            for number in numbers {
                                prop_assert!(waiting.remove(&number).is_some());
                            }
                            out.push(batch);
                        }
                        Plan::Idle => prop_assert!(waiting.is_empty()),
                        Plan::WaitForPlace => prop_assert!(!place && !waiting.is_empty()),
                        Plan::WaitForGroup => prop_assert!(place && heads.is_empty() && !waiting.is_empty()),
                        Plan::WaitUntil(at) => {
                            prop_assert!(place && at > now);
                            let first = heads.iter().map(|(_, waits)| if waits.not_before > now { waits.not_before } else { due(waits) }).min();
                            prop_assert_eq!(Some(at), first);
                        }
                    }
                }
                Step::Back { which, again, alone, pause_ms } if !out.is_empty() => {
                    let batch = out.swap_remove(which.index(out.len()));
                    for (at, (number, mut entry)) in batch.into_iter().enumerate() {
                        if again & (1 << at) == 0 {
                            continue;
                        }
                        entry.tries += 1;
                        entry.alone |= alone;
                        entry.not_before = now + Duration::from_millis(pause_ms);
                        waiting.insert(number, Waits {
                            group: entry.group.clone(), size: entry.size, joined: entry.joined,
                            not_before: entry.not_before, lingers: false, alone: entry.alone,
                        });
                        buffer.put_back(number, entry);
                    }
                }
                Step::Remove(which) if !waiting.is_empty() => {
                    let number = *waiting.keys().nth(which.index(waiting.len())).unwrap();
                    prop_assert!(buffer.remove(number).is_some() && buffer.remove(number).is_none());
                    waiting.remove(&number);
                }
                Step::Fail(group) => {
                    let group = group.to_string();
                    let taken: Vec<u64> = buffer.take_group(&group).iter().map(|(number, _)| *number).collect();
                    let of_group = |waits: &Waits| waits.group.as_deref() == Some(&group);
                    let expected: Vec<u64> = waiting.iter().filter(|(_, waits)| of_group(waits)).map(|(number, _)| *number).collect();
                    prop_assert_eq!(taken, expected);
                    waiting.retain(|_, waits| !of_group(waits));
                }
                Step::Flush => {
                    let before = buffer.flush();
                    prop_assert!(waiting.keys().all(|number| *number < before));
                    for waits in waiting.values_mut() {
                        waits.lingers = false;
                    }
                }
                Step::Pass(micros) => now += Duration::from_micros(micros),
                _ => {}
            }
            prop_assert_eq!(buffer.len(), waiting.len());
        }
        // All of it goes in the end.
        now += Duration::from_secs(1);
        while let Plan::Send(batch) = buffer.plan(now, &BTreeSet::new(), true) {
            for (number, _) in batch {
                prop_assert!(waiting.remove(&number).is_some());
            }
        }
        prop_assert!(waiting.is_empty() && buffer.len() == 0);
    }
}
