//! Drains the queue with beavers: one `App` of several subscriptions of the same queue, which share the slots.

use std::time::Duration;

use beavers::adapters::sqs::{Sqs, SqsRecord};
use beavers::{App, BoxError, Emit, Json, ProcessingOrder, Sink, Subscription};
use redrive_bench_peers::{Body, Run, Settings, number_of, shares};

/// Where nothing is published: the handlers emit nothing.
struct Nowhere;

impl Sink<()> for Nowhere {
    type Prepared = ();

    fn prepare(&self, (): ()) -> Result<(), BoxError> {
        Ok(())
    }

    async fn publish(&self, (): &()) -> Result<(), BoxError> {
        Ok(())
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let run = Run::new(Settings::from_env());
    let sqs = Sqs::new().endpoint_url(run.settings.endpoint.clone());
    let mut app = App::new();
    for (part, slots) in shares(run.slots(), run.sources(4, 2, 64)).enumerate() {
        let handler = {
            let run = run.clone();
            move |record: SqsRecord<Body>| {
                let run = run.clone();
                async move {
                    run.handle(&record.value, number_of(&record.metadata.message_id)).await;
                    Ok::<_, beavers::HandlerError>(Emit::<()>::None)
                }
            }
        };
        let source = sqs.source::<Json<Body>>(run.settings.queue_url.clone());
        app = app.subscription(
            Subscription::new_emitting(format!("bench-{part}"), source, Nowhere, handler)
                .concurrency(slots)
                // What waits behind its group must not keep other groups from being received.
                .max_in_flight(if run.settings.fifo { 4 * slots + 64 } else { slots + 64 })
                .ordering(ProcessingOrder::PerKey)
                .drain_timeout(Duration::from_secs(5)),
        );
    }
    app.run().await?;
    run.report("beavers", "0.0.2");
    Ok(())
}
