//! Deliveries whose worker, inbox or lease failed.

use redrive::faults::{Operation, Rates};

use crate::collected::{Layer, error, install, text};
use crate::support::{Rig, secs, start};

#[tokio::test(start_paused = true)]
async fn a_claim_that_fails_is_a_child_with_its_error_and_the_next_try_another() {
    let (all, _guard) = install(Layer::Disabled);
    let rig = Rig::named("unclaimed", |queue| queue);
    rig.send("k", "1").await;
    rig.inbox.faults().set(Operation::Claim, Rates::new().before(1.0));
    let running = start(rig.worker().handler(rig.succeeds()).build().unwrap());
    running.until("it failed", |_| rig.inbox.faults().injected() > 0).await;
    rig.inbox.faults().heal();
    rig.emptied(&running).await;
    running.drain().await;
    let tree = all.delivery("unclaimed");
    let claims: Vec<_> = tree.rest.iter().filter(|span| span.name == "claim unclaimed").collect();
    let (last, failed) = claims.split_last().unwrap();
    assert!(!failed.is_empty());
    for claim in failed {
        assert_eq!(error(claim).as_deref(), Some("inbox_unavailable"));
        assert_eq!(claim.parent_span_id, tree.id());
    }
    assert_eq!(
        (error(last), text(last, "redrive.claim").as_deref()),
        (None, Some("claimed"))
    );
    assert_eq!(error(&tree.root), None, "it came well in the end");
}

#[tokio::test(start_paused = true)]
async fn a_delivery_whose_lease_was_lost_says_so_and_that_its_run_was_stopped() {
    let (all, _guard) = install(Layer::Disabled);
    let rig = Rig::named("lost", |queue| queue);
    rig.send("k", "1").await;
    let running = start(rig.worker().handler(rig.takes(secs(600))).build().unwrap());
    running.until("it runs", |status| status.running == 1).await;
    rig.inbox.faults().set(Operation::Write, Rates::new().before(1.0));
    running.until("it is lost", |status| status.totals.lost == 1).await;
    running.crash().await;
    let tree = &all.deliveries("lost")[0];
    assert_eq!(error(&tree.root).as_deref(), Some("lost"));
    assert_eq!(tree.is("redrive.outcome").as_deref(), Some("lost"));
    assert_eq!(error(tree.child("handle")).as_deref(), Some("stopped"));
}

#[tokio::test(start_paused = true)]
async fn what_a_worker_that_ends_at_once_has_in_its_hands_is_told_of_as_unsettled() {
    let (all, _guard) = install(Layer::Disabled);
    let rig = Rig::named("stopped", |queue| queue);
    rig.send("k", "1").await;
    let running = start(rig.worker().handler(rig.takes(secs(600))).build().unwrap());
    running.until("it runs", |status| status.running == 1).await;
    running.crash().await;
    let tree = all.delivery("stopped");
    assert_eq!(tree.is("redrive.outcome").as_deref(), Some("unsettled"));
    assert_eq!(error(&tree.root).as_deref(), Some("unsettled"));
    assert_eq!(error(tree.child("handle")).as_deref(), Some("stopped"));
}

#[tokio::test(start_paused = true)]
async fn what_a_drain_gives_back_is_released_and_no_error() {
    let (all, _guard) = install(Layer::Disabled);
    let rig = Rig::named("drained", |queue| queue);
    rig.send_many(2).await;
    let running = start(rig.worker().concurrency(1).handler(rig.takes(secs(5))).build().unwrap());
    running
        .until("one runs, one waits", |status| {
            status.running == 1 && status.waiting == 1
        })
        .await;
    running.drain().await;
    let trees = all.deliveries("drained");
    let released = trees
        .iter()
        .find(|tree| tree.is("redrive.outcome").unwrap() == "released")
        .unwrap();
    assert_eq!(released.names(), ["claim drained", "settle drained"]);
    assert_eq!(error(&released.root), None);
}
