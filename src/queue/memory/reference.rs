//! The store against a list of messages that is searched from its beginning each time.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

use std::time::Duration;

use proptest::prelude::*;

use super::store::{Deleted, Settings, Store};
use crate::clock::{Clock, Random};
use crate::message::{Outgoing, Receipt};
use crate::prop::cases;
use crate::queue::MAX_BYTES;

const RETENTION_MS: u64 = 900_000;
const CAP: usize = 8;

#[derive(Clone, Debug)]
struct Held {
    body: usize,
    id: String,
    group: Option<u8>,
    sent: u64,
    /// Invisible until then: delayed or in flight.
    hidden: u64,
    /// The body of work that is out: set while in flight.
    out: Option<Receipt>,
    last: Option<Receipt>,
    received: u64,
    count: u32,
}

impl Held {
    fn visible(&self, now: u64) -> bool {
        self.hidden <= now
    }

    fn in_flight(&self, now: u64) -> bool {
        self.out.is_some() && self.hidden > now
    }
}

#[derive(Clone, Debug)]
enum Step {
    Send { group: u8, id: u8, delay_s: u64 },
    Receive { max: usize, visibility_s: u64 },
    Delete(prop::sample::Index),
    Change(prop::sample::Index, u64),
    Pass(u64),
}

fn step() -> impl Strategy<Value = Step> {
    let which = any::<prop::sample::Index>;
    let time = prop_oneof![3 => 0u64..3_000, 2 => 0u64..40_000, 1 => Just(300_000u64), 1 => 0u64..500_000];
    prop_oneof![
        6 => (0u8..3, 0u8..40, prop_oneof![3 => Just(0u64), 1 => 1u64..20])
            .prop_map(|(group, id, delay_s)| Step::Send { group, id, delay_s }),
        6 => (1usize..11, 1u64..60).prop_map(|(max, visibility_s)| Step::Receive { max, visibility_s }),
        3 => which().prop_map(Step::Delete),
        3 => (which(), prop_oneof![1 => Just(0u64), 2 => 0u64..60, 1 => 40_000u64..44_000]).prop_map(|(at, s)| Step::Change(at, s)),
        5 => time.prop_map(Step::Pass),
    ]
}

/// What a queue would hand out, as positions in the list.
fn due(held: &[Held], now: u64, max: usize, fifo: bool, most: Option<u32>) -> (Vec<usize>, Vec<usize>) {
    let room = CAP - held.iter().filter(|held| held.in_flight(now)).count();
    let limit = max.min(room);
    let (mut given, mut moved) = (Vec::new(), Vec::new());
    let spent = |at: usize| most.is_some_and(|most| held[at].count >= most);
    let mut line: Vec<usize> = (0..held.len()).filter(|&at| held[at].visible(now)).collect();
    if fifo {
        line.retain(|&at| {
            !held
                .iter()
                .any(|other| other.group == held[at].group && other.in_flight(now))
        });
        // The oldest head and those behind it in its group, as many as are asked for; those whose receives are spent go away
        // instead. Of what is out nothing more is handed out.
        while let Some(&head) = line.first().filter(|_| given.len() < limit) {
            let of_group = line.iter().copied().filter(|&at| held[at].group == held[head].group);
            let batch: Vec<usize> = of_group.take(limit - given.len()).collect();
            let out = batch.iter().any(|&at| !spent(at));
            for &at in &batch {
                if spent(at) { moved.push(at) } else { given.push(at) }
            }
            line.retain(|at| !(batch.contains(at) || out && held[*at].group == held[head].group));
        }
    } else {
        // The longest visible comes first.
        line.sort_by_key(|&at| held[at].hidden);
        for at in line {
            if given.len() == limit {
                break;
            }
            if spent(at) { moved.push(at) } else { given.push(at) }
        }
    }
    (given, moved)
}

proptest! {
    #![proptest_config(cases(256))]

    #[test]
    fn inv01_inv07_the_embedded_queue_is_the_plain_list(
        fifo in any::<bool>(),
        most in prop::option::of(1u32..4),
        steps in prop::collection::vec(step(), 1..120),
    ) {
        let settings = Settings {
            fifo,
            content_based_deduplication: false,
            deduplication_by_group: false,
            visibility: Duration::from_secs(30),
            retention: Duration::from_millis(RETENTION_MS),
            delay: Duration::ZERO,
            max_message_bytes: MAX_BYTES,
            in_flight_cap: CAP,
            max_receive_count: most,
            reorder: 0.0,
            short_receives: 0.0,
        };
        let origin = Clock::system().now();
        let mut store = Store::new(settings, "q", Random::seeded(1));
        let mut now = 0u64;
        let mut list: Vec<Held> = Vec::new();
        let mut receipts: Vec<Receipt> = Vec::new();
        // Deduplication ids, when each was accepted, and as what.
        let mut accepted: Vec<(u8, u64, String)> = Vec::new();
        for (body, step) in steps.into_iter().enumerate() {
            let at = |ms: u64| origin + Duration::from_millis(ms);
            if let Step::Pass(ms) = step {
                now += ms;
            }
            store.advance(at(now));
            list.retain(|held| held.sent + RETENTION_MS > now);
            for held in &mut list {
                if held.visible(now) {
                    held.out = None;
                }
            }
            match step {
                Step::Send { group, id, delay_s } => {
                    let mut outgoing = Outgoing::new(body.to_string());
                    if fifo {
                        outgoing = outgoing.group(group.to_string()).deduplication_id(id.to_string());
                    } else if delay_s > 0 {
                        outgoing = outgoing.delay(Duration::from_secs(delay_s));
                    }
                    let got = store.send(at(now), 0, outgoing).unwrap();
                    let original = accepted.iter().rev().find(|accepted| fifo && accepted.0 == id && now < accepted.1 + 300_000);
                    if let Some((_, _, original)) = original {
                        prop_assert_eq!(&got, original, "a repeated deduplication id is the message it repeats");
                    } else {
                        prop_assert!(accepted.iter().all(|accepted| accepted.2 != got));
                        accepted.push((id, now, got.clone()));
                        let delay = if fifo { 0 } else { delay_s * 1_000 };
                        list.push(Held {
                            body, id: got, group: fifo.then_some(group), sent: now, hidden: now + delay,
                            out: None, last: None, received: 0, count: 0,
                        });
                    }
                }
                Step::Receive { max, visibility_s } => {
                    let (given, moved) = due(&list, now, max, fifo, most);
                    let taken = store.take(at(now), max, Some(Duration::from_secs(visibility_s)), false);
                    let bodies: Vec<usize> = given.iter().map(|&at| list[at].body).collect();
                    let got: Vec<usize> = taken.deliveries.iter().map(|taken| taken.message.body.parse().unwrap()).collect();
                    prop_assert_eq!(&got, &bodies);
                    for (position, delivery) in given.iter().zip(taken.deliveries) {
                        let (held, receipt) = (&mut list[*position], delivery.receipt);
                        held.count += 1;
                        prop_assert_eq!((&delivery.message.id, delivery.receive_count), (&held.id, held.count));
                        held.hidden = now + visibility_s * 1_000;
                        held.received = now;
                        held.out = Some(receipt.clone());
                        held.last = Some(receipt.clone());
                        receipts.push(receipt);
                    }
                    let mut gone: Vec<usize> = moved.iter().map(|&at| list[at].body).collect();
                    let mut went: Vec<usize> = taken.moved.iter().map(|moved| moved.message.body.parse().unwrap()).collect();
                    gone.sort_unstable();
                    went.sort_unstable();
                    prop_assert_eq!(&went, &gone);
                    list.retain(|held| !gone.contains(&held.body));
                }
                Step::Delete(which) if !receipts.is_empty() => {
                    let receipt = &receipts[which.index(receipts.len())];
                    let holder = list.iter().position(|held| held.last.as_ref() == Some(receipt));
                    let deleted = store.delete(receipt);
                    let out = holder.is_some_and(|at| list[at].out.is_some());
                    match deleted {
                        Ok(Deleted::Message) => {
                            prop_assert!(holder.is_some() && (!fifo || out));
                            list.remove(holder.unwrap());
                        }
                        Ok(Deleted::Nothing) => prop_assert!(holder.is_none()),
                        Err(_) => prop_assert!(fifo && !out),
                    }
                }
                Step::Change(which, seconds) if !receipts.is_empty() => {
                    let receipt = &receipts[which.index(receipts.len())];
                    let changed = store.change_visibility(at(now), receipt, Duration::from_secs(seconds));
                    let holder = list.iter().position(|held| held.out.as_ref() == Some(receipt));
                    let fits = |held: &Held| seconds <= 43_200 && now + seconds * 1_000 <= held.received + 43_200_000;
                    prop_assert_eq!(changed.is_ok(), holder.is_some_and(|at| fits(&list[at])));
                    if changed.is_ok() {
                        let held = &mut list[holder.unwrap()];
                        held.hidden = now + seconds * 1_000;
                        if seconds == 0 {
                            held.out = None;
                        }
                    }
                }
                _ => {}
            }
            let count = |want: &dyn Fn(&Held) -> bool| list.iter().filter(|held| want(held)).count();
            prop_assert_eq!(store.messages(), list.len());
            prop_assert_eq!(store.in_flight(), count(&|held| held.in_flight(now)));
            prop_assert_eq!(store.visible(), count(&|held| held.visible(now)));
            prop_assert_eq!(store.next_due(), list.iter().filter(|held| !held.visible(now)).map(|held| at(held.hidden)).min());
        }
    }
}
