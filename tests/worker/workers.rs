//! Several workers in one process, and signals.

use redrive::worker::Workers;
use redrive::{Error, MemoryQueue};
use tokio::task::JoinSet;

use crate::support::{DAY, Rig, ms, now, secs, sleep};

fn spawn(workers: Workers) -> JoinSet<Result<(), Error>> {
    let mut tasks = JoinSet::new();
    tasks.spawn(workers.run_until_drained());
    tasks
}

#[tokio::test(start_paused = true)]
async fn workers_have_slots_of_their_own_and_drain_together() {
    let (orders, mails) = (Rig::new(), Rig::named("mails", |queue| queue));
    orders.send_many(100).await;
    mails.send_many(10).await;
    let slow = orders
        .worker()
        .concurrency(4)
        .handler(orders.takes(secs(60)))
        .build()
        .unwrap();
    let fast = mails.worker().concurrency(4).handler(mails.succeeds()).build().unwrap();
    let workers = Workers::new().with(slow).with(fast).drain_deadline(secs(30));
    let handle = workers.handle();
    let mut tasks = spawn(workers);
    sleep(secs(3)).await;
    assert_eq!(
        (orders.log.peak(), mails.log.done()),
        (4, 10),
        "a slow queue takes nobody else's slots"
    );
    assert!(handle.is_healthy());
    assert_eq!(
        handle
            .status()
            .iter()
            .map(|status| status.name.clone())
            .collect::<Vec<_>>(),
        ["orders", "mails"]
    );
    assert_eq!(handle.workers().len(), 2);
    let began = now();
    handle.drain();
    tasks.join_next().await.unwrap().unwrap().unwrap();
    assert!(now() - began <= secs(30), "one deadline for all");
    assert_eq!((orders.queue.visible(), orders.log.running()), (100, 0));
    assert!(!handle.is_healthy() && handle.status().iter().all(|status| status.ended));
}

#[tokio::test(start_paused = true)]
async fn none_starts_if_the_preflight_of_one_fails() {
    let (good, bad) = (Rig::new(), Rig::named("bad", |queue| queue));
    good.send("k", "1").await;
    let short = MemoryQueue::builder("short-dlq").retention(DAY).build().unwrap();
    let one = good.worker().handler(good.succeeds()).build().unwrap();
    let two = bad.worker().dead_letter(short).handler(bad.succeeds()).build().unwrap();
    let mut tasks = spawn(Workers::new().with(one).with(two));
    let error = tasks.join_next().await.unwrap().unwrap().unwrap_err();
    assert!(error.to_string().contains("`bad` does not start"), "{error}");
    assert_eq!((good.log.len(), good.queue.calls().receive), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn all_stop_at_once() {
    let (one, two) = (Rig::new(), Rig::named("mails", |queue| queue));
    one.send("k", "1").await;
    two.send("k", "1").await;
    let workers = Workers::new()
        .with(one.worker().handler(one.takes(secs(600))).build().unwrap())
        .with(two.worker().handler(two.takes(secs(600))).build().unwrap());
    let handle = workers.handle();
    let mut tasks = spawn(workers);
    sleep(secs(2)).await;
    let began = now();
    handle.stop();
    tasks.join_next().await.unwrap().unwrap().unwrap();
    assert_eq!(now(), began);
    assert_eq!((one.log.running(), two.log.running()), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn one_workers_open_breaker_pauses_only_itself() {
    let (down, up) = (Rig::new(), Rig::named("mails", |queue| queue));
    down.send_many(50).await;
    up.send_many(50).await;
    let workers = Workers::new()
        .with(down.worker().handler(down.fails()).build().unwrap())
        .with(up.worker().handler(up.takes(ms(100))).build().unwrap());
    let handle = workers.handle();
    let tasks = spawn(workers);
    sleep(secs(10)).await;
    let states: Vec<_> = handle
        .status()
        .iter()
        .map(|status| status.breaker.unwrap().is_closed())
        .collect();
    assert_eq!((states, up.log.done()), (vec![false, true], 50));
    drop(tasks);
}

/// Raises a signal to this process, which listens for it by then.
#[cfg(unix)]
fn raise(signal: &str) {
    let id = std::process::id().to_string();
    let sent = std::process::Command::new("kill").args([signal, &id]).status().unwrap();
    assert!(sent.success());
}

#[cfg(unix)]
#[tokio::test]
async fn inv08_sigterm_drains_and_a_second_one_stops_at_once() {
    let rig = Rig::new();
    rig.send_many(2).await;
    let hangs = || {
        rig.runs(|_| async {
            std::future::pending::<()>().await;
            Ok(())
        })
    };
    let worker = rig.worker().handler(hangs()).build().unwrap();
    let idle = Rig::named("idle", |queue| queue);
    let together = Workers::new().with(
        idle.worker()
            .long_poll(ms(100))
            .handler(idle.succeeds())
            .build()
            .unwrap(),
    );
    let (one, all) = (worker.handle(), together.handle());
    let mut tasks = JoinSet::new();
    tasks.spawn(worker.run());
    tasks.spawn(together.run());
    while one.status().running < 2 || !all.is_healthy() {
        sleep(ms(5)).await;
    }
    raise("-TERM");
    while !one.status().draining {
        sleep(ms(5)).await;
    }
    // The idle ones drain and end; the hung handlers go on until they are told again.
    tasks.join_next().await.unwrap().unwrap().unwrap();
    assert!(all.status()[0].ended && !one.status().ended && rig.log.running() == 2);
    raise("-INT");
    tasks.join_next().await.unwrap().unwrap().unwrap();
    assert_eq!((rig.log.running(), rig.queue.len()), (0, 2));
}
