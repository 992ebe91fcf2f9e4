//! The companion beside a real worker, in virtual time, with an agent that is no socket.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

use crate::clock::{Clock, Instant};
use crate::queue::Queue as _;
use crate::testing::Bench;
use crate::worker::{Builder, WorkerHandle};
use crate::{Failure, Worker, Workers};

use super::*;
use crate::logged::Log;

const fn secs(n: u64) -> Duration {
    Duration::from_secs(n)
}

/// An agent that notes what it is asked, and answers as it is told to.
#[derive(Clone, Default)]
struct Stub {
    asked: Arc<Mutex<Vec<(Instant, Ask)>>>,
    answers: Arc<Mutex<VecDeque<Trouble>>>,
    /// How long it takes to answer.
    takes: Duration,
    /// How much longer it takes to release.
    hesitates: Duration,
}

impl Endpoint for Stub {
    async fn put(&self, ask: Ask) -> Result<(), Trouble> {
        self.asked.lock().unwrap().push((Clock::system().now(), ask));
        tokio::time::sleep(self.takes).await;
        if ask == Ask::Release {
            tokio::time::sleep(self.hesitates).await;
        }
        self.answers.lock().unwrap().pop_front().map_or(Ok(()), Err)
    }
}

impl Stub {
    fn asks(&self, since: Instant) -> Vec<(u64, Ask)> {
        let asked = self.asked.lock().unwrap();
        asked.iter().map(|&(at, ask)| ((at - since).as_secs(), ask)).collect()
    }
}

/// Beside its workers as the real one, with another endpoint.
struct With(Stub, Mode, Duration);

impl Companion for With {
    async fn run(self, beside: Beside) {
        let machine = Machine::new(self.1, self.2);
        Protecting::new(self.0, self.1, machine, beside).run().await;
    }
}

/// A worker whose handlers take as many seconds as their messages say.
async fn worker(bench: &Bench, takes: &[u64]) -> Builder {
    for (n, takes) in takes.iter().enumerate() {
        bench.send(&format!("job-{n}"), &takes.to_string()).await.unwrap();
    }
    bench
        .worker()
        .long_poll(secs(1))
        .handler(async |body: crate::extract::Text| {
            tokio::time::sleep(secs(body.parse().unwrap())).await;
            Ok::<(), Failure>(())
        })
}

async fn run_for(worker: Worker, time: Duration) -> WorkerHandle {
    let handle = worker.handle();
    let drain = async {
        tokio::time::sleep(time).await;
        handle.drain();
    };
    let (ended, ()) = tokio::join!(worker.run_until_drained(), drain);
    ended.unwrap();
    handle
}

const PROTECT: Ask = Ask::Protect { minutes: 10 };

#[tokio::test(start_paused = true)]
async fn a_job_of_a_quarter_of_an_hour_is_protected_renewed_and_released() {
    let (bench, stub) = (Bench::new("jobs", 1).unwrap(), Stub::default());
    let worker = worker(&bench, &[900])
        .await
        .beside(With(stub.clone(), Mode::Auto, MOST));
    let began = Clock::system().now();
    let handle = run_for(worker.build().unwrap(), secs(1_000)).await;
    assert_eq!(handle.status().totals.completed, 1);
    let asked = stub.asks(began);
    assert_eq!(
        asked,
        [(1, PROTECT), (301, PROTECT), (601, PROTECT), (915, Ask::Release)],
        "{asked:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_drain_releases_at_once_although_the_handler_runs_on() {
    let (bench, stub) = (Bench::new("jobs", 1).unwrap(), Stub::default());
    let worker = worker(&bench, &[120])
        .await
        .beside(With(stub.clone(), Mode::Auto, MOST));
    let began = Clock::system().now();
    let handle = run_for(worker.build().unwrap(), secs(60)).await;
    assert_eq!(handle.status().totals.completed, 1);
    assert!(Clock::system().now() - began >= secs(120));
    assert_eq!(stub.asks(began), [(1, PROTECT), (60, Ask::Release)]);
}

#[tokio::test(start_paused = true)]
async fn a_worker_that_ends_at_once_is_released_before_its_process_is_gone() {
    let (bench, stub) = (Bench::new("jobs", 1).unwrap(), Stub::default());
    let worker = worker(&bench, &[3_600])
        .await
        .beside(With(stub.clone(), Mode::Auto, MOST));
    let worker = worker.build().unwrap();
    let handle = worker.handle();
    let began = Clock::system().now();
    let stop = async {
        tokio::time::sleep(secs(10)).await;
        handle.stop();
    };
    let (ended, ()) = tokio::join!(worker.run_until_drained(), stop);
    ended.unwrap();
    assert_eq!(stub.asks(began), [(1, PROTECT), (10, Ask::Release)]);
    assert!(Clock::system().now() - began < secs(11));
}

#[tokio::test(start_paused = true)]
async fn a_release_that_is_under_way_when_the_worker_ends_is_not_broken_off() {
    let takes = Duration::from_millis(300);
    let stub = Stub {
        takes,
        ..Stub::default()
    };
    let bench = Bench::new("jobs", 1).unwrap();
    let worker = worker(&bench, &[3_600])
        .await
        .beside(With(stub.clone(), Mode::Auto, MOST));
    let worker = worker.drain_deadline(Duration::from_millis(400)).build().unwrap();
    let began = Clock::system().now();
    run_for(worker, secs(10)).await;
    let asked = stub.asks(began);
    assert_eq!(asked, [(1, PROTECT), (10, Ask::Release)]);
    assert!(Clock::system().now() - stub.asked.lock().unwrap()[1].0 >= takes);
}

#[tokio::test(start_paused = true)]
async fn a_drain_does_not_wait_for_a_call_that_asks_for_protection() {
    let stub = Stub {
        takes: secs(4),
        ..Stub::default()
    };
    let bench = Bench::new("jobs", 1).unwrap();
    let worker = worker(&bench, &[60]).await.beside(With(stub.clone(), Mode::Auto, MOST));
    let began = Clock::system().now();
    run_for(worker.build().unwrap(), secs(3)).await;
    // The first release may be overtaken by what was given up.
    let asked = stub.asks(began);
    assert_eq!(asked, [(1, PROTECT), (3, Ask::Release), (7, Ask::Release)]);
    let release = stub.asked.lock().unwrap()[1].0 - began;
    assert!(release <= Duration::from_millis(3_500), "{release:?}");
}

#[tokio::test(start_paused = true)]
async fn releases_that_hang_at_the_workers_end_are_over_within_the_companions_second() {
    let stub = Stub {
        hesitates: secs(86_400),
        ..Stub::default()
    };
    let bench = Bench::new("jobs", 1).unwrap();
    let worker = worker(&bench, &[3_600])
        .await
        .beside(With(stub.clone(), Mode::Auto, MOST));
    let worker = worker.drain_deadline(secs(1)).build().unwrap();
    let ended_at = Arc::new(Mutex::new(None));
    let handle = worker.handle();
    let noted = Arc::clone(&ended_at);
    let ended = async move {
        while !handle.status().ended {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        *noted.lock().unwrap() = Some(Clock::system().now());
    };
    let began = Clock::system().now();
    let ((), _) = tokio::join!(ended, run_for(worker, secs(10)));
    let took = Clock::system().now() - ended_at.lock().unwrap().unwrap();
    assert!(took < Duration::from_millis(950), "{took:?}");
    assert_eq!(stub.asks(began), [(1, PROTECT), (10, Ask::Release)]);
}

#[tokio::test(start_paused = true)]
async fn the_gauge_says_how_it_is_before_the_first_call_and_after_the_expiry() {
    use metrics_util::debugging::{DebugValue, DebuggingRecorder};
    let recorder = DebuggingRecorder::new();
    let snapshotter = recorder.snapshotter();
    // This test runs on one thread.
    let _recording = metrics::set_default_local_recorder(&recorder);
    let shown = || {
        let all = snapshotter.snapshot().into_vec();
        all.into_iter().find_map(|(key, _, _, value)| match value {
            DebugValue::Gauge(shown) if key.key().name() == PROTECTED.name => Some(shown.into_inner()),
            _ => None,
        })
    };
    let (bench, stub) = (Bench::new("jobs", 1).unwrap(), Stub::default());
    let mode = Mode::LongJobs(secs(20));
    let worker = worker(&bench, &[300]).await.beside(With(stub.clone(), mode, secs(60)));
    let began = Clock::system().now();
    let look = async {
        let mut all = Vec::new();
        for at in [10, 30, 75, 86] {
            tokio::time::sleep_until(began + secs(at)).await;
            all.push(shown());
        }
        all
    };
    let (_, shown) = tokio::join!(run_for(worker.build().unwrap(), secs(90)), look);
    // One call, for the one minute that is allowed.
    assert_eq!(stub.asks(began), [(20, Ask::Protect { minutes: 1 })]);
    assert_eq!(shown, [Some(0.0), Some(1.0), Some(1.0), Some(0.0)]);
}

#[tokio::test(start_paused = true)]
async fn the_log_does_not_say_protected_before_anything_was_asked() {
    let log = Log::default();
    let _logged = log.take();
    let (bench, stub) = (Bench::new("jobs", 1).unwrap(), Stub::default());
    let worker = worker(&bench, &[]).await.beside(With(stub.clone(), Mode::Auto, MOST));
    run_for(worker.build().unwrap(), secs(10)).await;
    assert!(stub.asked.lock().unwrap().is_empty());
    let said = log.text();
    let of_it: Vec<_> = said.lines().filter(|line| line.contains("scale-in")).collect();
    assert_eq!(of_it.len(), 1, "{said}");
    assert!(
        of_it[0].contains("asked for") && !of_it[0].contains("is protected"),
        "{said}"
    );
}

#[tokio::test(start_paused = true)]
async fn of_many_quick_messages_and_a_long_one_only_the_long_one_is_protected() {
    let (bench, stub) = (Bench::new("jobs", 1).unwrap(), Stub::default());
    let mode = Mode::LongJobs(secs(60));
    // Always busy, and never for a minute with one message.
    let quick: Vec<u64> = (0..100).map(|n| 20 + n % 30).collect();
    let built = worker(&bench, &quick)
        .await
        .concurrency(4)
        .beside(With(stub.clone(), mode, MOST));
    let began = Clock::system().now();
    let handle = run_for(built.build().unwrap(), secs(1_200)).await;
    assert_eq!(handle.status().totals.completed, 100);
    assert_eq!(stub.asks(began), []);

    let bench = Bench::new("jobs", 1).unwrap();
    let mut takes = quick;
    takes.insert(0, 200);
    let built = worker(&bench, &takes)
        .await
        .concurrency(4)
        .beside(With(stub.clone(), mode, MOST));
    let began = Clock::system().now();
    run_for(built.build().unwrap(), secs(1_200)).await;
    assert_eq!(stub.asks(began), [(60, PROTECT), (215, Ask::Release)]);
}

#[tokio::test(start_paused = true)]
async fn refusals_and_a_hanging_agent_hold_up_neither_work_nor_end() {
    let failure = || Trouble::Failure {
        reason: "DEPLOYMENT_BLOCKED".to_owned(),
        detail: String::new(),
    };
    let stub = Stub::default();
    stub.answers.lock().unwrap().extend([failure(), failure()]);
    let bench = Bench::new("jobs", 1).unwrap();
    let built = worker(&bench, &[60]).await.beside(With(stub.clone(), Mode::Auto, MOST));
    let began = Clock::system().now();
    let handle = run_for(built.build().unwrap(), secs(61)).await;
    assert_eq!(handle.status().totals.completed, 1);
    assert_eq!(
        stub.asks(began),
        [(1, PROTECT), (11, PROTECT), (31, PROTECT), (61, Ask::Release)]
    );

    let hangs = Stub {
        takes: secs(86_400),
        ..Stub::default()
    };
    let bench = Bench::new("jobs", 1).unwrap();
    let built = worker(&bench, &[5, 5, 5]).await.concurrency(1);
    let worker = built.beside(With(hangs.clone(), Mode::Auto, MOST)).build().unwrap();
    let began = Clock::system().now();
    let handle = run_for(worker, secs(16)).await;
    assert_eq!(handle.status().totals.completed, 3);
    assert!(Clock::system().now() - began < secs(19), "{:?}", hangs.asks(began));
}

#[tokio::test(start_paused = true)]
async fn several_workers_are_one_task() {
    let stub = Stub::default();
    let (orders, mails) = (Bench::new("orders", 1).unwrap(), Bench::new("mails", 2).unwrap());
    let (orders, mails) = (worker(&orders, &[20]).await, worker(&mails, &[60]).await);
    let workers = Workers::new()
        .with(orders.build().unwrap())
        .with(mails.build().unwrap())
        .beside(With(stub.clone(), Mode::Auto, MOST));
    let handle = workers.handle();
    let began = Clock::system().now();
    let drain = async {
        tokio::time::sleep(secs(30)).await;
        // One of them alone does not end the task.
        handle.workers()[0].drain();
        tokio::time::sleep(secs(50)).await;
        handle.drain();
    };
    let (ended, ()) = tokio::join!(workers.run_until_drained(), drain);
    ended.unwrap();
    assert_eq!(stub.asks(began), [(1, PROTECT), (75, Ask::Release)]);
}

#[tokio::test(start_paused = true)]
async fn without_an_endpoint_the_worker_works() {
    let bench = Bench::new("jobs", 1).unwrap();
    for wrong in ["", "https://169.254.170.2/api/1", "no address"] {
        let built = worker(&bench, &[1]).await;
        let built = built.beside(ScaleInProtection::auto().agent_uri(wrong));
        let handle = run_for(built.build().unwrap(), secs(10)).await;
        assert_eq!(handle.status().totals.completed + handle.status().totals.duplicates, 1);
    }
    assert_eq!(bench.queue().describe().await.unwrap().visible, 0);
}

fn variables<'a>(set: &'a [(&'a str, &'a str)]) -> impl Fn(&str) -> Option<String> + 'a {
    |name| {
        let found = set.iter().find(|(known, _)| *known == name)?;
        Some(found.1.to_owned())
    }
}

#[test]
fn the_variables_say_what_is_protected_and_for_how_long() {
    let made = |set: &[(&str, &str)]| ScaleInProtection::from_variables(variables(set)).unwrap();
    assert_eq!(made(&[]), ScaleInProtection::off());
    assert_eq!(made(&[("REDRIVE_SCALE_IN_PROTECTION", " ")]), ScaleInProtection::off());
    assert_eq!(
        made(&[("REDRIVE_SCALE_IN_PROTECTION", "auto")]),
        ScaleInProtection::auto()
    );
    let long = made(&[
        ("REDRIVE_SCALE_IN_PROTECTION", "long-jobs"),
        ("REDRIVE_PROTECTION_MAX", "48h"),
    ]);
    let wanted = ScaleInProtection::long_jobs().protection_max(secs(48 * 3_600)).unwrap();
    assert_eq!(long, wanted);
}

#[test]
fn inv12_what_cannot_be_right_is_refused_by_its_name_and_with_what_can() {
    for (name, wrong, allowed) in [
        ("REDRIVE_SCALE_IN_PROTECTION", "on", "off, auto or long-jobs"),
        ("REDRIVE_PROTECTION_MAX", "59s", "from 1m to 48h"),
        ("REDRIVE_PROTECTION_MAX", "49h", "from 1m to 48h"),
        ("REDRIVE_PROTECTION_MAX", "long", "from 1m to 48h"),
    ] {
        let refused = ScaleInProtection::from_variables(variables(&[(name, wrong)])).unwrap_err();
        let refused = refused.to_string();
        assert!(
            refused.contains(&format!("{name}=`{wrong}`")) && refused.contains(allowed),
            "{refused}"
        );
    }
    for wrong in [secs(59), secs(48 * 3_600 + 1)] {
        let refused = ScaleInProtection::auto().protection_max(wrong).unwrap_err().to_string();
        assert!(
            refused.contains("protection_max") && refused.contains("from 1m to 48h"),
            "{refused}"
        );
    }
}
