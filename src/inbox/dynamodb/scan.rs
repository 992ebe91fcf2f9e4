//! Reading the whole table: in parallel segments, page by page, no faster than allowed.

use std::collections::HashMap;
use std::ops::ControlFlow;
use std::time::Duration;

use aws_sdk_dynamodb::config::timeout::TimeoutConfig;
use aws_sdk_dynamodb::types::{AttributeValue, ReturnConsumedCapacity};
use futures::future::BoxFuture;
use futures::stream::{FuturesUnordered, StreamExt as _};
use tokio_util::sync::CancellationToken;

use super::convert::{Item, attribute, number, text};
use super::entry::InboxEntry;
use super::{ATTEMPT_TIMEOUT, DynamoInbox};
use crate::flow::{LONGEST_DELAY, RateLimit, TokenBucket};
use crate::inbox::record::Status;
use crate::inbox::{Inbox as _, InboxError, ServiceTime};
use crate::telemetry::said;

/// How many segments are read at once, unless set.
const SEGMENTS: u32 = 4;

/// The most items a page is asked for. DynamoDB ends a page at 1 MiB by itself.
const LARGEST_PAGE: u32 = 1_000;
const FIRST_PAGE: u32 = 100;
const SMALLEST_PAGE: u32 = 10;

/// How long a page may take: more than a worker's calls, since it is larger and nobody's lease waits for it.
const PAGE_TIMEOUT: Duration = Duration::from_secs(15);

/// How often a page is asked for that the service was too busy for.
const MAX_TRIES: u32 = 6;
const FIRST_PAUSE: Duration = Duration::from_millis(500);

/// What a scan of an inbox looks for, and how fast it may read. What it does not look for is left out by DynamoDB, and is
/// read, and billed, all the same.
///
/// ```no_run
/// # async fn example() -> Result<(), redrive::inbox::InboxError> {
/// use std::ops::ControlFlow;
/// use redrive::DynamoInbox;
/// use redrive::inbox::InboxScan;
///
/// let aws = aws_config::load_from_env().await;
/// let inbox = DynamoInbox::connect(&aws, "redrive-inbox").await?;
/// let stuck = InboxScan::new().consumer("orders").stuck();
/// let report = inbox
///     .scan(&stuck, |page| {
///         for entry in &page.entries {
///             println!("{}", entry.key);
///         }
///         ControlFlow::Continue(())
///     })
///     .await?;
/// println!("{} of {} items", report.matched, report.scanned);
/// # Ok(()) }
/// ```
#[derive(Clone, Debug)]
#[must_use = "it is what `DynamoInbox::scan` takes"]
pub struct InboxScan {
    consumer: Option<String>,
    statuses: Vec<Status>,
    lease_over: Option<Duration>,
    older_than: Option<Duration>,
    expired: bool,
    payloads: bool,
    segments: u32,
    read_capacity: Option<RateLimit>,
    cancel: CancellationToken,
}

impl Default for InboxScan {
    fn default() -> Self {
        Self {
            consumer: None,
            statuses: Vec::new(),
            lease_over: None,
            older_than: None,
            expired: false,
            payloads: false,
            segments: SEGMENTS,
            read_capacity: None,
            cancel: CancellationToken::new(),
        }
    }
}

impl InboxScan {
    /// A scan of all records that have not expired, without their results, checkpoints and fingerprints.
    pub fn new() -> Self {
        Self::default()
    }

    /// Only this consumer's.
    pub fn consumer(mut self, consumer: impl Into<String>) -> Self {
        self.consumer = Some(consumer.into());
        self
    }

    /// Only these statuses. Items whose status was damaged are left out then.
    pub fn statuses(mut self, statuses: impl IntoIterator<Item = Status>) -> Self {
        self.statuses = statuses.into_iter().collect();
        self
    }

    /// Only claims whose lease has run out, and claims whose lease cannot be read.
    pub fn stuck(self) -> Self {
        self.stuck_for(Duration::ZERO)
    }

    /// Only claims whose lease ran out this long ago or longer, and claims whose lease cannot be read.
    pub fn stuck_for(mut self, time: Duration) -> Self {
        self.lease_over = Some(time);
        self
    }

    /// Only keys first seen this long ago or longer.
    pub fn older_than(mut self, age: Duration) -> Self {
        self.older_than = Some(age);
        self
    }

    /// Records that have expired, too: they count as absent, and DynamoDB deletes them some day.
    pub fn with_expired(mut self) -> Self {
        self.expired = true;
        self
    }

    /// Results, checkpoints and fingerprints, too.
    pub fn with_payloads(mut self) -> Self {
        self.payloads = true;
        self
    }

    /// How many segments of the table are read at once: 4 unless set, 1 to 64. Fewer are read where the capacity allowed is
    /// small.
    pub fn segments(mut self, segments: u32) -> Self {
        self.segments = segments.clamp(1, 64);
        self
    }

    /// How many read capacity units it may take per second; no limit unless set. A unit reads two items of 4 KiB each, or
    /// some dozens of small ones. What a page took is known afterwards only, so that at most a page of each segment goes over.
    pub fn read_capacity(mut self, limit: RateLimit) -> Self {
        self.read_capacity = Some(limit);
        self
    }

    /// Ends the scan when it fires.
    pub fn cancel(mut self, token: CancellationToken) -> Self {
        self.cancel = token;
        self
    }

    /// The filter for the time it is sent at.
    fn filter(&self, time: ServiceTime) -> Filter {
        let mut filter = Filter::default();
        if let Some(consumer) = &self.consumer {
            filter.add("begins_with(#pk, :consumer)", &[attribute::KEY]);
            filter.value("consumer", text(&format!("{consumer}#")));
        }
        if !self.statuses.is_empty() {
            let names: Vec<String> = (0..self.statuses.len()).map(|n| format!(":status{n}")).collect();
            filter.add(&format!("#status IN ({})", names.join(", ")), &[attribute::STATUS]);
            for (n, status) in self.statuses.iter().enumerate() {
                filter.value(&format!("status{n}"), text(status.as_str()));
            }
        }
        if let Some(time_over) = self.lease_over {
            let before = time.lo.saturating_sub(ms(time_over));
            filter.add("#status = :processing", &[attribute::STATUS]);
            filter.value("processing", text(Status::Processing.as_str()));
            filter.at_most(attribute::LEASE_UNTIL, "lease", before);
        }
        if let Some(age) = self.older_than {
            filter.at_most(attribute::FIRST_SEEN, "seen", time.lo.saturating_sub(ms(age)));
        }
        if !self.expired {
            filter.add(
                "(#expires_at > :now OR NOT attribute_type(#expires_at, :number))",
                &[attribute::EXPIRES_AT],
            );
            filter.value("now", number(time.lo / 1_000));
            filter.value("number", text("N"));
        }
        filter
    }

    /// The segments to read and how large their pages may be.
    fn plan(&self) -> (u32, Pages) {
        match self.read_capacity {
            None => (self.segments, Pages::unbounded()),
            Some(limit) => {
                // Under a small limit a few segments would each take its whole second at once.
                let segments = self.segments.min((limit.rate() / 10.0) as u32).max(1);
                let halves = limit.rate() * 2.0 / f64::from(segments) / 2.0;
                (segments, Pages::of(halves))
            }
        }
    }
}

/// A page of a scan.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct InboxPage {
    /// What matched, in no order.
    pub entries: Vec<InboxEntry>,
    /// How many items were read for it.
    pub scanned: u64,
    /// The inbox's time when it was read.
    pub time: ServiceTime,
}

/// Why a scan ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum InboxScanEnd {
    /// The whole table was read.
    #[default]
    Exhausted,
    /// The caller had seen enough.
    Stopped,
    /// It was cancelled.
    Cancelled,
}

/// What a scan did.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct InboxScanReport {
    /// Items handed over.
    pub matched: u64,
    /// Items read.
    pub scanned: u64,
    /// Read capacity units taken.
    pub read_units: f64,
    /// Why it ended.
    pub end: InboxScanEnd,
}

impl DynamoInbox {
    /// Reads the table and hands over what matches, page by page, in no order, until `each` says to stop. Reads are eventually
    /// consistent: whoever acts on an entry is told if it has changed. Memory stays flat: no more than a page of each segment.
    ///
    /// Where the service is too busy for a page, it is asked again some seconds long.
    ///
    /// Needs `dynamodb:Scan`.
    ///
    /// # Errors
    /// What calls fail with. What was handed over before stands.
    pub async fn scan(
        &self,
        scan: &InboxScan,
        mut each: impl FnMut(InboxPage) -> ControlFlow<()>,
    ) -> Result<InboxScanReport, InboxError> {
        let (segments, pages) = scan.plan();
        // Half a unit is what the smallest read takes.
        let halves = scan.read_capacity.map(|limit| {
            let rate = (limit.rate() * 2.0).min(1_000_000.0);
            RateLimit::per_second(rate).unwrap_or(limit)
        });
        let bucket = TokenBucket::new(halves);
        let mut report = InboxScanReport::default();
        let mut reads: FuturesUnordered<BoxFuture<'_, _>> = (0..segments)
            .map(|number| Segment::new(number, segments, pages))
            .map(|segment| self.read_segment(scan, &bucket, segment))
            .collect();
        loop {
            let (segment, read) = tokio::select! {
                biased;
                () = scan.cancel.cancelled() => {
                    report.end = InboxScanEnd::Cancelled;
                    return Ok(report);
                }
                next = reads.next() => match next {
                    Some(read) => read?,
                    None => return Ok(report),
                },
            };
            report.scanned += read.page.scanned;
            report.matched += read.page.entries.len() as u64;
            report.read_units += read.halves as f64 / 2.0;
            if each(read.page).is_break() {
                report.end = InboxScanEnd::Stopped;
                return Ok(report);
            }
            if segment.start.is_some() {
                reads.push(self.read_segment(scan, &bucket, segment));
            }
        }
    }

    fn read_segment<'a>(
        &'a self,
        scan: &'a InboxScan,
        bucket: &'a TokenBucket,
        segment: Segment,
    ) -> BoxFuture<'a, Result<(Segment, Read), InboxError>> {
        Box::pin(async move {
            self.wait_for(bucket, segment.owed).await;
            let (mut pause, mut tries) = (FIRST_PAUSE, 1);
            loop {
                match self.read_page(scan, &segment).await {
                    Ok((start, read)) => return Ok((segment.after(start, &read), read)),
                    Err(error) if tries < MAX_TRIES && is_busy(&error) => {
                        tracing::debug!(table = %self.table.name, error = %said(&error), "a page is asked for again");
                        tokio::time::sleep(pause).await;
                        (pause, tries) = (pause * 2, tries + 1);
                    }
                    Err(error) => return Err(error),
                }
            }
        })
    }

    /// Pays for the page before with time.
    async fn wait_for(&self, bucket: &TokenBucket, halves: u64) {
        let now = self.table.now();
        let waits = (0..halves).map(|_| bucket.reserve(now, LONGEST_DELAY).unwrap_or(LONGEST_DELAY));
        let wait = waits.last().unwrap_or_default();
        if !wait.is_zero() {
            tokio::time::sleep(wait).await;
        }
    }

    async fn read_page(&self, scan: &InboxScan, segment: &Segment) -> Result<(Option<Item>, Read), InboxError> {
        let filter = scan.filter(self.time());
        let mut names = filter.names;
        let projection = (!scan.payloads).then(|| {
            let shown = SMALL_ATTRIBUTES.map(|name| {
                names.insert(format!("#{name}"), name.to_owned());
                format!("#{name}")
            });
            shown.join(", ")
        });
        let timeouts = TimeoutConfig::builder()
            .operation_attempt_timeout(PAGE_TIMEOUT)
            .operation_timeout(PAGE_TIMEOUT + ATTEMPT_TIMEOUT)
            .build();
        let call = self
            .table
            .client
            .scan()
            .table_name(&*self.table.name)
            .segment(i32::try_from(segment.number).unwrap_or(0))
            .total_segments(i32::try_from(segment.of).unwrap_or(1))
            .limit(i32::try_from(segment.pages.size).unwrap_or(i32::MAX))
            .set_exclusive_start_key(segment.start.clone())
            .set_filter_expression((!filter.conditions.is_empty()).then(|| filter.conditions.join(" AND ")))
            .set_expression_attribute_values((!filter.values.is_empty()).then_some(filter.values))
            .set_expression_attribute_names((!names.is_empty()).then_some(names))
            .set_projection_expression(projection)
            .return_consumed_capacity(ReturnConsumedCapacity::Total)
            .customize()
            .config_override(aws_sdk_dynamodb::config::Builder::new().timeout_config(timeouts));
        let output = self.table.call("scan", "Scan", call.send()).await?;
        let scanned = u64::try_from(output.scanned_count).unwrap_or(0);
        let units = output.consumed_capacity.and_then(|taken| taken.capacity_units);
        // A service that does not tell is taken to read items of 1 KiB.
        let halves = units.map_or(scanned.div_ceil(4), |units| (units * 2.0).ceil().max(0.0) as u64);
        let page = InboxPage {
            entries: output.items.unwrap_or_default().iter().map(InboxEntry::read).collect(),
            scanned,
            time: self.time(),
        };
        let start = output.last_evaluated_key.filter(|key| !key.is_empty());
        Ok((start, Read { page, halves }))
    }
}

/// What is read without payloads.
const SMALL_ATTRIBUTES: [&str; 14] = [
    attribute::KEY,
    attribute::STATUS,
    attribute::CLAIM_ID,
    attribute::FENCING_TOKEN,
    attribute::LEASE_UNTIL,
    attribute::ATTEMPTS,
    attribute::LAST_ERROR,
    attribute::REASON,
    attribute::DEAD_LETTER_SENT,
    attribute::STARTED,
    attribute::DEATHS,
    attribute::MESSAGE_ID,
    attribute::FIRST_SEEN,
    attribute::EXPIRES_AT,
];

struct Read {
    page: InboxPage,
    /// Half units it took.
    halves: u64,
}

/// Where a segment's reading stands.
struct Segment {
    number: u32,
    of: u32,
    start: Option<Item>,
    pages: Pages,
    /// Half units still to be paid for.
    owed: u64,
}

impl Segment {
    fn new(number: u32, of: u32, pages: Pages) -> Self {
        Self {
            number,
            of,
            start: None,
            pages,
            owed: 0,
        }
    }

    fn after(self, start: Option<Item>, read: &Read) -> Self {
        Self {
            start,
            pages: self.pages.after(read.page.scanned, read.halves),
            owed: read.halves,
            ..self
        }
    }
}

/// How many items a page is asked for, so that it takes about so many half units.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Pages {
    size: u32,
    halves: Option<f64>,
}

impl Pages {
    fn unbounded() -> Self {
        Self {
            size: LARGEST_PAGE,
            halves: None,
        }
    }

    fn of(halves: f64) -> Self {
        Self {
            size: FIRST_PAGE,
            halves: Some(halves.max(1.0)),
        }
    }

    fn after(self, scanned: u64, taken: u64) -> Self {
        let Some(wanted) = self.halves.filter(|_| scanned > 0 && taken > 0) else {
            return self;
        };
        let size = wanted * scanned as f64 / taken as f64;
        Self {
            size: (size as u32).clamp(SMALLEST_PAGE, LARGEST_PAGE),
            ..self
        }
    }
}

#[derive(Debug, Default)]
struct Filter {
    conditions: Vec<String>,
    names: HashMap<String, String>,
    values: HashMap<String, AttributeValue>,
}

impl Filter {
    fn add(&mut self, condition: &str, names: &[&str]) {
        self.conditions.push(condition.to_owned());
        for name in names {
            self.names.insert(format!("#{name}"), (*name).to_owned());
        }
    }

    fn value(&mut self, name: &str, value: AttributeValue) {
        self.values.insert(format!(":{name}"), value);
    }

    /// A number that is at most this, or no number: what cannot be judged here is to be seen.
    fn at_most(&mut self, name: &str, value: &str, most: u64) {
        let condition = format!("(#{name} <= :{value} OR NOT attribute_type(#{name}, :number))");
        self.add(&condition, &[name]);
        self.value(value, number(most));
        self.value("number", text("N"));
    }
}

fn is_busy(error: &InboxError) -> bool {
    matches!(error, InboxError::Throttled { .. } | InboxError::Unavailable { .. })
}

fn ms(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn inv05_pages_grow_and_shrink_to_what_they_may_take() {
        let pages = Pages::of(20.0);
        assert_eq!(pages.size, FIRST_PAGE);
        let small_items = pages.after(100, 10);
        assert_eq!(small_items.size, 200);
        let large_items = small_items.after(200, 4_000);
        assert_eq!(large_items.size, SMALLEST_PAGE);
        assert_eq!(large_items.after(0, 0), large_items);
        assert_eq!(large_items.after(10, 1).size, 200);
        assert_eq!(Pages::unbounded().after(1_000, 256).size, LARGEST_PAGE);
    }

    #[test]
    fn inv05_a_small_limit_is_not_taken_by_many_segments_at_once() {
        let segments = |rate: f64| {
            let limit = RateLimit::per_second(rate).unwrap();
            InboxScan::new().read_capacity(limit).plan().0
        };
        assert_eq!(segments(1.0), 1);
        assert_eq!(segments(25.0), 2);
        assert_eq!(segments(5_000.0), SEGMENTS);
        assert_eq!(InboxScan::new().segments(9).plan(), (9, Pages::unbounded()));
    }

    #[test]
    fn a_filter_names_what_it_uses_and_nothing_else() {
        let time = ServiceTime { lo: 10_000, hi: 11_000 };
        let all = InboxScan::new().with_expired().filter(time);
        assert!(all.conditions.is_empty() && all.names.is_empty() && all.values.is_empty());
        let stuck = InboxScan::new()
            .consumer("orders")
            .statuses([Status::Processing, Status::Rejected])
            .stuck_for(Duration::from_secs(4))
            .older_than(Duration::from_secs(20))
            .filter(time);
        let text = stuck.conditions.join(" AND ");
        for name in stuck.names.keys().chain(stuck.values.keys()) {
            assert!(text.contains(name.as_str()), "{name} is not in {text}");
        }
        assert_eq!(stuck.values[":lease"], number(6_000));
        assert_eq!(stuck.values[":seen"], number(0));
    }
}
