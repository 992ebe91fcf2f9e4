//! Servers that answer as a test needs them to: for what LocalStack does too rarely, or too slowly.

use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use serde_json::{Value, json};

use crate::localstack::Servers;
use crate::stub::{Reply, Request, Stub};
use crate::tool::{Ran, Tool};

/// An SQS that answers so.
pub(crate) async fn sqs(answer: impl Fn(&Request) -> Reply + Send + Sync + 'static) -> Stub {
    Stub::answering(answer).await.expect("the server starts")
}

/// The tool with this server for all of AWS.
pub(crate) fn tool_at(server: &Stub) -> Tool {
    let servers = Servers {
        sqs_url: server.url(),
        dynamodb_url: server.url(),
    };
    Tool::new(&servers, "111122223333")
}

/// Runs the tool while the servers of the test go on answering.
pub(crate) async fn run(tool: Tool, arguments: &[&str]) -> Ran {
    let arguments: Vec<String> = arguments.iter().map(|argument| (*argument).to_owned()).collect();
    tokio::task::spawn_blocking(move || tool.run(&arguments))
        .await
        .expect("it ran")
}

/// As [`run`], with this for its standard input.
pub(crate) async fn run_with_input(tool: Tool, arguments: &[&str], input: impl Into<Vec<u8>>) -> Ran {
    let arguments: Vec<String> = arguments.iter().map(|argument| (*argument).to_owned()).collect();
    let input = input.into();
    tokio::task::spawn_blocking(move || tool.run_with_input(&arguments, &input))
        .await
        .expect("it ran")
}

/// Sends Ctrl-C to a process.
pub(crate) fn interrupt(process: u32) {
    let sent = Command::new("kill").args(["-INT", &process.to_string()]).status();
    assert!(sent.expect("kill runs").success());
}

/// An answer to the calls that open a queue: `None` for other calls. Queues whose names end in `-dlq` are dead-letter queues.
pub(crate) fn opening(request: &Request, visible: u64) -> Option<Reply> {
    let url = |name: &str| format!("http://localhost/111122223333/{name}");
    match request.operation.as_str() {
        "GetQueueUrl" => {
            let name = request.body["QueueName"].as_str().unwrap_or_default();
            Some(Reply::ok(json!({ "QueueUrl": url(name) })))
        }
        "GetQueueAttributes" => {
            let asked = request.body["QueueUrl"].as_str().unwrap_or_default();
            let name = asked.rsplit('/').next().unwrap_or_default();
            Some(Reply::ok(json!({ "Attributes": attributes(name, visible) })))
        }
        "ListDeadLetterSourceQueues" => Some(Reply::ok(json!({ "queueUrls": [url("orders")] }))),
        _ => None,
    }
}

/// What a queue says of itself.
pub(crate) fn attributes(name: &str, visible: u64) -> Value {
    let mut attributes = json!({
        "QueueArn": format!("arn:aws:sqs:us-east-1:111122223333:{name}"),
        "VisibilityTimeout": "30",
        "MessageRetentionPeriod": "345600",
        "MaximumMessageSize": "1048576",
        "ApproximateNumberOfMessages": visible.to_string(),
        "ApproximateNumberOfMessagesNotVisible": "0",
        "ApproximateNumberOfMessagesDelayed": "0",
    });
    if name == "orders" {
        let policy =
            json!({"deadLetterTargetArn": "arn:aws:sqs:us-east-1:111122223333:orders-dlq", "maxReceiveCount": 15});
        attributes["RedrivePolicy"] = policy.to_string().into();
    }
    attributes
}

pub(crate) fn denied(request: &Request) -> Reply {
    let message = format!(
        "User: arn:aws:iam::111122223333:user/night is not authorized to perform: sqs:{} because no identity-based policy allows it",
        request.operation.to_lowercase()
    );
    Reply::error(403, "AccessDeniedException", &message)
        .header("x-amzn-requestid", "7a62c49f-347e-4fc4-9331-6e8e7a96aa73")
}

/// The entries of a batch, all of them done.
pub(crate) fn all_done(request: &Request) -> Reply {
    let entries = request.body["Entries"].as_array().cloned().unwrap_or_default();
    let done = entries
        .iter()
        .map(|entry| json!({ "Id": entry["Id"], "MessageId": entry["Id"] }));
    Reply::ok(json!({ "Successful": done.collect::<Vec<_>>(), "Failed": [] }))
}

/// A dead-letter queue of many messages, served as fast as they are asked for.
pub(crate) struct ManyLetters {
    size: u64,
    next: AtomicU64,
    pub(crate) released: AtomicU64,
    /// The numbers of messages deleted.
    pub(crate) deleted: Mutex<Vec<u64>>,
}

impl ManyLetters {
    pub(crate) fn new(size: u64) -> Self {
        Self {
            size,
            next: AtomicU64::new(0),
            released: AtomicU64::new(0),
            deleted: Mutex::default(),
        }
    }

    /// How many were handed out.
    pub(crate) fn received(&self) -> u64 {
        self.next.load(Ordering::Relaxed).min(self.size)
    }

    pub(crate) fn answer(&self, request: &Request) -> Reply {
        if let Some(opening) = opening(request, self.size) {
            return opening;
        }
        let entries = request.body["Entries"].as_array().map_or(0, Vec::len);
        match request.operation.as_str() {
            "ReceiveMessage" => self.receive(request.body["MaxNumberOfMessages"].as_u64().unwrap_or(1)),
            "ChangeMessageVisibilityBatch" => {
                if request.body["Entries"][0]["VisibilityTimeout"] == 0 {
                    self.released.fetch_add(entries as u64, Ordering::Relaxed);
                }
                all_done(request)
            }
            "DeleteMessageBatch" => {
                let numbers = request.body["Entries"].as_array().unwrap().iter().map(|entry| {
                    let receipt = entry["ReceiptHandle"].as_str().unwrap();
                    receipt.split('-').next().unwrap().parse::<u64>().unwrap()
                });
                self.deleted.lock().unwrap().extend(numbers);
                all_done(request)
            }
            other => Reply::error(400, "InvalidAction", other),
        }
    }

    fn receive(&self, most: u64) -> Reply {
        let first = self.next.fetch_add(most, Ordering::Relaxed).min(self.size);
        let messages = (first..self.size.min(first + most)).map(|n| {
            let envelope = json!({"key": format!("order-{n}"), "reason": "malformed", "attempts": 1, "message_id": format!("first-{n}"), "dead_at_ms": 1_700_000_000_000_u64});
            json!({
                "MessageId": format!("00000000-0000-4000-8000-{n:012x}"),
                // As long as those of SQS.
                "ReceiptHandle": format!("{n}-{}", "r".repeat(400)),
                "Body": format!("{{\"order\":{n},\"text\":\"{}\"}}", "x".repeat(1_000)),
                "Attributes": {"ApproximateReceiveCount": "1", "SentTimestamp": "1700000000000"},
                "MessageAttributes": {"Redrive-Envelope": {"DataType": "String", "StringValue": envelope.to_string()}},
            })
        });
        Reply::ok(json!({ "Messages": messages.collect::<Vec<_>>() }))
    }
}

/// CloudWatch's answer, in its protocol (RPC v2 CBOR).
pub(crate) fn in_cbor(body: &Value) -> Reply {
    let mut bytes = Vec::new();
    cbor(body, &mut bytes);
    Reply::raw(200, bytes)
        .header("smithy-protocol", "rpc-v2-cbor")
        .header("content-type", "application/cbor")
}

/// `{"$time": s}` stands for a time.
fn cbor(value: &Value, into: &mut Vec<u8>) {
    let head = |major: u8, length: usize, into: &mut Vec<u8>| {
        into.push(major << 5 | 26);
        into.extend(u32::try_from(length).unwrap().to_be_bytes());
    };
    match value {
        Value::Null => into.push(0xf6),
        Value::Bool(value) => into.push(if *value { 0xf5 } else { 0xf4 }),
        Value::Number(number) => {
            into.push(0xfb);
            into.extend(number.as_f64().unwrap().to_be_bytes());
        }
        Value::String(text) => {
            head(3, text.len(), into);
            into.extend(text.as_bytes());
        }
        Value::Array(values) => {
            head(4, values.len(), into);
            values.iter().for_each(|value| cbor(value, into));
        }
        Value::Object(fields) => match fields.get("$time") {
            Some(time) => {
                into.push(0xc1);
                cbor(time, into);
            }
            None => {
                head(5, fields.len(), into);
                for (name, value) in fields {
                    cbor(&Value::String(name.clone()), into);
                    cbor(value, into);
                }
            }
        },
    }
}
