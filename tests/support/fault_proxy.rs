//! A proxy that stands between a client and SQS or DynamoDB and lets calls go wrong as a network and a cloud can.
//!
//! ```ignore
//! let proxy = FaultProxy::start("http://127.0.0.1:4566", Random::seeded(1)).await;
//! let lost = proxy.add(Rule::on("DeleteMessageBatch", Fault::reply_lost()).at_most(3));
//! // … a client with `proxy.url()` as its endpoint …
//! assert_eq!(proxy.hits(lost), 3);
//! proxy.heal();
//! ```

// Each test binary uses its own part of it.
#![allow(dead_code, unused_imports, reason = "test binaries share this module")]

#[path = "fault_proxy/fault.rs"]
mod fault;
#[path = "fault_proxy/http.rs"]
mod http;
#[path = "fault_proxy/serve.rs"]
mod serve;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use redrive::clock::Random;
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

pub(crate) use fault::{Effect, Fault, Reply, Rule};
pub(crate) use http::{Answer, Request, Service};

/// A rule that was added.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct RuleId(u64);

/// What became of the calls of one operation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    /// That arrived here.
    pub(crate) seen: u64,
    /// That the server was asked, faulted ones with an effect among them.
    pub(crate) passed: u64,
    /// That a fault happened to.
    pub(crate) faulted: u64,
}

/// The proxy. Dropped, it resets its connections and frees its port.
pub(crate) struct FaultProxy {
    address: SocketAddr,
    shared: Arc<Shared>,
    at: Mutex<At>,
}

/// How the proxy's port is.
enum At {
    Serving(Serving),
    /// Bound, so that nobody else takes it, but not listening: connections are refused.
    Refusing(#[allow(dead_code, reason = "kept so that the port stays ours")] TcpSocket),
    /// Listening, with a full backlog and nobody who accepts: no connection is ever made.
    Deaf(#[allow(dead_code, reason = "kept so that the port stays so")] (TcpListener, JoinSet<()>)),
    /// Between two of the others.
    Changing,
}

/// A server in the background, which ends at once when this is dropped.
struct Serving {
    stop: watch::Sender<bool>,
    server: JoinSet<()>,
}

impl Serving {
    /// Ends it; once this is done its connections are reset and its port is free.
    async fn end(mut self) {
        self.stop.send_replace(true);
        self.server.join_next().await;
    }
}

struct Shared {
    upstream: String,
    random: Random,
    book: Mutex<Book>,
    /// Connections with a smaller number are frozen.
    frozen: watch::Sender<u64>,
}

#[derive(Default)]
struct Book {
    rules: BTreeMap<RuleId, (Rule, u64)>,
    next_rule: u64,
    /// How often each rule that ever was has struck.
    hits: BTreeMap<RuleId, u64>,
    counts: BTreeMap<String, Counts>,
    connections: u64,
}

impl FaultProxy {
    /// Stands before the server at `upstream` (`http://host:port`). What is left to chance is drawn from `random`.
    pub(crate) async fn start(upstream: &str, random: Random) -> Self {
        let listener = bound(([127, 0, 0, 1], 0).into())
            .and_then(|socket| socket.listen(1024))
            .expect("a port is free");
        let address = listener.local_addr().expect("it has an address");
        let upstream = upstream.trim_start_matches("http://").trim_end_matches('/');
        let shared = Arc::new(Shared {
            upstream: upstream.to_owned(),
            random,
            book: Mutex::default(),
            frozen: watch::Sender::new(0),
        });
        let at = Mutex::new(At::Serving(shared.serving(listener)));
        Self { address, shared, at }
    }

    /// Where clients send their calls.
    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    pub(crate) fn port(&self) -> u16 {
        self.address.port()
    }

    /// Adds a rule. Where several are for a call, the oldest that strikes is the one.
    pub(crate) fn add(&self, rule: Rule) -> RuleId {
        let mut book = self.shared.book();
        let id = RuleId(book.next_rule);
        book.next_rule += 1;
        book.rules.insert(id, (rule, 0));
        id
    }

    pub(crate) fn remove(&self, rule: RuleId) {
        self.shared.book().rules.remove(&rule);
    }

    /// Removes all rules. Calls that are stalled stay so.
    pub(crate) fn heal(&self) {
        self.shared.book().rules.clear();
    }

    /// How often a rule has struck, removed or not.
    pub(crate) fn hits(&self, rule: RuleId) -> u64 {
        self.shared.book().hits.get(&rule).copied().unwrap_or(0)
    }

    /// What became of the calls so far, by operation.
    pub(crate) fn counts(&self) -> BTreeMap<String, Counts> {
        self.shared.book().counts.clone()
    }

    /// As [`counts`](Self::counts), of one operation.
    pub(crate) fn count(&self, operation: &str) -> Counts {
        self.counts().get(operation).copied().unwrap_or_default()
    }

    /// How many connections were made so far.
    pub(crate) fn connections(&self) -> u64 {
        self.shared.book().connections
    }

    /// Resets all connections; new ones are refused until [`restart`](Self::restart).
    pub(crate) async fn stop(&self) {
        self.end().await;
        *self.at() = At::Refusing(bound(self.address).expect("the port is still ours"));
    }

    /// Serves again on the same port, where it was stopped or cut off.
    pub(crate) async fn restart(&self) {
        self.end().await;
        let listener = bound(self.address).and_then(|socket| socket.listen(1024));
        *self.at() = At::Serving(self.shared.serving(listener.expect("the port is still ours")));
    }

    /// Resets all connections, and serves new ones.
    pub(crate) async fn reset_connections(&self) {
        self.restart().await;
    }

    /// From now on, nothing that is sent over the connections that exist is answered, nor are they closed: as when the other
    /// end is gone without a word. New connections are served.
    pub(crate) fn freeze_connections(&self) {
        let until = self.shared.book().connections;
        self.shared.frozen.send_replace(until);
    }

    /// Resets all connections, and answers no attempt to make a new one: as behind a firewall that drops packets.
    pub(crate) async fn cut_off(&self) {
        self.end().await;
        let listener = bound(self.address)
            .and_then(|socket| socket.listen(1))
            .expect("the port is still ours");
        let mut fillers = JoinSet::new();
        let (send, mut filled) = watch::channel(0_u32);
        for _ in 0..4 {
            let (address, send) = (self.address, send.clone());
            fillers.spawn(async move {
                // Those beyond the backlog are not answered either.
                let kept = TcpStream::connect(address).await;
                send.send_modify(|filled| *filled += 1);
                std::future::pending::<()>().await;
                drop(kept);
            });
        }
        // A backlog of one holds two.
        let _ = filled.wait_for(|filled| *filled >= 2).await;
        *self.at() = At::Deaf((listener, fillers));
    }

    /// Ends whatever the port is used for, so that it can be bound anew.
    async fn end(&self) {
        let was = std::mem::replace(&mut *self.at(), At::Changing);
        match was {
            At::Serving(serving) => serving.end().await,
            At::Deaf((listener, mut fillers)) => {
                drop(listener);
                fillers.shutdown().await;
            }
            At::Refusing(_) | At::Changing => {}
        }
    }

    fn at(&self) -> MutexGuard<'_, At> {
        self.at.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A socket at this address, which nothing connects to yet.
fn bound(address: SocketAddr) -> std::io::Result<TcpSocket> {
    let socket = TcpSocket::new_v4()?;
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    Ok(socket)
}

impl Shared {
    fn book(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn serving(self: &Arc<Self>, listener: TcpListener) -> Serving {
        let shared = self.clone();
        let (stop, mut stopped) = watch::channel(false);
        let mut server = JoinSet::new();
        server.spawn(async move {
            let mut connections = JoinSet::new();
            loop {
                let stream = tokio::select! {
                    biased;
                    _ = stopped.wait_for(|stopped| *stopped) => break,
                    Ok((stream, _)) = listener.accept() => stream,
                };
                let number = {
                    let mut book = shared.book();
                    book.connections += 1;
                    book.connections
                };
                while connections.try_join_next().is_some() {}
                let shared = shared.clone();
                connections.spawn(async move {
                    // A connection that breaks is the client's business.
                    let _ = serve::serve(stream, number, &shared).await;
                });
            }
            drop(listener);
            connections.shutdown().await;
        });
        Serving { stop, server }
    }

    /// What is to happen to a call, which is counted.
    fn fate(&self, request: &Request) -> Option<Fault> {
        let mut book = self.book();
        let Book {
            rules, hits, counts, ..
        } = &mut *book;
        let counts = counts.entry(request.operation.clone()).or_default();
        counts.seen += 1;
        let mut struck = None;
        for (id, (rule, asked)) in rules.iter_mut() {
            if !rule.is_for(request) {
                continue;
            }
            *asked += 1;
            let hits = hits.entry(*id).or_default();
            if *asked <= rule.skip || *hits >= rule.most || !self.random.chance(rule.chance) {
                continue;
            }
            *hits += 1;
            counts.faulted += 1;
            struck = Some(rule.fault.clone());
            break;
        }
        if struck.as_ref().is_none_or(Fault::passes) {
            counts.passed += 1;
        }
        struck
    }
}
