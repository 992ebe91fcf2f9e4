//! The stand-in as its clients meet it: over HTTP, with nothing between.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use redrive_stand_in::{Setup, StandIn};
use serde_json::{Value, json};

/// A connection that is kept.
struct Client(BufReader<TcpStream>);

/// An answer: its status, its headers in lower case, its body.
struct Answer(u16, Vec<String>, Value);

impl Client {
    fn new(stand_in: &StandIn) -> Self {
        let address = stand_in.endpoint().strip_prefix("http://").unwrap();
        Self(BufReader::new(TcpStream::connect(address).unwrap()))
    }

    fn request(&mut self, request: &str, target: Option<&str>, body: &Value) -> Answer {
        let body = if body.is_null() {
            String::new()
        } else {
            body.to_string()
        };
        let target = target
            .map(|target| format!("x-amz-target: {target}\r\n"))
            .unwrap_or_default();
        let head = format!(
            "{request} HTTP/1.1\r\nhost: x\r\n{target}content-length: {}\r\n\r\n",
            body.len()
        );
        self.0.get_mut().write_all(format!("{head}{body}").as_bytes()).unwrap();
        let mut head = Vec::new();
        loop {
            let mut line = String::new();
            self.0.read_line(&mut line).unwrap();
            if line == "\r\n" {
                break;
            }
            head.push(line.trim_end().to_ascii_lowercase());
        }
        let status = head[0].split(' ').nth(1).unwrap().parse().unwrap();
        let length = head
            .iter()
            .find_map(|line| line.strip_prefix("content-length: "))
            .unwrap();
        let mut body = vec![0; length.parse().unwrap()];
        self.0.read_exact(&mut body).unwrap();
        Answer(status, head, serde_json::from_slice(&body).unwrap())
    }

    fn call(&mut self, target: &str, body: &Value) -> Answer {
        self.request("POST /", Some(target), body)
    }

    fn receive(&mut self, stand_in: &StandIn, queue: &str, wait: u32) -> Vec<Value> {
        let body = json!({
            "QueueUrl": stand_in.queue_url(queue),
            "MaxNumberOfMessages": 10,
            "WaitTimeSeconds": wait,
            "MessageSystemAttributeNames": ["All"],
            "MessageAttributeNames": ["Idempotency-Key"],
        });
        let Answer(status, _, mut answer) = self.call("AmazonSQS.ReceiveMessage", &body);
        assert_eq!(status, 200, "{answer}");
        match answer["Messages"].take() {
            Value::Array(messages) => messages,
            _ => Vec::new(),
        }
    }

    fn delete(&mut self, stand_in: &StandIn, queue: &str, messages: &[Value]) -> Value {
        let entries = messages.iter().enumerate();
        let entries: Vec<_> = entries
            .map(|(at, message)| json!({ "Id": at.to_string(), "ReceiptHandle": message["ReceiptHandle"] }))
            .collect();
        let body = json!({ "QueueUrl": stand_in.queue_url(queue), "Entries": entries });
        self.call("AmazonSQS.DeleteMessageBatch", &body).2
    }
}

fn stand_in(setup: Setup) -> StandIn {
    let stand_in = StandIn::start().unwrap();
    stand_in.setup(setup).unwrap();
    stand_in
}

#[test]
fn a_backlog_is_drained_in_calls_that_are_counted() {
    let stand_in = stand_in(Setup {
        messages: Some(25),
        duplicates: 0.1,
        ..Setup::default()
    });
    let mut client = Client::new(&stand_in);
    assert!(client.receive(&stand_in, "bench", 0).is_empty());
    client.request("POST /control/open", None, &Value::Null);
    let mut keys = Vec::new();
    loop {
        let messages = client.receive(&stand_in, "bench", 0);
        if messages.is_empty() {
            break;
        }
        for message in &messages {
            let body: Value = serde_json::from_str(message["Body"].as_str().unwrap()).unwrap();
            assert_eq!(body["sent"], 0);
            assert_eq!(message["Attributes"]["ApproximateReceiveCount"], "1");
            keys.push(message["MessageAttributes"]["Idempotency-Key"]["StringValue"].clone());
        }
        let deleted = client.delete(&stand_in, "bench", &messages);
        assert_eq!(deleted["Successful"].as_array().unwrap().len(), messages.len());
    }
    assert_eq!(keys.len(), 25);
    assert!(keys[9] == keys[8] && keys[8] != keys[7] && keys[19] == keys[18]);
    let Answer(_, _, counts) = client.request("GET /control/counts", None, &Value::Null);
    assert_eq!(
        (&counts["deleted"], &counts["left"], &counts["in_flight"]),
        (&json!(25), &json!(0), &json!(0))
    );
    let receives = json!({ "calls": 5, "entries": 25, "billed": 5, "empty": 2 });
    assert_eq!(counts["calls"]["sqs"]["ReceiveMessage"], receives);
    let deletes = json!({ "calls": 3, "entries": 25, "billed": 3, "empty": 0 });
    assert_eq!(counts["calls"]["sqs"]["DeleteMessageBatch"], deletes);
    let own = stand_in.counts();
    assert_eq!((own.received, own.deleted, own.left), (25, 25, Some(0)));
    assert!(own.first_receive_call_us.unwrap() < own.now_us);
}

#[test]
fn a_long_poll_is_answered_when_a_message_appears_and_every_call_after_its_latency() {
    let stand_in = stand_in(Setup {
        messages: Some(1),
        latency_ms: 30.0,
        ..Setup::default()
    });
    let latency = Duration::from_millis(30);
    std::thread::scope(|scope| {
        let poll = scope.spawn(|| {
            let mut client = Client::new(&stand_in);
            let messages = client.receive(&stand_in, "bench", 20);
            (messages, Instant::now())
        });
        while stand_in.counts().first_receive_call_us.is_none() {
            std::thread::yield_now();
        }
        let opened = Instant::now();
        stand_in.open();
        let (messages, answered) = poll.join().unwrap();
        assert_eq!(messages.len(), 1);
        let took = answered - opened;
        assert!(took >= latency && took < Duration::from_secs(15), "{took:?}");
    });
    let started = Instant::now();
    assert!(Client::new(&stand_in).receive(&stand_in, "bench", 1).is_empty());
    let took = started.elapsed();
    assert!(took >= latency + Duration::from_secs(1), "{took:?}");
    assert_eq!(stand_in.counts().calls.sqs["ReceiveMessage"].empty, 1);
}

#[test]
fn messages_at_a_rate_tell_when_they_appeared() {
    let stand_in = stand_in(Setup {
        rate: Some(50.0),
        ..Setup::default()
    });
    stand_in.open();
    let mut client = Client::new(&stand_in);
    let mut sent = Vec::new();
    while sent.len() < 5 {
        for message in client.receive(&stand_in, "bench", 5) {
            let body: Value = serde_json::from_str(message["Body"].as_str().unwrap()).unwrap();
            sent.push(body["sent"].as_u64().unwrap());
        }
    }
    for pair in sent.windows(2) {
        assert_eq!(pair[1] - pair[0], 20_000);
    }
    let now = std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap().as_micros() as u64;
    assert!(sent[4] <= now && now - sent[4] < 60_000_000);
}

#[test]
fn a_large_body_arrives_whole_and_is_billed_by_64_kib() {
    let stand_in = stand_in(Setup {
        messages: Some(10),
        body_bytes: 65_536,
        fifo_groups: 1,
        ..Setup::default()
    });
    stand_in.open();
    let mut client = Client::new(&stand_in);
    let messages = client.receive(&stand_in, "bench.fifo", 0);
    let numbers = messages.iter().map(|message| {
        assert_eq!(message["Body"].as_str().unwrap().len(), 65_536);
        assert_eq!(message["Attributes"]["MessageGroupId"], "group-0");
        message["MessageId"]
            .as_str()
            .unwrap()
            .rsplit('-')
            .next()
            .unwrap()
            .to_owned()
    });
    let wanted: Vec<String> = (1..=10).map(|number| format!("{number:012x}")).collect();
    assert_eq!(numbers.collect::<Vec<_>>(), wanted);
    assert_eq!(stand_in.counts().calls.sqs["ReceiveMessage"].billed, 10);
}

#[test]
fn a_batch_answers_entry_by_entry_and_errors_are_those_of_the_service() {
    let stand_in = stand_in(Setup {
        messages: Some(1),
        ..Setup::default()
    });
    stand_in.open();
    let mut client = Client::new(&stand_in);
    let mut messages = client.receive(&stand_in, "bench", 0);
    messages.push(json!({ "ReceiptHandle": "made up" }));
    let deleted = client.delete(&stand_in, "bench", &messages);
    assert_eq!(deleted["Successful"], json!([{ "Id": "0" }]));
    assert_eq!(deleted["Failed"][0]["Id"], "1");
    assert_eq!(deleted["Failed"][0]["Code"], "ReceiptHandleIsInvalid");

    for (target, body, kind) in [
        (
            "AmazonSQS.ReceiveMessage",
            json!({ "QueueUrl": "x/none" }),
            "com.amazonaws.sqs#QueueDoesNotExist",
        ),
        ("AmazonSQS.PurgeQueue", json!({}), "UnknownOperationException"),
        (
            "DynamoDB_20120810.GetItem",
            json!({ "TableName": "none", "Key": {} }),
            "com.amazonaws.dynamodb.v20120810#ResourceNotFoundException",
        ),
    ] {
        let Answer(status, head, error) = client.call(target, &body);
        assert_eq!((status, &error["__type"]), (400, &json!(kind)), "{target}");
        for header in ["date: ", "x-amzn-requestid: "] {
            assert!(head.iter().any(|line| line.starts_with(header)), "{target}: {header}");
        }
    }
    assert_eq!(
        client.request("PUT /control/setup", None, &json!({ "speed": 1 })).0,
        400
    );
    assert_eq!(client.request("GET /control/none", None, &Value::Null).0, 404);
}

#[test]
fn a_conditional_put_is_made_once_and_tells_what_it_met() {
    let stand_in = stand_in(Setup {
        inbox_items: 3,
        ..Setup::default()
    });
    let mut client = Client::new(&stand_in);
    let mut put = |value: &str| {
        let body = json!({
            "TableName": "bench-inbox",
            "Item": { "pk": { "S": "k" }, "claim_id": { "S": value } },
            "ConditionExpression": "attribute_not_exists(#pk)",
            "ExpressionAttributeNames": { "#pk": "pk" },
            "ReturnValuesOnConditionCheckFailure": "ALL_OLD",
            "ReturnConsumedCapacity": "TOTAL",
        });
        client.call("DynamoDB_20120810.PutItem", &body)
    };
    let Answer(status, _, done) = put("one");
    assert_eq!((status, &done["ConsumedCapacity"]["CapacityUnits"]), (200, &json!(1.0)));
    let Answer(status, _, failed) = put("two");
    assert_eq!(status, 400);
    assert_eq!(
        failed["__type"],
        "com.amazonaws.dynamodb.v20120810#ConditionalCheckFailedException"
    );
    assert_eq!(failed["Item"]["claim_id"]["S"], "one");
    let counted = stand_in.counts().calls.dynamodb["PutItem"];
    assert_eq!(
        (
            counted.calls,
            counted.entries,
            counted.write_units,
            counted.failed_conditions
        ),
        (2, 2, 2.0, 1)
    );
    let get = json!({ "TableName": "bench-inbox", "Key": { "pk": { "S": "k" } }, "ConsistentRead": true });
    assert_eq!(
        client.call("DynamoDB_20120810.GetItem", &get).2["Item"]["claim_id"]["S"],
        "one"
    );
    assert_eq!(stand_in.counts().calls.dynamodb["GetItem"].read_units, 1.0);
    let described = client
        .call(
            "DynamoDB_20120810.DescribeTable",
            &json!({ "TableName": "bench-inbox" }),
        )
        .2;
    assert_eq!(described["Table"]["ItemCount"], 4);
}

#[test]
fn a_message_received_fifteen_times_is_found_among_the_dead_letters() {
    let stand_in = stand_in(Setup {
        messages: Some(1),
        visibility_s: 0,
        ..Setup::default()
    });
    stand_in.open();
    let mut client = Client::new(&stand_in);
    for count in 1..=15 {
        let message = client.receive(&stand_in, "bench", 0).remove(0);
        assert_eq!(message["Attributes"]["ApproximateReceiveCount"], count.to_string());
    }
    assert!(client.receive(&stand_in, "bench", 0).is_empty());
    let dead = client.receive(&stand_in, "bench-dlq", 0).remove(0);
    assert_eq!(dead["MessageId"], "00000000-0000-4000-8000-000000000001");
    assert_eq!(
        dead["Attributes"]["DeadLetterQueueSourceArn"],
        "arn:aws:sqs:us-east-1:000000000000:bench"
    );
    let counts = stand_in.counts();
    assert_eq!(
        (counts.received, counts.redelivered, counts.sent_to_dlq, counts.left),
        (15, 14, 1, Some(0))
    );
}

#[test]
fn what_is_sent_is_received_as_it_was_and_billed_by_its_size() {
    let stand_in = stand_in(Setup::default());
    let mut client = Client::new(&stand_in);
    let entry = |id: &str, body: &str| {
        json!({
            "Id": id,
            "MessageBody": body,
            "MessageAttributes": { "Idempotency-Key": { "DataType": "String", "StringValue": "k" } },
        })
    };
    let body = json!({
        "QueueUrl": stand_in.queue_url("bench-dlq"),
        "Entries": [entry("a", "\"quoted\" \u{e9}\n"), entry("b", &"x".repeat(65_536)), entry("c", "\u{1}")],
    });
    let Answer(_, _, sent) = client.call("AmazonSQS.SendMessageBatch", &body);
    assert_eq!(sent["Failed"][0]["Code"], "InvalidMessageContents");
    let received = client.receive(&stand_in, "bench-dlq", 0);
    assert_eq!(
        (received.len(), &received[0]["Body"]),
        (2, &json!("\"quoted\" \u{e9}\n"))
    );
    for (message, told) in received.iter().zip(sent["Successful"].as_array().unwrap()) {
        assert_eq!(message["MD5OfBody"], told["MD5OfMessageBody"]);
        assert_eq!(message["MD5OfMessageAttributes"], told["MD5OfMessageAttributes"]);
        assert_eq!(message["MessageId"], told["MessageId"]);
    }
    let calls = stand_in.counts().calls.sqs;
    assert_eq!(
        (calls["SendMessageBatch"].entries, calls["SendMessageBatch"].billed),
        (3, 2)
    );
    assert_eq!(calls["ReceiveMessage"].billed, 2);
}
