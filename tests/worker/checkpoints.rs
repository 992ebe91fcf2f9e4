//! What a run kept is there for the next one, also where the message never left the worker in between.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use redrive::Failure;
use redrive::extract::Checkpoint;
use redrive::faults::{Fault, Operation};
use redrive::flow::BreakerState;

use crate::support::{Rig, Running, secs, sleep, start};

/// A handler of two steps: the first is counted by key and kept, the second calls what is down.
#[derive(Clone, Default)]
struct TwoSteps {
    first: Arc<AtomicU32>,
    down: Arc<AtomicBool>,
}

impl TwoSteps {
    fn down() -> Self {
        let steps = Self::default();
        steps.down.store(true, Ordering::SeqCst);
        steps
    }

    fn start(&self, rig: &Rig) -> Running {
        let steps = self.clone();
        let handler = move |checkpoint: Checkpoint| {
            let steps = steps.clone();
            async move {
                if checkpoint.load::<String>().await?.is_none() {
                    steps.first.fetch_add(1, Ordering::SeqCst);
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
    // Every save has its effect and is answered by an error, which the handler fails with.
    rig.inbox.faults().fail_next(Operation::Write, 6, Fault::After);
    let steps = TwoSteps::down();
    let running = steps.start(&rig);
    until_open(&running).await;
    sleep(secs(12 * 60)).await;
    steps.down.store(false, Ordering::SeqCst);
    rig.emptied(&running).await;
    running.drain().await;
    assert_eq!(steps.first(), 6, "a step that was kept was made again");
}
