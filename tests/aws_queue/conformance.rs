//! The suite that every queue passes, on LocalStack.

use std::sync::Arc;
use std::time::Duration;

use aws_sdk_sqs::types::QueueAttributeName;
use futures::future::BoxFuture;
use redrive::queue::Queue;

use crate::live::{Lab, redrive_policy};
use crate::queue_conformance::{self, Engine, QueueLab, Spec, for_each_case};

impl QueueLab for Lab {
    fn engine(&self) -> Engine {
        Engine::LocalStack
    }

    fn queue(&self, spec: Spec) -> BoxFuture<'_, Arc<dyn Queue>> {
        Box::pin(async move {
            let seconds = |duration: Duration| duration.as_secs().to_string();
            let (queue, dead) = if spec.fifo {
                ("case.fifo", "dead.fifo")
            } else {
                ("case", "dead")
            };
            let mut attributes: Vec<(QueueAttributeName, String)> = Vec::new();
            let mut set = |name, value: Option<String>| attributes.extend(value.map(|value| (name, value)));
            set(QueueAttributeName::VisibilityTimeout, spec.visibility.map(seconds));
            set(QueueAttributeName::DelaySeconds, spec.delay.map(seconds));
            set(
                QueueAttributeName::MaximumMessageSize,
                spec.max_message_bytes.map(|bytes| bytes.to_string()),
            );
            if let Some(receives) = spec.max_receive_count {
                let dead = self.queue_of(dead, &[]).await.attributes().arn.clone();
                set(QueueAttributeName::RedrivePolicy, Some(redrive_policy(&dead, receives)));
            }
            let yes = |set: bool, value: &str| set.then(|| value.to_owned());
            set(
                QueueAttributeName::ContentBasedDeduplication,
                yes(spec.content_based_deduplication, "true"),
            );
            set(
                QueueAttributeName::DeduplicationScope,
                yes(spec.deduplication_by_group, "messageGroup"),
            );
            set(
                QueueAttributeName::FifoThroughputLimit,
                yes(spec.deduplication_by_group, "perMessageGroupId"),
            );
            let attributes: Vec<_> = attributes
                .iter()
                .map(|(name, value)| (name.clone(), value.as_str()))
                .collect();
            Arc::new(self.queue_of(queue, &attributes).await) as Arc<dyn Queue>
        })
    }
}

macro_rules! on_localstack {
    ($($case:ident,)*) => {
        $(
            #[tokio::test]
            async fn $case() {
                if let Some(lab) = Lab::open() {
                    queue_conformance::$case(&lab).await;
                }
            }
        )*
    };
}

for_each_case!(on_localstack);
