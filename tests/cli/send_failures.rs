//! A proxy before SQS that lets sends fail: some entries of a batch, or the answer after the effect.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use redrive::clock::Random;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufStream};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

/// The proxy. It ends when it is dropped.
pub(crate) struct Proxy {
    address: SocketAddr,
    shared: Arc<Shared>,
    _server: JoinSet<()>,
}

struct Shared {
    to: String,
    client: reqwest::Client,
    random: Random,
    failed: AtomicUsize,
    doubled: AtomicUsize,
    accepted: AtomicUsize,
}

struct Request {
    headers: Vec<(String, String)>,
    body: Vec<u8>,
}

impl Proxy {
    /// Stands before the server at `to`.
    pub(crate) async fn start(to: &str, random: Random) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(Shared {
            to: to.to_owned(),
            client: reqwest::Client::new(),
            random,
            failed: AtomicUsize::new(0),
            doubled: AtomicUsize::new(0),
            accepted: AtomicUsize::new(0),
        });
        let mut server = JoinSet::new();
        let serving = shared.clone();
        server.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let shared = serving.clone();
                connections.spawn(async move {
                    // A connection that breaks is a killed client's.
                    let _ = shared.serve(stream).await;
                });
            }
        });
        Self {
            address,
            shared,
            _server: server,
        }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// How many entries were made to fail without an effect, and how many with one.
    pub(crate) fn injected(&self) -> (usize, usize) {
        let load = |count: &AtomicUsize| count.load(Ordering::Relaxed);
        (load(&self.shared.failed), load(&self.shared.doubled))
    }

    /// How many entries the server has accepted.
    pub(crate) fn accepted(&self) -> usize {
        self.shared.accepted.load(Ordering::Relaxed)
    }
}

impl Shared {
    async fn serve(&self, stream: TcpStream) -> io::Result<()> {
        let mut stream = BufStream::new(stream);
        while let Some(request) = read(&mut stream).await? {
            let is_send = request
                .headers
                .iter()
                .any(|(_, value)| value.ends_with(".SendMessageBatch"));
            let (status, body) = match is_send {
                true => match self.send(request).await? {
                    Some(answer) => answer,
                    None => return Ok(()),
                },
                false => self.forward(&request.headers, request.body).await?,
            };
            let head = format!(
                "HTTP/1.1 {status} answered\r\ncontent-type: application/x-amz-json-1.0\r\ncontent-length: {}\r\n\r\n",
                body.len()
            );
            stream.write_all(head.as_bytes()).await?;
            stream.write_all(&body).await?;
            stream.flush().await?;
        }
        Ok(())
    }

    /// A batch with something going wrong, or not; no answer where the connection is to break.
    async fn send(&self, request: Request) -> io::Result<Option<(u16, Vec<u8>)>> {
        let mut batch: Value = serde_json::from_slice(&request.body)?;
        let entries = batch["Entries"].as_array().cloned().unwrap_or_default();
        let fate = self.random.below(100);
        let picked = |part: u64| -> Vec<bool> { entries.iter().map(|_| self.random.below(part) == 0).collect() };
        // Of each entry: whether it is let through, and whether its answer says so.
        let (through, told) = match fate {
            0..15 => (picked(2), picked(1)),
            15..25 => (picked(1), picked(2)),
            25..30 => {
                self.failed.fetch_add(entries.len(), Ordering::Relaxed);
                return Ok(Some((
                    503,
                    b"{\"__type\":\"ServiceUnavailable\",\"message\":\"injected\"}".to_vec(),
                )));
            }
            _ => (picked(1), picked(1)),
        };
        let sent: Vec<Value> = entries
            .iter()
            .zip(&through)
            .filter(|(_, go)| **go)
            .map(|(entry, _)| entry.clone())
            .collect();
        let mut answer = json!({ "Successful": [], "Failed": [] });
        if !sent.is_empty() {
            batch["Entries"] = Value::Array(sent);
            let (status, body) = self.forward(&request.headers, serde_json::to_vec(&batch)?).await?;
            if status != 200 {
                return Ok(Some((status, body)));
            }
            answer = serde_json::from_slice(&body)?;
        }
        let accepted = answer["Successful"].as_array().cloned().unwrap_or_default();
        self.accepted.fetch_add(accepted.len(), Ordering::Relaxed);
        if (30..35).contains(&fate) {
            self.doubled.fetch_add(accepted.len(), Ordering::Relaxed);
            return Ok(None);
        }
        let mut successful = Vec::new();
        let mut failed = answer["Failed"].as_array().cloned().unwrap_or_default();
        for (entry, (through, told)) in entries.iter().zip(through.iter().zip(&told)) {
            let result = accepted.iter().find(|result| result["Id"] == entry["Id"]);
            match result {
                Some(result) if *told => successful.push(result.clone()),
                _ => {
                    let count = if *through { &self.doubled } else { &self.failed };
                    count.fetch_add(1, Ordering::Relaxed);
                    failed.push(json!({
                        "Id": entry["Id"], "Code": "InternalError", "Message": "injected", "SenderFault": false,
                    }));
                }
            }
        }
        let answer = json!({ "Successful": successful, "Failed": failed });
        Ok(Some((200, serde_json::to_vec(&answer)?)))
    }

    async fn forward(&self, headers: &[(String, String)], body: Vec<u8>) -> io::Result<(u16, Vec<u8>)> {
        let mut request = self.client.post(&self.to).body(body);
        let own = ["host", "content-length", "connection", "expect"];
        for (name, value) in headers.iter().filter(|(name, _)| !own.contains(&name.as_str())) {
            request = request.header(name, value);
        }
        let answer = request.send().await.map_err(io::Error::other)?;
        let status = answer.status().as_u16();
        let body = answer.bytes().await.map_err(io::Error::other)?;
        Ok((status, body.to_vec()))
    }
}

async fn read(stream: &mut BufStream<TcpStream>) -> io::Result<Option<Request>> {
    let mut line = String::new();
    if stream.read_line(&mut line).await? == 0 {
        return Ok(None);
    }
    let (mut headers, mut length) = (Vec::new(), 0_usize);
    loop {
        line.clear();
        stream.read_line(&mut line).await?;
        let Some((name, value)) = line.trim_end().split_once(':') else {
            break;
        };
        let (name, value) = (name.to_ascii_lowercase(), value.trim().to_owned());
        if name == "content-length" {
            length = value.parse().map_err(io::Error::other)?;
        }
        headers.push((name, value));
    }
    let mut body = vec![0; length];
    stream.read_exact(&mut body).await?;
    Ok(Some(Request { headers, body }))
}
