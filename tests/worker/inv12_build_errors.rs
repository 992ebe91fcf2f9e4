//! Settings that cannot be right are refused before anything runs, in words one can act on.

use std::time::Duration;

use redrive::extract::{Checkpoint, FencingToken, State};
use redrive::flow::{AdaptiveConcurrency, Backoff, BreakerConfig, RateLimit};
use redrive::handler::{Handler, batch};
use redrive::worker::{BuildError, Builder, WithoutDeadLetters};
use redrive::{Failure, MemoryQueue, Router, Worker};

use crate::support::{DAY, Rig, secs};

async fn nothing() -> Result<(), Failure> {
    Ok(())
}

/// The error's text, which must name all of these.
fn refused(built: Result<Worker, BuildError>, names: &[&str]) -> BuildError {
    let error = built.unwrap_err();
    let text = error.to_string();
    for name in names {
        assert!(text.contains(name), "`{name}` is not in: {text}");
    }
    error
}

fn set(with: impl FnOnce(Builder) -> Builder) -> Result<Worker, BuildError> {
    let rig = Rig::new();
    with(rig.worker()).handler(nothing).build()
}

#[tokio::test(start_paused = true)]
async fn inv12_a_worker_without_a_handler() {
    let rig = Rig::new();
    let error = refused(rig.worker().build(), &["`orders`", "no handler", ".handler("]);
    assert!(matches!(error, BuildError::NoHandler { .. }));
}

#[tokio::test(start_paused = true)]
async fn inv12_a_state_set_after_the_handler() {
    let rig = Rig::new();
    refused(
        rig.worker().handler(nothing).state(7_u32).build(),
        &["state", "before `.handler("],
    );
    async fn with_state(State(_): State<u32>) -> Result<(), Failure> {
        Ok(())
    }
    assert!(rig.worker().state(7_u32).handler(with_state).build().is_ok());
}

#[tokio::test(start_paused = true)]
async fn inv12_nowhere_for_dead_letters_to_go() {
    let queue = MemoryQueue::new("orders").unwrap();
    let error = refused(
        Worker::builder(queue.clone()).handler(nothing).build(),
        &[
            "`orders`",
            "redrive policy",
            ".dead_letter(queue)",
            ".dead_letter_by_redrive_policy()",
            ".without_dead_letters(",
        ],
    );
    assert!(matches!(error, BuildError::NoDeadLetterQueue { .. }));
    let by_policy = Worker::builder(queue.clone())
        .dead_letter_by_redrive_policy()
        .handler(nothing)
        .build();
    refused(
        by_policy,
        &["dead_letter_by_redrive_policy", "`orders` has no redrive policy"],
    );
    for instead in [WithoutDeadLetters::Keep, WithoutDeadLetters::Discard] {
        assert!(
            Worker::builder(queue.clone())
                .without_dead_letters(instead)
                .handler(nothing)
                .build()
                .is_ok()
        );
    }
}

#[tokio::test(start_paused = true)]
async fn inv12_a_dead_letter_queue_that_is_the_source_itself_or_of_another_kind() {
    let rig = Rig::new();
    let itself = rig.worker().dead_letter(rig.queue.clone()).handler(nothing).build();
    refused(itself, &["dead_letter", "`orders` is the source itself"]);
    let fifo = MemoryQueue::new("dead.fifo").unwrap();
    refused(
        rig.worker().dead_letter(fifo).handler(nothing).build(),
        &["`orders`", "`dead.fifo`", "both"],
    );
}

#[tokio::test(start_paused = true)]
async fn inv12_zero_and_absurd_numbers() {
    refused(
        set(|worker| worker.concurrency(0)),
        &["concurrency", "0", "1 to 100,000"],
    );
    refused(
        set(|worker| worker.concurrency(100_001)),
        &["concurrency", "100001", "1 to 100,000"],
    );
    refused(set(|worker| worker.max_attempts(0)), &["max_attempts", "at least 1"]);
    refused(set(|worker| worker.max_receives(0)), &["max_receives", "at least 1"]);
    refused(
        set(|worker| worker.bulkhead("gateway", 0)),
        &["bulkhead", "`gateway`", "at least 1"],
    );
    assert!(set(|worker| worker.concurrency(1).max_attempts(1).max_receives(1).bulkhead("b", 1)).is_ok());
    assert!(
        set(|worker| worker.held_back(0)).is_ok(),
        "all overflow is delayed then"
    );
}

#[tokio::test(start_paused = true)]
async fn inv12_durations_outside_what_works() {
    type Set = fn(Builder, Duration) -> Builder;
    let cases: [(&str, Set, Duration, Duration); 7] = [
        ("long_poll", Builder::long_poll, secs(20), secs(21)),
        ("drain_deadline", Builder::drain_deadline, 2 * DAY, 3 * DAY),
        ("linger", Builder::linger, secs(1), secs(2)),
        ("in_flight_delay", Builder::in_flight_delay, secs(900), secs(901)),
        ("inbox_retention", Builder::inbox_retention, 3650 * DAY, secs(59)),
        ("handler_timeout", Builder::handler_timeout, 7 * DAY, Duration::ZERO),
        ("lease", Builder::lease, secs(900), secs(901)),
    ];
    for (name, with, good, bad) in cases {
        assert!(set(|worker| with(worker, good)).is_ok(), "{name} of {good:?}");
        let shown = format!("{bad:?}").replace("0ns", "0s");
        refused(
            set(|worker| with(worker, bad)),
            &["`orders`", name, &format!(": {shown} is outside"), " to "],
        );
        refused(set(|worker| with(worker, Duration::MAX)), &[name]);
    }
    refused(set(|worker| worker.lease(Duration::ZERO)), &["lease", "1s"]);
}

#[tokio::test(start_paused = true)]
async fn inv12_consumers_that_would_break_keys() {
    for consumer in ["", "a#b", &"c".repeat(513)] {
        refused(set(|worker| worker.consumer(consumer)), &["consumer", "without `#`"]);
    }
}

#[tokio::test(start_paused = true)]
async fn inv12_extractors_that_need_an_inbox() {
    async fn fenced(FencingToken(_): FencingToken) -> Result<(), Failure> {
        Ok(())
    }
    async fn checkpointed(_: Checkpoint) -> Result<(), Failure> {
        Ok(())
    }
    let rig = Rig::new();
    refused(rig.bare().handler(fenced).build(), &["`FencingToken`", ".inbox("]);
    refused(rig.bare().handler(checkpointed).build(), &["`Checkpoint`", ".inbox("]);
    let router: Router = Router::new().route("a", nothing).route("b", checkpointed);
    refused(rig.bare().handler(router).build(), &["`Checkpoint`", ".inbox("]);
    refused(
        rig.worker().shadow(true).handler(fenced).build(),
        &["shadow", "`FencingToken`"],
    );
    assert!(rig.worker().handler(fenced).build().is_ok());
}

#[tokio::test(start_paused = true)]
async fn inv12_shadow_mode_without_an_inbox() {
    let rig = Rig::new();
    refused(rig.bare().shadow(true).handler(nothing).build(), &["shadow", ".inbox("]);
}

#[tokio::test(start_paused = true)]
async fn inv12_bulkheads_that_routes_name_and_nobody_set() {
    let rig = Rig::new();
    let router = || Router::new().route("a", nothing.bulkhead("gateway"));
    let router_of: Router = router();
    refused(
        rig.worker().handler(router_of).build(),
        &["bulkhead", "`gateway`", ".bulkhead(\"gateway\", handlers)"],
    );
    let router_of: Router = router();
    assert!(rig.worker().bulkhead("gateway", 4).handler(router_of).build().is_ok());
}

#[tokio::test(start_paused = true)]
async fn inv12_handlers_that_are_put_together_wrong() {
    let rig = Rig::new();
    let empty: Router = Router::new();
    refused(
        rig.worker().handler(empty).build(),
        &["handler", "no routes", ".route("],
    );
    let twice: Router = Router::new().route("a", nothing).route("a", nothing);
    refused(rig.worker().handler(twice).build(), &["two routes for type `a`"]);
    let none_at_once = batch(0, secs(1), |_: Vec<redrive::extract::Text>| async {
        Vec::<Result<(), Failure>>::new()
    });
    refused(rig.worker().handler(none_at_once).build(), &["handler"]);
}

#[tokio::test(start_paused = true)]
async fn inv12_keys_from_deduplication_ids_where_there_are_none() {
    let rig = Rig::new();
    refused(
        rig.worker().key_from_deduplication_id().handler(nothing).build(),
        &["key_from_deduplication_id", "`orders` is not a FIFO queue"],
    );
    let rig = Rig::named("orders.fifo", |queue| queue.content_based_deduplication(true));
    refused(
        rig.worker().key_from_deduplication_id().handler(nothing).build(),
        &["`orders.fifo`", "content-based deduplication", "Idempotency-Key"],
    );
}

#[tokio::test(start_paused = true)]
async fn inv12_a_handler_timeout_that_only_heartbeats_could_keep() {
    let timeout = |worker: Builder| worker.handler_timeout(secs(31));
    refused(
        set(|worker| timeout(worker).without_heartbeat()),
        &["handler_timeout", "heartbeat"],
    );
    assert!(set(timeout).is_ok());
    assert!(set(|worker| worker.handler_timeout(secs(30)).without_heartbeat()).is_ok());
}

#[test]
fn inv12_flow_settings_say_what_is_allowed() {
    let texts = [
        RateLimit::per_second(0.0).unwrap_err().to_string(),
        Backoff::new(secs(2), secs(1)).unwrap_err().to_string(),
        Backoff::new(secs(1), secs(13 * 3_600)).unwrap_err().to_string(),
        BreakerConfig::default().failures_in_a_row(0).unwrap_err().to_string(),
    ];
    for text in texts {
        assert!(
            text.contains("least") || text.contains("most") || text.contains("from"),
            "{text}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn inv12_a_concurrency_that_finds_itself_within_bounds_that_cannot_be() {
    let between = |min, max| set(|worker| worker.adaptive_concurrency(AdaptiveConcurrency::between(min, max)));
    refused(between(0, 8), &["adaptive_concurrency", "at least 1"]);
    refused(between(9, 8), &["adaptive_concurrency", "9", "8"]);
    refused(between(1, 1_000_000), &["adaptive_concurrency", "1000000", "100000"]);
    let start = AdaptiveConcurrency::between(4, 8).start_at(3);
    refused(
        set(|worker| worker.adaptive_concurrency(start)),
        &["adaptive_concurrency", "the start, 3", "4 to 8"],
    );
    refused(
        set(|worker| {
            worker
                .concurrency(16)
                .adaptive_concurrency(AdaptiveConcurrency::between(4, 64))
        }),
        &["adaptive_concurrency", ".concurrency(", "either"],
    );
    assert!(between(4, 4).is_ok());
}

#[tokio::test(start_paused = true)]
async fn inv12_a_stall_that_every_long_poll_would_be() {
    let both = |stall: u64| set(|worker| worker.long_poll(secs(20)).stall_after(secs(stall)));
    refused(both(20), &["stall_after", "`long_poll`", "21s or more"]);
    assert!(both(21).is_ok());
}
