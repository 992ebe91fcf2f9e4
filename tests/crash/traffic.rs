//! What goes into the queues, and what is left in the dead-letter queues.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use redrive::clock::{Clock, Instant};
use redrive::message::Delivery;
use redrive::producer::NewMessage;
use redrive::queue::{Queue as _, Receive};
use redrive::{Producer, SqsQueue};

use super::journal::Journal;
use super::load::{Load, Work};
use crate::aws_lab::is_empty;

/// Sends all, or as much as time allows, never more than some hundreds ahead of what is done; answers for how many keys. A
/// copy goes with the part after the one that it copies.
pub(crate) async fn produce(
    load: Arc<Load>,
    queues: [SqsQueue; 2],
    journal: Journal,
    sent: Arc<AtomicUsize>,
    until: Option<(Clock, Instant)>,
) -> usize {
    let ahead = (load.works.len() / 3).clamp(200, 800);
    let producers = queues.map(|queue| Producer::builder(queue).own_keys(false).build().expect("a producer"));
    let mut copies: Vec<Work> = Vec::new();
    let (mut from, mut end) = (0, load.works.len());
    while from < end || !copies.is_empty() {
        if until.as_ref().is_some_and(|(clock, until)| clock.now() >= *until) {
            end = from;
        }
        if from < end && from > journal.done() + ahead {
            tokio::time::sleep(Duration::from_millis(20)).await;
            continue;
        }
        let part = &load.works[from..end.min(from + 50)];
        from += part.len();
        let again = std::mem::take(&mut copies);
        copies.extend(part.iter().filter(|work| work.twice).cloned());
        let all: Vec<(&Work, usize)> = part
            .iter()
            .map(|work| (work, 1))
            .chain(again.iter().map(|work| (work, 2)))
            .collect();
        for (number, producer) in producers.iter().enumerate() {
            let mut mine = all.clone();
            mine.retain(|(work, _)| usize::from(work.group.is_some()) == number);
            let count = mine.len();
            // What was not acknowledged is sent once more, as producers do: there may be two of it then.
            while !mine.is_empty() {
                let messages = mine
                    .iter()
                    .map(|(work, copy)| NewMessage::verbatim(work.message(*copy)));
                let mut answers = producer.send_all(messages.collect::<Vec<_>>()).await.into_iter();
                mine.retain(|_| answers.next().is_none_or(|answer| answer.is_err()));
            }
            sent.fetch_add(count, Ordering::Relaxed);
        }
    }
    from
}

/// Takes all out of a queue that nobody else uses, however long it takes on a busy machine.
pub(crate) async fn all_of(queue: &SqsQueue) -> Vec<Delivery> {
    let mut taken: BTreeMap<String, Delivery> = BTreeMap::new();
    while !is_empty(queue).await {
        let received = queue.receive(Receive::new(10, Duration::from_millis(500))).await;
        let Ok(deliveries) = received else { continue };
        if deliveries.is_empty() {
            continue;
        }
        // What cannot be deleted comes again.
        let _ = queue
            .delete(deliveries.iter().map(|delivery| delivery.receipt.clone()).collect())
            .await;
        taken.extend(
            deliveries
                .into_iter()
                .map(|delivery| (delivery.message.id.clone(), delivery)),
        );
    }
    taken.into_values().collect()
}
