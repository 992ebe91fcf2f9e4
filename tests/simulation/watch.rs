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
    /// Carries a call to its service and the answer back. What was sent arrives, whatever becomes of its sender meanwhile:
    /// it may have given up waiting, or have died.
    pub(crate) async fn carry<T: Send + 'static>(&self, effect: impl Future<Output = T> + Send + 'static) -> T {
        self.process.pass().await;
        let (there, back) = self.scene.trip();
        let (answers, answer) = tokio::sync::oneshot::channel();
        self.scene.judge().on_the_wire(async move {
            tokio::time::sleep(there).await;
            // Nobody may wait for it any more.
            let _ = answers.send(effect.await);
        });
        let answer = answer.await.expect("the judge's own code does not panic");
        tokio::time::sleep(back).await;
        self.process.pass().await;
        answer
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
        let queue = self.queue.clone();
        Box::pin(self.line.carry(async move { queue.describe().await }))
    }

    fn receive(&self, request: Receive) -> BoxFuture<'_, Result<Vec<Delivery>, QueueError>> {
        Box::pin(async move {
            let Line { scene, who, .. } = self.line.clone();
            scene.judge().receive_sent(&who, request.max);
            let queue = self.queue.clone();
            let effect = async move {
                let answer = queue.receive(request).await;
                scene.judge().received(&who, &answer);
                answer
            };
            let answer = self.line.carry(effect).await;
            self.line.scene.judge().received_told(&self.line.who, &answer);
            answer
        })
    }

    fn delete(&self, receipts: Vec<Receipt>) -> BoxFuture<'_, Result<EntryResults<()>, QueueError>> {
        Box::pin(async move {
            self.line.process.pass().await;
            let Line { scene, who, .. } = self.line.clone();
            scene.judge().delete_sent(&who, &receipts);
            let (queue, sent) = (self.queue.clone(), receipts.clone());
            let effect = async move {
                let answer = queue.delete(sent).await;
                scene.judge().look_for_lost_messages();
                answer
            };
            let answer = self.line.carry(effect).await;
            self.line
                .scene
                .judge()
                .settle_told(&self.line.who, "delete", &receipts, &answer);
            answer
        })
    }

    fn change_visibility(
        &self,
        changes: Vec<(Receipt, Duration)>,
    ) -> BoxFuture<'_, Result<EntryResults<()>, QueueError>> {
        Box::pin(async move {
            self.line.process.pass().await;
            let Line { scene, who, .. } = self.line.clone();
            scene.judge().visibility_sent(&who, &changes);
            let receipts: Vec<Receipt> = changes.iter().map(|(receipt, _)| receipt.clone()).collect();
            let queue = self.queue.clone();
            let effect = async move { queue.change_visibility(changes).await };
            let answer = self.line.carry(effect).await;
            self.line
                .scene
                .judge()
                .settle_told(&self.line.who, "hide", &receipts, &answer);
            answer
        })
    }

    fn send(&self, messages: Vec<Outgoing>) -> BoxFuture<'_, Result<EntryResults<String>, QueueError>> {
        Box::pin(async move {
            self.line.process.pass().await;
            let Line { scene, who, .. } = self.line.clone();
            let numbers = scene.judge().letters_sent(&who, &messages);
            let queue = self.queue.clone();
            let effect = async move {
                let answer = queue.send(messages).await;
                scene.judge().look_for_dead_letters(&who);
                answer
            };
            let answer = self.line.carry(effect).await;
            self.line.scene.judge().letters_told(&self.line.who, &numbers, &answer);
            answer
        })
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
            self.line.process.pass().await;
            let Line { scene, who, .. } = self.line.clone();
            scene.judge().claim_sent(&who, &requests);
            let (inbox, sent) = (self.inbox.clone(), requests.clone());
            let effect = async move {
                let answers = inbox.claim(sent.clone()).await;
                scene.judge().claim_landed(&who, &sent, &answers);
                answers
            };
            let answers = self.line.carry(effect).await;
            self.line.scene.judge().claim_told(&self.line.who, &requests, &answers);
            answers
        })
    }

    fn write(&self, writes: Vec<Write>) -> BoxFuture<'_, Answers<Written>> {
        Box::pin(async move {
            self.line.process.pass().await;
            let Line { scene, who, .. } = self.line.clone();
            scene.judge().write_sent(&who, &writes);
            let (inbox, sent) = (self.inbox.clone(), writes.clone());
            let effect = async move {
                let answers = inbox.write(sent.clone()).await;
                scene.judge().write_landed(&who, &sent, &answers);
                answers
            };
            let answers = self.line.carry(effect).await;
            self.line.scene.judge().write_told(&self.line.who, &writes, &answers);
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
        let inbox = self.inbox.clone();
        Box::pin(self.line.carry(async move { inbox.check().await }))
    }
}
