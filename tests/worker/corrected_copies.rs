//! A copy with another payload, while what was sent before it under its key is not quite gone from the worker.

use redrive::faults::Operation;
use redrive::inbox::Status;
use redrive::{Context, Failure};

use crate::support::{Rig, keyed, secs, start};

/// The first delivery's visibility change is slow, so that it is still being given back when the corrected copy comes.
#[tokio::test(start_paused = true)]
async fn inv01_a_corrected_copy_that_comes_while_its_forerunner_goes_back_is_no_mismatch() {
    let rig = Rig::new();
    rig.send("k", "wrong").await;
    rig.queue.faults().slow_next(Operation::ChangeVisibility, 1, secs(6));
    let handler = rig.runs(|context: Context| async move {
        match context.message().body.as_str() {
            "wrong" => Err(Failure::retry_after("wrong", secs(3600))),
            _ => Ok(()),
        }
    });
    let running = start(rig.worker().handler(handler).build().unwrap());
    running
        .until("it is released", |_| {
            rig.record("k").is_some_and(|record| record.status == Status::Released)
        })
        .await;
    rig.send("k", "right").await;
    running.until("the copy ran", |_| rig.log.done() == 1).await;
    assert!(rig.dead.is_empty(), "{:?}", rig.reasons());
    running.crash().await;
}

#[tokio::test(start_paused = true)]
async fn inv01_a_corrected_copy_that_comes_while_its_forerunners_letter_is_sent_is_no_mismatch() {
    let rig = Rig::new();
    rig.send("k", "wrong").await;
    rig.dead.faults().slow_next(Operation::Send, 1, secs(6));
    let handler = rig.runs(|context: Context| async move {
        match context.message().body.as_str() {
            "wrong" => Err(Failure::reject("wrong")),
            _ => Ok(()),
        }
    });
    let running = start(rig.worker().handler(handler).build().unwrap());
    running
        .until("it is rejected", |_| {
            rig.record("k").is_some_and(|record| record.status == Status::Rejected)
        })
        .await;
    rig.put(keyed("k", "right")).await;
    running.until("the copy ran", |_| rig.log.done() == 1).await;
    assert_eq!(rig.reasons(), ["rejected"]);
    running.drain().await;
}
