//! Drains the queue with redrive.

use std::sync::Arc;
use std::time::Duration;

use redrive::extract::{Json, State};
use redrive::handler::Context;
use redrive::{DynamoInbox, Failure, SqsQueue, Worker};
use redrive_bench_drivers::{Body, Task, Work, log_warnings};

async fn handle(State(work): State<Arc<Work>>, context: Context, Json(body): Json<Body>) -> Result<(), Failure> {
    work.handle(&context.message().id, &body).await;
    Ok(())
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    log_warnings();
    let task = Task::from_env();
    let work = Arc::new(Work::of(&task));
    let aws = aws_config::load_from_env().await;
    let mut worker = Worker::builder(SqsQueue::connect(&aws, &task.queue).await?)
        .state(Arc::clone(&work))
        .concurrency(task.concurrency)
        .drain_deadline(Duration::from_secs(5));
    if task.inbox {
        worker = worker.inbox(DynamoInbox::connect(&aws, &task.table).await?);
    }
    let worker = worker.handler(handle).build()?;
    worker.run().await?;
    work.answer("redrive", env!("CARGO_PKG_VERSION"));
    Ok(())
}
