//! What a run kept is there for the next one, also where the message never left the worker in between.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use redrive::extract::{Checkpoint, CheckpointError};
use redrive::faults::{Fault, Operation};
use redrive::flow::BreakerState;
use redrive::worker::Totals;
use redrive::{Failure, FailureExt as _};

use crate::support::{Rig, Running, secs, sleep, start};

/// A handler of two steps: the first is counted by key and kept, the second calls what is down.
#[derive(Clone, Default)]
struct TwoSteps {
    first: Arc<AtomicU32>,
    down: Arc<AtomicBool>,
    /// Already the first step is down.
    first_down: Arc<AtomicBool>,
    /// A save has its effect and is answered by an error.
    reply_lost: Arc<AtomicBool>,
}

impl TwoSteps {
    fn down() -> Self {
        let steps = Self::default();
        steps.down.store(true, Ordering::SeqCst);
        steps
    }

    fn start(&self, rig: &Rig) -> Running {
        let steps = self.clone();
        let faults = rig.inbox.faults().clone();
        let handler = move |checkpoint: Checkpoint| {
            let (steps, faults) = (steps.clone(), faults.clone());
            async move {
                if checkpoint.load::<String>().await?.is_none() {
                    if steps.first_down.load(Ordering::SeqCst) {
                        return Err(Failure::retry("connection refused"));
                    }
                    steps.first.fetch_add(1, Ordering::SeqCst);
                    if steps.reply_lost.load(Ordering::SeqCst) {
                        faults.fail_next(Operation::Write, 1, Fault::After);
                    }
                    checkpoint.save("charged").await?;
                }
                sleep(secs(1)).await;
                if steps.down.load(Ordering::SeqCst) {
                    return Err(Failure::retry("connection refused"));
                }
                Ok(())
            }
        };
        start(rig.worker().max_attempts(50).handler(handler).build().unwrap())
    }

    fn first(&self) -> u32 {
        self.first.load(Ordering::SeqCst)
    }
}

async fn until_open(running: &Running) {
    let is_open = |state| matches!(state, Some(BreakerState::Open { .. }));
    running
        .until("the breaker is open", |status| is_open(status.breaker))
        .await;
}

#[tokio::test(start_paused = true)]
async fn inv04_a_run_again_in_an_outage_sees_what_the_run_before_it_kept() {
    let rig = Rig::new();
    rig.send_many(6).await;
    let steps = TwoSteps::down();
    let running = steps.start(&rig);
    until_open(&running).await;
    sleep(secs(12 * 60)).await;
    assert!(running.status().totals.uncounted_failures >= 3, "probes ran");
    steps.down.store(false, Ordering::SeqCst);
    rig.emptied(&running).await;
    running.drain().await;
    assert_eq!(steps.first(), 6, "a step that was kept was made again");
}

/// Whether it was kept nobody knows, so the inbox is asked.
#[tokio::test(start_paused = true)]
async fn inv04_a_checkpoint_whose_reply_was_lost_is_looked_up_before_the_run_again() {
    let rig = Rig::new();
    rig.send_many(6).await;
    let steps = TwoSteps::down();
    steps.first_down.store(true, Ordering::SeqCst);
    steps.reply_lost.store(true, Ordering::SeqCst);
    let running = steps.start(&rig);
    until_open(&running).await;
    // The probes now save, and fail with what they are answered: they stay held, as it is an outage.
    steps.first_down.store(false, Ordering::SeqCst);
    sleep(secs(12 * 60)).await;
    assert!(rig.inbox.faults().injected() > 0, "a probe saved");
    steps.down.store(false, Ordering::SeqCst);
    rig.emptied(&running).await;
    running.drain().await;
    assert_eq!(steps.first(), 6, "a step that was kept was made again");
}

/// A wrapper of a handler's own, with the save's error as its source.
#[derive(Debug, thiserror::Error)]
#[error("step 1 could not be kept")]
struct StepError(#[from] CheckpointError);

/// Runs one message whose first 8 saves an outage of the inbox meets, with 2 attempts; what became of it.
async fn saves_in_an_outage(fail: fn(CheckpointError) -> Failure) -> (usize, Totals) {
    let rig = Rig::new();
    rig.send("k", "1").await;
    let (faults, runs) = (rig.inbox.faults().clone(), Arc::new(AtomicU32::new(0)));
    let handler = move |checkpoint: Checkpoint| {
        let (faults, runs) = (faults.clone(), Arc::clone(&runs));
        async move {
            let away = runs.fetch_add(1, Ordering::SeqCst) < 8;
            faults.set_unreachable(away);
            let saved = checkpoint.save("begun").await;
            faults.set_unreachable(false);
            saved.map_err(fail)
        }
    };
    let running = start(rig.worker().max_attempts(2).handler(handler).build().unwrap());
    rig.emptied(&running).await;
    let totals = running.drain().await.totals;
    if rig.dead.is_empty() {
        assert_eq!(rig.record("k").unwrap().attempts, 0);
    }
    (rig.dead.len(), totals)
}

#[tokio::test(start_paused = true)]
async fn inv09_a_save_that_an_outage_of_the_inbox_fails_is_no_attempt() {
    let ways: [fn(CheckpointError) -> Failure; 3] = [
        |error| error.into(),
        |error| StepError(error).into(),
        |error| Err::<(), _>(error).retry_after(secs(3)).unwrap_err(),
    ];
    for fail in ways {
        let (dead, totals) = saves_in_an_outage(fail).await;
        assert_eq!((dead, totals.completed, totals.uncounted_failures), (0, 1, 8));
    }
}

/// The handler decides: what it rejects is a dead letter, whatever the error was.
#[tokio::test(start_paused = true)]
async fn inv09_a_save_that_fails_and_is_rejected_is_a_dead_letter() {
    let (dead, totals) = saves_in_an_outage(|error| Err::<(), _>(error).reject().unwrap_err()).await;
    assert_eq!((dead, totals.completed), (1, 0));
}

/// The message's own fault, which no waiting mends, counts.
#[tokio::test(start_paused = true)]
async fn inv09_a_save_that_the_inbox_refuses_is_an_attempt() {
    let rig = Rig::new();
    rig.send("k", "1").await;
    let handler = |checkpoint: Checkpoint| async move {
        checkpoint.save(&"x".repeat(1 << 20)).await?;
        Ok::<(), Failure>(())
    };
    let running = start(rig.worker().max_attempts(2).handler(handler).build().unwrap());
    rig.emptied(&running).await;
    let letter = rig.letters().pop().unwrap();
    assert_eq!((letter.reason.as_str(), letter.attempts), ("attempts_exhausted", 2));
    running.drain().await;
}
