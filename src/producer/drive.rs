//! The sending: what the buffer has is sent in batches, answered entry by entry, and sent again where that may help.

use std::collections::BTreeSet;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use futures::FutureExt as _;
use futures::future::{BoxFuture, WeakShared};
use futures::stream::{FuturesUnordered, StreamExt as _};

use super::buffer::{Batch, Entry, Plan};
use super::{Answer, Driver, Inner, Parked, ProducerError, Sender, State};
use crate::queue::{EntryResults, QueueError};
use crate::sync::MutexGuard;
use crate::telemetry::{self, ERROR_TYPE, OPERATION, QUEUE};

/// A batch that came back, with what the queue said.
type Called = (Batch<Sender>, Result<EntryResults<String>, QueueError>);

impl Inner {
    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn name(&self) -> String {
        self.queue.attributes().name.clone()
    }

    /// The sending under way, or a new one if something is to be sent.
    pub(super) fn driver(this: &Arc<Self>, state: &mut State) -> Option<Driver> {
        if let Some(driver) = state.driver.as_ref().and_then(WeakShared::upgrade) {
            return Some(driver);
        }
        if state.buffer.len() == 0 {
            return None;
        }
        state.parked = Parked::Listening;
        let driver = Arc::clone(this).drive().boxed().shared();
        state.driver = driver.downgrade();
        Some(driver)
    }

    /// Sends what is in the buffer until nothing is, waiting for batches to fill, for backoff and for answers.
    async fn drive(self: Arc<Self>) {
        let mut flying = FuturesUnordered::new();
        let mut groups = BTreeSet::new();
        loop {
            let now = self.clock.now();
            let plan = {
                let mut state = self.lock();
                let plan = state.buffer.plan(now, &groups, flying.len() < self.settings.batches);
                state.parked = match &plan {
                    Plan::WaitUntil(at) => Parked::Until(*at),
                    Plan::WaitForPlace => Parked::Busy,
                    Plan::Send(_) | Plan::WaitForGroup | Plan::Idle => Parked::Listening,
                };
                if matches!(plan, Plan::Idle) && flying.is_empty() {
                    state.driver = None;
                    return;
                }
                plan
            };
            let wake_at = match plan {
                Plan::Send(batch) => {
                    groups.extend(batch.iter().filter_map(|(_, entry)| entry.group.clone()));
                    flying.push(self.call(batch));
                    continue;
                }
                Plan::WaitUntil(at) => at,
                _ => now + Duration::from_secs(3_600),
            };
            tokio::select! {
                biased;
                Some((batch, answers)) = flying.next(), if !flying.is_empty() => {
                    for (_, entry) in &batch {
                        if let Some(group) = &entry.group {
                            groups.remove(group);
                        }
                    }
                    self.settle(batch, answers);
                }
                () = self.changed.notified() => {}
                () = tokio::time::sleep_until(wake_at) => {}
            }
        }
    }

    /// One call. A batch comes back with its answers.
    fn call(self: &Arc<Self>, batch: Batch<Sender>) -> BoxFuture<'static, Called> {
        let queue = Arc::clone(&self.queue);
        let longest = self.settings.give_up_after;
        async move {
            let messages = batch.iter().map(|(_, entry)| entry.outgoing.clone()).collect();
            let name = &queue.attributes().name;
            telemetry::count_call(name, "send");
            telemetry::count_entries(name, "send", batch.len());
            let answers = match tokio::time::timeout(longest, queue.send(messages)).await {
                Ok(answers) => answers,
                Err(_) => Err(QueueError::Unavailable {
                    queue: name.clone(),
                    operation: "SendMessageBatch",
                    detail: format!("no answer within {longest:?}"),
                    request_id: None,
                }),
            };
            (batch, answers)
        }
        .boxed()
    }

    /// Answers each sender of a batch, or puts its message back to be sent again.
    fn settle(&self, batch: Batch<Sender>, answers: Result<EntryResults<String>, QueueError>) {
        let size = batch.len();
        let name = self.name();
        let mut answers = match answers {
            Ok(answers) => Ok(answers.into_iter()),
            Err(error) => Err(error),
        };
        for (number, mut entry) in batch {
            entry.tries += 1;
            let verdict = match &mut answers {
                Ok(entries) => match entries.next() {
                    Some(Ok(message_id)) => Verdict::Answer(Ok(message_id)),
                    Some(Err(error)) if error.sender_fault => Verdict::Answer(Err(ProducerError::Refused {
                        queue: name.clone(),
                        error,
                    })),
                    Some(Err(error)) => Verdict::Again(error.to_string()),
                    None => Verdict::Again("the queue left the entry without an answer".to_owned()),
                },
                Err(error) if error.is_transient() => Verdict::Again(error.to_string()),
                // One entry may be why the whole batch was refused.
                Err(QueueError::Refused { .. }) if size > 1 && !entry.alone => Verdict::Alone,
                Err(error) => Verdict::Answer(Err(error.clone().into())),
            };
            match verdict {
                Verdict::Answer(answer) => self.answer(number, entry, answer),
                Verdict::Alone => {
                    entry.alone = true;
                    self.again(number, entry);
                }
                Verdict::Again(last) => {
                    let delay = self.settings.backoff.delay(entry.tries, &self.random);
                    let at = self.clock.now() + delay;
                    if entry.tries >= self.settings.attempts || at > entry.joined + self.settings.give_up_after {
                        let attempts = entry.tries;
                        let error = ProducerError::GivenUp {
                            queue: name.clone(),
                            attempts,
                            last,
                        };
                        self.answer(number, entry, Err(error));
                    } else {
                        entry.not_before = at;
                        self.again(number, entry);
                    }
                }
            }
        }
        self.answered.notify_waiters();
    }

    fn again(&self, number: u64, entry: Entry<Sender>) {
        // Nobody waits for it any more: its sender took it back while it was under way.
        if entry.answer.answer.is_closed() {
            return;
        }
        telemetry::counter(&telemetry::PRODUCER_RETRIES, &[(QUEUE, &self.queue.attributes().name)]).increment(1);
        self.lock().buffer.put_back(number, entry);
    }

    fn answer(&self, number: u64, entry: Entry<Sender>, answer: Answer) {
        let mut behind = Vec::new();
        {
            let mut state = self.lock();
            state.unanswered.remove(&number);
            if let (Err(_), Some(group)) = (&answer, &entry.group) {
                behind = state.buffer.take_group(group);
                for (number, _) in &behind {
                    state.unanswered.remove(number);
                }
            }
        }
        for (_, later) in behind {
            let error = ProducerError::GroupFailed {
                queue: self.name(),
                group: later.group.clone().unwrap_or_default(),
                earlier: answer.as_ref().err().map(ToString::to_string).unwrap_or_default(),
            };
            self.count(&Err(error.clone()));
            let _ = later.answer.answer.send(Err(error));
        }
        self.count(&answer);
        let _ = entry.answer.answer.send(answer);
    }

    fn count(&self, answer: &Answer) {
        let queue = &self.queue.attributes().name;
        let mut labels = vec![(QUEUE, queue.as_str()), (OPERATION, "send")];
        if let Err(error) = answer {
            labels.push((ERROR_TYPE, error.kind()));
        }
        telemetry::counter(&telemetry::SENT, &labels).increment(1);
        let taken = self.settings.buffer.saturating_sub(self.space.available_permits());
        telemetry::gauge(&telemetry::PRODUCER_BUFFERED, &[(QUEUE, queue)])
            .set(u32::try_from(taken).unwrap_or(u32::MAX));
    }
}

enum Verdict {
    Answer(Answer),
    Alone,
    Again(String),
}
