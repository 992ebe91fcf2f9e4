//! The worker processes that are measured.

use std::io::{Read as _, Write as _};
use std::process::ExitCode;
use std::sync::Mutex;
use std::time::Duration;

use redrive::clock::{Clock, Random};
use redrive::extract::State;
use redrive::flow::{Advice, BreakerConfig, Downstream, RateLimit};
use redrive::message::Message;
use redrive::queue::Queue;
use redrive::worker::{Builder, WorkersHandle};
use redrive::{Context, DynamoInbox, Failure, FailureExt as _, SqsQueue, Worker, Workers};

use super::endless::{Endless, Forgetful};
use super::series::Series;
use crate::aws::config;

/// The variable that makes a worker process of the test binary, and says which.
pub(crate) const WORKER: &str = "SOAK_WORKER";

type Error = Box<dyn std::error::Error + Send + Sync>;

/// Works until SIGTERM, or until whoever started it is gone.
pub(crate) fn main(work: impl Future<Output = Result<(), Error>>) -> ExitCode {
    std::thread::spawn(|| {
        let _ = std::io::stdin().read_to_end(&mut Vec::new());
        std::process::exit(3);
    });
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("a runtime");
    match runtime.block_on(work) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("the worker ended: {error}");
            ExitCode::FAILURE
        }
    }
}

/// The engine alone, on queues without end.
pub(crate) async fn engine() -> Result<(), Error> {
    let inbox = Forgetful::new(number("SOAK_SEED"));
    let mut workers = Workers::new();
    for name in ["endless", "endless.fifo"] {
        let worker = worker(Endless::new(name))
            .inbox(inbox.clone())
            .dead_letter(Endless::new(if name.ends_with(".fifo") { "dead.fifo" } else { "dead" }))
            .lease(Duration::from_secs(2))
            .held_back(200)
            .backoff(redrive::flow::Backoff::new(
                Duration::from_millis(10),
                Duration::from_millis(100),
            )?);
        workers = workers.with(worker.state(Gateway::new(0)?).handler(handle).build()?);
    }
    run(workers).await
}

/// On SQS and DynamoDB servers, behind proxies.
pub(crate) async fn services() -> Result<(), Error> {
    let sqs = config(&text("SOAK_SQS"));
    let inbox = DynamoInbox::connect(&config(&text("SOAK_DYNAMODB")), text("SOAK_TABLE")).await?;
    // Away for a moment in each 20 s.
    let gateway = Gateway::new(20_000)?;
    let mut workers = Workers::new();
    for name in ["SOAK_STANDARD", "SOAK_FIFO"] {
        let worker = worker(SqsQueue::connect(&sqs, text(name)).await?)
            .inbox(inbox.clone())
            .long_poll(Duration::from_secs(1))
            .watch(&gateway.downstream);
        workers = workers.with(worker.state(gateway.clone()).handler(handle).build()?);
    }
    run(workers).await
}

fn worker(queue: impl Queue) -> Builder {
    let tenant = |message: &Message| message.attribute("tenant").map(str::to_owned);
    let short = BreakerConfig::default().open_for(Duration::from_millis(500), Duration::from_secs(2));
    Worker::builder(queue)
        .concurrency(32)
        .random(Random::seeded(number("SOAK_SEED")))
        .breaker(short.expect("times in range"))
        .rate_by(tenant, RateLimit::per_second(20.0).expect("a rate in range"))
}

/// What the handlers call: a service that is away for two seconds in each `cycle_ms`; never with zero.
#[derive(Clone)]
struct Gateway {
    downstream: Downstream,
    clock: Clock,
    cycle_ms: u64,
    /// Bytes that the handler keeps of each message, to see that it would be noticed.
    leak: usize,
}

impl Gateway {
    fn new(cycle_ms: u64) -> Result<Self, Error> {
        Ok(Self {
            downstream: Downstream::builder("gateway")
                .retries(1)
                .breaker(BreakerConfig::default().open_for(Duration::from_millis(500), Duration::from_secs(2))?)
                .bulkhead(48)
                .build()?,
            clock: Clock::system(),
            cycle_ms,
            leak: usize::try_from(number("SOAK_LEAK"))?,
        })
    }

    /// One call for the `n`-th message.
    async fn call(&self, n: u64) -> Result<(), std::io::Error> {
        let away = self.cycle_ms > 0 && self.clock.epoch_ms() % self.cycle_ms < 2_000;
        if away || n.is_multiple_of(97) {
            return Err(std::io::Error::other("the gateway does not answer"));
        }
        Ok(())
    }
}

/// What a handler that leaks has kept.
static LEAKED: Mutex<Vec<Vec<u8>>> = Mutex::new(Vec::new());

/// Of a hundred messages some fail, are refused for a reason of their own, panic, or take long.
async fn handle(State(gateway): State<Gateway>, context: Context) -> Result<String, Failure> {
    let n: u64 = context.message().body.parse().reject()?;
    let key = context.key().as_str();
    if gateway.leak > 0 {
        LEAKED.lock().unwrap().push(vec![1; gateway.leak]);
    }
    match n % 100 {
        11 => return Err(Failure::reject("it is wrong").because(format!("order_{n}_is_wrong"))),
        23 => return Err(Failure::retry("not yet")),
        37 if n % 500 == 37 => panic!("a bug"),
        41 => tokio::time::sleep(Duration::from_millis(50)).await,
        53 if n % 2_000 == 53 => tokio::time::sleep(Duration::from_secs(3)).await,
        _ => {}
    }
    let called = gateway
        .downstream
        .keyed(key)
        .call_with(|_| Advice::Retry, || gateway.call(n))
        .await;
    called.map_err(redrive::flow::DownstreamError::into_failure)?;
    Ok(format!("done {n}"))
}

async fn run(workers: Workers) -> Result<(), Error> {
    let series = Series::default();
    metrics::set_global_recorder(series.clone())?;
    let handle = workers.handle();
    tokio::select! {
        ended = workers.run() => Ok(ended?),
        never = tell(handle, series) => never,
    }
}

/// Says how it is, several times a second.
async fn tell(handle: WorkersHandle, series: Series) -> ! {
    loop {
        tokio::time::sleep(Duration::from_millis(100)).await;
        let tasks = tokio::runtime::Handle::current().metrics().num_alive_tasks();
        let status = handle.status();
        let sum = |of: fn(&redrive::worker::Status) -> u64| status.iter().map(of).sum::<u64>();
        let held = sum(|status| (status.running + status.waiting + status.ending) as u64);
        let line = format!(
            "status {tasks} {held} {} {} {}\n",
            sum(|status| status.running as u64),
            series.count(),
            sum(|status| status.totals.received),
        );
        // Whoever listens may be gone.
        let _ = std::io::stdout().lock().write_all(line.as_bytes());
        let _ = std::io::stdout().lock().flush();
    }
}

fn text(name: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| panic!("{name} is not set"))
}

fn number(name: &str) -> u64 {
    text(name).parse().unwrap_or_else(|_| panic!("{name} is no number"))
}
