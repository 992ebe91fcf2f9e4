//! Any sequence of calls to the embedded queue and inbox, under virtual time.
#![no_main]

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;
use redrive::clock::{Clock, Random};
use redrive::inbox::{
    Attempted, Change, Claim, ClaimAnswer, ClaimRequest, Inbox as _, InboxError, Record, Rejection, Status, Write,
};
use redrive::key::{Fingerprint, Key, RecordKey};
use redrive::message::{Outgoing, Receipt};
use redrive::outcome::StoredResult;
use redrive::queue::{Queue as _, Receive};
use redrive::{MemoryInbox, MemoryQueue, Reason};
use redrive_fuzz::memory::within;

/// No sequence lasts so long that a message outlives the queue's four days.
const MOST_STEPS: usize = 150;

const MAX_RECEIVES: u32 = 6;

#[derive(Arbitrary, Debug)]
enum Step<'a> {
    Send { group: u8, deduplication: Option<u8>, delay: u8 },
    SendAnything(&'a str, Option<&'a str>, Option<&'a str>),
    Receive { max: u8, wait_ms: u16, visibility: Option<u8> },
    Delete(u8),
    Hide(u8, u16),
    Pass(u16),
    Claim { key: u8, message: u8, payload: u8, lease: u8, replayed: bool },
    Write(u8, What<'a>),
}

#[derive(Arbitrary, Debug)]
enum What<'a> {
    Renew(u8),
    Start,
    Checkpoint(u8, &'a [u8]),
    Complete(&'a [u8]),
    Release(bool),
    Reject(&'a str),
    DeadLetterSent,
}

fuzz_target!(|input: (bool, Vec<Step<'_>>)| {
    let (fifo, steps) = input;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .expect("a runtime");
    let bytes: usize = steps.len() * 64;
    within(bytes, 64, 1 << 20, || runtime.block_on(run(fifo, &steps)));
});

async fn run(fifo: bool, steps: &[Step<'_>]) {
    let clock = Clock::starting_at(1_750_000_000_000);
    let name = |stem: &str| format!("{stem}{}", if fifo { ".fifo" } else { "" });
    let dead = MemoryQueue::builder(name("dead")).clock(clock.clone()).build().expect("a queue");
    let queue = MemoryQueue::builder(name("orders"))
        .clock(clock.clone())
        .random(Random::seeded(1))
        .dead_letter(&dead, MAX_RECEIVES)
        .build()
        .expect("a queue");
    let inbox = MemoryInbox::builder().clock(clock.clone()).build();
    let mut model = Model::default();
    for step in steps.iter().take(MOST_STEPS) {
        match step {
            Step::Pass(seconds) => {
                tokio::time::advance(Duration::from_millis(u64::from(*seconds) * 20)).await;
            }
            Step::Claim { .. } | Step::Write(..) => model.inbox(&inbox, &clock, step).await,
            _ => model.queue(&queue, &clock, fifo, step).await,
        }
        let (held, moved) = (queue.len(), dead.len());
        assert_eq!(held + moved + model.deleted.len(), model.sent.len(), "every message is somewhere");
        assert_eq!(queue.visible() + queue.in_flight() + queue.delayed(), held);
    }
}

#[derive(Default)]
struct Model {
    /// The MessageIds in the order in which they were sent, and their groups.
    sent: Vec<(String, Option<String>)>,
    deleted: BTreeSet<String>,
    /// The deliveries: the MessageId, the receipt, and until when it is nobody else's, in ms.
    held: Vec<(String, Receipt)>,
    hidden: BTreeMap<String, u64>,
    claims: Vec<Arc<Claim>>,
    tokens: BTreeMap<RecordKey, u64>,
}

impl Model {
    async fn queue(&mut self, queue: &MemoryQueue, clock: &Clock, fifo: bool, step: &Step<'_>) {
        match step {
            Step::Send { group, deduplication, delay } => {
                let mut message = Outgoing::new("body");
                if fifo {
                    message = message.group(format!("g{}", group % 4));
                    let fresh = self.sent.len();
                    message = message.deduplication_id(deduplication.map_or(format!("n{fresh}"), |id| format!("d{id}")));
                } else {
                    message = message.delay(Duration::from_secs(u64::from(*delay)));
                }
                self.send(queue, message).await;
            }
            Step::SendAnything(body, group, deduplication) => {
                let mut message = Outgoing::new(*body);
                message.group_id = group.map(str::to_owned);
                message.deduplication_id = deduplication.map(str::to_owned);
                self.send(queue, message).await;
            }
            Step::Receive { max, wait_ms, visibility } => {
                let mut request = Receive::new(usize::from(*max), Duration::from_millis(u64::from(*wait_ms) % 3_000));
                request.visibility = visibility.map(|seconds| Duration::from_secs(u64::from(seconds)));
                let most = request.max;
                let taken = queue.receive(request).await.expect("no faults are injected");
                assert!(taken.len() <= most);
                let now = clock.epoch_ms();
                let mut last: BTreeMap<String, usize> = BTreeMap::new();
                for delivery in taken {
                    let id = delivery.message.id.clone();
                    let at = self.sent.iter().position(|(sent, _)| *sent == id).expect("only what was sent is received");
                    assert!(!self.deleted.contains(&id), "a deleted message came back");
                    assert!(delivery.receive_count >= 1 && delivery.receive_count <= MAX_RECEIVES);
                    assert!(self.hidden.get(&id).is_none_or(|until| *until <= now), "it was not visible");
                    if let (true, Some(group)) = (fifo, &delivery.message.group_id) {
                        assert!(last.insert(group.clone(), at).is_none_or(|before| before < at), "out of order");
                        let earlier = self.sent[..at].iter().filter(|(_, other)| other.as_ref() == Some(group));
                        for (before, _) in earlier {
                            // It is gone, or came in the same receive.
                            let held = queue.peek(before).is_some();
                            assert!(!held || self.hidden.get(before).is_none_or(|_| last[group] == at));
                        }
                    }
                    let seconds = visibility.map_or(30, u64::from);
                    self.hidden.insert(id.clone(), now + 1_000 * seconds);
                    self.held.push((id, delivery.receipt));
                }
            }
            Step::Delete(at) => {
                let Some((id, receipt)) = pick(&self.held, *at) else { return };
                let was_there = queue.contains(&id);
                let answers = queue.delete(vec![receipt]).await.expect("no faults are injected");
                assert_eq!(answers.len(), 1);
                if was_there && !queue.contains(&id) {
                    self.deleted.insert(id);
                }
            }
            Step::Hide(at, seconds) => {
                let Some((id, receipt)) = pick(&self.held, *at) else { return };
                let time = Duration::from_secs(u64::from(*seconds));
                let answers = queue.change_visibility(vec![(receipt.clone(), time)]).await.expect("no faults are injected");
                // An older receipt may be good for this too, or not: the later of both is what is certain not to be.
                if answers[0].is_ok() {
                    self.hidden.insert(id, 0);
                }
            }
            _ => {}
        }
    }

    async fn send(&mut self, queue: &MemoryQueue, message: Outgoing) {
        let (group, before) = (message.group_id.clone(), queue.len());
        let mut answers = queue.send(vec![message]).await.expect("no faults are injected");
        match answers.pop().expect("one answer for one message") {
            // A FIFO queue takes what repeats a deduplication id, and keeps nothing of it.
            Ok(id) if queue.len() > before => self.sent.push((id, group)),
            Ok(_) => assert!(queue.attributes().fifo, "only FIFO queues swallow"),
            Err(refused) => assert!(!refused.to_string().is_empty()),
        }
    }

    async fn inbox(&mut self, inbox: &MemoryInbox, clock: &Clock, step: &Step<'_>) {
        match step {
            Step::Claim { key, message, payload, lease, replayed } => {
                let key = RecordKey::new("orders", &Key::new(format!("k{}", key % 3)));
                let before = inbox.record(&key);
                let request = ClaimRequest {
                    key: key.clone(),
                    claim_id: format!("c{}", self.claims.len()),
                    message_id: format!("m{}", message % 3),
                    fingerprint: Some(Fingerprint::of(&[payload % 2])),
                    lease: Duration::from_secs(10 + u64::from(*lease)),
                    retention: Duration::from_secs(3_600),
                    receive_count: 1 + u32::from(*message),
                    replayed: *replayed,
                };
                let now = clock.epoch_ms();
                let answer = inbox.claim(vec![request]).await.pop().expect("one answer").expect("no faults are injected");
                let live = before.as_ref().filter(|record| record.expires_at * 1_000 > now);
                match answer {
                    ClaimAnswer::Claimed(claim) | ClaimAnswer::FinishDeadLetter(claim, _) => {
                        if let Some(record) = live {
                            assert_ne!(record.status, Status::Completed, "what is completed never runs again");
                            let held = record.status == Status::Processing && record.lease_until > now;
                            assert!(!held, "two hold one key");
                        }
                        let last = self.tokens.insert(key, claim.fencing_token);
                        assert!(last.is_none_or(|last| last < claim.fencing_token), "tokens grow");
                        self.claims.push(claim);
                    }
                    ClaimAnswer::Completed(_) => assert_eq!(live.expect("a record").status, Status::Completed),
                    ClaimAnswer::Rejected => assert_eq!(live.expect("a record").status, Status::Rejected),
                    ClaimAnswer::FingerprintMismatch => {
                        let record = live.expect("a record");
                        assert!(matches!(record.status, Status::Completed | Status::Processing));
                    }
                    ClaimAnswer::Running { .. } => {
                        // Whoever rejected it may still be sending its dead letter.
                        let record = live.expect("a record");
                        let sending = record.status == Status::Rejected && !record.dead_letter_sent;
                        assert!((record.status == Status::Processing || sending) && record.lease_until > now);
                    }
                }
            }
            Step::Write(at, what) => {
                let Some(claim) = pick(&self.claims, *at) else { return };
                let before = inbox.record(&claim.key);
                let ours = before.as_ref().is_some_and(|record| {
                    record.claim_id == claim.claim_id && record.fencing_token == claim.fencing_token
                });
                let answer = inbox.write(vec![Write::new(Arc::clone(&claim), change(what))]).await.pop().expect("one answer");
                let after = inbox.record(&claim.key);
                match answer {
                    Ok(_) => assert!(ours, "a write under a claim that was lost"),
                    // What is past its retention may be swept at any call.
                    Err(InboxError::LeaseLost { .. }) if after.is_none() => {
                        let over = |record: &Record| record.expires_at * 1_000 <= clock.epoch_ms();
                        assert!(before.as_ref().is_none_or(over), "it removed something all the same");
                    }
                    Err(InboxError::LeaseLost { .. }) => assert_eq!(after, before, "it changed something all the same"),
                    Err(InboxError::TooLarge { size, limit, .. }) => assert!(size > limit),
                    Err(other) => panic!("{other}"),
                }
                if let (Some(before), Some(after)) = (before, after) {
                    assert!(after.fencing_token >= before.fencing_token);
                    if before.status == Status::Completed {
                        assert_eq!(after.status, Status::Completed, "done is done");
                    }
                }
            }
            _ => {}
        }
    }
}

fn pick<T: Clone>(from: &[T], at: u8) -> Option<T> {
    from.get(usize::from(at) % from.len().max(1)).cloned()
}

fn change(what: &What<'_>) -> Change {
    match *what {
        What::Renew(seconds) => Change::Renew {
            lease: Duration::from_secs(u64::from(seconds)),
        },
        What::Start => Change::Start,
        What::Checkpoint(serial, data) => Change::Checkpoint {
            serial: serial.into(),
            data: data.to_vec().into(),
        },
        What::Complete(result) => Change::Complete {
            result: StoredResult::Json(result.to_vec().into()),
        },
        What::Release(counts) => Change::Release {
            failure: counts.then(|| Attempted {
                attempts: 1,
                error: "no".to_owned(),
            }),
        },
        What::Reject(error) => Change::Reject(Rejection {
            reason: Reason::Rejected,
            error: error.to_owned(),
            attempts: 1,
        }),
        What::DeadLetterSent => Change::DeadLetterSent,
    }
}
