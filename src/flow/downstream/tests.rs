use std::cell::{Cell, RefCell};
use std::collections::VecDeque;

use futures::future::join_all;
use futures::{FutureExt, poll};

use super::*;
use crate::flow::{BreakerConfig, FlowError};

#[derive(Debug, PartialEq, thiserror::Error)]
enum Fault {
    #[error("unreachable")]
    Unreachable,
    #[error("busy for {0:?}")]
    Busy(Duration),
    #[error("declined")]
    Declined,
}

impl Classify for Fault {
    fn advice(&self) -> Advice {
        match self {
            Self::Unreachable => Advice::Retry,
            Self::Busy(wait) => Advice::RetryAfter(*wait),
            Self::Declined => Advice::Reject,
        }
    }
}

fn secs(n: u64) -> Duration {
    Duration::from_secs(n)
}

fn builder() -> DownstreamBuilder {
    Downstream::builder("gateway").random(Random::seeded(4))
}

fn now() -> Instant {
    Clock::system().now()
}

/// A service that answers by a script, and remembers when it was called and how many calls it served at once.
struct Service {
    script: RefCell<VecDeque<Result<u32, Fault>>>,
    takes: Duration,
    calls: RefCell<Vec<Instant>>,
    running: Cell<usize>,
    most: Cell<usize>,
}

struct Running<'a>(&'a Service);

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.0.running.set(self.0.running.get() - 1);
    }
}

impl Service {
    /// Answers as scripted, then with 1.
    fn scripted(script: impl IntoIterator<Item = Result<u32, Fault>>) -> Self {
        Self::taking(Duration::ZERO, script)
    }

    fn taking(takes: Duration, script: impl IntoIterator<Item = Result<u32, Fault>>) -> Self {
        Self {
            script: RefCell::new(script.into_iter().collect()),
            takes,
            calls: RefCell::default(),
            running: Cell::new(0),
            most: Cell::new(0),
        }
    }

    fn down() -> Self {
        Self::scripted(std::iter::repeat_with(|| Err(Fault::Unreachable)).take(10_000))
    }

    async fn answer(&self) -> Result<u32, Fault> {
        self.calls.borrow_mut().push(now());
        self.running.set(self.running.get() + 1);
        let _running = Running(self);
        self.most.set(self.most.get().max(self.running.get()));
        sleep(self.takes).await;
        self.script.borrow_mut().pop_front().unwrap_or(Ok(1))
    }

    fn count(&self) -> usize {
        self.calls.borrow().len()
    }
}

async fn call(downstream: &Downstream, service: &Service) -> Result<u32, DownstreamError<Fault>> {
    downstream.call(|| service.answer()).await
}

/// Lets calls fail until the breaker is open.
async fn knock_out(downstream: &Downstream) -> Instant {
    let service = Service::down();
    for _ in 0..100 {
        let _ = call(downstream, &service).await;
        if let BreakerState::Open { until } = downstream.breaker().state(now()) {
            return until;
        }
    }
    panic!("a hundred failed calls did not open it");
}

fn sure() -> BreakerConfig {
    BreakerConfig::default().jitter(0.0).unwrap()
}

#[tokio::test(start_paused = true)]
async fn a_failure_that_passes_is_tried_again_with_backoff() {
    let downstream = builder().retries(3).build().unwrap();
    let service = Service::scripted([Err(Fault::Unreachable), Err(Fault::Unreachable), Ok(7)]);
    assert_eq!(call(&downstream, &service).await.unwrap(), 7);
    let calls = service.calls.borrow();
    assert_eq!(calls.len(), 3);
    // The runtime's timer rounds up to whole milliseconds.
    assert!(calls[1] - calls[0] <= Duration::from_millis(101));
    assert!(calls[2] - calls[1] <= Duration::from_millis(201));
    assert!(calls[2] > calls[0]);
}

#[tokio::test(start_paused = true)]
async fn when_no_try_succeeds_the_last_error_comes_back_with_their_number() {
    let downstream = builder().retries(2).build().unwrap();
    let error = call(&downstream, &Service::down()).await.unwrap_err();
    assert!(matches!(error, DownstreamError::Failed { tries: 3, .. }), "{error:?}");
    assert_eq!(error.to_string(), "`gateway` failed (tries: 3)");
    assert_eq!(std::error::Error::source(&error).unwrap().to_string(), "unreachable");
    assert!(!error.is_permanent() && !error.was_not_called());
    assert_eq!(error.into_inner(), Some(Fault::Unreachable));
}

#[tokio::test(start_paused = true)]
async fn a_reject_is_not_tried_again_and_never_counts_for_the_breaker() {
    let downstream = builder().build().unwrap();
    let service = Service::scripted(std::iter::repeat_with(|| Err(Fault::Declined)).take(1_000));
    for n in 1..=1_000 {
        let error = call(&downstream, &service).await.unwrap_err();
        assert!(error.is_permanent());
        assert_eq!(service.count(), n);
    }
    assert!(downstream.breaker().state(now()).is_closed());
}

#[tokio::test(start_paused = true)]
async fn a_try_that_takes_too_long_is_dropped_and_tried_again() {
    let downstream = builder().timeout(secs(2)).retries(1).build().unwrap();
    let (service, start) = (Service::taking(secs(60), []), now());
    let error = call(&downstream, &service).await.unwrap_err();
    assert!(matches!(error, DownstreamError::TimedOut { tries: 2, .. }), "{error:?}");
    assert_eq!(service.running.get(), 0);
    assert!(now() - start >= secs(4) && now() - start < secs(5));
}

#[tokio::test(start_paused = true)]
async fn retry_after_is_waited_for_and_never_cut_short() {
    let downstream = builder().build().unwrap();
    let service = Service::scripted([Err(Fault::Busy(secs(3))), Ok(7)]);
    let start = now();
    assert_eq!(call(&downstream, &service).await.unwrap(), 7);
    assert!(now() - start >= secs(3) && now() - start <= Duration::from_millis(3_101));
}

#[tokio::test(start_paused = true)]
async fn a_retry_after_too_long_to_wait_for_is_handed_on() {
    let downstream = builder().max_wait(secs(5)).build().unwrap();
    let (service, start) = (Service::scripted([Err(Fault::Busy(secs(90)))]), now());
    let error = call(&downstream, &service).await.unwrap_err();
    assert_eq!(error.retry_after(), Some(secs(90)));
    assert_eq!((service.count(), now() - start), (1, Duration::ZERO));
}

#[tokio::test(start_paused = true)]
async fn an_absurd_retry_after_is_cut_down() {
    let downstream = builder().build().unwrap();
    let service = Service::scripted([Err(Fault::Busy(Duration::MAX))]);
    let error = call(&downstream, &service).await.unwrap_err();
    assert_eq!(error.retry_after(), Some(LONGEST_DELAY));
}

#[tokio::test(start_paused = true)]
async fn without_budget_there_are_no_retries() {
    let budget = RetryBudget::new(0.0, 0.0).unwrap();
    let downstream = builder().budget(budget).retries(5).build().unwrap();
    let service = Service::down();
    let error = call(&downstream, &service).await.unwrap_err();
    assert!(matches!(error, DownstreamError::Failed { tries: 1, .. }));
    assert_eq!(service.count(), 1);
}

#[tokio::test(start_paused = true)]
async fn retries_stay_within_a_tenth_of_many_calls() {
    let steady = BreakerConfig::default().failures_in_a_row(u32::MAX).unwrap();
    let steady = steady.failure_share(1.0, u32::MAX).unwrap();
    let downstream = builder().breaker(steady).build().unwrap();
    let service = Service::down();
    let errors = join_all((0..2_000).map(|_| call(&downstream, &service))).await;
    assert!(errors.iter().all(Result::is_err));
    assert!((2_000..=2_200).contains(&service.count()), "{}", service.count());
}

#[tokio::test(start_paused = true)]
async fn inv04_while_the_breaker_is_open_nothing_is_called_and_the_error_says_for_how_long() {
    let downstream = builder().retries(0).breaker(sure()).build().unwrap();
    let until = knock_out(&downstream).await;
    let service = Service::scripted([]);
    tokio::time::advance(secs(10)).await;
    let error = call(&downstream, &service).await.unwrap_err();
    assert!(matches!(error, DownstreamError::CircuitOpen { .. }), "{error:?}");
    assert_eq!(error.retry_after(), Some(until - now()));
    assert!(error.was_not_called());
    assert_eq!(service.count(), 0);
}

#[tokio::test(start_paused = true)]
async fn what_the_breaker_refuses_spends_no_token() {
    let rate = RateLimit::per_second(1.0).unwrap().burst(6).unwrap();
    let downstream = builder()
        .retries(0)
        .breaker(sure())
        .rate(rate)
        .max_wait(Duration::ZERO)
        .build()
        .unwrap();
    knock_out(&downstream).await;
    let service = Service::scripted([]);
    for _ in 0..10 {
        let error = call(&downstream, &service).await.unwrap_err();
        assert!(matches!(error, DownstreamError::CircuitOpen { .. }), "{error:?}");
    }
    assert_eq!(downstream.inner.bucket.available(now()), Some(1));
}

#[tokio::test(start_paused = true)]
async fn the_failure_that_opens_the_breaker_is_not_tried_again() {
    let config = sure().failures_in_a_row(1).unwrap().distinct_keys(1).unwrap();
    let downstream = builder().retries(5).breaker(config).build().unwrap();
    let service = Service::down();
    let error = call(&downstream, &service).await.unwrap_err();
    assert!(matches!(error, DownstreamError::Failed { tries: 1, .. }), "{error:?}");
    assert_eq!(error.retry_after(), Some(secs(30)));
    assert_eq!(service.count(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_call_that_waits_to_retry_is_not_made_once_others_have_opened_the_breaker() {
    let backoff = Backoff::new(secs(4), secs(4))
        .unwrap()
        .jitter(crate::flow::Jitter::None);
    let downstream = builder().retries(5).backoff(backoff).breaker(sure()).build().unwrap();
    let service = Service::down();
    let errors = join_all((0..5).map(|_| call(&downstream, &service))).await;
    assert_eq!(service.count(), 5);
    for error in errors {
        let error = error.unwrap_err();
        assert!(matches!(error, DownstreamError::Failed { tries: 1, .. }), "{error:?}");
        assert!(error.retry_after().is_some());
    }
}

#[tokio::test(start_paused = true)]
async fn half_open_it_probes_one_at_a_time_and_closes_after_three_successes() {
    let downstream = builder().retries(0).breaker(sure()).build().unwrap();
    let watch = downstream.breaker();
    tokio::time::advance(knock_out(&downstream).await - now()).await;
    assert_eq!(watch.state(now()), BreakerState::HalfOpen);
    let service = Service::taking(secs(1), []);
    for _ in 0..3 {
        let answers = join_all((0..10).map(|_| call(&downstream, &service))).await;
        assert_eq!(answers.iter().filter(|answer| answer.is_ok()).count(), 1);
        let refused = answers.into_iter().filter_map(Result::err);
        assert!(
            refused
                .into_iter()
                .all(|error| matches!(error, DownstreamError::CircuitOpen { retry_after: None, .. }))
        );
    }
    assert!(watch.state(now()).is_closed());
    assert_eq!((service.count(), service.most.get()), (3, 1));
}

#[tokio::test(start_paused = true)]
async fn a_cancelled_or_panicking_probe_makes_room_for_the_next() {
    let downstream = builder().retries(0).breaker(sure()).build().unwrap();
    tokio::time::advance(knock_out(&downstream).await - now()).await;
    let service = Service::taking(secs(1), []);
    {
        let mut cancelled = Box::pin(call(&downstream, &service));
        assert!(poll!(&mut cancelled).is_pending());
        assert!(call(&downstream, &service).await.is_err());
    }
    let panicking = downstream.call(|| async {
        if service.count() > 0 {
            panic!("a bug in the handler");
        }
        Ok::<u32, Fault>(1)
    });
    assert!(std::panic::AssertUnwindSafe(panicking).catch_unwind().await.is_err());
    assert_eq!(call(&downstream, &service).await.unwrap(), 1);
}

#[tokio::test(start_paused = true)]
async fn calls_for_one_key_alone_do_not_open_the_breaker() {
    let downstream = builder().build().unwrap();
    let (service, poison) = (Service::down(), downstream.keyed("order-17"));
    for _ in 0..100 {
        assert!(call(&poison, &service).await.is_err());
    }
    assert!(downstream.breaker().state(now()).is_closed());
    assert!(call(&downstream.keyed("order-18"), &service).await.is_err());
    assert!(downstream.breaker().state(now()).is_closed());
    assert!(call(&downstream.keyed("order-19"), &service).await.is_err());
    assert!(!downstream.breaker().state(now()).is_closed());
}

#[tokio::test(start_paused = true)]
async fn inv05_calls_stay_within_the_rate_and_go_in_the_order_of_asking() {
    let rate = RateLimit::per_second(10.0).unwrap().burst(1).unwrap();
    let downstream = builder().rate(rate).max_wait(secs(60)).build().unwrap();
    let (service, start, order) = (Service::scripted([]), now(), RefCell::new(Vec::new()));
    let calls = (0..50).map(|n| {
        let (downstream, service, order) = (&downstream, &service, &order);
        async move {
            let answer = call(downstream, service).await;
            order.borrow_mut().push(n);
            answer
        }
    });
    assert!(join_all(calls).await.iter().all(Result::is_ok));
    assert!(order.borrow().iter().copied().eq(0..50));
    for (n, at) in (0u32..).zip(service.calls.borrow().iter()) {
        assert!(*at - start >= Duration::from_millis(100) * n);
    }
    assert!(now() - start < secs(6));
}

#[tokio::test(start_paused = true)]
async fn a_token_too_far_away_is_not_waited_for() {
    let rate = RateLimit::per_second(0.1).unwrap();
    let downstream = builder().rate(rate).max_wait(secs(5)).build().unwrap();
    let service = Service::scripted([]);
    assert!(call(&downstream, &service).await.is_ok());
    let start = now();
    let error = call(&downstream, &service).await.unwrap_err();
    assert!(matches!(error, DownstreamError::RateLimited { .. }), "{error:?}");
    assert_eq!(error.retry_after(), Some(secs(10)));
    assert_eq!((service.count(), now() - start), (1, Duration::ZERO));
    downstream.set_rate(None);
    assert!(call(&downstream, &service).await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn inv05_no_more_run_at_once_than_the_bulkhead_holds() {
    let downstream = builder().bulkhead(3).max_wait(secs(60)).build().unwrap();
    let service = Service::taking(secs(1), []);
    assert!(
        join_all((0..30).map(|_| call(&downstream, &service)))
            .await
            .iter()
            .all(Result::is_ok)
    );
    assert_eq!((service.count(), service.most.get()), (30, 3));
    assert_eq!(downstream.bulkhead().unwrap().in_use(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_bulkhead_that_stays_full_is_an_error_in_the_end() {
    let downstream = builder().bulkhead(1).max_wait(secs(2)).build().unwrap();
    let (service, start) = (Service::taking(secs(9), []), now());
    let (first, second) = tokio::join!(call(&downstream, &service), call(&downstream, &service));
    assert!(first.is_ok());
    assert!(matches!(second, Err(DownstreamError::BulkheadFull { waited, .. }) if waited == secs(2)));
    assert_eq!((service.count(), now() - start), (1, secs(9)));
}

#[tokio::test(start_paused = true)]
async fn no_slot_is_held_while_a_call_waits_for_a_token_or_for_its_next_try() {
    let rate = RateLimit::per_second(1.0).unwrap().burst(1).unwrap();
    let downstream = builder().bulkhead(1).rate(rate).build().unwrap();
    let service = Service::scripted([Err(Fault::Busy(secs(3)))]);
    let mut waiting = Box::pin(call(&downstream, &service));
    assert!(poll!(&mut waiting).is_pending());
    // It waits for its next try.
    assert_eq!((service.count(), downstream.bulkhead().unwrap().in_use()), (1, 0));
    let mut dry = Box::pin(call(&downstream, &service));
    assert!(poll!(&mut dry).is_pending());
    // It waits for a token.
    assert_eq!((service.count(), downstream.bulkhead().unwrap().in_use()), (1, 0));
    assert!(waiting.await.is_ok() && dry.await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn a_watch_tells_of_every_change_also_of_the_one_that_time_makes() {
    let downstream = builder().retries(0).breaker(sure()).build().unwrap();
    let mut watch = downstream.breaker();
    assert_eq!(watch.name(), "gateway");
    assert!(watch.changed().now_or_never().is_none());
    let until = knock_out(&downstream).await;
    watch.changed().await;
    assert_eq!(watch.state(now()), BreakerState::Open { until });
    watch.changed().await;
    assert_eq!((watch.state(now()), now()), (BreakerState::HalfOpen, until));
    assert!(watch.changed().now_or_never().is_none());

    let service = Service::scripted([]);
    while !watch.state(now()).is_closed() {
        assert!(call(&downstream, &service).await.is_ok());
    }
    let mut late = downstream.breaker();
    watch.changed().await;
    assert!(watch.state(now()).is_closed());
    assert!(late.changed().now_or_never().is_none());
}

#[tokio::test(start_paused = true)]
async fn a_watch_outlives_its_downstream_and_still_turns_half_open() {
    let downstream = builder().retries(0).build().unwrap();
    let mut watch = downstream.breaker();
    let until = knock_out(&downstream).await;
    drop(downstream);
    while watch.state(now()) != BreakerState::HalfOpen {
        watch.changed().await;
    }
    assert!(now() >= until);
    assert!(timeout(secs(3_600), watch.changed()).await.is_err());
}

#[tokio::test(start_paused = true)]
async fn errors_of_others_are_classified_at_the_call() {
    let downstream = builder().build().unwrap();
    let tries = Cell::new(0);
    let error = downstream
        .call_with(
            |error: &String| if error == "gone" { Advice::Reject } else { Advice::Retry },
            || async {
                tries.set(tries.get() + 1);
                Err::<(), _>(if tries.get() == 1 {
                    "busy".to_owned()
                } else {
                    "gone".to_owned()
                })
            },
        )
        .await
        .unwrap_err();
    assert!(error.is_permanent());
    assert_eq!(error.into_inner().as_deref(), Some("gone"));
}

#[test]
fn a_call_can_be_spawned() {
    fn spawnable<T: Send + 'static>(_: T) {}
    let downstream = builder().build().unwrap();
    spawnable(async move { downstream.call(|| async { Ok::<u32, Fault>(1) }).await });
}

#[test]
fn absurd_settings_are_refused_by_name() {
    let refused: [(Result<Downstream, FlowError>, &str); 7] = [
        (Downstream::builder(" ").build(), "downstream.name"),
        (builder().timeout(Duration::ZERO).build(), "downstream.timeout"),
        (builder().timeout(Duration::MAX).build(), "downstream.timeout"),
        (builder().retries(21).build(), "downstream.retries"),
        (builder().max_wait(Duration::MAX).build(), "downstream.max_wait"),
        (builder().bulkhead(0).build(), "bulkhead.limit"),
        (builder().bulkhead(usize::MAX).build(), "bulkhead.limit"),
    ];
    for (result, setting) in refused {
        let error = result.unwrap_err().to_string();
        assert!(error.starts_with(&format!("{setting} is ")), "{error}");
    }
}

#[test]
fn the_gauge_shows_the_state_of_the_breaker() {
    let recorder = metrics_util::debugging::DebuggingRecorder::new();
    let snapshotter = recorder.snapshotter();
    let gauge = || {
        let all = snapshotter.snapshot().into_vec();
        all.into_iter()
            .find(|(key, ..)| key.key().name() == "redrive.breaker.state")
            .map(|(.., value)| value)
    };
    let level = |value: f64| Some(metrics_util::debugging::DebugValue::Gauge(value.into()));
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .unwrap();
    metrics::with_local_recorder(&recorder, || {
        runtime.block_on(async {
            let downstream = builder().retries(0).breaker(sure()).build().unwrap();
            assert_eq!(gauge(), level(0.0));
            let until = knock_out(&downstream).await;
            assert_eq!(gauge(), level(2.0));
            tokio::time::advance(until - now()).await;
            let service = Service::scripted([]);
            assert!(call(&downstream, &service).await.is_ok());
            assert_eq!(gauge(), level(1.0));
        });
    });
}
