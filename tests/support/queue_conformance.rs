//! What every queue must do, whatever its engine.
//!
//! A test file for an engine implements [`QueueLab`], defines a macro that makes a test of each case name, and hands it to
//! [`for_each_case`]; `tests/embedded_queue.rs` shows how. Where an engine is known to differ, [`DEVIATIONS`] says so, and
//! the case asserts the difference, so that the table stays true. Times are a few seconds, to run on real time too.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

#[path = "queue_conformance/fifo.rs"]
mod fifo;
#[path = "queue_conformance/limits.rs"]
mod limits;
#[path = "queue_conformance/standard.rs"]
mod standard;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use redrive::clock::{Clock, Instant};
use redrive::message::{Attribute, Delivery, Outgoing, Receipt};
use redrive::queue::{EntryError, Queue, QueueError, Receive};

/// Calls a macro with the name of every case, separated by commas.
macro_rules! for_each_case {
    ($make:ident) => {
        $make! {
            attributes_are_those_the_queue_was_made_with,
            what_is_sent_is_received_with_all_its_parts,
            a_received_message_stays_invisible_then_comes_back_with_a_higher_count,
            a_receive_can_set_its_own_visibility,
            a_long_poll_ends_when_a_message_arrives,
            a_long_poll_ends_when_a_message_becomes_visible,
            an_empty_receive_lasts_as_long_as_it_was_told,
            a_receive_hands_out_no_more_than_asked_for,
            a_deleted_message_does_not_come_back,
            deleting_twice_is_no_error,
            a_stale_handle_deletes_nothing_and_is_no_error_on_a_standard_queue,
            a_handle_is_good_until_the_next_receive_on_a_standard_queue,
            an_expired_handle_is_an_error_on_a_fifo_queue,
            inv11_an_unknown_handle_fails_alone,
            a_heartbeat_extends_visibility,
            visibility_zero_gives_a_message_back_at_once,
            the_visibility_of_what_is_not_in_flight_cannot_be_changed,
            the_visibility_of_a_deleted_message_cannot_be_changed,
            a_delayed_message_stays_hidden,
            a_queue_can_delay_every_message,
            inv11_one_bad_message_leaves_the_others_in_its_batch,
            what_sqs_does_not_take_is_the_senders_fault,
            ten_attributes_are_the_most,
            a_message_has_a_mebibyte_at_most,
            a_batch_has_ten_entries_and_a_mebibyte_at_most,
            counts_follow_what_waits_and_what_is_in_flight,
            a_message_received_too_often_moves_to_the_dead_letter_queue,
            inv07_a_group_is_in_order_and_locked_while_in_flight,
            inv07_a_group_given_back_comes_again_in_order,
            inv07_a_group_stays_locked_until_the_last_of_it_is_back,
            a_delayed_head_holds_back_its_group_only,
            a_deduplication_id_is_swallowed_even_after_deletion,
            bodies_deduplicate_where_the_queue_says_so,
            deduplication_by_group_leaves_other_groups_alone,
            a_fifo_queue_needs_group_and_deduplication_id_and_takes_no_delay,
            a_fifo_head_received_too_often_moves_and_its_group_goes_on,
        }
    };
}
pub(crate) use {fifo::*, for_each_case, limits::*, standard::*};

/// Who answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(dead_code, reason = "a test file has one engine")]
pub(crate) enum Engine {
    /// [`redrive::queue::MemoryQueue`].
    Embedded,
    /// `SqsQueue` on LocalStack.
    LocalStack,
    /// `SqsQueue` on Amazon SQS.
    Sqs,
}

/// How an engine differs from what SQS documents, or a client from the bare API.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Deviation {
    /// A receipt handle deletes its message although the message was received again since.
    StaleHandleDeletes,
    /// A visibility change of a message that is visible again succeeds and does nothing.
    ChangeOfVisibleSucceeds,
    /// More than ten message attributes are taken.
    ElevenAttributesPass,
    /// An entry that is wrong by itself is not always marked as the sender's fault.
    SenderFaultUnset,
    /// Visibility 0 on a group's head opens the group although more of it is in flight.
    ReleasedHeadOpensGroup,
    /// Batches over the limits, and empty ones, are made into calls within the limits.
    BatchesAreCut,
}

/// Which engine differs how, and where that is known from.
pub(crate) const DEVIATIONS: &[(Engine, Deviation, &str)] = &[
    (
        Engine::LocalStack,
        Deviation::StaleHandleDeletes,
        "measured; it keeps every handle until the message is deleted",
    ),
    (
        Engine::LocalStack,
        Deviation::ChangeOfVisibleSucceeds,
        "4.14.0: a message that is not in flight is passed over",
    ),
    (
        Engine::LocalStack,
        Deviation::ElevenAttributesPass,
        "4.14.0: attributes are not counted",
    ),
    (
        Engine::LocalStack,
        Deviation::SenderFaultUnset,
        "4.14.0: InvalidMessageContents has it false",
    ),
    (
        Engine::LocalStack,
        Deviation::ReleasedHeadOpensGroup,
        "4.14.0: an older message that returns opens its group",
    ),
    (
        Engine::LocalStack,
        Deviation::BatchesAreCut,
        "SqsQueue cuts and joins batches itself",
    ),
    (
        Engine::Sqs,
        Deviation::BatchesAreCut,
        "SqsQueue cuts and joins batches itself",
    ),
];

/// Makes queues of one engine.
pub(crate) trait QueueLab: Send + Sync {
    /// Which engine it is.
    fn engine(&self) -> Engine;

    /// Makes a fresh queue under a name of its own, with a dead-letter queue where the spec has a receive count.
    fn queue(&self, spec: Spec) -> BoxFuture<'_, Arc<dyn Queue>>;
}

impl dyn QueueLab + '_ {
    fn deviates(&self, deviation: Deviation) -> bool {
        DEVIATIONS
            .iter()
            .any(|(engine, how, _)| *engine == self.engine() && *how == deviation)
    }

    /// How late the engine may bring a message back.
    fn late(&self) -> Duration {
        match self.engine() {
            Engine::Embedded => Duration::ZERO,
            Engine::LocalStack => ms(2_000),
            Engine::Sqs => ms(3_000),
        }
    }

    /// How early: SQS counts in whole seconds.
    fn early(&self) -> Duration {
        match self.engine() {
            Engine::Embedded => Duration::ZERO,
            Engine::LocalStack => ms(100),
            Engine::Sqs => ms(1_000),
        }
    }
}

/// What queue a case wants. What is not said is the engine's default.
#[derive(Clone, Debug, Default)]
pub(crate) struct Spec {
    pub(crate) fifo: bool,
    pub(crate) visibility: Option<Duration>,
    pub(crate) delay: Option<Duration>,
    pub(crate) max_message_bytes: Option<usize>,
    pub(crate) max_receive_count: Option<u32>,
    pub(crate) content_based_deduplication: bool,
    pub(crate) deduplication_by_group: bool,
}

impl Spec {
    fn standard() -> Self {
        Self::default()
    }

    fn fifo() -> Self {
        Self {
            fifo: true,
            ..Self::default()
        }
    }

    fn visibility(mut self, seconds: u64) -> Self {
        self.visibility = Some(secs(seconds));
        self
    }

    fn dead_letter_after(mut self, receives: u32) -> Self {
        self.max_receive_count = Some(receives);
        self
    }
}

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

fn secs(secs: u64) -> Duration {
    Duration::from_secs(secs)
}

fn now() -> Instant {
    Clock::system().now()
}

async fn send_one(queue: &dyn Queue, message: Outgoing) -> String {
    let mut answers = queue.send(vec![message]).await.unwrap();
    assert_eq!(answers.len(), 1);
    answers.remove(0).unwrap()
}

async fn send_bodies<const N: usize>(queue: &dyn Queue, bodies: [&str; N]) -> Vec<String> {
    let answers = queue.send(bodies.map(Outgoing::new).into()).await.unwrap();
    answers.into_iter().map(Result::unwrap).collect()
}

/// A message for a FIFO queue, deduplicated by group and body.
fn grouped(group: &str, body: &str) -> Outgoing {
    Outgoing::new(body)
        .group(group)
        .deduplication_id(format!("{group}.{body}"))
}

async fn receive(queue: &dyn Queue, max: usize, wait: Duration) -> Vec<Delivery> {
    queue.receive(Receive::new(max, wait)).await.unwrap()
}

/// Receives until it has as many as are expected.
async fn receive_all(queue: &dyn Queue, expected: usize) -> Vec<Delivery> {
    let deadline = now() + secs(20);
    let mut all = Vec::new();
    while all.len() < expected {
        assert!(
            now() < deadline,
            "{} of {expected} messages came in 20 s: {:?}",
            all.len(),
            bodies(&all)
        );
        all.extend(receive(queue, (expected - all.len()).min(10), secs(5)).await);
    }
    all
}

async fn receive_one(queue: &dyn Queue) -> Delivery {
    receive_all(queue, 1).await.remove(0)
}

async fn assert_nothing_comes(queue: &dyn Queue, wait: Duration, why: &str) {
    let received = receive(queue, 10, wait).await;
    assert!(received.is_empty(), "{why}: {:?}", bodies(&received));
}

async fn delete(queue: &dyn Queue, deliveries: &[&Delivery]) -> Vec<Result<(), EntryError>> {
    let receipts: Vec<Receipt> = deliveries.iter().map(|delivery| delivery.receipt.clone()).collect();
    let answers = queue.delete(receipts).await.unwrap();
    assert_eq!(answers.len(), deliveries.len(), "every entry has its answer");
    answers
}

async fn delete_surely(queue: &dyn Queue, deliveries: &[&Delivery]) {
    for answer in delete(queue, deliveries).await {
        answer.unwrap();
    }
}

async fn change(queue: &dyn Queue, delivery: &Delivery, timeout: Duration) -> Result<(), EntryError> {
    queue
        .change_visibility(vec![(delivery.receipt.clone(), timeout)])
        .await
        .unwrap()
        .remove(0)
}

/// Waits until a condition holds, at most 10 s.
async fn eventually(what: &str, condition: impl AsyncFn() -> bool) {
    let deadline = now() + secs(10);
    while !condition().await {
        assert!(now() < deadline, "after 10 s it is still not so that {what}");
        tokio::time::sleep(ms(100)).await;
    }
}

fn bodies(deliveries: &[Delivery]) -> Vec<&str> {
    deliveries
        .iter()
        .map(|delivery| delivery.message.body.as_str())
        .collect()
}

fn sorted(deliveries: &[Delivery]) -> Vec<&str> {
    let mut bodies = bodies(deliveries);
    bodies.sort_unstable();
    bodies
}

fn of_group<'a>(deliveries: &'a [Delivery], group: &str) -> Vec<&'a str> {
    let of_group = deliveries
        .iter()
        .filter(|delivery| delivery.message.group_id.as_deref() == Some(group));
    of_group.map(|delivery| delivery.message.body.as_str()).collect()
}

/// The one entry's error, whether the service refused the entry or the call that it was alone in.
fn refusal(answer: Result<Vec<Result<String, EntryError>>, QueueError>) -> Option<EntryError> {
    match answer {
        Ok(mut answers) => answers.remove(0).err(),
        Err(QueueError::Refused { code, detail, .. }) => Some(EntryError::new(code, detail, true)),
        Err(other) => panic!("neither taken nor refused: {other}"),
    }
}
