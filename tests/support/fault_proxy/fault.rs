//! What can go wrong with a call, and which calls it happens to.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use redrive::clock::Clock;
use serde_json::{Value, json};

use super::http::{Answer, Request, Service};

/// When a fault strikes: before the service has done what it was asked, or after it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Effect {
    /// The service never sees the call.
    None,
    /// The service has done it, and the caller does not learn of it.
    Done,
}

/// What happens to a call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// The connection is reset.
    Reset(Effect),
    /// The connection is closed in good order, without an answer.
    Close(Effect),
    /// No answer, ever; the connection stays open.
    Stall(Effect),
    /// Half of the answer's body, and then nothing more, ever.
    StallInBody,
    /// The answer comes in eight pieces with this much time between them.
    Trickle(Duration),
    /// The answer comes later.
    Late(Duration),
    /// Another answer in place of the service's.
    Answered(Effect, Reply),
    /// Half of the body that was announced, and then the connection's end.
    Truncated,
    /// Half of the head, and then the connection's end.
    TruncatedHead,
    /// The service's own answer with its `Date` moved by seconds.
    DateMoved(i64),
    /// The service's own answer without a `Date`.
    NoDate,
    /// The service's own answer with a `Date` that is none.
    BadDate,
    /// Every second entry of a batch fails with this code, in an answer that is a 200: PartiQL statements and SQS batch
    /// entries; the rest goes through. A batch of one fails whole. With [`Effect::Done`] all were done in truth.
    Entries(Effect, &'static str),
    /// As [`Entries`](Self::Entries), but every entry fails.
    AllEntries(Effect, &'static str),
    /// The answer leaves out every second entry.
    EntriesMissing,
}

/// An answer that the service did not give, or not so.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Reply {
    /// This status, and nothing more.
    Status(u16),
    /// An error in the service's own format.
    Error(u16, &'static str),
    /// A load balancer's page.
    Html(u16),
    /// HTTP 200 with what is no JSON.
    Garbage,
    /// HTTP 200 with JSON of another API.
    OtherJson,
    /// HTTP 200 with nothing in it.
    Empty,
}

impl Fault {
    /// The connection is gone before the call had any effect.
    pub(crate) fn reset() -> Self {
        Self::Reset(Effect::None)
    }

    /// The call was done, and its answer is lost.
    pub(crate) fn reply_lost() -> Self {
        Self::Reset(Effect::Done)
    }

    /// The service refuses with an error in its own words.
    pub(crate) fn error(status: u16, code: &'static str) -> Self {
        Self::Answered(Effect::None, Reply::Error(status, code))
    }

    /// Whether the service is to see the call.
    pub(super) fn passes(&self) -> bool {
        !matches!(
            self,
            Self::Reset(Effect::None)
                | Self::Close(Effect::None)
                | Self::Stall(Effect::None)
                | Self::Answered(Effect::None, _)
        )
    }
}

impl Reply {
    pub(super) fn answer(&self, request: &Request) -> Answer {
        let plain = |status, kind: &str, body: Vec<u8>| {
            Answer {
                status,
                headers: Vec::new(),
                body,
                is_last: false,
            }
            .with("content-type", kind)
            .with("date", now())
        };
        let amz = "application/x-amz-json-1.0";
        match self {
            Self::Status(status) => plain(*status, "text/plain", Vec::new()),
            Self::Html(status) => {
                let body = format!(
                    "<html><head><title>{status} Error</title></head><body><h1>{status} Bad answer</h1></body></html>"
                );
                plain(*status, "text/html", body.into_bytes())
            }
            Self::Garbage => plain(200, amz, b"\x00\xff{\"no\": json".to_vec()),
            Self::OtherJson => plain(200, amz, br#"["something", {"else": true}]"#.to_vec()),
            Self::Empty => plain(200, amz, Vec::new()),
            Self::Error(status, code) => {
                let (space, message) = (namespace(request.service, code), "injected by the proxy");
                let body = json!({"__type": format!("{space}#{code}"), "message": message}).to_string();
                let answer = plain(*status, amz, body.into_bytes()).with("x-amzn-requestid", "INJECTED");
                match request.service {
                    // SQS answers JSON callers with the code of its older protocol in a header.
                    Service::Sqs => {
                        let at_fault = if *status < 500 { "Sender" } else { "Receiver" };
                        answer.with("x-amzn-query-error", format!("{code};{at_fault}"))
                    }
                    Service::DynamoDb => answer,
                }
            }
        }
    }
}

fn namespace(service: Service, code: &str) -> &'static str {
    match (service, code) {
        (Service::Sqs, "RequestThrottled" | "OverLimit") => "com.amazonaws.sqs",
        (
            Service::DynamoDb,
            "ProvisionedThroughputExceededException" | "RequestLimitExceeded" | "InternalServerError",
        ) => "com.amazonaws.dynamodb.v20120810",
        (_, "ThrottlingException") => "com.amazon.coral.availability",
        _ => "com.amazon.coral.service",
    }
}

/// Now, as a `Date` header has it.
pub(super) fn now() -> String {
    httpdate::fmt_http_date(UNIX_EPOCH + Duration::from_millis(Clock::system().epoch_ms()))
}

/// The service's own answer with its time changed.
pub(super) fn redated(answer: Answer, fault: &Fault) -> Answer {
    match fault {
        Fault::NoDate => answer.without("date"),
        Fault::BadDate => answer.with("date", "the day after tomorrow"),
        Fault::DateMoved(seconds) => {
            let time = Duration::from_millis(Clock::system().epoch_ms());
            let by = Duration::from_secs(seconds.unsigned_abs());
            let time = if *seconds < 0 {
                time.saturating_sub(by)
            } else {
                time + by
            };
            answer.with("date", httpdate::fmt_http_date(UNIX_EPOCH + time))
        }
        _ => answer,
    }
}

/// How the entries of a batch are told apart: their list in the request.
fn entries_of(request: &Request) -> Option<&'static str> {
    match request.service {
        Service::DynamoDb => (request.operation == "BatchExecuteStatement").then_some("Statements"),
        Service::Sqs => request.operation.ends_with("Batch").then_some("Entries"),
    }
}

/// The part of a batch that goes through, and which of its entries it holds; none for calls that are no batch.
pub(super) fn part_of(request: &Request, fault: &Fault) -> Option<(Request, Vec<bool>)> {
    let (effect, fails): (Effect, fn(usize, usize) -> bool) = match fault {
        Fault::Entries(effect, _) => (*effect, |position, count| count == 1 || position % 2 == 0),
        Fault::AllEntries(effect, _) => (*effect, |_, _| true),
        Fault::EntriesMissing => (Effect::Done, |position, count| count == 1 || position % 2 == 0),
        _ => return None,
    };
    let list = entries_of(request)?;
    let mut body = request.json();
    let entries = body[list].as_array()?.clone();
    let failed: Vec<bool> = (0..entries.len())
        .map(|position| fails(position, entries.len()))
        .collect();
    if effect == Effect::None {
        let through = entries.into_iter().zip(&failed).filter(|(_, failed)| !**failed);
        body[list] = Value::Array(through.map(|(entry, _)| entry).collect());
    }
    Some((request.with_json(&body), failed))
}

/// How many entries a batch has.
pub(super) fn count_of(request: &Request) -> usize {
    let list = entries_of(request).unwrap_or("Entries");
    request.json()[list].as_array().map_or(0, Vec::len)
}

/// The answer to a whole batch of which some failed: `given` is the answer to what went through, none where nothing did.
pub(super) fn partly_failed(request: &Request, fault: &Fault, failed: &[bool], given: Option<Answer>) -> Answer {
    let answer = given.unwrap_or_else(|| Reply::Empty.answer(request));
    let told = answer.json();
    let (effect, code) = match fault {
        Fault::Entries(effect, code) | Fault::AllEntries(effect, code) => (*effect, Some(*code)),
        _ => (Effect::Done, None),
    };
    let body = match request.service {
        Service::DynamoDb => {
            // Answers are told apart by their places.
            let mut theirs = told["Responses"].as_array().cloned().unwrap_or_default().into_iter();
            let mut responses = Vec::new();
            for failed in failed {
                let own = (!failed || effect == Effect::Done).then(|| theirs.next()).flatten();
                match (failed, code) {
                    (false, _) => responses.extend(own),
                    (true, Some(code)) => {
                        responses.push(json!({"Error": {"Code": code, "Message": "injected by the proxy"}}));
                    }
                    // What is missing can only be at the end: nothing says which statement an answer is for.
                    (true, None) => break,
                }
            }
            json!({ "Responses": responses })
        }
        Service::Sqs => {
            let sent = request.json();
            let of = |list: &str, id: &Value| {
                let known = told[list].as_array()?.iter().find(|entry| entry["Id"] == *id)?;
                Some(known.clone())
            };
            let (mut successful, mut failures) = (Vec::new(), Vec::new());
            for (entry, failed) in sent["Entries"].as_array().into_iter().flatten().zip(failed) {
                match (failed, code) {
                    (false, _) => {
                        successful.extend(of("Successful", &entry["Id"]));
                        failures.extend(of("Failed", &entry["Id"]));
                    }
                    (true, Some(code)) => failures.push(json!({
                        "Id": entry["Id"], "Code": code, "Message": "injected by the proxy", "SenderFault": false,
                    })),
                    (true, None) => {}
                }
            }
            json!({"Successful": successful, "Failed": failures})
        }
    };
    answer.with_body(body.to_string())
}

type Asks = Arc<dyn Fn(&Request) -> bool + Send + Sync>;

/// Which calls a fault happens to.
#[derive(Clone)]
pub(crate) struct Rule {
    pub(super) operation: Option<String>,
    pub(super) fault: Fault,
    pub(super) asks: Option<Asks>,
    pub(super) chance: f64,
    pub(super) skip: u64,
    pub(super) most: u64,
}

impl Rule {
    /// The fault on every call of an operation.
    pub(crate) fn on(operation: &str, fault: Fault) -> Self {
        Self {
            operation: Some(operation.to_owned()),
            ..Self::on_all(fault)
        }
    }

    /// The fault on every call.
    pub(crate) fn on_all(fault: Fault) -> Self {
        Self {
            operation: None,
            fault,
            asks: None,
            chance: 1.0,
            skip: 0,
            most: u64::MAX,
        }
    }

    /// Only on requests such as these.
    pub(crate) fn when(mut self, asks: impl Fn(&Request) -> bool + Send + Sync + 'static) -> Self {
        self.asks = Some(Arc::new(asks));
        self
    }

    /// Only with this probability, by the proxy's seed.
    pub(crate) fn chance(mut self, chance: f64) -> Self {
        self.chance = chance;
        self
    }

    /// The first calls are left alone.
    pub(crate) fn after(mut self, calls: u64) -> Self {
        self.skip = calls;
        self
    }

    /// Only this often.
    pub(crate) fn at_most(mut self, calls: u64) -> Self {
        self.most = calls;
        self
    }

    pub(super) fn is_for(&self, request: &Request) -> bool {
        self.operation
            .as_ref()
            .is_none_or(|operation| *operation == request.operation)
            && self.asks.as_ref().is_none_or(|asks| asks(request))
    }
}

impl fmt::Debug for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let operation = self.operation.as_deref().unwrap_or("every operation");
        write!(f, "{:?} on {operation}", self.fault)
    }
}
