//! A program with a recorder of its own keeps it, and can have the crate's beside it.
#![cfg(all(feature = "health", feature = "emf"))]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

use std::net::SocketAddr;
use std::time::Duration;

use metrics_util::debugging::DebuggingRecorder;
use redrive::emf::Emf;
use redrive::health::Health;
use redrive::recorder::Recorder;
use redrive::worker::WithoutDeadLetters;
use redrive::{Failure, MemoryQueue, Worker};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

async fn metrics(at: SocketAddr) -> String {
    let mut stream = TcpStream::connect(at).await.unwrap();
    stream
        .write_all(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n")
        .await
        .unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}

async fn nothing() -> Result<(), Failure> {
    Ok(())
}

#[tokio::test]
async fn a_recorder_of_the_programs_own_is_left_alone_and_can_be_had_beside_ours() {
    let own = DebuggingRecorder::new();
    let seen = own.snapshotter();
    own.install().unwrap();
    let health = Health::at("127.0.0.1:0".parse().unwrap()).with_metrics();
    let mut bound = health.bound();
    let worker = Worker::builder(MemoryQueue::new("orders").unwrap())
        .without_dead_letters(WithoutDeadLetters::Keep)
        .long_poll(Duration::from_millis(20))
        .handler(nothing)
        .beside(health)
        .beside(Emf::new("redrive", "orders").unwrap())
        .build()
        .unwrap();
    let handle = worker.handle();
    let operating = async {
        let at = bound.address().await.unwrap();
        let answer = metrics(at).await;
        assert!(answer.starts_with("HTTP/1.1 501 "), "{answer}");
        let (_, body) = answer.split_once("\r\n\r\n").unwrap();
        assert!(
            body.contains("Recorder::process()") && body.lines().count() == 1,
            "{body}"
        );
        while handle.status().last_receive.is_none() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        // As a fan-out hands values on to it.
        metrics::with_local_recorder(Recorder::process(), || metrics::counter!("shop.orders").increment(2));
        let answer = metrics(at).await;
        assert!(
            answer.starts_with("HTTP/1.1 200 ") && answer.contains("\nshop_orders 2\n"),
            "{answer}"
        );
        handle.drain();
    };
    let (ended, ()) = futures::join!(worker.run_until_drained(), operating);
    ended.unwrap();
    let named = seen
        .snapshot()
        .into_vec()
        .into_iter()
        .map(|(key, ..)| key.key().name().to_owned());
    assert!(named.collect::<Vec<_>>().contains(&"redrive.api.calls".to_owned()));
}
