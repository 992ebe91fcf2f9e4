//! Scale-in protection over HTTP, in real time: a real worker, and a stub of the ECS agent that notes what it is asked.
#![cfg(feature = "ecs")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use redrive::clock::{Clock, Instant};
use redrive::ecs::ScaleInProtection;
use redrive::testing::Bench;
use redrive::worker::Status;
use redrive::{Error, Failure, Worker};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

/// How long a condition is awaited, on the slowest machine.
const PATIENCE: Duration = Duration::from_secs(120);

const ON: &str =
    r#"{"protection":{"ExpirationDate":"2026-10-06T02:29:16Z","ProtectionEnabled":true,"TaskArn":"arn:task"}}"#;
const OFF: &str = r#"{"protection":{"ExpirationDate":null,"ProtectionEnabled":false,"TaskArn":"arn:task"}}"#;
const BLOCKED: &str = r#"{"failure":{"Arn":"arn:task","Detail":null,"Reason":"DEPLOYMENT_BLOCKED"}}"#;
const DENIED: &str =
    r#"{"requestID":"1-2","error":{"Arn":"arn:task","Code":"AccessDeniedException","Message":"no policy"}}"#;

fn now() -> Instant {
    Clock::system().now()
}

async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let waiting = async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let waited = tokio::time::timeout(PATIENCE, waiting).await;
    assert!(waited.is_ok(), "waited {PATIENCE:?} in vain: {what}");
}

/// What the agent says to a call.
#[derive(Clone, Copy)]
enum Says {
    /// A status, and a body.
    This(u16, &'static str),
    /// Nothing, and the connection stays open.
    Nothing,
    /// The connection is closed in the middle of an answer.
    Half,
}

/// What it was asked: when, the request's first line, and its body.
type Asked = Arc<Mutex<Vec<(Instant, String, String)>>>;

struct Agent {
    uri: String,
    asked: Asked,
    _serving: JoinSet<()>,
}

impl Agent {
    /// Says these first, and after that what a good agent does.
    async fn start(says: impl IntoIterator<Item = Says>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let uri = format!("http://{}/api/0f1e2d", listener.local_addr().unwrap());
        let asked = Asked::default();
        let says = Arc::new(Mutex::new(says.into_iter().collect::<VecDeque<_>>()));
        let mut serving = JoinSet::new();
        let noted = Arc::clone(&asked);
        serving.spawn(async move {
            let mut calls = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                calls.spawn(answer(stream, Arc::clone(&noted), Arc::clone(&says)));
            }
        });
        Self {
            uri,
            asked,
            _serving: serving,
        }
    }

    fn bodies(&self) -> Vec<String> {
        self.asked
            .lock()
            .unwrap()
            .iter()
            .map(|(_, _, body)| body.clone())
            .collect()
    }

    async fn until_asked(&self, calls: usize) {
        until("so many calls", || self.asked.lock().unwrap().len() >= calls).await;
    }

    fn at(&self, call: usize) -> Instant {
        self.asked.lock().unwrap()[call].0
    }
}

async fn answer(mut stream: TcpStream, asked: Asked, says: Arc<Mutex<VecDeque<Says>>>) {
    let Some((head, body)) = request(&mut stream).await else {
        return;
    };
    let good = if body.contains("true") { ON } else { OFF };
    asked.lock().unwrap().push((now(), head, body));
    let said = says.lock().unwrap().pop_front().unwrap_or(Says::This(200, good));
    let (status, body) = match said {
        Says::This(status, body) => (status, body),
        Says::Nothing => return std::future::pending().await,
        Says::Half => {
            let _ = stream
                .write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 500\r\n\r\n{\"prot")
                .await;
            return;
        }
    };
    let length = body.len();
    let answer =
        format!("HTTP/1.1 {status} Said\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\r\n{body}");
    let _ = stream.write_all(answer.as_bytes()).await;
    let _ = stream.shutdown().await;
}

/// A request's first line, and its body.
async fn request(stream: &mut TcpStream) -> Option<(String, String)> {
    let mut bytes = Vec::new();
    loop {
        let text = String::from_utf8_lossy(&bytes).into_owned();
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let length = head.lines().find_map(|line| {
                let (name, value) = line.split_once(':')?;
                name.eq_ignore_ascii_case("content-length")
                    .then(|| value.trim().parse().unwrap())
            });
            if body.len() >= length.unwrap_or(0_usize) {
                return Some((head.lines().next()?.to_owned(), body.to_owned()));
            }
        }
        if stream.read_buf(&mut bytes).await.ok()? == 0 {
            return None;
        }
    }
}

/// A worker with one message, whose handler takes so long.
struct Running {
    _bench: Bench,
    handle: redrive::worker::WorkerHandle,
    tasks: JoinSet<Result<(), Error>>,
}

impl Running {
    async fn start(protection: ScaleInProtection, takes: Duration) -> Self {
        let bench = Bench::new("jobs", 1).unwrap();
        bench.send("job", "{}").await.unwrap();
        let worker: Worker = bench
            .worker()
            .long_poll(Duration::from_millis(200))
            .beside(protection)
            .handler(move || async move {
                tokio::time::sleep(takes).await;
                Ok::<(), Failure>(())
            })
            .build()
            .unwrap();
        let handle = worker.handle();
        let mut tasks = JoinSet::new();
        tasks.spawn(worker.run_until_drained());
        Self {
            _bench: bench,
            handle,
            tasks,
        }
    }

    async fn ended(mut self) -> Status {
        self.tasks.join_next().await.unwrap().unwrap().unwrap();
        self.handle.status()
    }
}

const PROTECT: &str = r#"{"ExpiresInMinutes":10,"ProtectionEnabled":true}"#;
const RELEASE: &str = r#"{"ProtectionEnabled":false}"#;

#[tokio::test]
async fn a_busy_task_is_protected_and_an_idle_one_released() {
    let agent = Agent::start([]).await;
    let protection = ScaleInProtection::auto().agent_uri(&agent.uri);
    let running = Running::start(protection, Duration::from_secs(3)).await;
    until("the handler runs", || running.handle.status().running == 1).await;
    let began = now();
    agent.until_asked(1).await;
    assert!(running.handle.status().running == 1 && agent.at(0) - began < Duration::from_secs(3));
    until("it is done", || running.handle.status().totals.completed == 1).await;
    let done = now();
    agent.until_asked(2).await;
    let rest = agent.at(1) - done;
    assert!(
        rest > Duration::from_secs(13) && rest < Duration::from_secs(18),
        "{rest:?}"
    );
    assert_eq!(agent.bodies(), [PROTECT, RELEASE]);
    for (_, head, _) in &*agent.asked.lock().unwrap() {
        assert_eq!(head, "PUT /api/0f1e2d/task-protection/v1/state HTTP/1.1");
    }
    running.handle.drain();
    running.ended().await;
    assert_eq!(agent.bodies().len(), 2, "there was nothing left to release");
}

#[tokio::test]
async fn a_drain_releases_the_task_at_once_and_the_handler_finishes() {
    let agent = Agent::start([]).await;
    let protection = ScaleInProtection::long_jobs_after(Duration::from_secs(1)).agent_uri(&agent.uri);
    let running = Running::start(protection, Duration::from_secs(6)).await;
    agent.until_asked(1).await;
    running.handle.drain();
    let asked = now();
    agent.until_asked(2).await;
    assert!(agent.at(1) - asked < Duration::from_secs(1));
    assert_eq!(running.handle.status().running, 1);
    assert_eq!(agent.bodies(), [PROTECT, RELEASE]);
    assert_eq!(running.ended().await.totals.completed, 1);
}

#[tokio::test]
async fn a_drain_does_not_wait_for_an_agent_that_hangs() {
    let agent = Agent::start([Says::Nothing]).await;
    let protection = ScaleInProtection::auto().agent_uri(&agent.uri);
    let running = Running::start(protection, Duration::from_secs(8)).await;
    agent.until_asked(1).await;
    running.handle.drain();
    let asked = now();
    // The second release comes when the call that was given up can no longer overtake it.
    agent.until_asked(3).await;
    assert!(
        agent.at(1) - asked < Duration::from_secs(1),
        "{:?}",
        agent.at(1) - asked
    );
    assert!(agent.at(2) - agent.at(0) >= Duration::from_millis(4_900));
    assert_eq!(agent.bodies(), [PROTECT, RELEASE, RELEASE]);
    assert_eq!(running.ended().await.totals.completed, 1);
}

#[tokio::test]
async fn refusals_and_answers_that_break_off_are_survived_and_tried_again() {
    let survives = async |says| {
        let agent = Agent::start([says]).await;
        let protection = ScaleInProtection::auto().agent_uri(&agent.uri);
        let running = Running::start(protection, Duration::from_secs(14)).await;
        agent.until_asked(2).await;
        let pause = agent.at(1) - agent.at(0);
        assert!(
            pause > Duration::from_secs(9) && pause < Duration::from_secs(13),
            "{pause:?}"
        );
        assert_eq!(agent.bodies(), [PROTECT, PROTECT]);
        running.handle.drain();
        assert_eq!(running.ended().await.totals.completed, 1);
        assert_eq!(agent.bodies()[2..], [RELEASE]);
    };
    let says = [
        Says::This(200, BLOCKED),
        Says::This(403, DENIED),
        Says::This(502, "<html>"),
        Says::Half,
    ];
    futures::future::join_all(says.map(survives)).await;
}

#[tokio::test]
async fn an_agent_that_hangs_or_is_not_there_holds_up_neither_work_nor_exit() {
    let hangs = Agent::start([Says::Nothing; 20]).await;
    let gone = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    for uri in [hangs.uri.clone(), format!("http://{gone}/api/0f1e2d")] {
        let protection = ScaleInProtection::auto().agent_uri(uri);
        let running = Running::start(protection, Duration::from_secs(3)).await;
        let began = now();
        until("it is done", || running.handle.status().totals.completed == 1).await;
        assert!(now() - began < Duration::from_secs(5));
        running.handle.drain();
        let asked = now();
        running.ended().await;
        assert!(now() - asked < Duration::from_secs(2), "{:?}", now() - asked);
    }
    assert!(hangs.bodies().first().is_some_and(|body| body == PROTECT));
}
