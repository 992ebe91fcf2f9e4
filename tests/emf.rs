//! Metrics for CloudWatch beside a real worker.
#![cfg(feature = "emf")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

use std::io::{self, Write};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use redrive::emf::Emf;
use redrive::message::Outgoing;
use redrive::queue::Queue as _;
use redrive::recorder::Recorder;
use redrive::worker::WithoutDeadLetters;
use redrive::{Failure, MemoryQueue, Worker};
use serde_json::Value;

/// What was written, or why it cannot be.
#[derive(Clone, Default)]
struct Paper {
    text: Arc<Mutex<Vec<u8>>>,
    torn: bool,
}

impl Write for Paper {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.torn {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        self.text.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Paper {
    fn lines(&self) -> Vec<Value> {
        let text = String::from_utf8(self.text.lock().unwrap().clone()).unwrap();
        assert!(text.is_empty() || text.ends_with('\n'));
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    /// The sum of a counter's increases over all lines, and on how many it stands.
    fn sum(&self, metric: &str, queue: &str) -> u64 {
        let lines = self.lines();
        let of_queue = lines.iter().filter(|line| line["messaging_destination_name"] == queue);
        of_queue.filter_map(|line| line[metric].as_u64()).sum()
    }
}

async fn nothing() -> Result<(), Failure> {
    Ok(())
}

async fn filled(name: &str, messages: usize) -> MemoryQueue {
    let queue = MemoryQueue::new(name).unwrap();
    for n in 0..messages {
        let sent = queue.send(vec![Outgoing::new(n.to_string())]).await.unwrap();
        assert!(sent.iter().all(Result::is_ok));
    }
    queue
}

/// Works it off, for this long at least.
async fn work(queue: MemoryQueue, emf: Emf, least: Duration) -> u64 {
    let total = queue.len() as u64;
    let worker = Worker::builder(queue)
        .without_dead_letters(WithoutDeadLetters::Keep)
        .long_poll(Duration::from_millis(50))
        .handler(nothing)
        .beside(emf)
        .build()
        .unwrap();
    let handle = worker.handle();
    let operating = async {
        tokio::time::sleep(least).await;
        while handle.status().totals.completed < total {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        handle.drain();
    };
    let (ended, ()) = futures::join!(worker.run_until_drained(), operating);
    ended.unwrap();
    handle.status().totals.completed
}

/// One at a time: there is one recorder in the process, and one taker of its increases.
static ONE: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

#[tokio::test]
async fn all_that_is_counted_is_written_once_and_the_rest_when_the_worker_has_ended() {
    let _one = ONE.lock().await;
    let paper = Paper::default();
    let emf = Emf::new("redrive", "orders")
        .unwrap()
        .every(Duration::from_secs(1))
        .to(paper.clone());
    let completed = work(filled("emf-all", 25).await, emf, Duration::from_millis(2_500)).await;
    assert_eq!(completed, 25);
    assert_eq!(paper.sum("redrive_settled_messages", "emf-all"), 25);
    assert_eq!(paper.sum("messaging_client_consumed_messages", "emf-all"), 25);
    let lines = paper.lines();
    let runs: u64 = lines
        .iter()
        .filter(|line| line["messaging_destination_name"] == "emf-all")
        .filter_map(|line| line["messaging_process_duration"]["Count"].as_u64())
        .sum();
    assert_eq!(runs, 25);
    let mut moments: Vec<u64> = lines
        .iter()
        .map(|line| line["_aws"]["Timestamp"].as_u64().unwrap())
        .collect();
    assert!(moments.is_sorted());
    moments.dedup();
    // Two whole seconds at least, and the end.
    assert!(moments.len() >= 3, "{moments:?}");
    let whole = moments.len() - 1;
    assert!(moments[..whole].iter().all(|at| at % 1_000 == 999), "{moments:?}");
    // What alarms look at has a figure each time.
    for at in &moments {
        let at_it = lines.iter().filter(|line| line["_aws"]["Timestamp"] == *at);
        assert_eq!(at_it.filter(|line| line["redrive_lost_leases"].is_u64()).count(), 1);
    }
    // The drain is told of in the last.
    let last = lines.iter().filter(|line| line["_aws"]["Timestamp"] == moments[whole]);
    assert!(
        last.clone().any(|line| line["redrive_drains"] == 1),
        "{:?}",
        last.collect::<Vec<_>>()
    );
    assert!(lines.iter().all(|line| line["service"] == "orders"));
}

#[tokio::test]
async fn an_output_that_is_gone_stops_no_work() {
    let _one = ONE.lock().await;
    let paper = Paper {
        torn: true,
        ..Paper::default()
    };
    let emf = Emf::new("redrive", "orders")
        .unwrap()
        .every(Duration::from_secs(1))
        .to(paper);
    assert_eq!(
        work(filled("emf-torn", 5).await, emf, Duration::from_millis(1_500)).await,
        5
    );
}

#[tokio::test]
async fn an_output_that_is_blocked_stops_neither_work_nor_end() {
    struct Blocked(Arc<tokio::sync::Semaphore>);
    impl Write for Blocked {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            while self.0.try_acquire().is_err() {
                std::thread::sleep(Duration::from_millis(5));
            }
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let _one = ONE.lock().await;
    let gate = Arc::new(tokio::sync::Semaphore::new(0));
    let emf = Emf::new("redrive", "orders").unwrap().every(Duration::from_secs(1));
    let emf = emf.to(Blocked(Arc::clone(&gate)));
    let worked = work(filled("emf-blocked", 5).await, emf, Duration::from_millis(1_500));
    assert_eq!(tokio::time::timeout(Duration::from_secs(15), worked).await, Ok(5));
    gate.add_permits(1_000);
}

#[tokio::test]
async fn a_second_one_in_the_process_takes_nothing_from_the_first() {
    let _one = ONE.lock().await;
    let papers = [Paper::default(), Paper::default()];
    let [first, second] = papers
        .clone()
        .map(|paper| Emf::new("redrive", "orders").unwrap().to(paper));
    let queue = filled("emf-second", 5).await;
    let worker = Worker::builder(queue)
        .without_dead_letters(WithoutDeadLetters::Keep)
        .long_poll(Duration::from_millis(50))
        .handler(nothing)
        .beside(first)
        .beside(second)
        .build()
        .unwrap();
    let handle = worker.handle();
    let operating = async {
        while handle.status().totals.completed < 5 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        handle.drain();
    };
    let (ended, ()) = futures::join!(worker.run_until_drained(), operating);
    ended.unwrap();
    let mut sums = papers.map(|paper| paper.sum("redrive_settled_messages", "emf-second"));
    sums.sort_unstable();
    assert_eq!(sums, [0, 5]);
}

/// Scraped or not, and whether or not anybody writes lines of it.
#[test]
fn inv05_what_is_measured_while_nobody_asks_takes_no_memory() {
    metrics::with_local_recorder(Recorder::process(), || {
        let took = metrics::histogram!("messaging.process.duration", "of" => "memory");
        let (counter, gauge) = (metrics::counter!("shop.counted"), metrics::gauge!("shop.held"));
        took.record(1.0);
        let used = allocation_counter::measure(|| {
            for n in 0..100_000_u32 {
                took.record(f64::from(n) / 1_000.0);
                counter.increment(1);
                gauge.set(f64::from(n));
            }
        });
        assert_eq!(used.count_total, 0);
    });
}

/// Both read one recorder: what one of them is told, the other is not kept from.
#[cfg(feature = "health")]
#[tokio::test]
async fn prometheus_still_has_the_whole_count_of_what_cloudwatch_was_told() {
    use redrive::health::Health;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    let _one = ONE.lock().await;
    let paper = Paper::default();
    let emf = Emf::new("redrive", "orders")
        .unwrap()
        .every(Duration::from_secs(1))
        .to(paper.clone());
    let health = Health::at("127.0.0.1:0".parse().unwrap()).with_metrics();
    let mut bound = health.bound();
    let worker = Worker::builder(filled("emf-both", 5).await)
        .without_dead_letters(WithoutDeadLetters::Keep)
        .long_poll(Duration::from_millis(50))
        .handler(nothing)
        .beside(emf)
        .beside(health)
        .build()
        .unwrap();
    let handle = worker.handle();
    let operating = async {
        while paper.sum("redrive_settled_messages", "emf-both") < 5 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        let mut stream = tokio::net::TcpStream::connect(bound.address().await.unwrap())
            .await
            .unwrap();
        stream
            .write_all(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n")
            .await
            .unwrap();
        let mut page = String::new();
        stream.read_to_string(&mut page).await.unwrap();
        let line = "redrive_settled_messages{messaging_destination_name=\"emf-both\",outcome=\"completed\"} 5";
        assert!(page.lines().any(|told| told == line), "{page}");
        handle.drain();
    };
    let (ended, ()) = futures::join!(worker.run_until_drained(), operating);
    ended.unwrap();
}
