//! The worker process: two workers, on a standard and a FIFO queue, that write an effect into a ledger and say on standard
//! output what they do.

use std::collections::HashMap;
use std::fmt::Display;
use std::io::{Read as _, Write as _};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use aws_config::SdkConfig;
use aws_sdk_dynamodb::Client;
use aws_sdk_dynamodb::error::DisplayErrorContext;
use aws_sdk_dynamodb::types::{AttributeValue, ReturnValue};
use redrive::clock::Clock;
use redrive::extract::{Json, State};
use redrive::flow::{Backoff, BreakerConfig};
use redrive::{Context, DynamoInbox, Failure, SqsQueue, Worker, Workers};

use super::load::{Job, Kind};
use crate::aws::config;

/// The variable that makes a worker process of the test binary, and names the worker.
pub(crate) const WORKER: &str = "CRASH_WORKER";

/// Where a worker process finds everything.
#[derive(Clone, Debug)]
pub(crate) struct Places {
    pub(crate) sqs: String,
    pub(crate) dynamodb: String,
    /// Where the ledger is; not through the proxy.
    pub(crate) ledger_url: String,
    pub(crate) standard: String,
    pub(crate) fifo: String,
    pub(crate) table: String,
    pub(crate) ledger: String,
    pub(crate) in_flight_delay_ms: u64,
}

const NAMES: [&str; 8] = [
    "CRASH_SQS",
    "CRASH_DYNAMODB",
    "CRASH_LEDGER_URL",
    "CRASH_STANDARD",
    "CRASH_FIFO",
    "CRASH_TABLE",
    "CRASH_LEDGER",
    "CRASH_IN_FLIGHT_DELAY",
];

impl Places {
    /// The command that starts this binary as a worker.
    pub(crate) fn command(&self, name: &str) -> Command {
        let mut command = Command::new(std::env::current_exe().expect("this test has a path"));
        for (variable, _) in std::env::vars_os() {
            let shown = variable.to_string_lossy();
            if ["AWS_", "REDRIVE_"].iter().any(|prefix| shown.starts_with(prefix)) {
                command.env_remove(&variable);
            }
        }
        let values = [
            &self.sqs,
            &self.dynamodb,
            &self.ledger_url,
            &self.standard,
            &self.fifo,
            &self.table,
            &self.ledger,
            &self.in_flight_delay_ms.to_string(),
        ];
        command.env(WORKER, name).envs(NAMES.into_iter().zip(values));
        command
    }

    fn from_env() -> Self {
        let [sqs, dynamodb, ledger_url, standard, fifo, table, ledger, delay] =
            NAMES.map(|name| std::env::var(name).unwrap_or_else(|_| panic!("{name} is not set")));
        Self {
            sqs,
            dynamodb,
            ledger_url,
            standard,
            fifo,
            table,
            ledger,
            in_flight_delay_ms: delay.parse().expect("a number of milliseconds"),
        }
    }
}

/// How many threads of a worker process run handlers.
pub(crate) const THREADS: usize = 2;

/// Tells the harness something: one line, whole, at once.
fn say(words: impl Display) {
    let line = format!("{words}\n");
    // Whoever listens may be gone.
    let _ = std::io::stdout().lock().write_all(line.as_bytes());
    let _ = std::io::stdout().lock().flush();
}

/// The host's time: all processes are on one, so what they say can be put in order by it.
fn now_ms() -> u64 {
    Clock::system().epoch_ms()
}

/// Works until SIGTERM, or until whoever started it is gone.
pub(crate) fn main() -> std::process::ExitCode {
    std::thread::spawn(|| {
        let _ = std::io::stdin().read_to_end(&mut Vec::new());
        std::process::exit(3);
    });
    tracing_subscriber::fmt()
        .with_env_filter(tracing_subscriber::EnvFilter::from_default_env())
        .with_writer(std::io::stderr)
        .with_ansi(false)
        .init();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(THREADS)
        .enable_all()
        .build()
        .expect("a runtime");
    match runtime.block_on(work(&Places::from_env())) {
        Ok(()) => std::process::ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("the worker ended: {error}");
            std::process::ExitCode::FAILURE
        }
    }
}

async fn work(places: &Places) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let sqs = config(&places.sqs);
    let inbox = DynamoInbox::connect(&config(&places.dynamodb), &places.table).await?;
    let ledger = Ledger::new(&config(&places.ledger_url), &places.ledger);
    let mut workers = Workers::new();
    for queue in [&places.standard, &places.fifo] {
        let queue = SqsQueue::connect(&sqs, queue).await?;
        let worker = Worker::builder(queue)
            // It doubles with each receive, and outages make for many: so that it stays within two minutes. LocalStack makes
            // nothing of a FIFO queue visible again before what was delayed earlier, whatever their groups.
            .in_flight_delay(Duration::from_millis(places.in_flight_delay_ms))
            .backoff(Backoff::new(Duration::from_millis(200), Duration::from_secs(10))?)
            .inbox(inbox.clone())
            .state(ledger.clone())
            .concurrency(8)
            .long_poll(Duration::from_secs(1))
            // Outages are short here, so that a run is.
            .breaker(BreakerConfig::default().open_for(Duration::from_secs(1), Duration::from_secs(4))?)
            .observe(|seen| {
                say(format_args!(
                    "fate {} {} {}",
                    seen.key,
                    seen.fate.as_str(),
                    seen.message.id
                ))
            })
            .on_duplicate(|key, _| say(format_args!("duplicate {key}")))
            .handler(handle)
            .build()?;
        workers = workers.with(worker);
    }
    say("working");
    Ok(workers.run().await?)
}

/// Says how a run ended, also when it is dropped.
struct Run {
    key: String,
    token: u64,
    end: &'static str,
}

impl Drop for Run {
    fn drop(&mut self) {
        say(format_args!(
            "end {} {} {} {}",
            self.key,
            self.token,
            self.end,
            now_ms()
        ));
    }
}

async fn handle(State(ledger): State<Ledger>, context: Context, Json(job): Json<Job>) -> Result<u64, Failure> {
    let claim = Arc::clone(context.claim().ok_or_else(|| Failure::reject("no claim"))?);
    let (key, token) = (context.key().as_str(), claim.fencing_token);
    say(format_args!(
        "start {key} {token} {} {} {}",
        if claim.suspect { claim.deaths + 1 } else { 0 },
        context.message().id,
        now_ms(),
    ));
    let mut run = Run {
        key: key.to_owned(),
        token,
        end: "dropped",
    };
    let ended = steps(&ledger, &context, key, token, &job).await;
    run.end = match &ended {
        Ok(_) => "done",
        Err(failure) if failure.is_reject() => "rejected",
        Err(_) => "failed",
    };
    ended
}

async fn steps(ledger: &Ledger, context: &Context, key: &str, token: u64, job: &Job) -> Result<u64, Failure> {
    // From here on no earlier claim of this key can have an effect.
    let (done, runs) = match ledger.fence(key, token).await {
        Ok(shown) => shown,
        Err(error) => {
            say(format_args!("effect {key} {token} {}", error.word()));
            return Err(error.into_failure());
        }
    };
    if done {
        say(format_args!("effect {key} {token} known"));
        return Ok(token);
    }
    tokio::time::sleep(Duration::from_millis(job.millis)).await;
    match job.kind {
        Kind::Plain => {}
        // While a breaker is half open its failures are no attempts, and without other messages it would stay so.
        Kind::Flaky if context.attempt() > 2 || runs > 4 => {}
        Kind::Flaky => return Err(Failure::retry("not yet")),
        Kind::Poison => return Err(Failure::reject("never").because("declined")),
        Kind::Killer => {
            std::process::abort();
        }
    }
    say(format_args!("effect {key} {token} tried"));
    match ledger.effect(key, token).await {
        Ok(()) => {
            say(format_args!("effect {key} {token} made"));
            Ok(token)
        }
        Err(error) => {
            say(format_args!("effect {key} {token} {}", error.word()));
            Err(error.into_failure())
        }
    }
}

/// The effects, in a table of their own: an item per key with the largest fencing token that was shown, and the tokens of the
/// claims that had the effect. Nothing but the fence keeps an effect from being made twice.
#[derive(Clone, Debug)]
pub(crate) struct Ledger {
    client: Client,
    table: String,
}

#[derive(Debug)]
enum LedgerError {
    /// A later claim was there before.
    Fenced,
    /// Whether it was done is not known.
    Unknown(String),
}

impl LedgerError {
    fn word(&self) -> &'static str {
        match self {
            Self::Fenced => "refused",
            Self::Unknown(_) => "unknown",
        }
    }

    fn into_failure(self) -> Failure {
        match self {
            Self::Fenced => Failure::retry("a later claim of this key was here before"),
            Self::Unknown(error) => Failure::retry(error),
        }
    }
}

impl Ledger {
    pub(crate) fn new(config: &SdkConfig, table: &str) -> Self {
        Self {
            client: Client::new(config),
            table: table.to_owned(),
        }
    }

    /// Shows the token, after which smaller ones are refused; answers whether the effect is there already, and how often this
    /// was done.
    async fn fence(&self, key: &str, token: u64) -> Result<(bool, usize), LedgerError> {
        let update = self
            .update(key, token)
            .update_expression("SET fence = :token ADD runs :one")
            .expression_attribute_values(":one", AttributeValue::N("1".to_owned()))
            .condition_expression("attribute_not_exists(fence) OR fence <= :token")
            .return_values(ReturnValue::AllNew);
        let updated = update.send().await.map_err(|error| ledger_error(&error))?;
        let item = updated.attributes.unwrap_or_default();
        let runs = item.get("runs").and_then(|runs| runs.as_n().ok());
        let runs = runs.and_then(|runs| runs.parse().ok()).unwrap_or(1);
        Ok((item.contains_key("effects"), runs))
    }

    /// Makes the effect under this token. Made again under the same token, whose answer was lost, it is one.
    async fn effect(&self, key: &str, token: u64) -> Result<(), LedgerError> {
        let update = self
            .update(key, token)
            .update_expression("ADD effects :tokens")
            .condition_expression("fence = :token")
            .expression_attribute_values(":tokens", AttributeValue::Ns(vec![token.to_string()]));
        update.send().await.map(drop).map_err(|error| ledger_error(&error))
    }

    fn update(
        &self,
        key: &str,
        token: u64,
    ) -> aws_sdk_dynamodb::operation::update_item::builders::UpdateItemFluentBuilder {
        self.client
            .update_item()
            .table_name(&self.table)
            .key("pk", AttributeValue::S(key.to_owned()))
            .expression_attribute_values(":token", AttributeValue::N(token.to_string()))
    }

    /// How many effects each key has.
    pub(crate) async fn effects(&self) -> HashMap<String, usize> {
        let mut effects = HashMap::new();
        let mut from = None;
        loop {
            let scan = self.client.scan().table_name(&self.table).consistent_read(true);
            let Ok(page) = scan.set_exclusive_start_key(from.clone()).send().await else {
                continue;
            };
            for item in page.items() {
                let key = item["pk"].as_s().expect("a key").clone();
                let made = item.get("effects").and_then(|tokens| tokens.as_ns().ok());
                effects.insert(key, made.map_or(0, Vec::len));
            }
            from = page.last_evaluated_key;
            if from.is_none() {
                return effects;
            }
        }
    }
}

fn ledger_error<E>(error: &aws_sdk_dynamodb::error::SdkError<E>) -> LedgerError
where
    E: std::error::Error + aws_sdk_dynamodb::error::ProvideErrorMetadata + 'static,
    aws_sdk_dynamodb::error::SdkError<E>: aws_sdk_dynamodb::error::ProvideErrorMetadata + std::error::Error,
{
    use aws_sdk_dynamodb::error::ProvideErrorMetadata as _;
    match error.code() {
        Some("ConditionalCheckFailedException") => LedgerError::Fenced,
        _ => LedgerError::Unknown(DisplayErrorContext(error).to_string()),
    }
}
