//! As much of HTTP/1.1 as the proxy needs: whole requests and whole answers, with a length or in chunks.

use std::borrow::Cow;
use std::io;

use serde_json::Value;
use tokio::io::{AsyncBufRead, AsyncBufReadExt as _, AsyncReadExt as _};

/// The most bytes of a head or a body: more than any call of SQS or DynamoDB has.
const MAX_BYTES: u64 = 32 * 1024 * 1024;

/// The two services that the proxy knows the words of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Service {
    Sqs,
    DynamoDb,
}

/// A request as it arrived.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    /// What `X-Amz-Target` names, such as `ReceiveMessage`; empty where there is none.
    pub(crate) operation: String,
    pub(crate) service: Service,
    /// The lines before the empty one, with their ends.
    pub(crate) head: String,
    pub(crate) body: Vec<u8>,
}

/// An answer, its body in one piece.
#[derive(Clone, Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
    /// The server closes the connection after it.
    pub(super) is_last: bool,
}

impl Request {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        header(&self.head, name)
    }

    pub(crate) fn text(&self) -> Cow<'_, str> {
        String::from_utf8_lossy(&self.body)
    }

    /// The body, `Null` where it is no JSON.
    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or(Value::Null)
    }

    /// The request with this body in place of its own.
    pub(crate) fn with_json(&self, body: &Value) -> Self {
        Self {
            body: body.to_string().into_bytes(),
            ..self.clone()
        }
    }

    /// Reads the next request of a connection; none where it ended between two.
    pub(super) async fn read(stream: &mut (impl AsyncBufRead + Unpin)) -> io::Result<Option<Self>> {
        let Some(head) = read_head(stream).await? else {
            return Ok(None);
        };
        let body = match length(&head)? {
            Length::Chunked => read_chunks(stream).await?,
            Length::Bytes(bytes) => read_bytes(stream, bytes).await?,
            // A request without a length has no body.
            Length::UntilTheEnd => Vec::new(),
        };
        let target = header(&head, "x-amz-target").unwrap_or_default();
        let service = match target.starts_with("DynamoDB") {
            true => Service::DynamoDb,
            false => Service::Sqs,
        };
        let operation = target.rsplit('.').next().unwrap_or_default().to_owned();
        Ok(Some(Self {
            operation,
            service,
            head,
            body,
        }))
    }

    /// The request for the server behind the proxy: always with a length.
    pub(super) fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(self.head.len() + self.body.len() + 32);
        for line in self.head.split_inclusive("\r\n") {
            let name = line.split(':').next().unwrap_or_default();
            let ours = ["content-length", "transfer-encoding", "connection", "expect"];
            if !ours.iter().any(|ours| name.eq_ignore_ascii_case(ours)) {
                bytes.extend_from_slice(line.as_bytes());
            }
        }
        bytes.extend_from_slice(format!("content-length: {}\r\n\r\n", self.body.len()).as_bytes());
        bytes.extend_from_slice(&self.body);
        bytes
    }
}

impl Answer {
    pub(super) async fn read(stream: &mut (impl AsyncBufRead + Unpin)) -> io::Result<Self> {
        let head = loop {
            let head = read_head(stream).await?.ok_or(io::ErrorKind::UnexpectedEof)?;
            if !head.starts_with("HTTP/1.1 100") {
                break head;
            }
        };
        let status = head.split(' ').nth(1).and_then(|status| status.parse().ok());
        let status = status.ok_or_else(|| io::Error::other(format!("no HTTP answer: {head}")))?;
        let body = match length(&head)? {
            Length::Chunked => read_chunks(stream).await?,
            Length::Bytes(bytes) => read_bytes(stream, bytes).await?,
            Length::UntilTheEnd if status == 204 || status == 304 => Vec::new(),
            Length::UntilTheEnd => {
                let mut body = Vec::new();
                stream.take(MAX_BYTES).read_to_end(&mut body).await?;
                body
            }
        };
        let headers = head.lines().skip(1).filter_map(|line| line.split_once(':'));
        let framing = ["content-length", "transfer-encoding", "connection", "keep-alive"];
        Ok(Self {
            status,
            headers: headers
                .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()))
                .filter(|(name, _)| !framing.contains(&name.as_str()))
                .collect(),
            body,
            is_last: header(&head, "connection").is_some_and(|value| value.eq_ignore_ascii_case("close")),
        })
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or(Value::Null)
    }

    /// The answer with this body; its checksum goes, because it was of another.
    pub(crate) fn with_body(mut self, body: impl Into<Vec<u8>>) -> Self {
        self.body = body.into();
        self.without("x-amz-crc32")
    }

    pub(crate) fn with(self, name: &str, value: impl Into<String>) -> Self {
        let mut answer = self.without(name);
        answer.headers.push((name.to_owned(), value.into()));
        answer
    }

    pub(crate) fn without(mut self, name: &str) -> Self {
        self.headers.retain(|(known, _)| known != name);
        self
    }

    /// The lines before the body, which announce `length` bytes.
    pub(super) fn head(&self, length: usize) -> String {
        let mut head = format!("HTTP/1.1 {} answered\r\ncontent-length: {length}\r\n", self.status);
        for (name, value) in &self.headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        head.push_str("\r\n");
        head
    }
}

enum Length {
    Bytes(u64),
    Chunked,
    UntilTheEnd,
}

fn length(head: &str) -> io::Result<Length> {
    if header(head, "transfer-encoding").is_some_and(|value| value.to_ascii_lowercase().contains("chunked")) {
        return Ok(Length::Chunked);
    }
    match header(head, "content-length") {
        Some(bytes) => Ok(Length::Bytes(bytes.parse().map_err(io::Error::other)?)),
        None => Ok(Length::UntilTheEnd),
    }
}

fn header<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    head.lines().find_map(|line| {
        let (known, value) = line.split_once(':')?;
        known.eq_ignore_ascii_case(name).then(|| value.trim())
    })
}

/// The lines up to an empty one; none where the connection ended before the first.
async fn read_head(stream: &mut (impl AsyncBufRead + Unpin)) -> io::Result<Option<String>> {
    let mut head = String::new();
    loop {
        let start = head.len();
        if (&mut *stream).take(MAX_BYTES).read_line(&mut head).await? == 0 {
            return match head.is_empty() {
                true => Ok(None),
                false => Err(io::ErrorKind::UnexpectedEof.into()),
            };
        }
        match head[start..].trim_end().is_empty() {
            // A line left over between two requests.
            true if start == 0 => head.clear(),
            true => {
                head.truncate(start);
                return Ok(Some(head));
            }
            false => {}
        }
    }
}

async fn read_bytes(stream: &mut (impl AsyncBufRead + Unpin), bytes: u64) -> io::Result<Vec<u8>> {
    if bytes > MAX_BYTES {
        return Err(io::Error::other(format!("a body of {bytes} bytes")));
    }
    let mut body = Vec::new();
    stream.take(bytes).read_to_end(&mut body).await?;
    match body.len() as u64 == bytes {
        true => Ok(body),
        false => Err(io::ErrorKind::UnexpectedEof.into()),
    }
}

async fn read_chunks(stream: &mut (impl AsyncBufRead + Unpin)) -> io::Result<Vec<u8>> {
    let mut body = Vec::new();
    loop {
        let mut line = String::new();
        stream.read_line(&mut line).await?;
        let size = line.split(';').next().unwrap_or_default().trim();
        let size = u64::from_str_radix(size, 16).map_err(io::Error::other)?;
        if size == 0 {
            break;
        }
        body.extend(read_bytes(stream, size).await?);
        stream.read_line(&mut String::new()).await?;
    }
    // Trailers, up to an empty line.
    loop {
        let mut line = String::new();
        if stream.read_line(&mut line).await? == 0 || line.trim_end().is_empty() {
            return Ok(body);
        }
    }
}
