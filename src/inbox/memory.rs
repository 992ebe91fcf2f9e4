//! The embedded inbox: the same rules in this process's memory, for tests, examples and local work.

mod records;

use std::fmt;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;

use crate::clock::Clock;
use crate::faults::{Fault, FaultDecision, FaultPlan, Operation};
use crate::flaw::{self, Flaw};
use crate::inbox::decide::{Applied, Decision, apply_write, behind, decide_claim, repeats, within_bounds};
use crate::inbox::{
    Answers, ClaimAnswer, ClaimRequest, DEFAULT_MAX_RESULT, Inbox, InboxError, Record, ServiceTime, Write, Written,
    checked_max_result,
};
use crate::key::RecordKey;
use crate::outcome::StoredResult;
use crate::sync::{Mutex, MutexGuard};

use records::Records;

/// What errors call it.
const NAME: &str = "embedded";

/// How long an expired record stays stored, in seconds: deletion lags, as a table's does.
const PURGE_LAG: u64 = 60;

/// An inbox in memory. Clones share their records, so a test keeps one and looks on.
///
/// It follows the rules of the one on DynamoDB, takes its time from the injected [`Clock`] and fails as a [`FaultPlan`]
/// says. What it holds ends with the process: it deduplicates nothing across restarts. Expired records are deleted a
/// minute late, so that memory holds what was claimed within the retention and no more.
///
/// ```
/// use redrive::inbox::{Inbox, MemoryInbox};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() {
/// let inbox = MemoryInbox::new();
/// assert!(inbox.claim(Vec::new()).await.is_empty());
/// assert!(inbox.is_empty());
/// # }
/// ```
#[derive(Clone)]
pub struct MemoryInbox {
    shared: Arc<Shared>,
}

struct Shared {
    clock: Clock,
    faults: FaultPlan,
    max_result: usize,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    records: Records,
    counts: InboxCounts,
}

/// What an inbox was asked so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct InboxCounts {
    /// Claims.
    pub claims: OperationCounts,
    /// Writes under claims.
    pub writes: OperationCounts,
    /// Reads.
    pub gets: OperationCounts,
    /// About what DynamoDB would bill for the claims and writes that reached the inbox: a unit for each KiB begun of an
    /// item, also where the condition failed.
    pub write_units: u64,
}

/// What an inbox was asked so far of one operation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct OperationCounts {
    /// Calls, those that failed among them.
    pub calls: u64,
    /// Entries of those calls.
    pub entries: u64,
    /// Entries that reached the inbox and changed nothing, for another claim or an outcome stood there.
    pub failed_conditions: u64,
}

impl MemoryInbox {
    /// An empty inbox with the default bounds, whose time is the runtime's, and virtual where that is.
    #[must_use]
    pub fn new() -> Self {
        Self::builder().build()
    }

    /// An inbox with a clock, bounds or faults of its own.
    #[must_use]
    pub fn builder() -> MemoryInboxBuilder {
        MemoryInboxBuilder {
            clock: None,
            faults: FaultPlan::none(),
            max_result: DEFAULT_MAX_RESULT,
        }
    }

    /// The faults it takes; may be changed while it runs.
    #[must_use]
    pub fn faults(&self) -> &FaultPlan {
        &self.shared.faults
    }

    /// What it was asked so far.
    #[must_use]
    pub fn calls(&self) -> InboxCounts {
        self.lock().counts
    }

    /// The record stored for `key`, even if it has expired; no call is counted.
    #[must_use]
    pub fn record(&self, key: &RecordKey) -> Option<Record> {
        self.lock().records.get(key).cloned()
    }

    /// All records stored, in the order of their keys, even if expired.
    #[must_use]
    pub fn records(&self) -> Vec<Record> {
        self.lock().records.sorted()
    }

    /// How many records are stored, expired ones that are not deleted yet among them.
    #[must_use]
    pub fn len(&self) -> usize {
        self.lock().records.len()
    }

    /// Whether nothing is stored.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Stores a record past all rules, in place of the one of its key.
    pub fn insert(&self, record: Record) {
        self.lock().records.put(Box::new(record));
    }

    /// Removes a record past all rules, as an operator or the table's TTL would.
    pub fn remove(&self, key: &RecordKey) -> Option<Record> {
        self.lock().records.take(key)
    }

    /// Runs `work` on the records, as far as the faults drawn for the call let it come about.
    async fn call<T: Send>(
        &self,
        operation: Operation,
        name: &'static str,
        entries: usize,
        work: impl FnOnce(&mut State, ServiceTime, &FaultDecision) -> T + Send,
    ) -> Result<T, InboxError> {
        self.lock().counts.add(operation, entries);
        let decision = self.shared.faults.next(operation, entries);
        pause(decision.before_effect).await;
        let done = (!decision.prevents_effect()).then(|| {
            let mut state = self.lock();
            let time = self.time();
            state.purge(time);
            work(&mut state, time, &decision)
        });
        pause(decision.after_effect).await;
        match (decision.fault, done) {
            (None, Some(done)) => Ok(done),
            (Some(Fault::Throttled), _) => Err(throttled(name)),
            _ => Err(InboxError::Unavailable {
                inbox: NAME.to_owned(),
                operation: name,
                detail: "a fault was injected".to_owned(),
                request_id: None,
            }),
        }
    }

    /// The flaw of that name: what comes in between is not seen.
    async fn check_then_act(&self, requests: &[ClaimRequest]) -> Answers<ClaimAnswer> {
        let time = self.time();
        let checked: Vec<Decision> = {
            let state = self.lock();
            let decide = |request: &ClaimRequest| decide_claim(state.records.get(&request.key), request, time);
            requests.iter().map(decide).collect()
        };
        pause(Duration::from_millis(20)).await;
        let mut answers: Answers<ClaimAnswer> = Vec::with_capacity(requests.len());
        for ((decision, request), earlier) in checked.into_iter().zip(requests).zip(repeats(requests)) {
            answers.push(match (earlier, decision) {
                (Some(earlier), _) => Ok(behind(&answers[earlier], request, time)),
                (None, Decision::Take(record, answer)) => {
                    self.lock().records.put(record);
                    Ok(answer)
                }
                (None, Decision::Answer(answer)) => Ok(answer),
            });
        }
        answers
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.shared.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Default for MemoryInbox {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for MemoryInbox {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryInbox")
            .field("records", &self.len())
            .finish_non_exhaustive()
    }
}

/// Makes a [`MemoryInbox`].
#[derive(Clone, Debug)]
pub struct MemoryInboxBuilder {
    clock: Option<Clock>,
    faults: FaultPlan,
    max_result: usize,
}

impl MemoryInboxBuilder {
    /// Where its time comes from.
    #[must_use]
    pub fn clock(mut self, clock: Clock) -> Self {
        self.clock = Some(clock);
        self
    }

    /// What goes wrong: [`Operation::Claim`], [`Operation::Write`], [`Operation::Get`], and [`Operation::Describe`] for
    /// its check.
    #[must_use]
    pub fn faults(mut self, faults: FaultPlan) -> Self {
        self.faults = faults;
        self
    }

    /// The most bytes of a result or a checkpoint, up to [`MAX_RESULT`](crate::inbox::MAX_RESULT); at 0 results are
    /// omitted and checkpoints refused.
    ///
    /// # Errors
    /// [`InboxError::TooLarge`] over that.
    pub fn max_result(mut self, bytes: usize) -> Result<Self, InboxError> {
        self.max_result = checked_max_result(bytes)?;
        Ok(self)
    }

    /// The inbox, empty.
    #[must_use]
    pub fn build(self) -> MemoryInbox {
        MemoryInbox {
            shared: Arc::new(Shared {
                // Not the wall clock itself, which may jump and is never virtual.
                clock: self
                    .clock
                    .unwrap_or_else(|| Clock::starting_at(Clock::system().epoch_ms())),
                faults: self.faults,
                max_result: self.max_result,
                state: Mutex::default(),
            }),
        }
    }
}

impl Inbox for MemoryInbox {
    fn claim(&self, requests: Vec<ClaimRequest>) -> BoxFuture<'_, Answers<ClaimAnswer>> {
        Box::pin(async move {
            let entries = requests.len();
            if entries == 0 {
                return Vec::new();
            }
            if flaw::is(Flaw::ClaimsByCheckThenAct) {
                return self.check_then_act(&requests).await;
            }
            let work = |state: &mut State, time: ServiceTime, faults: &FaultDecision| {
                let mut answers: Answers<ClaimAnswer> = Vec::with_capacity(entries);
                for (position, earlier) in repeats(&requests).into_iter().enumerate() {
                    let request = &requests[position];
                    answers.push(match earlier {
                        Some(earlier) => Ok(behind(&answers[earlier], request, time)),
                        None if faults.fails_entry(position) => Err(throttled("claim")),
                        None => Ok(state.claim(request, time)),
                    });
                }
                answers
            };
            let done = self.call(Operation::Claim, "claim", entries, work).await;
            done.unwrap_or_else(|error| vec![Err(error); entries])
        })
    }

    fn write(&self, writes: Vec<Write>) -> BoxFuture<'_, Answers<Written>> {
        Box::pin(async move {
            let entries = writes.len();
            if entries == 0 {
                return Vec::new();
            }
            let max_result = self.shared.max_result;
            let work = |state: &mut State, time: ServiceTime, faults: &FaultDecision| {
                let write = |(position, write)| {
                    let write = within_bounds(write, max_result)?;
                    if faults.fails_entry(position) {
                        return Err(throttled("write"));
                    }
                    state.write(&write, time)
                };
                writes.into_iter().enumerate().map(write).collect()
            };
            let done = self.call(Operation::Write, "write", entries, work).await;
            done.unwrap_or_else(|error| vec![Err(error); entries])
        })
    }

    fn get<'a>(&'a self, key: &'a RecordKey) -> BoxFuture<'a, Result<Option<Record>, InboxError>> {
        Box::pin(self.call(Operation::Get, "get", 1, |state, time, _| {
            state
                .records
                .get(key)
                .filter(|record| !record.is_expired(time))
                .cloned()
        }))
    }

    fn time(&self) -> ServiceTime {
        let now = self.shared.clock.epoch_ms();
        ServiceTime { lo: now, hi: now }
    }

    fn max_result(&self) -> usize {
        self.shared.max_result
    }

    fn check(&self) -> BoxFuture<'_, Result<Vec<String>, InboxError>> {
        Box::pin(self.call(Operation::Describe, "check", 0, |_, _, _| Vec::new()))
    }
}

impl State {
    fn claim(&mut self, request: &ClaimRequest, time: ServiceTime) -> ClaimAnswer {
        let counts = &mut self.counts;
        self.records
            .change(&request.key, |existing| match decide_claim(existing, request, time) {
                Decision::Take(record, answer) => {
                    counts.write_units += units(&record);
                    (Some(record), answer)
                }
                Decision::Answer(answer) => {
                    counts.write_units += existing.map_or(1, units);
                    counts.claims.failed_conditions += 1;
                    (None, answer)
                }
            })
    }

    fn write(&mut self, write: &Write, time: ServiceTime) -> Result<Written, InboxError> {
        let counts = &mut self.counts;
        self.records.change(&write.claim.key, |existing| {
            let before = existing.map_or(1, units);
            match apply_write(existing, write, time) {
                Applied::Changed(record, written) => {
                    counts.write_units += before.max(units(&record));
                    (Some(record), Ok(written))
                }
                Applied::AlreadyDone(written) => {
                    counts.write_units += before;
                    counts.writes.failed_conditions += 1;
                    (None, Ok(written))
                }
                Applied::Lost => {
                    counts.write_units += before;
                    counts.writes.failed_conditions += 1;
                    let key = write.claim.key.clone();
                    (None, Err(InboxError::LeaseLost { key }))
                }
            }
        })
    }

    fn purge(&mut self, time: ServiceTime) {
        let Some(before) = (time.lo / 1000).checked_sub(PURGE_LAG) else {
            return;
        };
        self.records.purge(before);
    }
}

impl InboxCounts {
    fn add(&mut self, operation: Operation, entries: usize) {
        let counts = match operation {
            Operation::Claim => &mut self.claims,
            Operation::Write => &mut self.writes,
            Operation::Get => &mut self.gets,
            _ => return,
        };
        counts.calls += 1;
        counts.entries += entries as u64;
    }
}

/// DynamoDB's write units of a record: one for each KiB begun of its attributes' names and values.
fn units(record: &Record) -> u64 {
    /// About what the names and the numbers come to.
    const FIXED: usize = 220;
    let text = |text: &Option<String>| text.as_ref().map_or(0, String::len);
    let result = match &record.result {
        StoredResult::Json(json) => json.len(),
        _ => 0,
    };
    let bytes = FIXED
        + record.key.as_str().len()
        + record.claim_id.len()
        + record.message_id.len()
        + text(&record.last_error)
        + text(&record.reason)
        + record.fingerprint.map_or(0, |fingerprint| fingerprint.0.len())
        + record.checkpoint.as_ref().map_or(0, Bytes::len)
        + result;
    bytes.div_ceil(1024) as u64
}

fn throttled(operation: &'static str) -> InboxError {
    InboxError::Throttled {
        inbox: NAME.to_owned(),
        operation,
        detail: "a fault was injected".to_owned(),
        request_id: None,
    }
}

async fn pause(duration: Duration) {
    if !duration.is_zero() {
        tokio::time::sleep(duration).await;
    }
}
