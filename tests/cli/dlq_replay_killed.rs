//! `redrive dlq replay`, killed again and again: nothing is lost and nothing is done twice.
#![allow(
    clippy::print_stdout,
    reason = "a run that fails tells its seed and where it was killed"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use redrive::clock::{Clock, Random};
use redrive::queue::Queue as _;
use redrive::{DynamoInbox, Failure, SqsQueue, Worker};
use serde_json::Value;

use crate::send_failures::Proxy;
use crate::tool::Ran;
use crate::world::{Letter, World};

/// What a kill leaves in both queues: the batch under way.
const BATCH: usize = 10;

const PATIENCE: Duration = Duration::from_secs(180);

/// The bodies that a queue holds, hidden ones too, and how often; without receiving them.
async fn held(world: &World, queue: &SqsQueue) -> BTreeMap<String, usize> {
    let address = format!(
        "{}/_aws/sqs/messages?ShowInvisible=true&ShowDelayed=true&QueueUrl={}",
        world.servers.sqs_url,
        queue.attributes().url
    );
    let request = reqwest::Client::new().get(address).header("accept", "application/json");
    let text = request.send().await.unwrap().text().await.unwrap();
    let answer: Value = serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"));
    let result = &answer["ReceiveMessageResponse"]["ReceiveMessageResult"];
    assert!(answer["ReceiveMessageResponse"].is_object(), "{text}");
    // XML in the dress of JSON: one message is no list, and none is nothing.
    let messages = match &result["Message"] {
        Value::Array(messages) => messages.clone(),
        Value::Null => Vec::new(),
        one => vec![one.clone()],
    };
    let mut known = BTreeSet::new();
    let mut bodies = BTreeMap::new();
    for message in messages {
        if known.insert(message["MessageId"].as_str().unwrap().to_owned()) {
            *bodies.entry(message["Body"].as_str().unwrap().to_owned()).or_default() += 1;
        }
    }
    bodies
}

/// How many messages the job file has as sent.
fn sent(job: &Path) -> usize {
    let text = std::fs::read_to_string(job).unwrap_or_default();
    text.lines()
        .filter(|line| line.starts_with(r#"{"sent""#))
        .map(|line| line.matches("\",\"").count() + 1)
        .sum()
}

/// Replays that are killed, and all that is needed to look at what they left.
struct Scene {
    world: World,
    orders: SqsQueue,
    dead: SqsQueue,
    inbox: DynamoInbox,
    letters: usize,
    random: Random,
    folder: tempfile::TempDir,
    with_table: bool,
    proxy: Option<Proxy>,
}

impl Scene {
    async fn open(letters: usize, seed: u64, with_table: bool) -> Option<Self> {
        let world = World::open()?;
        let orders = world.queue("orders").await;
        let dead = world.open_queue("orders-dlq").await;
        let inbox = world.inbox().await;
        let planted = (0..letters).map(|n| Letter::new(&format!("key-{n}"), "timeout", "late", &n.to_string()));
        world.plant(&dead, planted).await;
        Some(Self {
            world,
            orders,
            dead,
            inbox,
            letters,
            random: Random::seeded(seed),
            folder: tempfile::tempdir().unwrap(),
            with_table,
            proxy: None,
        })
    }

    fn job(&self) -> std::path::PathBuf {
        self.folder.path().join("job")
    }

    fn replay(&self) -> Command {
        let job = self.job();
        let arguments = [
            "dlq",
            "replay",
            "orders",
            "--yes",
            "--hold",
            "20s",
            "--job",
            job.to_str().unwrap(),
        ];
        let mut command = self.world.tool().command(&arguments);
        if self.with_table {
            command.args(["--table", self.inbox.table_name()]);
        }
        if let Some(proxy) = &self.proxy {
            command.env("AWS_ENDPOINT_URL_SQS", proxy.url());
        }
        command
    }

    /// Runs it and kills it once it has sent `at` messages, and some milliseconds more.
    async fn run_and_kill(&self, at: usize) {
        let mut child = self.replay().spawn().unwrap();
        let deadline = Clock::system().now() + PATIENCE;
        while sent(&self.job()) < at && child.try_wait().unwrap().is_none() {
            assert!(Clock::system().now() < deadline, "it does not get to {at}");
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        tokio::time::sleep(Duration::from_millis(self.random.below(60))).await;
        // SIGKILL.
        child.kill().unwrap();
        child.wait().unwrap();
    }

    /// Points, in the order of messages sent, at which it is killed.
    fn points(&self, kills: usize) -> Vec<usize> {
        let mut points: Vec<usize> = (0..kills)
            .map(|_| self.random.below(self.letters as u64 * 9 / 10) as usize)
            .collect();
        points.sort_unstable();
        points
    }

    /// How many messages are there twice, after checking that none is lost.
    async fn doubled(&self) -> usize {
        let mut all = held(&self.world, &self.orders).await;
        for (body, count) in held(&self.world, &self.dead).await {
            *all.entry(body).or_default() += count;
        }
        assert_eq!(all.len(), self.letters, "lost");
        all.values().filter(|&&count| count > 1).count()
    }

    /// Runs it to its end, again if need be.
    async fn run_to_its_end(&self) {
        for _ in 0..5 {
            let command = self.replay();
            let ran = tokio::task::spawn_blocking(move || {
                let mut command = command;
                Ran::of(command.spawn().unwrap())
            });
            let ran = ran.await.unwrap();
            println!("{}{}", ran.stdout, ran.stderr);
            if ran.code == 0 {
                return;
            }
        }
        panic!("it never ends well");
    }

    /// A worker that counts what it does, until all that was replayed is done and nothing is left anywhere.
    async fn work(&self, replayed: impl Future<Output = ()>) -> BTreeMap<String, usize> {
        let effects: Arc<Mutex<BTreeMap<String, usize>>> = Arc::default();
        let counted = effects.clone();
        let handler = move |body: redrive::extract::Text| {
            *counted.lock().unwrap().entry(body.to_string()).or_default() += 1;
            async { Ok::<(), Failure>(()) }
        };
        let worker = Worker::builder(self.orders.clone())
            .inbox(self.inbox.clone())
            .concurrency(64)
            .handler(handler)
            .build()
            .unwrap();
        let over = async {
            replayed.await;
            let deadline = Clock::system().now() + PATIENCE;
            loop {
                let left = held(&self.world, &self.orders).await.len() + held(&self.world, &self.dead).await.len();
                if left == 0 {
                    return;
                }
                assert!(Clock::system().now() < deadline, "{left} are left");
                tokio::time::sleep(Duration::from_millis(300)).await;
            }
        };
        tokio::select! {
            done = worker.run() => panic!("the worker ended: {done:?}"),
            () = over => {}
        }
        effects.lock().unwrap().clone()
    }

    fn each_once(&self, effects: &BTreeMap<String, usize>) {
        assert_eq!(effects.len(), self.letters, "lost");
        let twice: Vec<_> = effects.iter().filter(|&(_, &count)| count > 1).collect();
        assert!(twice.is_empty(), "done twice: {twice:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn inv01_killed_ten_times_over_two_thousand_messages_each_is_handled_exactly_once() {
    const KILLS: usize = 10;
    let seed = Clock::system().epoch_ms();
    println!("seed {seed}");
    let Some(scene) = Scene::open(2_000, seed, false).await else {
        return;
    };
    let mut most = 0;
    for (number, at) in scene.points(KILLS).into_iter().enumerate() {
        scene.run_and_kill(at).await;
        let doubled = scene.doubled().await;
        println!(
            "kill {} at {at}: {} sent, {doubled} in both",
            number + 1,
            sent(&scene.job())
        );
        assert!(
            doubled <= BATCH * (number + 1),
            "more than a batch a kill: {doubled} after {}",
            number + 1
        );
        most = most.max(doubled);
    }
    println!("at most {most} were there twice");
    let effects = scene.work(scene.run_to_its_end()).await;
    scene.each_once(&effects);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn inv11_killed_and_with_sends_that_fail_inside_batches_each_is_handled_exactly_once() {
    const KILLS: usize = 10;
    let seed = Clock::system().epoch_ms() + 1;
    println!("seed {seed}");
    let Some(mut scene) = Scene::open(2_000, seed, true).await else {
        return;
    };
    scene.proxy = Some(Proxy::start(&scene.world.servers.sqs_url, Random::seeded(seed)).await);
    let proxy = scene.proxy.as_ref().unwrap();
    // A worker handles what is replayed while replays are killed: what is done by then is known from the inbox.
    let replayed = async {
        for at in scene.points(KILLS) {
            scene.run_and_kill(at).await;
            println!("killed at {at}: {} sent", sent(&scene.job()));
        }
        scene.run_to_its_end().await;
    };
    let effects = scene.work(replayed).await;
    scene.each_once(&effects);
    let (failed, doubled) = proxy.injected();
    println!("{failed} entries failed, {doubled} more had their effect and failed");
    assert!(failed > 20 && doubled > 20, "the proxy is lively");
    let accepted = proxy.accepted();
    assert!(
        accepted <= scene.letters + doubled + BATCH * KILLS,
        "sent {accepted} times: more than a batch a kill and what the proxy doubled"
    );
}
