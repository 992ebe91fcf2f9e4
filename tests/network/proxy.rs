//! The proxy itself: it lets through what no rule is for, and each fault is what it says.

use std::io::ErrorKind;
use std::time::Duration;

use redrive::clock::Random;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use crate::fault_proxy::{Counts, Effect, Fault, FaultProxy, Reply, Rule};

const PATIENCE: Duration = Duration::from_secs(20);

/// A server that answers every request with its number, in chunks, and keeps its connections.
struct Server {
    url: String,
    _running: JoinSet<()>,
}

impl Server {
    async fn start() -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let mut running = JoinSet::new();
        running.spawn(async move {
            let mut connections = JoinSet::new();
            let mut number = 0;
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                number += 1;
                connections.spawn(async move {
                    let mut read = Vec::new();
                    let mut asked = 0;
                    while let Ok(bytes) = stream.read_buf(&mut read).await {
                        if bytes == 0 {
                            return;
                        }
                        // Every request of these tests has the body `body` and nothing after it.
                        while let Some(end) = read.windows(8).position(|eight| eight == b"\r\n\r\nbody") {
                            read.drain(..end + 8);
                            asked += 1;
                            let text = format!("{number}.{asked}");
                            let answer = format!(
                                "HTTP/1.1 200 OK\r\nDate: Thu, 01 Jan 2026 00:00:00 GMT\r\nTransfer-Encoding: chunked\r\n\r\n\
                                 {:x}\r\n{text}\r\n1\r\n!\r\n0\r\n\r\n",
                                text.len()
                            );
                            if stream.write_all(answer.as_bytes()).await.is_err() {
                                return;
                            }
                        }
                    }
                });
            }
        });
        Self { url, _running: running }
    }
}

/// A client's connection.
struct Client(TcpStream);

impl Client {
    async fn to(proxy: &FaultProxy) -> Self {
        Self(TcpStream::connect(("127.0.0.1", proxy.port())).await.unwrap())
    }

    async fn ask(&mut self, operation: &str) {
        let request = format!(
            "POST / HTTP/1.1\r\nHost: x\r\nX-Amz-Target: AmazonSQS.{operation}\r\nTransfer-Encoding: chunked\r\n\r\n\
             2\r\nbo\r\n2\r\ndy\r\n0\r\n\r\n"
        );
        self.0.write_all(request.as_bytes()).await.unwrap();
    }

    /// What comes until `end` has come; an error where the connection breaks or ends before.
    async fn until(&mut self, end: &str) -> Result<String, ErrorKind> {
        let reading = async {
            let mut read = String::new();
            loop {
                if read.ends_with(end) && !end.is_empty() {
                    return Ok(read);
                }
                let mut byte = [0];
                match self.0.read(&mut byte).await {
                    Ok(0) if end.is_empty() => return Ok(read),
                    Ok(0) => return Err(ErrorKind::UnexpectedEof),
                    Ok(_) => read.push(char::from(byte[0])),
                    Err(error) => return Err(error.kind()),
                }
            }
        };
        tokio::time::timeout(PATIENCE, reading).await.expect("something comes")
    }

    async fn answer(&mut self, operation: &str) -> Result<String, ErrorKind> {
        self.ask(operation).await;
        self.until("!").await
    }

    /// Whether nothing comes, and the connection stays.
    async fn is_silent(&mut self) -> bool {
        let mut byte = [0];
        tokio::time::timeout(Duration::from_millis(200), self.0.read(&mut byte))
            .await
            .is_err()
    }
}

async fn stage() -> (Server, FaultProxy) {
    let server = Server::start().await;
    let proxy = FaultProxy::start(&server.url, Random::seeded(1)).await;
    (server, proxy)
}

#[tokio::test]
async fn what_no_rule_is_for_goes_through_and_connections_are_kept() {
    let (_server, proxy) = stage().await;
    let mut client = Client::to(&proxy).await;
    for number in 1..=3 {
        let answer = client.answer("Receive").await.unwrap();
        assert!(answer.ends_with(&format!("\r\n\r\n1.{number}!")), "{answer}");
        assert!(answer.contains("content-length: 4\r\n"), "{answer}");
    }
    assert_eq!(proxy.connections(), 1);
    let all = Counts {
        seen: 3,
        passed: 3,
        faulted: 0,
    };
    assert_eq!(proxy.count("Receive"), all);
}

#[tokio::test]
async fn a_rule_strikes_its_operation_as_often_as_it_says_until_it_is_healed() {
    let (_server, proxy) = stage().await;
    let rule = proxy.add(
        Rule::on("Delete", Fault::error(503, "ServiceUnavailable"))
            .after(1)
            .at_most(2),
    );
    let always = proxy.add(Rule::on("Send", Fault::Answered(Effect::None, Reply::Status(500))));
    let mut client = Client::to(&proxy).await;
    let mut failed = Vec::new();
    for operation in ["Delete", "Receive", "Delete", "Delete", "Delete"] {
        client.ask(operation).await;
        let head = client.until("\r\n\r\n").await.unwrap();
        failed.push(head.contains(" 503 "));
        client
            .until(if head.contains(" 503 ") { "}" } else { "!" })
            .await
            .unwrap();
    }
    assert_eq!(failed, [false, false, true, true, false]);
    assert_eq!(proxy.hits(rule), 2);
    let deletes = Counts {
        seen: 4,
        passed: 2,
        faulted: 2,
    };
    assert_eq!(proxy.count("Delete"), deletes);
    client.ask("Send").await;
    assert!(client.until("\r\n\r\n").await.unwrap().contains(" 500 "));
    proxy.heal();
    client.answer("Send").await.unwrap();
    assert_eq!(proxy.hits(always), 1);
}

#[tokio::test]
async fn chance_is_drawn_from_the_seed() {
    let server = Server::start().await;
    let mut histories = Vec::new();
    for _ in 0..2 {
        let proxy = FaultProxy::start(&server.url, Random::seeded(7)).await;
        let rule = proxy.add(Rule::on_all(Fault::DateMoved(5)).chance(0.5));
        let mut client = Client::to(&proxy).await;
        let mut history = Vec::new();
        for _ in 0..40 {
            let before = proxy.hits(rule);
            client.answer("Receive").await.unwrap();
            history.push(proxy.hits(rule) > before);
        }
        let hits = history.iter().filter(|hit| **hit).count();
        assert!((5..=35).contains(&hits), "{hits}");
        histories.push(history);
    }
    assert_eq!(histories[0], histories[1]);
}

#[tokio::test]
async fn broken_connections_break_as_they_should() {
    let (_server, proxy) = stage().await;
    for (fault, passed, seen) in [
        (Fault::Reset(Effect::None), 0, Err(ErrorKind::ConnectionReset)),
        (Fault::Reset(Effect::Done), 1, Err(ErrorKind::ConnectionReset)),
        (Fault::Close(Effect::None), 0, Err(ErrorKind::UnexpectedEof)),
        (Fault::Close(Effect::Done), 1, Err(ErrorKind::UnexpectedEof)),
        (Fault::TruncatedHead, 1, Err(ErrorKind::UnexpectedEof)),
        (Fault::Truncated, 1, Err(ErrorKind::UnexpectedEof)),
    ] {
        let before = proxy.count("Receive").passed;
        let rule = proxy.add(Rule::on("Receive", fault.clone()));
        let mut client = Client::to(&proxy).await;
        assert_eq!(client.answer("Receive").await.map(|_| ()), seen, "{fault:?}");
        assert_eq!(proxy.count("Receive").passed - before, passed, "{fault:?}");
        assert_eq!(proxy.hits(rule), 1);
        proxy.heal();
    }
}

#[tokio::test]
async fn stalls_are_silent_and_trickles_are_slow_but_whole() {
    let (_server, proxy) = stage().await;
    for fault in [Fault::Stall(Effect::None), Fault::Stall(Effect::Done)] {
        proxy.add(Rule::on("Receive", fault));
        let mut client = Client::to(&proxy).await;
        client.ask("Receive").await;
        assert!(client.is_silent().await);
        proxy.heal();
    }
    proxy.add(Rule::on("Receive", Fault::StallInBody));
    let mut client = Client::to(&proxy).await;
    client.ask("Receive").await;
    client.until("\r\n\r\n").await.unwrap();
    client.until(".").await.unwrap();
    assert!(client.is_silent().await);
    proxy.heal();
    proxy.add(Rule::on("Receive", Fault::Trickle(Duration::from_millis(20))));
    let mut client = Client::to(&proxy).await;
    assert!(client.answer("Receive").await.unwrap().ends_with(".1!"));
}

#[tokio::test]
async fn dates_are_moved_and_removed() {
    let (_server, proxy) = stage().await;
    let mut client = Client::to(&proxy).await;
    assert!(client.answer("Receive").await.unwrap().contains("01 Jan 2026"));
    for (fault, is_there) in [
        (Fault::DateMoved(3_600), true),
        (Fault::BadDate, true),
        (Fault::NoDate, false),
    ] {
        proxy.add(Rule::on_all(fault));
        let answer = client.answer("Receive").await.unwrap();
        assert_eq!(answer.contains("date: "), is_there, "{answer}");
        assert!(!answer.contains("01 Jan 2026"), "{answer}");
        proxy.heal();
    }
}

#[tokio::test]
async fn a_stopped_proxy_refuses_and_a_restarted_one_serves_on_the_same_port() {
    let (_server, proxy) = stage().await;
    let mut client = Client::to(&proxy).await;
    client.answer("Receive").await.unwrap();
    proxy.stop().await;
    assert_eq!(client.until("!").await, Err(ErrorKind::ConnectionReset));
    let refused = TcpStream::connect(("127.0.0.1", proxy.port())).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::ConnectionRefused);
    proxy.restart().await;
    Client::to(&proxy).await.answer("Receive").await.unwrap();
    assert_eq!(proxy.count("Receive").seen, 2);
}

#[tokio::test]
async fn a_frozen_connection_is_silent_while_new_ones_work() {
    let (_server, proxy) = stage().await;
    let mut client = Client::to(&proxy).await;
    client.answer("Receive").await.unwrap();
    proxy.freeze_connections();
    client.ask("Receive").await;
    assert!(client.is_silent().await);
    Client::to(&proxy).await.answer("Receive").await.unwrap();
}

#[tokio::test]
async fn a_cut_off_proxy_answers_no_attempt_to_connect() {
    let (_server, proxy) = stage().await;
    proxy.cut_off().await;
    let connecting = TcpStream::connect(("127.0.0.1", proxy.port()));
    let connected = tokio::time::timeout(Duration::from_millis(500), connecting).await;
    assert!(connected.is_err(), "{connected:?}");
    proxy.restart().await;
    Client::to(&proxy).await.answer("Receive").await.unwrap();
}
