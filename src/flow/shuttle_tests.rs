//! Flow control under many orders of the threads that share it.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use shuttle::future::block_on;
use shuttle::rand::Rng;
use shuttle::sync::atomic::{AtomicUsize, Ordering};
use shuttle::thread;

use super::*;
use crate::clock::Clock;
use crate::sync::{explore, poll_at_most};

fn some(most: u32) -> u32 {
    shuttle::rand::thread_rng().gen_range(0..=most)
}

/// What is in at a moment, and the most that ever was.
#[derive(Default)]
struct Crowd {
    inside: AtomicUsize,
    most: AtomicUsize,
}

impl Crowd {
    fn visit(&self) {
        let inside = self.inside.fetch_add(1, Ordering::SeqCst) + 1;
        self.most.fetch_max(inside, Ordering::SeqCst);
        thread::yield_now();
        self.inside.fetch_sub(1, Ordering::SeqCst);
    }
}

#[test]
fn inv05_shuttle_a_bulkhead_lets_no_more_in_than_its_limit_and_forgets_no_waiter() {
    explore(4_000, || {
        let bulkhead = Bulkhead::new("b", 2).unwrap();
        let crowd = Arc::new(Crowd::default());
        let visitors: Vec<_> = (0..4)
            .map(|n| {
                let (bulkhead, crowd) = (bulkhead.clone(), crowd.clone());
                thread::spawn(move || match n {
                    0 => drop(poll_at_most(some(2), bulkhead.enter())),
                    1 => {
                        let permit = bulkhead.try_enter();
                        permit.iter().for_each(|_| crowd.visit());
                    }
                    _ => {
                        let _permit = block_on(bulkhead.enter());
                        crowd.visit();
                    }
                })
            })
            .collect();
        for visitor in visitors {
            visitor.join().unwrap();
        }
        assert!(crowd.most.load(Ordering::SeqCst) <= 2);
        assert_eq!(bulkhead.in_use(), 0);
        let inside: Vec<_> = std::iter::from_fn(|| bulkhead.try_enter()).collect();
        assert_eq!(inside.len(), 2);
    });
}

#[test]
fn inv05_shuttle_a_bulkhead_has_its_new_limit_whoever_came_went_or_gave_up_meanwhile() {
    explore(4_000, || {
        let bulkhead = Bulkhead::new("b", 2).unwrap();
        let resizer = {
            let bulkhead = bulkhead.clone();
            thread::spawn(move || {
                for limit in [1, 3, 1, 2] {
                    bulkhead.resize(limit).unwrap();
                }
            })
        };
        let visitors: Vec<_> = (0..3)
            .map(|n| {
                let bulkhead = bulkhead.clone();
                thread::spawn(move || {
                    if n == 0 {
                        drop(poll_at_most(some(3), bulkhead.enter()));
                    } else {
                        let permit = block_on(bulkhead.enter());
                        thread::yield_now();
                        drop(permit);
                    }
                })
            })
            .collect();
        resizer.join().unwrap();
        for visitor in visitors {
            visitor.join().unwrap();
        }
        assert_eq!((bulkhead.in_use(), bulkhead.limit()), (0, 2));
        let inside: Vec<_> = std::iter::from_fn(|| bulkhead.try_enter()).collect();
        assert_eq!(inside.len(), 2);
    });
}

#[test]
fn inv05_shuttle_a_lowered_bulkhead_lets_nobody_in_by_the_slot_of_a_waiter_who_gave_up() {
    explore(3_000, || {
        let bulkhead = Bulkhead::new("b", 2).unwrap();
        let (first, _second) = (bulkhead.try_enter(), bulkhead.try_enter());
        let waiting = {
            let bulkhead = bulkhead.clone();
            thread::spawn(move || drop(poll_at_most(1 + some(2), bulkhead.enter())))
        };
        let lowering = {
            let bulkhead = bulkhead.clone();
            thread::spawn(move || bulkhead.resize(1).unwrap())
        };
        drop(first);
        waiting.join().unwrap();
        lowering.join().unwrap();
        assert!(poll_at_most(3, bulkhead.enter()).is_none(), "one is in");
        assert!(bulkhead.try_enter().is_none());
    });
}

#[test]
fn inv05_shuttle_threads_that_race_for_a_bucket_get_its_burst_and_no_more_though_its_rate_changes() {
    explore(3_000, || {
        let limit = |rate: f64| Some(RateLimit::per_second(rate).unwrap().burst(3).unwrap());
        let bucket = Arc::new(TokenBucket::new(limit(1.0)));
        let now = Clock::system().now();
        let takers: Vec<_> = (0..3)
            .map(|n| {
                let bucket = bucket.clone();
                thread::spawn(move || {
                    let mut taken = 0;
                    for _ in 0..2 {
                        taken += match n {
                            0 => usize::from(bucket.reserve(now, Duration::ZERO).is_ok()),
                            _ => usize::from(bucket.take(now).is_ok()),
                        };
                    }
                    taken
                })
            })
            .collect();
        bucket.set(limit(5.0));
        let _ = (bucket.wait(now), bucket.available(now));
        let taken: usize = takers.into_iter().map(|taker| taker.join().unwrap()).sum();
        assert_eq!((taken, bucket.available(now)), (3, Some(0)));
    });
}

#[test]
fn inv05_shuttle_reservations_are_each_for_a_time_of_their_own() {
    explore(2_000, || {
        let bucket = Arc::new(TokenBucket::new(Some(
            RateLimit::per_second(1.0).unwrap().burst(1).unwrap(),
        )));
        let now = Clock::system().now();
        let reserving: Vec<_> = (0..3)
            .map(|_| {
                let bucket = bucket.clone();
                thread::spawn(move || bucket.reserve(now, Duration::from_secs(60)).unwrap())
            })
            .collect();
        let mut waits: Vec<u64> = reserving
            .into_iter()
            .map(|wait| wait.join().unwrap().as_secs())
            .collect();
        waits.sort_unstable();
        assert_eq!(waits, [0, 1, 2]);
    });
}

#[test]
fn inv05_shuttle_threads_that_race_for_one_key_get_its_burst_and_no_more() {
    explore(3_000, || {
        let limit = RateLimit::per_second(1.0).unwrap().burst(2).unwrap();
        let buckets = Arc::new(KeyedBuckets::new(limit).most_keys(2).unwrap());
        let now = Clock::system().now();
        let takers: Vec<_> = (0..3)
            .map(|n| {
                let buckets = buckets.clone();
                thread::spawn(move || {
                    let _ = buckets.take(&format!("other-{}", n / 2), now);
                    (0..2).filter(|_| buckets.take("a", now).is_ok()).count()
                })
            })
            .collect();
        let taken: usize = takers.into_iter().map(|taker| taker.join().unwrap()).sum();
        // Its own bucket, and the shared one if the others were there first.
        assert!((1..=2).contains(&taken), "{taken}");
    });
}

/// A downstream whose breaker is half-open: it opened, and its time is over.
fn half_open(successes: u32) -> Downstream {
    let config = BreakerConfig::default()
        .failures_in_a_row(1)
        .unwrap()
        .distinct_keys(1)
        .unwrap()
        .jitter(0.0)
        .unwrap()
        .open_for(Duration::from_nanos(1_000_000), Duration::from_secs(60))
        .unwrap()
        .probe_successes(successes)
        .unwrap();
    let downstream = Downstream::builder("d").breaker(config).retries(0).build().unwrap();
    let failed = block_on(downstream.call_with(|()| Advice::Retry, || async { Err::<(), ()>(()) }));
    assert!(failed.is_err());
    // Time stands still but here.
    let mut later = pin!(tokio::time::advance(Duration::from_secs(1)));
    let waker = std::task::Waker::noop();
    let _ = later.as_mut().poll(&mut std::task::Context::from_waker(waker));
    assert_eq!(
        downstream.breaker().state(Clock::system().now()),
        BreakerState::HalfOpen
    );
    downstream
}

#[test]
fn inv04_shuttle_a_half_open_breaker_lets_one_probe_through_among_threads_that_race() {
    explore(3_000, || {
        let downstream = half_open(100);
        let (crowd, made) = (Arc::new(Crowd::default()), Arc::new(AtomicUsize::new(0)));
        let callers: Vec<_> = (0..3)
            .map(|n| {
                let (downstream, crowd, made) = (downstream.clone(), crowd.clone(), made.clone());
                thread::spawn(move || {
                    let call = downstream.call_with(
                        |()| Advice::Retry,
                        || async {
                            made.fetch_add(1, Ordering::SeqCst);
                            crowd.visit();
                            // One that is cancelled is so while it waits for the answer.
                            if n == 0 {
                                std::future::pending::<()>().await;
                            }
                            Ok::<(), ()>(())
                        },
                    );
                    if n == 0 {
                        drop(poll_at_most(1 + some(1), call));
                    } else {
                        let _ = block_on(call);
                    }
                })
            })
            .collect();
        for caller in callers {
            caller.join().unwrap();
        }
        assert!(made.load(Ordering::SeqCst) >= 1, "somebody was let through");
        assert_eq!(crowd.most.load(Ordering::SeqCst), 1);
        // Whatever became of the others, the place of the probe is free again.
        let last = block_on(downstream.call_with(|()| Advice::Retry, || async { Ok::<(), ()>(()) }));
        assert!(last.is_ok(), "{last:?}");
    });
}

#[test]
fn inv04_shuttle_who_watches_a_breaker_sees_its_last_state_whoever_brought_it_about() {
    explore(3_000, || {
        let downstream = half_open(1);
        let mut watch = downstream.breaker();
        let callers: Vec<_> = (0..3)
            .map(|n| {
                let downstream = downstream.clone();
                thread::spawn(move || {
                    let answer = if n == 0 { Err(()) } else { Ok(()) };
                    let _ = block_on(downstream.call_with(|()| Advice::Retry, || async { answer }));
                })
            })
            .collect();
        // Somebody's probe brings about a change, and who waits for one is woken.
        block_on(watch.changed());
        for caller in callers {
            caller.join().unwrap();
        }
        let admitted = block_on(downstream.call_with(|()| Advice::Retry, || async { Ok::<(), ()>(()) })).is_ok();
        let state = downstream.breaker().state(Clock::system().now());
        assert_eq!(admitted, state.is_closed(), "{state:?}");
    });
}
