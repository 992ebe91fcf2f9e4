//! The embedded queue, held to what every queue must do, in virtual time.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

#[path = "support/queue_conformance.rs"]
mod queue_conformance;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use futures::future::BoxFuture;
use queue_conformance::{Engine, QueueLab, Spec};
use redrive::queue::{MemoryQueue, Queue};

#[derive(Default)]
struct Embedded {
    made: AtomicUsize,
}

impl QueueLab for Embedded {
    fn engine(&self) -> Engine {
        Engine::Embedded
    }

    fn queue(&self, spec: Spec) -> BoxFuture<'_, Arc<dyn Queue>> {
        let made = self.made.fetch_add(1, Ordering::Relaxed);
        let suffix = if spec.fifo { ".fifo" } else { "" };
        let mut builder = MemoryQueue::builder(format!("q{made}{suffix}"))
            .content_based_deduplication(spec.content_based_deduplication)
            .deduplication_by_group(spec.deduplication_by_group);
        if let Some(visibility) = spec.visibility {
            builder = builder.visibility_timeout(visibility);
        }
        if let Some(delay) = spec.delay {
            builder = builder.delay(delay);
        }
        if let Some(bytes) = spec.max_message_bytes {
            builder = builder.max_message_bytes(bytes);
        }
        if let Some(receives) = spec.max_receive_count {
            let dead = MemoryQueue::new(format!("dead{made}{suffix}")).expect("the name is plain");
            builder = builder.dead_letter(&dead, receives);
        }
        let queue = builder.build().expect("the suite asks for queues that can be");
        Box::pin(async move { Arc::new(queue) as Arc<dyn Queue> })
    }
}

macro_rules! tests {
    ($($case:ident,)*) => {
        $(
            #[tokio::test(start_paused = true)]
            async fn $case() {
                queue_conformance::$case(&Embedded::default()).await;
            }
        )*
    };
}

queue_conformance::for_each_case!(tests);
