//! Bugs on purpose, between a worker and its services: what the judge must not let pass.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::future::BoxFuture;
use redrive::inbox::{
    Answers, Change, Claim, ClaimAnswer, ClaimRequest, Inbox, InboxError, Record, ServiceTime, Write, Written,
};
use redrive::key::RecordKey;
use redrive::message::{Delivery, Outgoing, Receipt};
use redrive::queue::{EntryResults, Queue, QueueAttributes, QueueError, Receive};

use crate::watch::{WatchedInbox, WatchedQueue};

/// What is wrong with a worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Bug {
    None,
    /// Deletes what it receives before it is done.
    DeletesAtReceive,
    /// Takes a completion for written that never was.
    CompletesInItsHead,
    /// Takes a lost lease for a held one.
    IgnoresLostLeases,
    /// Runs what another has claimed.
    ClaimsWhatIsRunning,
    /// Forgets to free the claims of what it gives back.
    KeepsItsClaims,
    /// Takes every dead letter for sent.
    LosesDeadLetters,
    /// One within the library, switched on.
    #[cfg(feature = "flaws")]
    Within(redrive::flaw::Flaw),
}

/// Runs `work` with the bug switched on, if it is one within the library.
pub(crate) fn with<T>(bug: Bug, work: impl FnOnce() -> T) -> T {
    match bug {
        #[cfg(feature = "flaws")]
        Bug::Within(flaw) => redrive::flaw::with(Some(flaw), work),
        _ => work(),
    }
}

pub(crate) struct BuggyQueue {
    bug: Bug,
    queue: Arc<dyn Queue>,
}

impl BuggyQueue {
    pub(crate) fn new(bug: Bug, queue: WatchedQueue) -> Self {
        Self::around(bug, Arc::new(queue))
    }

    fn around(bug: Bug, queue: Arc<dyn Queue>) -> Self {
        Self { bug, queue }
    }
}

impl Queue for BuggyQueue {
    fn attributes(&self) -> &QueueAttributes {
        self.queue.attributes()
    }

    fn dead_letter_queue(&self) -> Option<Arc<dyn Queue>> {
        let queue = self.queue.dead_letter_queue()?;
        Some(Arc::new(Self::around(self.bug, queue)))
    }

    fn describe(&self) -> BoxFuture<'_, Result<QueueAttributes, QueueError>> {
        self.queue.describe()
    }

    fn receive(&self, request: Receive) -> BoxFuture<'_, Result<Vec<Delivery>, QueueError>> {
        Box::pin(async move {
            let deliveries = self.queue.receive(request).await?;
            if self.bug == Bug::DeletesAtReceive && !deliveries.is_empty() {
                let receipts = deliveries.iter().map(|delivery| delivery.receipt.clone()).collect();
                let _ = self.queue.delete(receipts).await;
            }
            Ok(deliveries)
        })
    }

    fn delete(&self, receipts: Vec<Receipt>) -> BoxFuture<'_, Result<EntryResults<()>, QueueError>> {
        self.queue.delete(receipts)
    }

    fn change_visibility(
        &self,
        changes: Vec<(Receipt, Duration)>,
    ) -> BoxFuture<'_, Result<EntryResults<()>, QueueError>> {
        self.queue.change_visibility(changes)
    }

    fn send(&self, messages: Vec<Outgoing>) -> BoxFuture<'_, Result<EntryResults<String>, QueueError>> {
        if self.bug == Bug::LosesDeadLetters {
            let sent = messages.iter().map(|_| Ok("sent, they say".to_owned())).collect();
            return Box::pin(async move { Ok(sent) });
        }
        self.queue.send(messages)
    }
}

pub(crate) struct BuggyInbox {
    bug: Bug,
    inbox: WatchedInbox,
    /// The last claim seen of each key, by whichever worker of this process.
    seen: Mutex<BTreeMap<RecordKey, Arc<Claim>>>,
}

impl BuggyInbox {
    pub(crate) fn new(bug: Bug, inbox: WatchedInbox) -> Self {
        let seen = Mutex::default();
        Self { bug, inbox, seen }
    }

    fn twist_claim(&self, request: &ClaimRequest, answer: &mut Result<ClaimAnswer, InboxError>) {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        match answer {
            Ok(ClaimAnswer::Claimed(claim)) => {
                seen.insert(request.key.clone(), Arc::clone(claim));
            }
            Ok(ClaimAnswer::Running { .. }) => {
                // A claim of any kind will do: nobody looks whose it is.
                let any = seen.get(&request.key).or_else(|| seen.values().next());
                if let Some(claim) = any {
                    let mut claim = Claim::clone(claim);
                    claim.key = request.key.clone();
                    claim.claim_id = request.claim_id.clone();
                    claim.lease_until = u64::MAX;
                    *answer = Ok(ClaimAnswer::Claimed(Arc::new(claim)));
                }
            }
            _ => {}
        }
    }
}

impl Inbox for BuggyInbox {
    fn claim(&self, requests: Vec<ClaimRequest>) -> BoxFuture<'_, Answers<ClaimAnswer>> {
        Box::pin(async move {
            let mut answers = self.inbox.claim(requests.clone()).await;
            if self.bug == Bug::ClaimsWhatIsRunning {
                for (request, answer) in requests.iter().zip(&mut answers) {
                    self.twist_claim(request, answer);
                }
            }
            answers
        })
    }

    fn write(&self, writes: Vec<Write>) -> BoxFuture<'_, Answers<Written>> {
        Box::pin(async move {
            let skipped = |write: &Write| match self.bug {
                Bug::CompletesInItsHead => matches!(write.change, Change::Complete { .. }),
                Bug::KeepsItsClaims => matches!(write.change, Change::Release { .. }),
                _ => false,
            };
            let skips: BTreeSet<usize> = (0..writes.len()).filter(|&n| skipped(&writes[n])).collect();
            let count = writes.len();
            let kept: Vec<Write> = writes.iter().filter(|write| !skipped(write)).cloned().collect();
            let mut kept = if kept.is_empty() {
                Vec::new()
            } else {
                self.inbox.write(kept).await
            }
            .into_iter();
            let mut answers = Vec::with_capacity(count);
            for position in 0..count {
                let answer = if skips.contains(&position) {
                    Ok(Written { lease_until: None })
                } else {
                    kept.next().unwrap_or(Err(InboxError::NoAnswer))
                };
                answers.push(match answer {
                    Err(error) if self.bug == Bug::IgnoresLostLeases && error.is_lease_lost() => Ok(Written {
                        lease_until: Some(u64::MAX),
                    }),
                    other => other,
                });
            }
            answers
        })
    }

    fn get<'a>(&'a self, key: &'a RecordKey) -> BoxFuture<'a, Result<Option<Record>, InboxError>> {
        self.inbox.get(key)
    }

    fn time(&self) -> ServiceTime {
        if self.bug == Bug::IgnoresLostLeases {
            // It goes by a clock that stands still.
            return ServiceTime { lo: 0, hi: 0 };
        }
        self.inbox.time()
    }

    fn max_result(&self) -> usize {
        self.inbox.max_result()
    }

    fn check(&self) -> BoxFuture<'_, Result<Vec<String>, InboxError>> {
        self.inbox.check()
    }
}
