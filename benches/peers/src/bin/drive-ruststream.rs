//! Drains the queue with RustStream and its SQS broker: one definition mounted several times, which share the workers.

use std::num::NonZeroUsize;
use std::time::Duration;

use redrive_bench_peers::{Body, Run, Settings, shares};
use ruststream_sqs_sns::prelude::*;
use std::sync::Arc;

/// One message a call.
struct Work(Arc<Run>);

impl Handle<Body> for Work {
    async fn handle(&self, body: &Body, _outs: &(), _ctx: &mut Context<'_>) -> Result<(), HandlerOutcome> {
        self.0.handle(body, None).await;
        Ok(())
    }
}

fn count(n: usize) -> NonZeroUsize {
    NonZeroUsize::new(n).unwrap_or(NonZeroUsize::MIN)
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let run = Run::new(Settings::from_env());
    let broker = SqsBroker::new().endpoint(run.settings.endpoint.clone());
    let mounted = run.clone();
    RustStream::new(AppInfo::new("bench", "0.0.0"))
        .shutdown_timeout(Duration::from_secs(5))
        .with_broker(broker, move |b| {
            for workers in shares(mounted.slots(), mounted.sources(8, 2, 32)) {
                let queue = SqsQueue::new(mounted.settings.queue_url.clone());
                let definition = subscriber("bench", Work(mounted.clone()));
                if mounted.settings.fifo {
                    b.include(definition.workers_by_key(count(workers)).build().map_source(|_| queue));
                } else {
                    b.include(definition.workers(count(workers)).build().map_source(|_| queue));
                }
            }
        })
        .run()
        .await?;
    run.report("ruststream-sqs-sns", "0.7.1");
    Ok(())
}
