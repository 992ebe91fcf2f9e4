//! The services of a soak: queues, a table, proxies before them, a producer, and what goes wrong.

use std::sync::Arc;
use std::time::Duration;

use redrive::Producer;
use redrive::clock::Random;
use redrive::message::{Attribute, KEY_ATTRIBUTE, Outgoing};
use redrive::producer::NewMessage;
use redrive::queue::Queue as _;

use crate::aws_lab::{Lab, Queues, Setup};
use crate::fault_proxy::{Effect, Fault, FaultProxy, Reply, Rule};

/// Messages a second, in all.
const RATE: u64 = 30;

#[derive(Clone)]
pub(crate) struct Services {
    inner: Arc<Inner>,
}

struct Inner {
    standard: Queues,
    fifo: Queues,
    table: String,
    sqs: FaultProxy,
    dynamodb: FaultProxy,
    random: Random,
}

impl Services {
    /// `None` where tests on servers are left out.
    pub(crate) async fn open(random: &Random) -> Option<Self> {
        let lab = Lab::open()?;
        let setup = Setup {
            visibility_secs: 10,
            ..Setup::default()
        };
        let standard = lab.queues("soak", &setup).await;
        let fifo = lab.queues("soak.fifo", &setup).await;
        let table = Lab::unique("soak");
        lab.inbox(&table).await;
        let sqs = FaultProxy::start(&lab.servers.sqs_url, Random::seeded(random.next_u64())).await;
        let dynamodb = FaultProxy::start(&lab.servers.dynamodb_url, Random::seeded(random.next_u64())).await;
        let inner = Inner {
            standard,
            fifo,
            table,
            sqs,
            dynamodb,
            random: Random::seeded(random.next_u64()),
        };
        Some(Self { inner: Arc::new(inner) })
    }

    /// Where the worker finds all that.
    pub(crate) fn variables(&self, seed: u64) -> Vec<(&'static str, String)> {
        let inner = &self.inner;
        vec![
            ("SOAK_SQS", inner.sqs.url()),
            ("SOAK_DYNAMODB", inner.dynamodb.url()),
            ("SOAK_STANDARD", inner.standard.source.attributes().name.clone()),
            ("SOAK_FIFO", inner.fifo.source.attributes().name.clone()),
            ("SOAK_TABLE", inner.table.clone()),
            ("SOAK_SEED", seed.to_string()),
        ]
    }

    /// Sends steadily, past the proxies, each message with a key, a tenant and a group that never were before.
    pub(crate) async fn produce(self) {
        let queues = [&self.inner.standard.source, &self.inner.fifo.source];
        let producers = queues.map(|queue| Producer::builder(queue.clone()).build().expect("a producer"));
        let mut ticks = tokio::time::interval(Duration::from_millis(500));
        let mut n = 0;
        loop {
            ticks.tick().await;
            for (producer, fifo) in producers.iter().zip([false, true]) {
                let batch: Vec<NewMessage> = (0..RATE / 4)
                    .map(|at| NewMessage::verbatim(message(n + at, fifo)))
                    .collect();
                n += RATE / 4;
                // What cannot be sent is not missed: this is no test of sending.
                producer.send_all(batch).await;
            }
        }
    }

    /// Lets single calls go wrong all the time, and in turn one service, the other, and all connections.
    pub(crate) async fn go_wrong(self, time: Duration) {
        let inner = &*self.inner;
        // The worker starts on services that are well.
        tokio::time::sleep(Duration::from_secs(3)).await;
        let throttled = [
            (&inner.sqs, "RequestThrottled"),
            (&inner.dynamodb, "ThrottlingException"),
        ];
        for (proxy, code) in throttled {
            proxy.add(Rule::on_all(Fault::error(400, code)).chance(0.01));
            proxy.add(Rule::on_all(Fault::reset()).chance(0.005));
            proxy.add(Rule::on_all(Fault::reply_lost()).chance(0.005));
            proxy.add(Rule::on_all(Fault::Answered(Effect::None, Reply::Status(503))).chance(0.005));
            proxy.add(Rule::on_all(Fault::Late(Duration::from_millis(400))).chance(0.02));
            proxy.add(Rule::on_all(Fault::Stall(Effect::None)).chance(0.001));
        }
        // Six turns at least in a short run, one in two minutes in a long one.
        let pause = (time / 8).min(Duration::from_secs(120));
        for turn in 0.. {
            tokio::time::sleep(pause).await;
            match turn % 3 {
                0 => away(&inner.dynamodb, &inner.random).await,
                1 => away(&inner.sqs, &inner.random).await,
                _ => {
                    inner.sqs.freeze_connections();
                    inner.dynamodb.freeze_connections();
                }
            }
        }
    }
}

async fn away(proxy: &FaultProxy, random: &Random) {
    proxy.stop().await;
    tokio::time::sleep(Duration::from_secs(1) + random.up_to(Duration::from_secs(2))).await;
    proxy.restart().await;
}

fn message(n: u64, fifo: bool) -> Outgoing {
    let message = Outgoing::new(n.to_string())
        .attribute(KEY_ATTRIBUTE, Attribute::string(format!("key-{n}")))
        .attribute("tenant", Attribute::string(format!("tenant-{n}")));
    if fifo {
        let message = message.group(format!("group-{}", n / 3));
        return message.deduplication_id(n.to_string());
    }
    message
}
