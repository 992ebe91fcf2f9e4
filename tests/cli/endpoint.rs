//! An HTTP server that answers what a test says, and remembers what it was asked.

use std::collections::BTreeMap;
use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use redrive::clock::{Clock, Instant};

/// How long a condition is waited for.
const DEADLINE: Duration = Duration::from_secs(60);

/// What it was asked.
#[derive(Clone, Debug)]
pub(crate) struct Asked {
    pub(crate) line: String,
    /// By their names in lower case.
    pub(crate) headers: BTreeMap<String, String>,
    pub(crate) body: String,
    pub(crate) at: Instant,
    /// How many requests with this idempotency key came before.
    pub(crate) before: usize,
}

/// What it answers.
#[derive(Clone, Debug)]
pub(crate) enum Answer {
    /// This, whole.
    Whole {
        status: u16,
        headers: Vec<(&'static str, String)>,
        body: String,
    },
    /// This status, and a body that never ends.
    Endless(u16),
    /// The connection is closed instead.
    HangUp,
    /// Nothing, for as long as the client waits.
    Silence,
}

impl Answer {
    pub(crate) fn status(status: u16) -> Self {
        Self::Whole {
            status,
            headers: Vec::new(),
            body: String::new(),
        }
    }

    pub(crate) fn body(mut self, text: &str) -> Self {
        if let Self::Whole { body, .. } = &mut self {
            *body = text.to_owned();
        }
        self
    }

    pub(crate) fn header(mut self, name: &'static str, value: &str) -> Self {
        if let Self::Whole { headers, .. } = &mut self {
            headers.push((name, value.to_owned()));
        }
        self
    }
}

type Decide = dyn Fn(&Asked) -> Answer + Send + Sync;

struct Shared {
    decide: Box<Decide>,
    asked: Mutex<Vec<Asked>>,
    /// Connections that a client closed while it waited for an answer.
    left: Mutex<usize>,
    changed: Condvar,
}

/// The server; its threads end with the test's process.
pub(crate) struct Endpoint {
    address: SocketAddr,
    shared: Arc<Shared>,
}

impl Endpoint {
    pub(crate) fn start(decide: impl Fn(&Asked) -> Answer + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a port is free");
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(Shared {
            decide: Box::new(decide),
            asked: Mutex::default(),
            left: Mutex::default(),
            changed: Condvar::new(),
        });
        let theirs = Arc::clone(&shared);
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let shared = Arc::clone(&theirs);
                // A connection that breaks is the client's business.
                std::thread::spawn(move || serve(stream, &shared));
            }
        });
        Self { address, shared }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}/in", self.address)
    }

    pub(crate) fn asked(&self) -> Vec<Asked> {
        self.shared.asked.lock().unwrap().clone()
    }

    /// The requests with this key, in order.
    pub(crate) fn asked_for(&self, key: &str) -> Vec<Asked> {
        let of_key = |asked: &Asked| asked.headers.get("idempotency-key").is_some_and(|found| found == key);
        self.asked().into_iter().filter(of_key).collect()
    }

    /// Waits until so many requests came.
    pub(crate) fn wait_for(&self, requests: usize) {
        let asked = self.shared.asked.lock().unwrap();
        let waited = self
            .shared
            .changed
            .wait_timeout_while(asked, DEADLINE, |asked| asked.len() < requests)
            .unwrap();
        assert!(!waited.1.timed_out(), "only {} requests came", waited.0.len());
    }

    /// Waits until so many clients went away while they waited for their answer.
    pub(crate) fn wait_until_left(&self, clients: usize) {
        let left = self.shared.left.lock().unwrap();
        let waited = self
            .shared
            .changed
            .wait_timeout_while(left, DEADLINE, |left| *left < clients)
            .unwrap();
        assert!(!waited.1.timed_out(), "only {} went away", waited.0);
    }
}

fn serve(stream: TcpStream, shared: &Shared) -> io::Result<()> {
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut stream = stream;
    while let Some(mut asked) = read(&mut reader)? {
        {
            let mut all = shared.asked.lock().unwrap();
            let key = asked.headers.get("idempotency-key").cloned();
            asked.before = all
                .iter()
                .filter(|before| before.headers.get("idempotency-key") == key.as_ref())
                .count();
            all.push(asked.clone());
            shared.changed.notify_all();
        }
        match (shared.decide)(&asked) {
            Answer::Whole { status, headers, body } => {
                let mut head = format!("HTTP/1.1 {status} scripted\r\ncontent-length: {}\r\n", body.len());
                for (name, value) in headers {
                    head.push_str(&format!("{name}: {value}\r\n"));
                }
                stream.write_all(format!("{head}\r\n{body}").as_bytes())?;
            }
            Answer::Endless(status) => {
                let head = format!("HTTP/1.1 {status} scripted\r\ncontent-length: 1000000\r\n\r\nbegun");
                stream.write_all(head.as_bytes())?;
                return wait_for_leaving(&mut reader, shared);
            }
            Answer::HangUp => return Ok(()),
            Answer::Silence => return wait_for_leaving(&mut reader, shared),
        }
    }
    Ok(())
}

fn wait_for_leaving(reader: &mut BufReader<TcpStream>, shared: &Shared) -> io::Result<()> {
    let mut nothing = [0; 1];
    let _ = reader.read(&mut nothing);
    *shared.left.lock().unwrap() += 1;
    shared.changed.notify_all();
    Ok(())
}

fn read(reader: &mut BufReader<TcpStream>) -> io::Result<Option<Asked>> {
    let mut line = String::new();
    if reader.read_line(&mut line)? == 0 {
        return Ok(None);
    }
    let mut headers = BTreeMap::new();
    loop {
        let mut header = String::new();
        if reader.read_line(&mut header)? == 0 {
            return Ok(None);
        }
        let header = header.trim_end_matches(['\r', '\n']);
        let Some((name, value)) = header.split_once(": ") else {
            break;
        };
        headers.insert(name.to_ascii_lowercase(), value.to_owned());
    }
    let length = headers
        .get("content-length")
        .map_or(0, |length| length.parse().unwrap());
    let mut body = vec![0; length];
    reader.read_exact(&mut body)?;
    Ok(Some(Asked {
        line: line.trim_end().to_owned(),
        headers,
        body: String::from_utf8(body).expect("bodies are text"),
        at: Clock::system().now(),
        before: 0,
    }))
}
