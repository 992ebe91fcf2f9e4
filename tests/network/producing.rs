//! A producer behind a network that misbehaves: what it acknowledged is in the queue.

use std::collections::BTreeSet;
use std::time::Duration;

use redrive::clock::Random;
use redrive::producer::NewMessage;
use redrive::queue::Queue as _;
use redrive::{Producer, SqsQueue};

use crate::aws::config;
use crate::aws_lab::{Lab, Queues, Setup, take_all};
use crate::fault_proxy::{FaultProxy, Rule};
use crate::faults::Call;
use crate::scene::opened;

const MESSAGES: usize = 400;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn inv01_what_a_producer_acknowledged_is_in_the_queue() {
    let Some(lab) = Lab::open() else { return };
    let setup = Setup {
        visibility_secs: 60,
        ..Setup::default()
    };
    let Queues { source, .. } = lab.queues("producing", &setup).await;
    let proxy = FaultProxy::start(&lab.servers.sqs_url, Random::seeded(11)).await;
    let queue = opened(async || {
        let client = aws_sdk_sqs::Client::new(&config(&proxy.url()));
        let queue = SqsQueue::builder(client, &source.attributes().name);
        queue.call_timeout(Duration::from_secs(1)).connect().await
    });
    let producer = Producer::builder(queue.await)
        .give_up_after(Duration::from_secs(20))
        .build()
        .unwrap();
    let faults = Call::SendDeadLetter.faults();
    // Together they meet about half of the calls.
    let chance = 0.6 / faults.len() as f64;
    let rules: Vec<_> = faults
        .into_iter()
        .map(|fault| proxy.add(Rule::on("SendMessageBatch", fault).chance(chance)))
        .collect();
    let bodies: Vec<String> = (0..MESSAGES).map(|number| format!("message {number}")).collect();
    let answers = producer
        .send_all(bodies.iter().map(|body| NewMessage::text(body.as_str())))
        .await;
    let struck = rules.iter().filter(|rule| proxy.hits(**rule) > 0).count();
    assert!(struck >= 10, "{struck} kinds of faults struck");
    let acknowledged: BTreeSet<&String> = bodies
        .iter()
        .zip(&answers)
        .filter(|(_, answer)| answer.is_ok())
        .map(|(body, _)| body)
        .collect();
    assert!(acknowledged.len() > MESSAGES / 2, "{} acknowledged", acknowledged.len());
    let there: BTreeSet<String> = take_all(&source, acknowledged.len())
        .await
        .into_iter()
        .map(|delivery| delivery.message.body)
        .collect();
    let lost: Vec<&&String> = acknowledged.iter().filter(|body| !there.contains(**body)).collect();
    assert!(lost.is_empty(), "acknowledged and not there: {lost:?}");
    assert!(there.iter().all(|body| bodies.contains(body)), "nothing else is there");
    for answer in answers.iter().filter_map(|answer| answer.as_ref().err()) {
        assert!(answer.to_string().contains(&source.attributes().name), "{answer}");
    }
}
