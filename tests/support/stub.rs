//! An HTTP server that answers as it is told and remembers what it was asked: for what a real server does too rarely.

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use serde_json::Value;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufStream};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

/// A request as it arrived: the operation named by `x-amz-target` or the end of the path, and the body where it is JSON.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Request {
    pub(crate) operation: String,
    pub(crate) body: Value,
    /// The body as it came.
    #[allow(dead_code, reason = "for protocols other than JSON")]
    pub(crate) raw: Vec<u8>,
}

/// One scripted answer.
#[derive(Clone, Debug)]
pub(crate) enum Reply {
    /// An HTTP answer.
    Answer {
        status: u16,
        headers: Vec<(String, String)>,
        body: Vec<u8>,
    },
    /// The connection is closed instead.
    HangUp,
    /// No answer, ever.
    Silence,
}

impl Reply {
    /// HTTP 200 with this JSON.
    pub(crate) fn ok(body: Value) -> Self {
        Self::raw(200, body.to_string())
    }

    /// An error as the AWS JSON protocol has it: this status, and this code and message in the body.
    pub(crate) fn error(status: u16, code: &str, message: &str) -> Self {
        Self::raw(
            status,
            serde_json::json!({"__type": code, "message": message}).to_string(),
        )
    }

    /// This status and body as they are.
    pub(crate) fn raw(status: u16, body: impl Into<Vec<u8>>) -> Self {
        Self::Answer {
            status,
            headers: Vec::new(),
            body: body.into(),
        }
    }

    /// Adds a header.
    pub(crate) fn header(mut self, name: &str, value: &str) -> Self {
        if let Self::Answer { headers, .. } = &mut self {
            headers.push((name.to_owned(), value.to_owned()));
        }
        self
    }
}

#[derive(Default)]
struct Script {
    replies: VecDeque<Reply>,
    requests: Vec<Request>,
    answerer: Option<Answerer>,
}

/// Answers whatever comes.
type Answerer = Arc<dyn Fn(&Request) -> Reply + Send + Sync>;

/// The server. It ends when it is dropped.
pub(crate) struct Stub {
    address: SocketAddr,
    script: Arc<Mutex<Script>>,
    _server: JoinSet<()>,
}

impl Stub {
    /// Starts a server on a free port of the loopback interface that gives these answers in this order, and then HTTP 500
    /// to whatever else comes.
    pub(crate) async fn start(replies: impl IntoIterator<Item = Reply>) -> io::Result<Self> {
        Self::serving(Script {
            replies: replies.into_iter().collect(),
            ..Script::default()
        })
        .await
    }

    /// Starts a server that answers every request as this says, and keeps none.
    #[allow(dead_code, reason = "for servers with a memory of their own")]
    pub(crate) async fn answering(answer: impl Fn(&Request) -> Reply + Send + Sync + 'static) -> io::Result<Self> {
        Self::serving(Script {
            answerer: Some(Arc::new(answer)),
            ..Script::default()
        })
        .await
    }

    async fn serving(script: Script) -> io::Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let address = listener.local_addr()?;
        let script = Arc::new(Mutex::new(script));
        let mut server = JoinSet::new();
        let shared = script.clone();
        server.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let script = shared.clone();
                connections.spawn(async move {
                    // A connection that breaks is the client's business.
                    let _ = serve(stream, &script).await;
                });
            }
        });
        Ok(Self {
            address,
            script,
            _server: server,
        })
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Adds answers behind those still to be given.
    pub(crate) fn then(&self, replies: impl IntoIterator<Item = Reply>) {
        self.lock().replies.extend(replies);
    }

    /// The requests since the last time this was asked.
    pub(crate) fn take_requests(&self) -> Vec<Request> {
        std::mem::take(&mut self.lock().requests)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Script> {
        self.script.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn serve(stream: TcpStream, script: &Mutex<Script>) -> io::Result<()> {
    let mut stream = BufStream::new(stream);
    while let Some(request) = read(&mut stream).await? {
        let answerer = script.lock().unwrap_or_else(PoisonError::into_inner).answerer.clone();
        let reply = if let Some(answer) = answerer {
            Some(answer(&request))
        } else {
            let mut script = script.lock().unwrap_or_else(PoisonError::into_inner);
            script.requests.push(request);
            script.replies.pop_front()
        };
        match reply.unwrap_or_else(|| Reply::raw(500, "the stub has no answer left")) {
            Reply::Answer { status, headers, body } => {
                let mut head = format!("HTTP/1.1 {status} scripted\r\ncontent-length: {}\r\n", body.len());
                for (name, value) in headers {
                    head.push_str(&format!("{name}: {value}\r\n"));
                }
                head.push_str("\r\n");
                stream.write_all(head.as_bytes()).await?;
                stream.write_all(&body).await?;
                stream.flush().await?;
            }
            Reply::HangUp => return Ok(()),
            Reply::Silence => std::future::pending().await,
        }
    }
    Ok(())
}

async fn read(stream: &mut BufStream<TcpStream>) -> io::Result<Option<Request>> {
    let (mut operation, mut length) = (String::new(), 0_usize);
    loop {
        let mut line = String::new();
        if stream.read_line(&mut line).await? == 0 {
            return Ok(None);
        }
        let line = line.trim_end();
        if line.is_empty() {
            break;
        }
        // Protocols that name it in the path have no header for it.
        if operation.is_empty() && line.ends_with(" HTTP/1.1") {
            let path = line.split(' ').nth(1).unwrap_or_default();
            operation = path.rsplit('/').next().unwrap_or_default().to_owned();
            continue;
        }
        match line.split_once(':') {
            Some((name, value)) if name.eq_ignore_ascii_case("content-length") => {
                length = value.trim().parse().map_err(io::Error::other)?;
            }
            Some((name, value)) if name.eq_ignore_ascii_case("x-amz-target") => {
                operation = value.rsplit('.').next().unwrap_or(value).trim().to_owned();
            }
            _ => {}
        }
    }
    let mut body = vec![0; length];
    stream.read_exact(&mut body).await?;
    Ok(Some(Request {
        operation,
        body: serde_json::from_slice(&body).unwrap_or(Value::Null),
        raw: body,
    }))
}
