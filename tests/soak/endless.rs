//! A queue that always has more, and an inbox that forgets what is done: neither keeps anything, so that whatever grows is the
//! engine's.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures::future::{BoxFuture, FutureExt as _};
use redrive::MemoryInbox;
use redrive::clock::Clock;
use redrive::faults::{FaultPlan, Operation, Rates};
use redrive::inbox::{
    Answers, Change, ClaimAnswer, ClaimRequest, Inbox, InboxError, Record, ServiceTime, Write, Written,
};
use redrive::key::RecordKey;
use redrive::message::{Attribute, Delivery, KEY_ATTRIBUTE, Message, Outgoing, Receipt};
use redrive::queue::{EntryError, EntryResults, Queue, QueueAttributes, QueueError, Receive};

pub(crate) struct Endless {
    attributes: QueueAttributes,
    clock: Clock,
    next: AtomicU64,
}

impl Endless {
    pub(crate) fn new(name: &str) -> Self {
        Self {
            attributes: QueueAttributes::new(name),
            clock: Clock::system(),
            next: AtomicU64::new(0),
        }
    }

    /// Each with a key, a tenant and, three by three, a group that never were before; one in twenty is a copy of the one
    /// before it.
    fn delivery(&self) -> Delivery {
        let n = self.next.fetch_add(1, Ordering::Relaxed);
        let of = if n % 20 == 19 { n - 1 } else { n };
        let mut message = Message::new(format!("message-{n}"), n.to_string());
        message.sent_at_ms = Some(self.clock.epoch_ms());
        let key = Attribute::string(format!("key-{of}"));
        message.attributes.insert(KEY_ATTRIBUTE.to_owned(), key);
        // Two in three are of a few who are over their rate.
        let tenant = if n.is_multiple_of(3) { n } else { n % 5 };
        let tenant = Attribute::string(format!("tenant-{tenant}"));
        message.attributes.insert("tenant".to_owned(), tenant);
        message.group_id = self.attributes.fifo.then(|| format!("group-{}", n / 3));
        let receipt = Receipt::new(format!("receipt-{n}"));
        Delivery::new(message, receipt, 1 + u32::from(n % 20 == 7), self.clock.now())
    }
}

/// Every hundredth entry fails.
fn settled(entries: impl Iterator<Item = u64>) -> EntryResults<()> {
    let settled = |n: u64| match n % 100 {
        3 => Err(EntryError::new("ServiceUnavailable", "not now", false)),
        7 => Err(EntryError::new("ReceiptHandleIsInvalid", "it has expired", true)),
        _ => Ok(()),
    };
    entries.map(settled).collect()
}

impl Queue for Endless {
    fn attributes(&self) -> &QueueAttributes {
        &self.attributes
    }

    fn dead_letter_queue(&self) -> Option<Arc<dyn Queue>> {
        None
    }

    fn describe(&self) -> BoxFuture<'_, Result<QueueAttributes, QueueError>> {
        let attributes = self.attributes.clone();
        async move { Ok(attributes) }.boxed()
    }

    fn receive(&self, request: Receive) -> BoxFuture<'_, Result<Vec<Delivery>, QueueError>> {
        async move {
            tokio::time::sleep(Duration::from_millis(2)).await;
            Ok((0..request.max).map(|_| self.delivery()).collect())
        }
        .boxed()
    }

    fn delete(&self, receipts: Vec<Receipt>) -> BoxFuture<'_, Result<EntryResults<()>, QueueError>> {
        let next = self.next.fetch_add(0, Ordering::Relaxed);
        async move { Ok(settled((next..).take(receipts.len()))) }.boxed()
    }

    fn change_visibility(
        &self,
        changes: Vec<(Receipt, Duration)>,
    ) -> BoxFuture<'_, Result<EntryResults<()>, QueueError>> {
        let next = self.next.fetch_add(0, Ordering::Relaxed);
        async move { Ok(settled((next..).take(changes.len()))) }.boxed()
    }

    fn send(&self, messages: Vec<Outgoing>) -> BoxFuture<'_, Result<EntryResults<String>, QueueError>> {
        async move { Ok(messages.iter().map(|_| Ok("sent".to_owned())).collect()) }.boxed()
    }
}

/// An inbox that fails now and then, and drops the record of whatever has ended.
#[derive(Clone)]
pub(crate) struct Forgetful {
    inbox: MemoryInbox,
}

impl Forgetful {
    pub(crate) fn new(seed: u64) -> Self {
        let faults = FaultPlan::seeded(seed);
        faults.set(Operation::Claim, Rates::new().before(0.0005));
        faults.set(Operation::Write, Rates::new().after(0.001));
        Self {
            inbox: MemoryInbox::builder().faults(faults).build(),
        }
    }
}

impl Inbox for Forgetful {
    fn claim(&self, requests: Vec<ClaimRequest>) -> BoxFuture<'_, Answers<ClaimAnswer>> {
        self.inbox.claim(requests)
    }

    fn write(&self, writes: Vec<Write>) -> BoxFuture<'_, Answers<Written>> {
        let ending: Vec<Option<RecordKey>> = writes
            .iter()
            .map(|write| {
                let ends = matches!(
                    write.change,
                    Change::Complete { .. } | Change::Release { .. } | Change::DeadLetterSent
                );
                ends.then(|| write.claim.key.clone())
            })
            .collect();
        async move {
            let answers = self.inbox.write(writes).await;
            for (key, answer) in ending.into_iter().zip(&answers) {
                if let (Some(key), Ok(_)) = (key, answer) {
                    self.inbox.remove(&key);
                }
            }
            answers
        }
        .boxed()
    }

    fn get<'a>(&'a self, key: &'a RecordKey) -> BoxFuture<'a, Result<Option<Record>, InboxError>> {
        self.inbox.get(key)
    }

    fn time(&self) -> ServiceTime {
        self.inbox.time()
    }
}
