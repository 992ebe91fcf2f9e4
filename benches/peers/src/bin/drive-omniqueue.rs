//! Drains the queue with omniqueue: several loops over `receive_all`, a task per delivery, an `ack` each.
//!
//! omniqueue hands over deliveries and has no runtime, so how many are handled at once is the application's: a
//! semaphore here. Its acknowledgement takes no slot.

use std::sync::Arc;
use std::time::Duration;

use omniqueue::backends::SqsBackend;
use redrive_bench_peers::{Body, Run, Settings};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;

/// What one call brings at most.
const BATCH: usize = 10;
const POLL: Duration = Duration::from_secs(20);

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let run = Run::new(Settings::from_env());
    let consumer = Arc::new(
        SqsBackend::builder(run.settings.queue_url.clone())
            .build_consumer()
            .await
            .map_err(Box::new)?,
    );
    let slots = Arc::new(Semaphore::new(run.settings.concurrency));
    let (stop, stopped) = watch::channel(false);
    let receivers = if run.settings.fifo {
        run.slots()
    } else {
        run.sources(8, 4, 32)
    };
    let mut loops = JoinSet::new();
    for _ in 0..receivers {
        let (run, consumer, slots, mut stopped) = (run.clone(), consumer.clone(), slots.clone(), stopped.clone());
        loops.spawn(async move {
            let mut acks = JoinSet::new();
            loop {
                while acks.try_join_next().is_some() {}
                let received = tokio::select! {
                    biased;
                    _ = stopped.wait_for(|stopped| *stopped) => break,
                    received = consumer.receive_all(BATCH, POLL) => received,
                };
                let deliveries = match received {
                    Ok(deliveries) => deliveries,
                    Err(error) => {
                        eprintln!("{error}");
                        tokio::time::sleep(Duration::from_secs(1)).await;
                        continue;
                    }
                };
                for delivery in deliveries {
                    let Ok(slot) = slots.clone().acquire_owned().await else {
                        return;
                    };
                    let body = match delivery.payload_serde_json::<Body>() {
                        Ok(Some(body)) => body,
                        other => {
                            eprintln!("no body: {:?}", other.err());
                            continue;
                        }
                    };
                    if run.settings.fifo {
                        // Nothing tells a delivery's group: what one call brings is handled in its order.
                        run.handle(&body, None).await;
                        drop(slot);
                        acks.spawn(acknowledge(delivery));
                    } else {
                        let run = run.clone();
                        acks.spawn(async move {
                            run.handle(&body, None).await;
                            drop(slot);
                            acknowledge(delivery).await;
                        });
                    }
                }
                if run.settings.fifo {
                    while acks.join_next().await.is_some() {}
                }
            }
            while acks.join_next().await.is_some() {}
        });
    }
    signal(SignalKind::terminate())?.recv().await;
    stop.send_replace(true);
    // A receive that was given up may have brought messages: they are seen again when their timeout is over.
    let _ = tokio::time::timeout(Duration::from_secs(5), async {
        while loops.join_next().await.is_some() {}
    })
    .await;
    run.report("omniqueue", "0.3.0");
    Ok(())
}

async fn acknowledge(delivery: omniqueue::Delivery) {
    if let Err((error, _)) = delivery.ack().await {
        eprintln!("{error}");
    }
}
