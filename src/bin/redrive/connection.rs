//! Reaching AWS: which account and region, and the queues and tables a command names.

use aws_config::{BehaviorVersion, Region, SdkConfig};
use clap::Args;
use redrive::queue::{Queue as _, QueueError};
use redrive::{DynamoInbox, SqsQueue};

use crate::failure::Failure;
use crate::ui::Ui;

/// Which AWS account and endpoint.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "AWS")]
pub(crate) struct ConnectionFlags {
    /// The profile of the AWS configuration files; AWS_PROFILE unless given.
    #[arg(long, global = true, value_name = "NAME")]
    profile: Option<String>,

    /// The region; AWS_REGION or the profile's unless given.
    #[arg(long, global = true, value_name = "REGION")]
    region: Option<String>,

    /// Where calls go instead of AWS; AWS_ENDPOINT_URL, or its variant for one service, unless given.
    #[arg(long, global = true, value_name = "URL")]
    endpoint_url: Option<String>,
}

/// A connection to AWS.
#[derive(Clone, Debug)]
pub(crate) struct Aws {
    config: SdkConfig,
}

/// A dead-letter queue and where its letters come from.
#[derive(Debug)]
pub(crate) struct DeadLetters {
    /// The dead-letter queue.
    pub(crate) queue: SqsQueue,
    /// The queue whose name led here, if it was not the dead-letter queue's own.
    pub(crate) named_source: Option<SqsQueue>,
    /// The URLs of the queues whose redrive policies name it, as far as they may be listed.
    pub(crate) sources: Vec<String>,
}

impl ConnectionFlags {
    pub(crate) async fn connect(&self) -> Aws {
        let mut loader = aws_config::defaults(BehaviorVersion::latest());
        if let Some(profile) = &self.profile {
            loader = loader.profile_name(profile);
        }
        if let Some(region) = &self.region {
            loader = loader.region(Region::new(region.clone()));
        }
        if let Some(url) = &self.endpoint_url {
            loader = loader.endpoint_url(url);
        }
        Aws {
            config: loader.load().await,
        }
    }
}

impl DeadLetters {
    /// The name that keys of these letters are most likely kept under where a letter does not name its source: that of the one
    /// queue they come from. None where they come from several.
    pub(crate) fn likely_consumer(&self) -> Option<String> {
        if let Some(source) = &self.named_source {
            return Some(source.attributes().name.clone());
        }
        match self.sources.as_slice() {
            [only] => only.rsplit('/').next().map(str::to_owned),
            _ => None,
        }
    }
}

impl Aws {
    pub(crate) fn config(&self) -> &SdkConfig {
        &self.config
    }

    /// The queue with this name, URL or ARN.
    pub(crate) async fn queue(&self, named: &str) -> Result<SqsQueue, Failure> {
        Ok(SqsQueue::connect(&self.config, named).await?)
    }

    /// The inbox table of this name.
    pub(crate) async fn inbox(&self, table: &str) -> Result<DynamoInbox, Failure> {
        Ok(DynamoInbox::connect(&self.config, table).await?)
    }

    /// The dead-letter queue that is meant by a name, URL or ARN: the queue's own dead-letter queue where it has one, else
    /// itself, where other queues have it for theirs. With `exact` it is the queue itself in any case.
    pub(crate) async fn dead_letters(&self, named: &str, exact: bool, ui: &Ui) -> Result<DeadLetters, Failure> {
        let queue = self.queue(named).await?;
        let attributes = queue.attributes();
        if !exact && let Some(policy) = &attributes.redrive {
            if let Some(problem) = queue.dead_letter_problem() {
                return Err(Failure::new(format_args!(
                    "the dead letters of `{}`: {problem}",
                    attributes.name
                )));
            }
            let dead = self.queue(&policy.dead_letter_arn).await?;
            let sources = sources(&dead, ui).await?.unwrap_or_default();
            return Ok(DeadLetters {
                queue: dead,
                named_source: Some(queue),
                sources,
            });
        }
        let sources = sources(&queue, ui).await?;
        if !exact && sources.as_ref().is_some_and(Vec::is_empty) {
            return Err(Failure::new(format_args!(
                "`{name}` is nobody's dead-letter queue: no queue's redrive policy names it, and it has no redrive policy \
                 itself (it holds about {} messages, {} of them in flight)",
                attributes.visible + attributes.in_flight + attributes.delayed,
                attributes.in_flight,
                name = attributes.name,
            ))
            .remedy(
                "give the queue whose messages died; or, if this queue's source was deleted or its policy changed, add \
                 --exact to take it as it is (a look at a queue spends one receive of every message in it)",
            ));
        }
        Ok(DeadLetters {
            queue,
            named_source: None,
            sources: sources.unwrap_or_default(),
        })
    }
}

/// The queue's name in an ARN.
pub(crate) fn name_in(arn: &str) -> &str {
    arn.rsplit(':').next().unwrap_or(arn)
}

/// The sources of a dead-letter queue; `None` where they may not be listed.
async fn sources(queue: &SqsQueue, ui: &Ui) -> Result<Option<Vec<String>>, Failure> {
    match queue.sources().await {
        Ok(sources) => Ok(Some(sources)),
        Err(error @ QueueError::AccessDenied { .. }) => {
            ui.warn(format_args!(
                "which queues have it for their dead-letter queue is not known: {error}"
            ));
            Ok(None)
        }
        Err(error) => Err(error.into()),
    }
}
