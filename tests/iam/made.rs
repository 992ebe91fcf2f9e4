//! What a worker asks of SQS and DynamoDB, as a server sees it: the real worker, through the AWS SDK, on the stand-in of
//! `benches/stand_in`, with a proxy in between that notes each call.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::FutureExt as _;
use redrive::clock::{Clock, Random};
use redrive::extract::Checkpoint;
use redrive::{Context, DynamoInbox, Failure, SqsQueue, Worker};
use redrive_stand_in::{Setup, StandIn};
use tokio::task::JoinSet;

use crate::aws::config;
use crate::fault_proxy::{Fault, FaultProxy, Request, Rule, Service};
use crate::policy::{Grants, Need, granted, needs};

/// How long a call is awaited, on the slowest machine.
const PATIENCE: Duration = Duration::from_secs(120);

/// What no call of this test needs, and why it is granted all the same.
const NOT_MADE: &[(&str, &str, &str)] = &[(
    "inbox",
    "dynamodb:GetItem",
    "a handler may look a key up by `Context::inbox`, and `redrive doctor` asks it of a worker's role",
)];

#[derive(Clone, Default)]
struct Notes(Arc<Mutex<Grants>>);

impl Notes {
    fn note(&self, request: &Request) {
        let body: serde_json::Value = serde_json::from_slice(&request.body).unwrap();
        let part = match request.service {
            Service::DynamoDb => "inbox",
            Service::Sqs => {
                let queue = ["QueueUrl", "QueueName"]
                    .iter()
                    .find_map(|name| body[*name].as_str())
                    .unwrap();
                if queue.ends_with("-dlq") {
                    "dead_letter_queue"
                } else {
                    "source_queue"
                }
            }
        };
        let mut operations = vec![snake(&request.operation)];
        for statement in body["Statements"].as_array().into_iter().flatten() {
            let text = statement["Statement"].as_str().unwrap();
            operations.push(text.split_whitespace().next().unwrap().to_owned());
        }
        let mut notes = self.0.lock().unwrap();
        for operation in operations {
            for need in needs(&operation, "a worker") {
                let Need::Action(action) = need else {
                    panic!("a worker needs no {need:?}")
                };
                notes.entry(part.to_owned()).or_default().insert((*action).to_owned());
            }
        }
    }

    fn all(&self) -> Grants {
        self.0.lock().unwrap().clone()
    }

    fn has(&self, part: &str, action: &str) -> bool {
        self.0
            .lock()
            .unwrap()
            .get(part)
            .is_some_and(|made| made.contains(action))
    }
}

/// `ReceiveMessage` as the SDK's function: `receive_message`.
fn snake(operation: &str) -> String {
    let mut name = String::new();
    for letter in operation.chars() {
        if letter.is_ascii_uppercase() && !name.is_empty() {
            name.push('_');
        }
        name.push(letter.to_ascii_lowercase());
    }
    name
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_makes_every_call_that_it_is_granted_and_no_other() {
    let stand_in = StandIn::start().unwrap();
    // Endlessly many, some with the key of the one before. A lease of 10 s is the shortest there is.
    let setup = Setup {
        duplicates: 0.2,
        visibility_s: 10,
        ..Setup::default()
    };
    stand_in.setup(setup).unwrap();
    let notes = Notes::default();
    let proxy = FaultProxy::start(stand_in.endpoint(), Random::seeded(1)).await;
    let noted = notes.clone();
    proxy.add(Rule::on_all(Fault::reset()).when(move |request| {
        noted.note(request);
        false
    }));

    let aws = config(&proxy.url());
    let queue = SqsQueue::connect(&aws, "bench").await.unwrap();
    let inbox = DynamoInbox::connect(&aws, "bench-inbox").await.unwrap();
    let runs = Arc::new(AtomicU64::new(0));
    let worker = Worker::builder(queue)
        .inbox(inbox)
        .concurrency(16)
        .long_poll(Duration::from_secs(1))
        .handler(move |_: Context, checkpoint: Checkpoint| {
            let run = runs.fetch_add(1, Ordering::Relaxed);
            async move {
                checkpoint.save("begun").await?;
                match run {
                    3 | 103 => Err(Failure::reject("never")),
                    5 | 105 => Err(Failure::retry_after("not yet", Duration::from_millis(10))),
                    // Past the heartbeat, which comes at half of the lease.
                    7 => {
                        tokio::time::sleep(Duration::from_secs(8)).await;
                        Ok(())
                    }
                    _ => {
                        tokio::time::sleep(Duration::from_millis(20)).await;
                        Ok(())
                    }
                }
            }
            .boxed()
        })
        .build()
        .unwrap();
    let handle = worker.handle();
    let mut tasks = JoinSet::new();
    tasks.spawn(worker.run_until_drained());
    stand_in.open();

    // Until there were a duplicate, a retry, a dead letter and a heartbeat, and every call that is granted.
    let granted = granted("worker", None);
    let clock = Clock::system();
    let began = clock.now();
    let wanted = |part: &str, action: &str| !NOT_MADE.iter().any(|(of, name, _)| (*of, *name) == (part, action));
    let parts = ["source_queue", "dead_letter_queue", "inbox"];
    let missing = || -> Vec<String> {
        parts
            .iter()
            .flat_map(|part| granted[*part].iter().map(move |action| (*part, action)))
            .filter(|(part, action)| wanted(part, action) && !notes.has(part, action))
            .map(|(part, action)| format!("{action} on {part}"))
            .collect()
    };
    let all_came = || {
        let totals = handle.status().totals;
        totals.duplicates + totals.in_flight_duplicates > 0
            && totals.retried > 0
            && totals.heartbeats > 0
            && !totals.dead_lettered.is_empty()
    };
    while !missing().is_empty() || !all_came() {
        assert!(
            clock.now() - began < PATIENCE,
            "the worker is granted what it never asked for: {:?}; its status: {:#?}",
            missing(),
            handle.status()
        );
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    // In the middle of work, so that what waits is handed back.
    handle.drain();
    tasks.join_next().await.unwrap().unwrap().unwrap();
    let totals = handle.status().totals;
    assert!(totals.released > 0, "nothing waited when it drained: {totals:#?}");

    let made: BTreeMap<String, BTreeSet<String>> = notes.all();
    for (part, actions) in &made {
        let over: Vec<_> = actions.difference(&granted[part]).collect();
        assert!(
            over.is_empty(),
            "the worker asked on {part} for what it is not granted: {over:?}"
        );
    }
    for (part, action, why) in NOT_MADE {
        assert!(
            granted[*part].contains(*action) && !notes.has(part, action),
            "{action} on {part} is named as granted and not asked for ({why}), and that is not so"
        );
    }
}
