//! What was running when its process died, or seemed to have died.

use crate::support::{Rig, secs, sleep, start};

/// A worker of 64 long jobs dies; the one that is left brings them all to their end, a few at a time.
#[tokio::test(start_paused = true)]
async fn inv05_suspects_are_not_hoarded_and_get_their_turn_soon() {
    let rig = Rig::new();
    rig.send_many(64).await;
    let lease = secs(15 * 60);
    let worker = |time| rig.worker().lease(lease).concurrency(64).handler(rig.takes(time)).build().unwrap();
    let first = start(worker(secs(36_000)));
    first.until("all run", |status| status.running == 64).await;
    first.crash().await;
    let begun = rig.clock.epoch_ms();
    let second = start(worker(secs(60)));
    let mut most = 0;
    while !rig.queue.is_empty() {
        most = most.max(second.status().waiting);
        sleep(secs(1)).await;
        assert!(rig.clock.epoch_ms() - begun < 4 * 3_600_000, "{} are left", rig.queue.len());
    }
    assert!(most <= 40, "{most} held at once");
    assert_eq!((rig.log.done(), rig.dead.len()), (64, 0));
    second.drain().await;
}
