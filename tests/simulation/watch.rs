//! The services as a worker sees them: over a network that takes its time, and under the judge's eyes.
//!
//! All latency is made here, so that a call to an embedded service has its effect in one instant, and what it changed can be
//! told by comparing before and after.

use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use redrive::MemoryQueue;
use redrive::inbox::{Answers, ClaimAnswer, ClaimRequest, Inbox, InboxError, Record, ServiceTime, Write, Written};
use redrive::key::RecordKey;
use redrive::message::{Delivery, Outgoing, Receipt};
use redrive::queue::{EntryResults, Queue, QueueAttributes, QueueError, Receive};

use crate::calls::in_short;
use crate::checker::Who;
use crate::gate::Gate;
use crate::scene::Scene;

/// Whose calls these are, and what they pass through.
#[derive(Clone)]
pub(crate) struct Line {
    pub(crate) scene: Arc<Scene>,
    pub(crate) who: Who,
    /// Shut while the worker's whole process stands still.
    pub(crate) process: Arc<Gate>,
}

impl Line {
    async fn there(&self) -> Duration {
        let (there, back) = self.scene.trip();
        tokio::time::sleep(there).await;
        back
    }

    async fn back(&self, back: Duration) {
        tokio::time::sleep(back).await;
        self.process.pass().await;
    }
}

/// A queue under watch: the source, or its dead-letter queue.
pub(crate) struct WatchedQueue {
    pub(crate) line: Line,
    pub(crate) queue: MemoryQueue,
    pub(crate) dead: Option<MemoryQueue>,
}

impl Queue for WatchedQueue {
    fn attributes(&self) -> &QueueAttributes {
        self.queue.attributes()
    }

    fn dead_letter_queue(&self) -> Option<Arc<dyn Queue>> {
        let queue = self.dead.clone()?;
        let line = self.line.clone();
        Some(Arc::new(Self {
            line,
            queue,
            dead: None,
        }))
    }

    fn describe(&self) -> BoxFuture<'_, Result<QueueAttributes, QueueError>> {
        Box::pin(async move {
            self.line.process.pass().await;
            let back = self.line.there().await;
            let answer = self.queue.describe().await;
            self.line.back(back).await;
            answer
        })
    }

    fn receive(&self, request: Receive) -> BoxFuture<'_, Result<Vec<Delivery>, QueueError>> {
        Box::pin(async move {
            self.line.process.pass().await;
            let back = self.line.there().await;
            let answer = self.queue.receive(request).await;
            self.line.scene.judge().received(&self.line.who, &answer);
            self.line.back(back).await;
            answer
        })
    }

    fn delete(&self, receipts: Vec<Receipt>) -> BoxFuture<'_, Result<EntryResults<()>, QueueError>> {
        Box::pin(async move {
            self.line.process.pass().await;
            self.line.scene.judge().delete_sent(&self.line.who, &receipts);
            let back = self.line.there().await;
            let answer = self.queue.delete(receipts).await;
            self.line.scene.judge().look_for_lost_messages();
            self.line.back(back).await;
            self.answered("delete", &answer);
            answer
        })
    }

    fn change_visibility(
        &self,
        changes: Vec<(Receipt, Duration)>,
    ) -> BoxFuture<'_, Result<EntryResults<()>, QueueError>> {
        Box::pin(async move {
            self.line.process.pass().await;
            self.line.scene.judge().visibility_sent(&self.line.who, &changes);
            let back = self.line.there().await;
            let answer = self.queue.change_visibility(changes).await;
            self.line.back(back).await;
            self.answered("hide", &answer);
            answer
        })
    }

    fn send(&self, messages: Vec<Outgoing>) -> BoxFuture<'_, Result<EntryResults<String>, QueueError>> {
        Box::pin(async move {
            self.line.process.pass().await;
            self.line.scene.judge().letters_sent(&self.line.who, &messages);
            let back = self.line.there().await;
            let answer = self.queue.send(messages).await;
            self.line.scene.take_stock();
            self.line.scene.judge().look_for_dead_letters(&self.line.who);
            self.line.back(back).await;
            self.answered("send", &answer);
            answer
        })
    }
}

impl WatchedQueue {
    fn answered<T>(&self, what: &str, answer: &Result<EntryResults<T>, QueueError>) {
        let text = format!("{what} answered: {}", in_short(answer));
        self.line.scene.judge().note(&self.line.who, text);
    }
}

/// An inbox under watch.
pub(crate) struct WatchedInbox {
    pub(crate) line: Line,
    pub(crate) inbox: Arc<dyn Inbox>,
    /// How far this worker's bounds of the time are from the truth, in ms.
    pub(crate) doubt_ms: u64,
}

impl Inbox for WatchedInbox {
    fn claim(&self, requests: Vec<ClaimRequest>) -> BoxFuture<'_, Answers<ClaimAnswer>> {
        Box::pin(async move {
            let (scene, who) = (&self.line.scene, &self.line.who);
            self.line.process.pass().await;
            scene.judge().claim_sent(who, &requests);
            let back = self.line.there().await;
            let before = scene
                .judge()
                .records(requests.iter().map(|request| request.key.clone()));
            let answers = self.inbox.claim(requests.clone()).await;
            scene.judge().claim_landed(who, before, &requests, &answers);
            self.line.back(back).await;
            scene.judge().claim_told(who, &requests, &answers);
            answers
        })
    }

    fn write(&self, writes: Vec<Write>) -> BoxFuture<'_, Answers<Written>> {
        Box::pin(async move {
            let (scene, who) = (&self.line.scene, &self.line.who);
            self.line.process.pass().await;
            scene.judge().write_sent(who, &writes);
            let back = self.line.there().await;
            let before = scene
                .judge()
                .records(writes.iter().map(|write| write.claim.key.clone()));
            let answers = self.inbox.write(writes.clone()).await;
            scene.judge().write_landed(who, before, &writes, &answers);
            self.line.back(back).await;
            scene.judge().write_told(who, &writes, &answers);
            answers
        })
    }

    fn get<'a>(&'a self, key: &'a RecordKey) -> BoxFuture<'a, Result<Option<Record>, InboxError>> {
        self.inbox.get(key)
    }

    fn time(&self) -> ServiceTime {
        let ServiceTime { lo, hi } = self.inbox.time();
        ServiceTime {
            lo: lo - self.doubt_ms,
            hi: hi + self.doubt_ms,
        }
    }

    fn max_result(&self) -> usize {
        self.inbox.max_result()
    }

    fn check(&self) -> BoxFuture<'_, Result<Vec<String>, InboxError>> {
        Box::pin(async move {
            self.line.process.pass().await;
            let back = self.line.there().await;
            let answer = self.inbox.check().await;
            self.line.back(back).await;
            answer
        })
    }
}
