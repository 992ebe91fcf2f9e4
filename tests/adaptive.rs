//! The concurrency that finds itself, in a real worker on the embedded queue, before a downstream with a knee, under virtual
//! time.
//!
//! What it is compared with is the best fixed setting, found by a sweep over fixed ones: of those within 1 % of the highest
//! throughput, the lowest, which has the shortest times. Throughput is messages done per second, the time is that of a
//! handler's run, failed ones included. Both are taken from [`SETTLED`] on, after any start; what is lost until then is in the
//! last column of the table, which `cargo test --test adaptive -- --nocapture` prints.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "tests"
)]

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use redrive::clock::{Clock, Instant, Random};
use redrive::flow::AdaptiveConcurrency;
use redrive::message::Outgoing;
use redrive::queue::Queue;
use redrive::worker::{WithoutDeadLetters, WorkerHandle};
use redrive::{Failure, MemoryQueue, Worker};

/// When the limit is expected to have found its place, in seconds after the start or after the downstream changed.
const SETTLED: f64 = 45.0;

/// For how long it is looked at then.
const LOOK: f64 = 30.0;

/// The bounds are a tenth of the knee and eight times it.
const KNEE: usize = 40;

/// What one call takes when nothing waits: 800 a second where that varies. What is constant needs no many.
const TIME: f64 = 0.05;
const CONSTANT_TIME: f64 = 0.2;

/// How the time of a call varies; the mean is always the same.
#[derive(Clone, Copy, Debug)]
enum Noise {
    None,
    Exponential,
    /// Nine of ten take half the mean, one takes eleven times as much as those.
    Bimodal,
}

/// What happens beyond the knee.
#[derive(Clone, Copy, Debug)]
enum Beyond {
    /// First come, first served: n calls at once take n / knee as long.
    Waits,
    /// They wait, and all take longer: by half for each knee's worth of calls too many.
    Collapses,
    /// Refused after 5 ms.
    Refused,
}

#[derive(Clone, Copy, Debug)]
struct Shape {
    beyond: Beyond,
    noise: Noise,
    knee: usize,
    time: f64,
}

impl Shape {
    fn new(beyond: Beyond, noise: Noise) -> Self {
        Self {
            beyond,
            noise,
            knee: KNEE,
            time: if matches!(noise, Noise::None) {
                CONSTANT_TIME
            } else {
                TIME
            },
        }
    }
}

#[derive(Clone)]
struct Downstream {
    clock: Clock,
    inner: Arc<Mutex<Inner>>,
}

struct Inner {
    shape: Shape,
    random: Random,
    calls: usize,
    /// When each server is free.
    servers: BinaryHeap<Reverse<Instant>>,
    origin: Instant,
    /// When each call ended, how long it took, whether it was served.
    ended: Vec<(f64, f64, bool)>,
}

impl Downstream {
    fn new(shape: Shape, seed: u64) -> Self {
        let clock = Clock::system();
        let inner = Inner {
            shape,
            random: Random::seeded(seed),
            calls: 0,
            servers: BinaryHeap::new(),
            origin: clock.now(),
            ended: Vec::new(),
        };
        Self {
            clock,
            inner: Arc::new(Mutex::new(inner)),
        }
    }

    async fn call(&self) -> Result<(), Failure> {
        let begun = self.clock.now();
        let (until, served) = self.inner.lock().unwrap().arrive(begun);
        tokio::time::sleep_until(until).await;
        let mut inner = self.inner.lock().unwrap();
        if served {
            inner.calls -= 1;
        }
        let now = self.clock.now();
        let (at, took) = ((now - inner.origin).as_secs_f64(), (now - begun).as_secs_f64());
        inner.ended.push((at, took, served));
        if served { Ok(()) } else { Err(Failure::retry("429")) }
    }

    /// Messages done per second, and what 99 of 100 runs took at most, between these times.
    fn between(&self, from: f64, to: f64) -> Figures {
        let inner = self.inner.lock().unwrap();
        let ended = inner.ended.iter().filter(|(at, ..)| *at > from && *at <= to);
        let served = ended.clone().filter(|(.., served)| *served).count();
        let mut took: Vec<f64> = ended.map(|(_, took, _)| *took).collect();
        took.sort_by(f64::total_cmp);
        Figures {
            rate: served as f64 / (to - from),
            p99: took.get(took.len() * 99 / 100).copied().unwrap_or(f64::INFINITY),
        }
    }
}

impl Inner {
    /// When the call ends, and whether it is served.
    fn arrive(&mut self, now: Instant) -> (Instant, bool) {
        let Shape {
            beyond,
            noise,
            knee,
            time,
        } = self.shape;
        if matches!(beyond, Beyond::Refused) && self.calls >= knee {
            return (now + Duration::from_millis(5), false);
        }
        self.calls += 1;
        let unit = self.random.unit();
        let share = match noise {
            Noise::None => 1.0,
            Noise::Exponential => -(1.0 - unit).ln(),
            Noise::Bimodal if unit < 0.9 => 0.5,
            Noise::Bimodal => 5.5,
        };
        let over = self.calls.saturating_sub(knee) as f64 / knee as f64;
        let slower = if matches!(beyond, Beyond::Collapses) {
            1.0 + over / 2.0
        } else {
            1.0
        };
        while self.servers.len() > knee {
            self.servers.pop();
        }
        let free = if self.servers.len() < knee {
            now
        } else {
            self.servers.pop().map_or(now, |Reverse(at)| at.max(now))
        };
        let until = free + Duration::from_secs_f64(share * time * slower);
        self.servers.push(Reverse(until));
        (until, true)
    }
}

#[derive(Clone, Copy, Debug)]
struct Figures {
    rate: f64,
    p99: f64,
}

#[derive(Clone, Copy, Debug)]
enum Setting {
    Fixed(usize),
    From(usize),
}

fn bounds() -> AdaptiveConcurrency {
    AdaptiveConcurrency::between(KNEE / 10, 8 * KNEE)
}

/// Runs a worker whose queue never runs dry, while `meanwhile` goes on.
async fn run<T>(
    setting: Setting,
    downstream: &Downstream,
    seed: u64,
    meanwhile: impl AsyncFnOnce(WorkerHandle) -> T,
) -> T {
    let clock = Clock::starting_at(1_750_000_000_000);
    let random = Random::seeded(seed);
    let queue = MemoryQueue::builder("orders")
        .clock(clock.clone())
        .random(random.clone())
        .build()
        .unwrap();
    let builder = Worker::builder(queue.clone())
        .clock(clock)
        .random(random)
        .without_dead_letters(WithoutDeadLetters::Keep)
        .without_breaker()
        .max_attempts(100);
    let builder = match setting {
        Setting::Fixed(handlers) => builder.concurrency(handlers),
        Setting::From(start) => builder.adaptive_concurrency(bounds().start_at(start)),
    };
    let called = downstream.clone();
    let handler = move || {
        let called = called.clone();
        async move { called.call().await }
    };
    let worker = builder.handler(handler).build().unwrap();
    let handle = worker.handle();
    let filled = queue.clone();
    let fill = async {
        let mut sent = 0;
        loop {
            // What is there and not yet done; the slowest of what is done is far from a thousand messages in 10 ms.
            let done = handle.status().totals.completed;
            while sent < done + 2_000 {
                filled.send(vec![Outgoing::new("{}"); 10]).await.unwrap();
                sent += 10;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    let steer = meanwhile(handle.clone());
    tokio::select! {
        biased;
        result = steer => result,
        _ = worker.run_until_drained() => panic!("the worker ended"),
        () = fill => unreachable!(),
    }
}

async fn sleep(seconds: f64) {
    tokio::time::sleep(Duration::from_secs_f64(seconds)).await;
}

/// The best fixed setting.
async fn best_fixed(shape: Shape) -> (usize, Figures) {
    let fixed = async |handlers, seconds| {
        let downstream = Downstream::new(shape, 1);
        run(Setting::Fixed(handlers), &downstream, 1, async |_| sleep(seconds).await).await;
        downstream.between(2.0, seconds)
    };
    let mut all = Vec::new();
    for share in [0.75, 0.9, 0.95, 1.0, 1.05, 1.25, 2.0] {
        let handlers = (share * shape.knee as f64).round() as usize;
        all.push((handlers, fixed(handlers, 12.0).await));
    }
    let highest = all.iter().map(|(_, figures)| figures.rate).fold(0.0, f64::max);
    let (handlers, _) = *all.iter().find(|(_, figures)| figures.rate >= 0.99 * highest).unwrap();
    (handlers, fixed(handlers, 32.0).await)
}

fn say(shape: Shape, best: (usize, Figures), from: &str, found: Figures, lost: Option<f64>, limit: usize) {
    println!(
        "{:10} {:12} best fixed {:3}: {:6.1}/s p99 {:5.0} ms | from {from:9} {:6.1}/s ({:5.1} %) p99 {:5.0} ms ({:5.1} %), limit {limit:3}{}",
        format!("{:?}", shape.beyond),
        format!("{:?}", shape.noise),
        best.0,
        best.1.rate,
        best.1.p99 * 1e3,
        found.rate,
        100.0 * found.rate / best.1.rate,
        found.p99 * 1e3,
        100.0 * found.p99 / best.1.p99,
        lost.map(|lost| format!(", until then {:.1} %", 100.0 * lost))
            .unwrap_or_default(),
    );
}

/// Within a tenth of the throughput, and no slower than chance and the levels that are tried make it: a twentieth.
fn assert_near(shape: Shape, best: Figures, found: Figures) {
    assert!(
        found.rate >= 0.9 * best.rate,
        "{shape:?}: {found:?} instead of {best:?}"
    );
    assert!(found.p99 <= 1.05 * best.p99, "{shape:?}: {found:?} instead of {best:?}");
}

async fn from_any_start(shape: Shape) {
    let best = best_fixed(shape).await;
    for (seed, start, name) in [(2, KNEE / 10, "min"), (3, KNEE, "the knee"), (4, 8 * KNEE, "max")] {
        let downstream = Downstream::new(shape, seed);
        let limit = run(Setting::From(start), &downstream, seed, async |handle| {
            sleep(SETTLED + LOOK).await;
            handle.status().concurrency
        })
        .await;
        let found = downstream.between(SETTLED, SETTLED + LOOK);
        let first = downstream.between(0.0, SETTLED);
        say(shape, best, name, found, Some(first.rate / best.1.rate), limit);
        assert_near(shape, best.1, found);
        assert!(first.rate >= 0.7 * best.1.rate, "{shape:?} from {name}: {first:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn what_waits_at_a_constant_time() {
    from_any_start(Shape::new(Beyond::Waits, Noise::None)).await;
}

#[tokio::test(start_paused = true)]
async fn what_waits_at_exponential_times() {
    from_any_start(Shape::new(Beyond::Waits, Noise::Exponential)).await;
}

#[tokio::test(start_paused = true)]
async fn what_waits_at_times_of_two_kinds() {
    from_any_start(Shape::new(Beyond::Waits, Noise::Bimodal)).await;
}

#[tokio::test(start_paused = true)]
async fn what_collapses_at_exponential_times() {
    from_any_start(Shape::new(Beyond::Collapses, Noise::Exponential)).await;
}

#[tokio::test(start_paused = true)]
async fn what_refuses_at_a_constant_time() {
    from_any_start(Shape::new(Beyond::Refused, Noise::None)).await;
}

#[tokio::test(start_paused = true)]
async fn what_refuses_at_exponential_times() {
    from_any_start(Shape::new(Beyond::Refused, Noise::Exponential)).await;
}

/// Half way the downstream changes: its knee, and its time.
async fn after(change: &str, noise: Noise, knee: f64, time: f64) {
    let before = Shape::new(Beyond::Waits, noise);
    let shape = Shape {
        knee: (knee * KNEE as f64) as usize,
        time: time * before.time,
        ..before
    };
    let best = best_fixed(shape).await;
    let downstream = Downstream::new(before, 7);
    let limit = run(Setting::From(16), &downstream, 7, async |handle| {
        sleep(SETTLED).await;
        downstream.inner.lock().unwrap().shape = shape;
        // A minute until more is tried, and as long as it takes from any start.
        sleep(60.0 + SETTLED + LOOK).await;
        handle.status().concurrency
    })
    .await;
    let from = 60.0 + 2.0 * SETTLED;
    let found = downstream.between(from, from + LOOK);
    say(shape, best, change, found, None, limit);
    assert_near(shape, best.1, found);
}

#[tokio::test(start_paused = true)]
async fn a_knee_that_falls() {
    after("knee / 2", Noise::None, 0.5, 1.0).await;
    after("knee / 2", Noise::Exponential, 0.5, 1.0).await;
}

#[tokio::test(start_paused = true)]
async fn a_knee_that_rises() {
    after("knee x 2", Noise::None, 2.0, 1.0).await;
}

#[tokio::test(start_paused = true)]
async fn a_downstream_that_becomes_slower() {
    after("time x 2", Noise::None, 1.0, 2.0).await;
    after("time x 2", Noise::Exponential, 1.0, 2.0).await;
}

#[tokio::test(start_paused = true)]
async fn a_downstream_that_becomes_faster() {
    after("time / 2", Noise::None, 1.0, 0.5).await;
}

#[tokio::test(start_paused = true)]
async fn a_number_set_by_hand_holds() {
    let downstream = Downstream::new(Shape::new(Beyond::Waits, Noise::None), 1);
    run(Setting::From(16), &downstream, 1, async |handle| {
        sleep(20.0).await;
        assert!(handle.status().adaptive && handle.status().concurrency > 30);
        handle.set_concurrency(3).unwrap();
        for _ in 0..60 {
            sleep(1.0).await;
            let status = handle.status();
            assert!(!status.adaptive && status.concurrency == 3, "{status:?}");
        }
    })
    .await;
    let rate = downstream.between(30.0, 80.0).rate;
    assert!((14.0..=16.0).contains(&rate), "{rate}");
}

#[tokio::test(start_paused = true)]
async fn what_is_fetched_follows_the_limit() {
    let downstream = Downstream::new(Shape::new(Beyond::Waits, Noise::None), 1);
    run(Setting::From(8 * KNEE), &downstream, 1, async |handle| {
        sleep(30.0).await;
        let mut most = 0;
        for _ in 0..500 {
            sleep(0.02).await;
            most = most.max(handle.status().running + handle.status().waiting);
        }
        // At most two slots' worth ahead of each slot, where the slots are those of now.
        assert!(most <= 4 * KNEE, "{most}");
    })
    .await;
}
