//! Calls of SQS in its JSON protocol.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use serde_json::{Value, json};

use super::answer::{Wanted, attributes_md5, message_id, received, sequence_number};
use super::message::{Attribute, AttributeValue, Message};
use super::queue::{Queue, Refusal};
use super::source::Body;
use crate::answer::Answer;
use crate::counts::billed;
use crate::world::{Failure, World, arn};

/// The operations there are.
pub(crate) const OPERATIONS: [&str; 10] = [
    "ReceiveMessage",
    "DeleteMessage",
    "DeleteMessageBatch",
    "ChangeMessageVisibility",
    "ChangeMessageVisibilityBatch",
    "SendMessage",
    "SendMessageBatch",
    "GetQueueUrl",
    "GetQueueAttributes",
    "ListQueues",
];

/// A receive that may wait.
#[derive(Clone, Debug)]
pub(crate) struct Receive {
    queue: String,
    max: usize,
    visibility: Option<Duration>,
    wanted: Wanted,
    /// Until when it waits for a message.
    pub(crate) until: Instant,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct ReceiveRequest<'a> {
    #[serde(borrow)]
    queue_url: Cow<'a, str>,
    max_number_of_messages: Option<u32>,
    wait_time_seconds: Option<u64>,
    visibility_timeout: Option<u64>,
    #[serde(default)]
    attribute_names: Vec<String>,
    #[serde(default)]
    message_system_attribute_names: Vec<String>,
    #[serde(default)]
    message_attribute_names: Vec<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct HandleRequest<'a> {
    #[serde(borrow)]
    queue_url: Cow<'a, str>,
    #[serde(borrow)]
    receipt_handle: Cow<'a, str>,
    visibility_timeout: Option<u64>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct HandleBatch<'a> {
    #[serde(borrow)]
    queue_url: Cow<'a, str>,
    #[serde(borrow)]
    entries: Vec<HandleEntry<'a>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct HandleEntry<'a> {
    #[serde(borrow)]
    id: Cow<'a, str>,
    #[serde(borrow)]
    receipt_handle: Cow<'a, str>,
    visibility_timeout: Option<u64>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct SendBatch {
    queue_url: String,
    entries: Vec<SendEntry>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct SendRequest {
    queue_url: String,
    #[serde(flatten)]
    entry: SendEntry,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct SendEntry {
    #[serde(default)]
    id: String,
    message_body: String,
    delay_seconds: Option<u64>,
    message_group_id: Option<String>,
    message_deduplication_id: Option<String>,
    #[serde(default)]
    message_attributes: BTreeMap<String, SentAttribute>,
    #[serde(default)]
    message_system_attributes: BTreeMap<String, SentAttribute>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct SentAttribute {
    data_type: String,
    string_value: Option<String>,
    binary_value: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct QueueRequest {
    queue_url: Option<String>,
    queue_name: Option<String>,
    queue_name_prefix: Option<String>,
    #[serde(default)]
    attribute_names: Vec<String>,
}

/// A call that is answered now, or a receive that may wait.
pub(crate) enum Called {
    Done(Answer),
    Receive(Receive),
}

/// Makes a call, at the moment it arrives.
pub(crate) fn call(world: &mut World, operation: &'static str, body: &[u8], now: Instant) -> Called {
    let counts = world.calls.sqs.entry(operation).or_default();
    counts.calls += 1;
    counts.billed += 1;
    let answer = match operation {
        "ReceiveMessage" => {
            world.first_receive.get_or_insert(now);
            match start_receive(world, body, now) {
                Ok(receive) => return Called::Receive(receive),
                Err(failure) => Err(failure),
            }
        }
        "DeleteMessage" | "ChangeMessageVisibility" => one_handle(world, operation, body, now),
        "DeleteMessageBatch" | "ChangeMessageVisibilityBatch" => many_handles(world, operation, body, now),
        "SendMessage" => send_one(world, body, now),
        "SendMessageBatch" => send_many(world, body, now),
        "GetQueueUrl" => queue_url(world, body),
        "GetQueueAttributes" => attributes(world, body, now),
        _ => list(world, body),
    };
    Called::Done(answer.unwrap_or_else(|failure| failure.answer("com.amazonaws.sqs")))
}

fn read<'a, T: Deserialize<'a>>(body: &'a [u8]) -> Result<T, Failure> {
    serde_json::from_slice(body).map_err(|error| Failure::new("SerializationException", error.to_string()))
}

fn invalid(message: impl Into<String>) -> Failure {
    Failure::new("InvalidParameterValueException", message.into())
}

fn start_receive(world: &mut World, body: &[u8], now: Instant) -> Result<Receive, Failure> {
    let request: ReceiveRequest<'_> = read(body)?;
    let queue = world.queue(&request.queue_url)?;
    let max = request.max_number_of_messages.unwrap_or(1);
    if !(1..=10).contains(&max) {
        return Err(invalid(format!(
            "MaxNumberOfMessages is {max}, and must be from 1 to 10"
        )));
    }
    let wait = request.wait_time_seconds.unwrap_or(0);
    if wait > 20 {
        return Err(invalid(format!("WaitTimeSeconds is {wait}, and must be from 0 to 20")));
    }
    let system = request
        .attribute_names
        .iter()
        .chain(&request.message_system_attribute_names);
    Ok(Receive {
        queue: queue.name.clone(),
        max: max as usize,
        visibility: request.visibility_timeout.map(visibility).transpose()?,
        wanted: Wanted::new(system.map(String::as_str), request.message_attribute_names),
        until: now + Duration::from_secs(wait),
    })
}

fn visibility(seconds: u64) -> Result<Duration, Failure> {
    match seconds {
        0..=43_200 => Ok(Duration::from_secs(seconds)),
        _ => Err(invalid(format!(
            "VisibilityTimeout is {seconds}, and must be from 0 to 43200"
        ))),
    }
}

/// Receives what is there. Nothing but the moment at which to look again, at the latest, where the receive should wait.
pub(crate) fn receive(world: &mut World, receive: &Receive, now: Instant) -> Result<Answer, Instant> {
    let unix_ms = world.unix_us(now) / 1_000;
    let queue = match world.queue(&receive.queue) {
        Ok(queue) => queue,
        Err(failure) => return Ok(failure.answer("com.amazonaws.sqs")),
    };
    let received_now = queue.receive(now, unix_ms, receive.max, receive.visibility);
    let (deliveries, dead) = (received_now.deliveries, received_now.dead);
    if deliveries.is_empty() && now < receive.until {
        let next = queue
            .next_event(now)
            .map_or(receive.until, |next| next.min(receive.until));
        world.bury(now, &receive.queue, dead);
        return Err(next);
    }
    world.bury(now, &receive.queue, dead);
    let bytes = deliveries.iter().map(|delivery| delivery.message.bytes()).sum();
    let counts = world.calls.sqs.entry("ReceiveMessage").or_default();
    counts.entries += deliveries.len() as u64;
    counts.billed += billed(bytes) - 1;
    counts.empty += u64::from(deliveries.is_empty());
    Ok(Answer {
        status: 200,
        body: received(&deliveries, &receive.wanted),
    })
}

/// Deletes or changes by one handle.
fn settle(queue: &mut Queue, now: Instant, handle: &str, timeout: Option<Option<u64>>) -> Result<(), Failure> {
    let done = match timeout {
        None => queue.delete(now, handle),
        Some(None) => return Err(Failure::new("MissingParameter", "VisibilityTimeout is missing")),
        Some(Some(seconds)) => queue.change_visibility(now, handle, visibility(seconds)?),
    };
    done.map_err(|refusal| match (refusal, timeout) {
        (Refusal::Malformed, _) => Failure::new(
            "ReceiptHandleIsInvalid",
            "The input receipt handle is not a valid receipt handle.",
        ),
        (Refusal::Stale, Some(_)) => Failure::new(
            "InvalidParameterValue",
            "The message does not exist or is not available for visibility timeout change.",
        ),
        (Refusal::Stale, None) => Failure::new("InvalidParameterValue", "The receipt handle has expired."),
    })
}

fn one_handle(world: &mut World, operation: &'static str, body: &[u8], now: Instant) -> Result<Answer, Failure> {
    let request: HandleRequest<'_> = read(body)?;
    world.calls.sqs.entry(operation).or_default().entries += 1;
    let queue = world.queue(&request.queue_url)?;
    let timeout = (operation == "ChangeMessageVisibility").then_some(request.visibility_timeout);
    settle(queue, now, &request.receipt_handle, timeout)?;
    world.may_have_freed(&request.queue_url, timeout.is_some());
    Ok(Answer::ok("{}"))
}

fn check_batch<'a>(ids: impl ExactSizeIterator<Item = &'a str>) -> Result<(), Failure> {
    let entries = ids.len();
    if entries == 0 {
        return Err(Failure::new(
            "EmptyBatchRequest",
            "The batch request doesn't contain any entries.",
        ));
    }
    if entries > 10 {
        return Err(Failure::new(
            "TooManyEntriesInBatchRequest",
            format!("{entries} entries, at most 10 are allowed."),
        ));
    }
    if ids.collect::<BTreeSet<_>>().len() < entries {
        return Err(Failure::new(
            "BatchEntryIdsNotDistinct",
            "Two entries have the same Id.",
        ));
    }
    Ok(())
}

fn many_handles(world: &mut World, operation: &'static str, body: &[u8], now: Instant) -> Result<Answer, Failure> {
    let request: HandleBatch<'_> = read(body)?;
    check_batch(request.entries.iter().map(|entry| &*entry.id))?;
    world.calls.sqs.entry(operation).or_default().entries += request.entries.len() as u64;
    let queue = world.queue(&request.queue_url)?;
    let changes = operation == "ChangeMessageVisibilityBatch";
    let (mut successful, mut failed) = (Vec::with_capacity(400), Vec::new());
    for entry in &request.entries {
        let timeout = changes.then_some(entry.visibility_timeout);
        match settle(queue, now, &entry.receipt_handle, timeout) {
            Ok(()) => {
                successful.extend_from_slice(if successful.is_empty() {
                    b"{\"Id\":"
                } else {
                    b",{\"Id\":"
                });
                // Writing to a vector does not fail.
                let _ = serde_json::to_writer(&mut successful, &entry.id);
                successful.push(b'}');
            }
            Err(failure) => failed.push(failure.entry(&entry.id)),
        }
    }
    world.may_have_freed(&request.queue_url, changes);
    Ok(batch_answer(&successful, &failed))
}

fn batch_answer(successful: &[u8], failed: &[Value]) -> Answer {
    let mut json = Vec::with_capacity(successful.len() + 64);
    json.extend_from_slice(b"{\"Successful\":[");
    json.extend_from_slice(successful);
    json.extend_from_slice(b"],\"Failed\":[");
    for (at, failure) in failed.iter().enumerate() {
        if at > 0 {
            json.push(b',');
        }
        json.extend_from_slice(failure.to_string().as_bytes());
    }
    json.extend_from_slice(b"]}");
    Answer::ok(json)
}

fn attribute(sent: SentAttribute) -> Result<Attribute, Failure> {
    let value = match (sent.string_value, sent.binary_value) {
        (Some(text), _) => AttributeValue::Text(text),
        (None, Some(binary)) => match STANDARD.decode(binary) {
            Ok(bytes) => AttributeValue::Binary(bytes),
            Err(error) => return Err(invalid(format!("a BinaryValue is not base64: {error}"))),
        },
        (None, None) => return Err(invalid("a message attribute has no value")),
    };
    Ok(Attribute {
        data_type: sent.data_type,
        value,
    })
}

/// Characters that a body may have.
fn allowed(c: char) -> bool {
    matches!(c, '\u{9}' | '\u{a}' | '\u{d}' | '\u{20}'..='\u{d7ff}' | '\u{e000}'..='\u{fffd}' | '\u{10000}'..='\u{10ffff}')
}

/// Puts one message into a queue; answers what the sender is told, and the payload's size.
fn send(world: &mut World, url: &str, entry: SendEntry, now: Instant) -> Result<(Value, usize), Failure> {
    let delay = entry.delay_seconds.unwrap_or(0);
    let fifo = world.queue(url)?.is_fifo();
    if delay > 900 {
        return Err(Failure::new(
            "InvalidParameterValue",
            "DelaySeconds must be from 0 to 900",
        ));
    }
    if !entry.message_body.chars().all(allowed) || entry.message_body.is_empty() {
        return Err(Failure::new(
            "InvalidMessageContents",
            "The body has characters that are not allowed, or none.",
        ));
    }
    if fifo && (entry.message_group_id.is_none() || entry.message_deduplication_id.is_none()) {
        return Err(Failure::new(
            "MissingParameter",
            "MessageGroupId or MessageDeduplicationId is missing",
        ));
    }
    let mut attributes = BTreeMap::new();
    for (name, sent) in entry.message_attributes {
        attributes.insert(name, attribute(sent)?);
    }
    let mut system = entry.message_system_attributes;
    let trace = system.remove("AWSTraceHeader").and_then(|sent| sent.string_value);
    world.sent += 1;
    let message = Message {
        number: super::source::SENT_FROM + world.sent,
        body: Rc::new(Body::new(&entry.message_body)),
        attributes: Rc::new(attributes),
        group: entry.message_group_id.map(Into::into),
        deduplication_id: entry.message_deduplication_id.map(Into::into),
        trace: trace.map(Into::into),
        source_arn: None,
        sent_ms: world.unix_us(now) / 1_000,
        first_received_ms: 0,
        receive_count: 0,
    };
    let (md5, bytes) = (message.body.md5.clone(), message.bytes());
    let attributes = Rc::clone(&message.attributes);
    let number = world.queue(url)?.send(now, message, Duration::from_secs(delay));
    world.changed();
    let mut told = json!({ "MessageId": message_id(number), "MD5OfMessageBody": md5 });
    if !attributes.is_empty() {
        told["MD5OfMessageAttributes"] = attributes_md5(attributes.iter()).into();
    }
    if fifo {
        told["SequenceNumber"] = sequence_number(number).into();
    }
    Ok((told, bytes))
}

fn send_one(world: &mut World, body: &[u8], now: Instant) -> Result<Answer, Failure> {
    let request: SendRequest = read(body)?;
    world.calls.sqs.entry("SendMessage").or_default().entries += 1;
    let (told, bytes) = send(world, &request.queue_url, request.entry, now)?;
    world.calls.sqs.entry("SendMessage").or_default().billed += billed(bytes) - 1;
    Ok(Answer::ok(told.to_string()))
}

fn send_many(world: &mut World, body: &[u8], now: Instant) -> Result<Answer, Failure> {
    let request: SendBatch = read(body)?;
    check_batch(request.entries.iter().map(|entry| &*entry.id))?;
    world.queue(&request.queue_url)?;
    world.calls.sqs.entry("SendMessageBatch").or_default().entries += request.entries.len() as u64;
    let (mut successful, mut failed, mut payload) = (Vec::new(), Vec::new(), 0);
    for entry in request.entries {
        let id = entry.id.clone();
        match send(world, &request.queue_url, entry, now) {
            Ok((mut told, bytes)) => {
                told["Id"] = id.into();
                payload += bytes;
                if !successful.is_empty() {
                    successful.push(b',');
                }
                successful.extend_from_slice(told.to_string().as_bytes());
            }
            Err(failure) => failed.push(failure.entry(&id)),
        }
    }
    world.calls.sqs.entry("SendMessageBatch").or_default().billed += billed(payload) - 1;
    Ok(batch_answer(&successful, &failed))
}

fn queue_url(world: &mut World, body: &[u8]) -> Result<Answer, Failure> {
    let request: QueueRequest = read(body)?;
    let name = request.queue_name.unwrap_or_default();
    let name = world.queue(&name)?.name.clone();
    Ok(Answer::ok(json!({ "QueueUrl": world.url(&name) }).to_string()))
}

fn list(world: &mut World, body: &[u8]) -> Result<Answer, Failure> {
    let request: QueueRequest = read(body)?;
    let prefix = request.queue_name_prefix.unwrap_or_default();
    let names = world.queue_names().filter(|name| name.starts_with(&prefix));
    let urls: Vec<String> = names.map(|name| world.url(name)).collect();
    Ok(Answer::ok(json!({ "QueueUrls": urls }).to_string()))
}

fn attributes(world: &mut World, body: &[u8], now: Instant) -> Result<Answer, Failure> {
    let request: QueueRequest = read(body)?;
    let queue = world.queue(&request.queue_url.unwrap_or_default())?;
    let fifo = queue.is_fifo();
    let mut all = vec![
        ("QueueArn", arn(&queue.name)),
        ("VisibilityTimeout", queue.visibility.as_secs().to_string()),
        ("MessageRetentionPeriod", "345600".to_owned()),
        ("MaximumMessageSize", "1048576".to_owned()),
        ("DelaySeconds", "0".to_owned()),
        ("ReceiveMessageWaitTimeSeconds", "0".to_owned()),
        (
            "ApproximateNumberOfMessagesNotVisible",
            queue.in_flight(now).to_string(),
        ),
        // An endless backlog has no number; it says a large one.
        (
            "ApproximateNumberOfMessages",
            queue.left(now).unwrap_or(1_000_000_000).to_string(),
        ),
        ("ApproximateNumberOfMessagesDelayed", queue.delayed().to_string()),
    ];
    if let Some(dead) = &queue.dead_letters {
        let policy = json!({ "deadLetterTargetArn": arn(&dead.queue), "maxReceiveCount": dead.max_receive_count });
        all.push(("RedrivePolicy", policy.to_string()));
    }
    if fifo {
        all.push(("FifoQueue", "true".to_owned()));
        all.push(("ContentBasedDeduplication", "false".to_owned()));
        all.push(("DeduplicationScope", "queue".to_owned()));
        all.push(("FifoThroughputLimit", "perQueue".to_owned()));
    }
    let wanted = |name: &str| {
        request
            .attribute_names
            .iter()
            .any(|wanted| wanted == "All" || wanted == name)
    };
    let chosen: serde_json::Map<String, Value> = all
        .into_iter()
        .filter(|(name, _)| wanted(name))
        .map(|(name, value)| (name.to_owned(), value.into()))
        .collect();
    Ok(Answer::ok(json!({ "Attributes": chosen }).to_string()))
}
