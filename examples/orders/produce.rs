//! Sending the orders of a JSONL file.

use std::future::Future;
use std::pin::Pin;

use futures::stream::{FuturesOrdered, StreamExt as _};
use redrive::producer::{NewMessage, Producer, ProducerError};
use serde::Deserialize;
use serde_json::Value;
use tokio::io::{AsyncBufRead, AsyncBufReadExt as _, BufReader};

use crate::Problem;
use crate::settings::Input;

/// How many messages are on their way at once.
const AT_ONCE: usize = 200;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    body: Value,
    key: Option<String>,
    #[serde(rename = "type")]
    kind: Option<String>,
    group: Option<String>,
}

impl From<Line> for NewMessage {
    fn from(line: Line) -> Self {
        let mut message = match line.body {
            Value::String(text) => Self::text(text),
            value => Self::text(value.to_string()),
        };
        if let Some(key) = line.key {
            message = message.key(key);
        }
        if let Some(kind) = line.kind {
            message = message.message_type(kind);
        }
        if let Some(group) = line.group {
            message = message.group(group);
        }
        message
    }
}

/// Sends every line, several batches at once, and says how many that were.
///
/// # Errors
/// At the first line that is no order or cannot be sent: it is named, and how many before it were sent.
pub(crate) async fn send_all(input: &Input, producer: &Producer) -> Result<u64, Problem> {
    let unreadable = |error| Problem::Input(format!("{input} cannot be read: {error}"));
    let reader: Pin<Box<dyn AsyncBufRead + Send>> = match input {
        Input::Stdin => Box::pin(BufReader::new(tokio::io::stdin())),
        Input::File(path) => Box::pin(BufReader::new(tokio::fs::File::open(path).await.map_err(unreadable)?)),
    };
    let mut lines = reader.lines();
    let mut under_way = FuturesOrdered::new();
    let mut sent = 0;
    let mut number = 0_u64;
    while let Some(text) = lines.next_line().await.map_err(unreadable)? {
        number += 1;
        if text.trim().is_empty() {
            continue;
        }
        let line: Line = match serde_json::from_str(&text) {
            Ok(line) => line,
            Err(error) => {
                while let Some(answer) = under_way.next().await {
                    sent += settle(input, answer)?;
                }
                return Err(Problem::Input(format!(
                    "{input}, line {number} is no order ({error}); {sent} before it were sent"
                )));
            }
        };
        under_way.push_back(numbered(number, producer.send(line)));
        if under_way.len() >= AT_ONCE
            && let Some(answer) = under_way.next().await
        {
            sent += settle(input, answer)?;
        }
    }
    while let Some(answer) = under_way.next().await {
        sent += settle(input, answer)?;
    }
    tracing::info!(sent, "{input} is sent");
    Ok(sent)
}

type Answer = (u64, Result<String, ProducerError>);

async fn numbered(number: u64, sending: impl Future<Output = Result<String, ProducerError>>) -> Answer {
    (number, sending.await)
}

fn settle(input: &Input, (number, answer): Answer) -> Result<u64, Problem> {
    match answer {
        Ok(_) => Ok(1),
        Err(error) => Err(Problem::Input(format!("{input}, line {number} was not sent: {error}"))),
    }
}
