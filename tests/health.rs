//! The health endpoint beside real workers, asked over TCP as probes and scrapers ask it.
#![cfg(feature = "health")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

#[path = "support/log.rs"]
mod log;

use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use redrive::extract::State;
use redrive::faults::FaultPlan;
use redrive::health::Health;
use redrive::message::Outgoing;
use redrive::queue::Queue as _;
use redrive::worker::{Builder, WithoutDeadLetters, WorkerHandle};
use redrive::{Error, Failure, MemoryInbox, MemoryQueue, Worker, Workers};
use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

const PATIENCE: Duration = Duration::from_secs(20);

async fn until<T, F: Future<Output = Option<T>>>(what: &str, mut look: impl FnMut() -> F) -> T {
    let looking = async {
        loop {
            if let Some(found) = look().await {
                return found;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let found = tokio::time::timeout(PATIENCE, looking).await;
    found.unwrap_or_else(|_| panic!("in vain: {what}"))
}

/// What is sent, and all that comes back until the connection is closed.
async fn exchange(at: SocketAddr, request: &[u8]) -> String {
    let mut stream = TcpStream::connect(at).await.unwrap();
    // An endpoint that has heard enough may close while we still speak.
    let _ = stream.write_all(request).await;
    let mut answer = Vec::new();
    let read = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut answer)).await;
    let _ = read.expect("the connection is closed in time");
    String::from_utf8(answer).unwrap()
}

/// Status and body.
async fn get(at: SocketAddr, path: &str) -> (u16, String) {
    let answer = exchange(at, format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n").as_bytes()).await;
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
    let code = head.split(' ').nth(1).and_then(|code| code.parse().ok());
    (code.unwrap_or_else(|| panic!("no answer: {answer:?}")), body.to_owned())
}

async fn code(at: SocketAddr, path: &str) -> u16 {
    get(at, path).await.0
}

async fn status(at: SocketAddr) -> Value {
    let (code, body) = get(at, "/status").await;
    assert_eq!(code, 200);
    serde_json::from_str(&body).unwrap()
}

/// Handlers wait until it opens.
#[derive(Clone, Default)]
struct Door {
    open: Arc<AtomicBool>,
    inside: Arc<AtomicUsize>,
}

async fn wait_inside(State(door): State<Door>) -> Result<(), Failure> {
    door.inside.fetch_add(1, Ordering::SeqCst);
    while !door.open.load(Ordering::SeqCst) {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    Ok(())
}

fn queue(name: &str) -> MemoryQueue {
    MemoryQueue::new(name).unwrap()
}

fn builder(queue: &MemoryQueue, door: &Door) -> Builder<Door> {
    Worker::builder(queue.clone())
        .without_dead_letters(WithoutDeadLetters::Keep)
        .state(door.clone())
        .long_poll(Duration::from_millis(20))
        .handler(wait_inside)
}

async fn send(queue: &MemoryQueue, body: &str) {
    let sent = queue.send(vec![Outgoing::new(body)]).await.unwrap();
    assert!(sent.iter().all(Result::is_ok));
}

/// A worker that runs, its endpoint's address, and its end.
struct Running {
    at: SocketAddr,
    handle: WorkerHandle,
    run: JoinSet<Result<(), Error>>,
}

impl Running {
    async fn of(builder: Builder<Door>) -> Self {
        let health = Health::at("127.0.0.1:0".parse().unwrap()).with_metrics();
        let mut bound = health.bound();
        let worker = builder.beside(health).build().unwrap();
        let handle = worker.handle();
        let mut run = JoinSet::new();
        run.spawn(worker.run_until_drained());
        let at = bound.address().await.expect("it listens");
        Self { at, handle, run }
    }

    async fn ready(&self) {
        until("ready", || async {
            (code(self.at, "/readyz").await == 200).then_some(())
        })
        .await;
    }

    async fn end(mut self) {
        self.handle.drain();
        self.run.join_next().await.unwrap().unwrap().unwrap();
    }
}

#[tokio::test]
async fn it_is_alive_throughout_and_ready_from_its_preflight_until_its_drain() {
    let (queue, door) = (queue("health-life"), Door::default());
    // A slow look at the queue is a slow preflight.
    let faults = FaultPlan::none();
    let slow = MemoryQueue::builder("health-start")
        .faults(faults.clone())
        .build()
        .unwrap();
    faults.slow_next(redrive::faults::Operation::Describe, 10, Duration::from_millis(500));
    let starting = Running::of(builder(&slow, &door)).await;
    assert_eq!(code(starting.at, "/livez").await, 200);
    let (unready, why) = get(starting.at, "/readyz").await;
    assert_eq!(
        (unready, why.as_str()),
        (503, "health-start: it has not started: its preflight is under way\n")
    );
    starting.ready().await;
    starting.end().await;

    send(&queue, "1").await;
    let running = Running::of(builder(&queue, &door)).await;
    running.ready().await;
    until("a handler", || async {
        (door.inside.load(Ordering::SeqCst) == 1).then_some(())
    })
    .await;
    running.handle.drain();
    until("unready", || async {
        (code(running.at, "/readyz").await == 503).then_some(())
    })
    .await;
    assert_eq!(get(running.at, "/readyz").await.1, "health-life: it drains\n");
    assert_eq!(get(running.at, "/livez").await, (200, "alive\n".to_owned()));
    door.open.store(true, Ordering::SeqCst);
    let at = running.at;
    running.end().await;
    // Its address is free again.
    drop(std::net::TcpListener::bind(at).unwrap());
}

#[tokio::test]
async fn a_worker_that_receives_in_vain_is_not_ready_and_stays_alive_as_a_restart_would_not_help() {
    let faults = FaultPlan::none();
    let queue = MemoryQueue::builder("health-stall")
        .faults(faults.clone())
        .build()
        .unwrap();
    let builder = builder(&queue, &Door::default()).stall_after(Duration::from_millis(1_020));
    let running = Running::of(builder).await;
    running.ready().await;
    until("a receive", || async { running.handle.status().last_receive }).await;
    faults.set_unreachable(true);
    until("stalled", || async {
        (code(running.at, "/readyz").await == 503).then_some(())
    })
    .await;
    assert_eq!(get(running.at, "/livez").await, (200, "alive\n".to_owned()));
    let (unready, why) = get(running.at, "/readyz").await;
    assert_eq!(unready, 503);
    assert!(
        why.starts_with("health-stall: it is stalled: no receive has succeeded for "),
        "{why}"
    );
    assert_eq!(status(running.at).await["workers"][0]["stalled"], true);
    faults.heal();
    running.ready().await;
    running.end().await;
}

/// The runtime has one thread, and the handler keeps it: nothing else could answer. Its one slot is taken, so that no receive is
/// under way that could fail to be answered.
#[test]
fn it_answers_while_handlers_block_every_thread_of_the_runtime_and_says_that_the_worker_is_stuck() {
    let unblock = Arc::new(AtomicBool::new(false));
    let (told, tell) = std::sync::mpsc::channel();
    let blocking = Arc::clone(&unblock);
    let work = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async move {
            let queue = queue("health-blocked");
            for _ in 0..50 {
                send(&queue, "1").await;
            }
            let health = Health::at("127.0.0.1:0".parse().unwrap());
            let mut bound = health.bound();
            let handler = move || {
                let blocking = Arc::clone(&blocking);
                async move {
                    while !blocking.load(Ordering::SeqCst) {
                        std::thread::sleep(Duration::from_millis(5));
                    }
                    Ok::<_, Failure>(())
                }
            };
            let worker = Worker::builder(queue)
                .without_dead_letters(WithoutDeadLetters::Keep)
                .long_poll(Duration::from_millis(20))
                .stall_after(Duration::from_millis(1_020))
                .concurrency(1)
                .handler(handler)
                .beside(health)
                .build()
                .unwrap();
            let handle = worker.handle();
            let telling = async {
                told.send((bound.address().await.unwrap(), handle)).unwrap();
            };
            let (ended, ()) = futures::join!(worker.run_until_drained(), telling);
            ended.unwrap();
        });
    });
    let (at, handle) = tell.recv_timeout(PATIENCE).unwrap();
    let asking = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    asking.block_on(async {
        until("stuck", || async { (code(at, "/livez").await == 503).then_some(()) }).await;
        let (_, why) = get(at, "/livez").await;
        assert!(why.contains("it is stuck: its loop stands still"), "{why}");
        unblock.store(true, Ordering::SeqCst);
        until("alive", || async { (code(at, "/livez").await == 200).then_some(()) }).await;
    });
    handle.drain();
    work.join().unwrap();
}

#[tokio::test]
async fn an_address_that_is_taken_stops_no_work() {
    let log = log::Log::default();
    let _guard = log.capture("redrive::health=warn", false);
    let taken = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = taken.local_addr().unwrap();
    let health = Health::at(address);
    let mut bound = health.bound();
    let (queue, door) = (queue("health-taken"), Door::default());
    door.open.store(true, Ordering::SeqCst);
    send(&queue, "1").await;
    let worker = builder(&queue, &door).beside(health).build().unwrap();
    let handle = worker.handle();
    let operating = async {
        assert_eq!(bound.address().await, None);
        let said = log.text();
        assert_eq!(said.lines().count(), 1, "{said}");
        for part in [
            &address.to_string(),
            "in use",
            "the work goes on without it; free the address",
            "REDRIVE_HEALTH",
        ] {
            assert!(said.contains(part), "{part}: {said}");
        }
        until("work", || async {
            (handle.status().totals.completed == 1).then_some(())
        })
        .await;
        handle.drain();
    };
    let (ended, ()) = futures::join!(worker.run_until_drained(), operating);
    ended.unwrap();
}

#[tokio::test]
async fn the_status_tells_what_is_held_and_how_it_is_set_and_no_secret() {
    let (queue, door) = (queue("health-status"), Door::default());
    send(&queue, "a secret body").await;
    let builder = builder(&queue, &door).inbox(MemoryInbox::new()).concurrency(7);
    let running = Running::of(builder).await;
    let page = until("a handler", || async {
        let page = status(running.at).await;
        (page["workers"][0]["running"] == 1).then_some(page)
    })
    .await;
    let worker = &page["workers"][0];
    assert_eq!(page["version"], env!("CARGO_PKG_VERSION"));
    assert_eq!(
        (&worker["name"], &worker["queue"]),
        (&worker["queue"], &Value::from("health-status"))
    );
    assert_eq!(
        (&worker["leases"], &worker["concurrency"]),
        (&Value::from(1), &Value::from(7))
    );
    assert_eq!(
        (&worker["breaker"], &worker["inbox_breaker"]),
        (&Value::from("closed"), &Value::from("closed"))
    );
    assert!(worker["last_receive_ms"].is_u64(), "{worker}");
    assert_eq!(worker["totals"]["received"], 1);
    let settings = worker["settings"].as_object().unwrap();
    for (name, value) in [
        ("concurrency", "7"),
        ("lease", "30s"),
        ("inbox", "on"),
        ("drain_deadline", "110s"),
        ("rate", "none"),
    ] {
        assert_eq!(settings[name], value, "{name}");
    }
    let text = page.to_string();
    assert!(!text.contains("secret") && !text.contains("://"), "{text}");
    door.open.store(true, Ordering::SeqCst);
    until("its lease to end", || async {
        let worker = &status(running.at).await["workers"][0];
        (worker["totals"]["completed"] == 1 && worker["leases"] == 0 && worker["running"] == 0).then_some(())
    })
    .await;
    running.end().await;
}

#[tokio::test]
async fn prometheus_finds_the_metrics_of_the_page_with_their_values() {
    let (queue, door) = (queue("health-metrics"), Door::default());
    door.open.store(true, Ordering::SeqCst);
    send(&queue, "1").await;
    let running = Running::of(builder(&queue, &door)).await;
    let line = "redrive_settled_messages{messaging_destination_name=\"health-metrics\",outcome=\"completed\"} 1";
    let page = until("a settled message", || async {
        let (code, page) = get(running.at, "/metrics").await;
        assert_eq!(code, 200);
        page.lines().any(|told| told == line).then_some(page)
    })
    .await;
    for line in [
        "# TYPE messaging_client_consumed_messages counter",
        "# TYPE messaging_process_duration histogram",
        "# TYPE redrive_in_flight_messages gauge",
        "# TYPE redrive_api_calls counter",
        "# TYPE redrive_receive_silence gauge",
    ] {
        assert!(page.lines().any(|told| told == line), "no `{line}`");
    }
    let took = page.lines().find(|line| {
        line.starts_with("messaging_process_duration_bucket{")
            && line.contains("\"health-metrics\"")
            && line.contains("le=\"+Inf\"")
    });
    assert!(took.is_some_and(|line| line.contains("outcome=\"")), "{page}");
    running.end().await;
}

#[tokio::test]
async fn one_endpoint_tells_of_all_workers_and_is_ready_when_all_are() {
    let door = Door::default();
    let (orders, mails) = (queue("health-orders"), queue("health-mails"));
    let health = Health::at("127.0.0.1:0".parse().unwrap());
    let mut bound = health.bound();
    let (orders, mails) = (
        builder(&orders, &door).build().unwrap(),
        builder(&mails, &door).build().unwrap(),
    );
    let one = orders.handle();
    let workers = Workers::new().with(orders).with(mails).beside(health);
    let all = workers.handle();
    let operating = async {
        let at = bound.address().await.unwrap();
        until("ready", || async { (code(at, "/readyz").await == 200).then_some(()) }).await;
        assert_eq!(status(at).await["workers"].as_array().unwrap().len(), 2);
        // One of them, asked to end, has ended as it should.
        one.drain();
        until("its end", || async { one.status().ended.then_some(()) }).await;
        assert_eq!(code(at, "/livez").await, 200);
        assert_eq!(
            get(at, "/readyz").await,
            (503, "health-orders: it has ended\n".to_owned())
        );
        all.drain();
    };
    let (ended, ()) = futures::join!(workers.run_until_drained(), operating);
    ended.unwrap();
}

#[tokio::test]
async fn one_of_several_that_ended_unasked_is_a_reason_to_restart() {
    let door = Door::default();
    let (orders, mails) = (queue("health-stopped"), queue("health-going-on"));
    let health = Health::at("127.0.0.1:0".parse().unwrap());
    let mut bound = health.bound();
    let (orders, mails) = (
        builder(&orders, &door).build().unwrap(),
        builder(&mails, &door).build().unwrap(),
    );
    let one = orders.handle();
    let workers = Workers::new().with(orders).with(mails).beside(health);
    let all = workers.handle();
    let operating = async {
        let at = bound.address().await.unwrap();
        until("ready", || async { (code(at, "/readyz").await == 200).then_some(()) }).await;
        one.stop();
        until("its end", || async { (code(at, "/livez").await == 503).then_some(()) }).await;
        assert_eq!(
            get(at, "/livez").await.1,
            "health-stopped: it has ended, and was not asked to\n"
        );
        all.drain();
    };
    let (ended, ()) = futures::join!(workers.run_until_drained(), operating);
    ended.unwrap();
}

#[tokio::test]
async fn requests_that_are_none_are_refused_in_short_and_the_next_is_answered() {
    let running = Running::of(builder(&queue("health-malformed"), &Door::default())).await;
    let long = format!("GET /livez HTTP/1.1\r\nX: {}\r\n\r\n", "x".repeat(1024 * 1024));
    let many = format!("GET /livez HTTP/1.1\r\n{}\r\n", "X: y\r\n".repeat(1_000));
    for (request, code) in [
        (&b"GET /nothing HTTP/1.1\r\nHost: x\r\n\r\n"[..], Some("404")),
        (
            b"POST /livez HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabc",
            Some("405"),
        ),
        (
            b"POST /status HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
            Some("405"),
        ),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", Some("400")),
        (b"GET /livez SPDY/9\r\n\r\n", Some("400")),
        (b"\r\n\r\n\0\0", Some("400")),
        (long.as_bytes(), None),
        (many.as_bytes(), Some("431")),
    ] {
        let answer = exchange(running.at, request).await;
        let told = answer.split(' ').nth(1);
        // One that says too much may be cut off before it has read its refusal.
        assert!(
            told == code || code.is_none() && matches!(told, None | Some("431")),
            "{answer:?} to {request:.40?}"
        );
        assert!(answer.len() < 600, "{answer}");
    }
    let answer = exchange(
        running.at,
        b"POST /livez HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n",
    )
    .await;
    assert!(answer.contains("\r\nallow: GET, HEAD\r\n"), "{answer}");
    let answer = exchange(running.at, b"HEAD /livez HTTP/1.1\r\nHost: x\r\n\r\n").await;
    assert!(
        answer.starts_with("HTTP/1.1 200") && answer.contains("content-length: 6\r\n"),
        "{answer}"
    );
    assert!(answer.ends_with("\r\n\r\n"), "a HEAD has no body: {answer}");
    assert_eq!(code(running.at, "/livez").await, 200);
    running.end().await;
}

#[tokio::test]
async fn clients_that_never_end_what_they_say_hold_nobody_up_and_are_cut_off() {
    let running = Running::of(builder(&queue("health-slow"), &Door::default())).await;
    let mut slow = Vec::new();
    for _ in 0..200 {
        let mut stream = TcpStream::connect(running.at).await.unwrap();
        stream.write_all(b"GET /livez HTTP/1.1\r\nX: ").await.unwrap();
        slow.push(stream);
    }
    // Sooner than the head of a request must have come.
    let soon = Duration::from_secs(4);
    for _ in 0..20 {
        let answered = tokio::time::timeout(soon, code(running.at, "/livez")).await;
        assert_eq!(answered, Ok(200));
    }
    async fn cut_off(within: Duration, clients: impl Iterator<Item = TcpStream>) {
        let cut_off = clients.map(|mut client| async move {
            let _ = client.read_to_end(&mut Vec::new()).await;
        });
        let all = tokio::time::timeout(within, futures::future::join_all(cut_off)).await;
        assert!(all.is_ok(), "a slow client still holds its place");
    }
    // Beyond 64 the oldest made room; those that are left are cut off by the time their head may take.
    let left = slow.split_off(200 - 64);
    cut_off(soon, slow.into_iter()).await;
    cut_off(PATIENCE, left.into_iter()).await;
    running.end().await;
}
