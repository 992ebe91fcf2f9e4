//! What CloudWatch measures of queues: <https://docs.aws.amazon.com/AWSSimpleQueueService/latest/SQSDeveloperGuide/sqs-available-cloudwatch-metrics.html>.

use std::time::Duration;

use aws_config::SdkConfig;
use aws_config::retry::RetryConfig;
use aws_config::timeout::TimeoutConfig;
use aws_sdk_cloudwatch::Client;
use aws_sdk_cloudwatch::error::{ProvideErrorMetadata as _, SdkError};
use aws_sdk_cloudwatch::primitives::DateTime;
use aws_sdk_cloudwatch::types::{Dimension, Metric, MetricDataQuery, MetricDataResult, MetricStat, ScanBy};
use redrive::transport::{self, EndpointProbe};

/// The metrics, and how a minute's are summed up.
const METRICS: [(&str, &str); 4] = [
    ("ApproximateAgeOfOldestMessage", "Maximum"),
    ("NumberOfMessagesSent", "Sum"),
    ("NumberOfMessagesReceived", "Sum"),
    ("NumberOfMessagesDeleted", "Sum"),
];

/// One measure, in seconds.
const PERIOD: u32 = 60;

/// How far back is looked: measures come late by some minutes.
const WINDOW: Duration = Duration::from_secs(15 * 60);

/// Over how many of the latest measures a rate is the mean.
const MEAN_OF: usize = 5;

/// How long it may take: the rest of the answer waits for it.
const PATIENCE: Duration = Duration::from_secs(5);

/// What CloudWatch knows of a queue.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Measured {
    pub(super) oldest_age_s: Option<f64>,
    pub(super) sent_per_s: Option<f64>,
    pub(super) received_per_s: Option<f64>,
    pub(super) deleted_per_s: Option<f64>,
    pub(super) at_ms: Option<u64>,
}

/// CloudWatch.
pub(super) struct Meter {
    client: Client,
}

impl Meter {
    pub(super) fn new(config: &SdkConfig) -> Self {
        let config = aws_sdk_cloudwatch::config::Builder::from(config)
            .retry_config(RetryConfig::standard().with_max_attempts(2))
            .timeout_config(
                TimeoutConfig::builder()
                    .connect_timeout(PATIENCE / 2)
                    .operation_timeout(PATIENCE)
                    .build(),
            )
            .interceptor(EndpointProbe::new(transport::is_allowed()))
            .build();
        Self {
            client: Client::from_conf(config),
        }
    }

    /// What is known of these queues, by one call; or why nothing is.
    pub(super) async fn measure(&self, queues: &[&str], now_ms: u64) -> Result<Vec<Measured>, String> {
        let end = i64::try_from(now_ms / 1_000).unwrap_or(i64::MAX);
        let start = end.saturating_sub(i64::try_from(WINDOW.as_secs()).unwrap_or(0));
        let call = self
            .client
            .get_metric_data()
            .start_time(DateTime::from_secs(start))
            .end_time(DateTime::from_secs(end))
            .scan_by(ScanBy::TimestampDescending)
            .set_metric_data_queries(Some(queries(queues)));
        match Box::pin(call.send()).await {
            Ok(answer) => Ok(read(answer.metric_data_results(), queues.len())),
            Err(error) => Err(match error.code() {
                Some(code) if code.contains("AccessDenied") || code.contains("NotAuthorized") => {
                    format!("CloudWatch does not allow it ({code}); allow `cloudwatch:GetMetricData`")
                }
                Some(code) => format!(
                    "CloudWatch refused ({code}): {}",
                    error.message().map_or("it says no more", transport::without_headers)
                ),
                None => format!("CloudWatch {}", unanswered(&error)),
            }),
        }
    }
}

/// Why there was no answer, in a few words.
fn unanswered<E, R>(error: &SdkError<E, R>) -> String {
    match error {
        SdkError::TimeoutError(_) => format!("did not answer within {} s", PATIENCE.as_secs()),
        SdkError::DispatchFailure(failure) if failure.is_timeout() => {
            "cannot be reached: no connection in time".to_owned()
        }
        SdkError::DispatchFailure(failure) if failure.is_io() => "cannot be reached".to_owned(),
        SdkError::DispatchFailure(_) | SdkError::ConstructionFailure(_) => {
            "cannot be asked: the call could not be made; see to the region and the credentials".to_owned()
        }
        _ => "gave an answer that cannot be read".to_owned(),
    }
}

/// Why nothing is known although CloudWatch answered.
pub(super) fn nothing<'a>(measured: impl IntoIterator<Item = &'a Measured>) -> Option<String> {
    let none = measured.into_iter().all(|measured| *measured == Measured::default());
    none.then(|| {
        let minutes = WINDOW.as_secs() / 60;
        format!(
            "CloudWatch has no measure of the last {minutes} minutes; SQS measures no queue that was idle for hours, and \
             a queue of another account is measured there"
        )
    })
}

/// The queries' ids say which queue and metric: `q0m2`.
fn queries(queues: &[&str]) -> Vec<MetricDataQuery> {
    let mut queries = Vec::new();
    for (queue, name) in queues.iter().enumerate() {
        for (metric, (metric_name, statistic)) in METRICS.iter().enumerate() {
            let dimension = Dimension::builder().name("QueueName").value(*name).build();
            let what = Metric::builder()
                .namespace("AWS/SQS")
                .metric_name(*metric_name)
                .dimensions(dimension);
            let period = i32::try_from(PERIOD).unwrap_or(60);
            let how = MetricStat::builder()
                .metric(what.build())
                .period(period)
                .stat(*statistic);
            let query = MetricDataQuery::builder()
                .id(format!("q{queue}m{metric}"))
                .metric_stat(how.build());
            queries.push(query.build());
        }
    }
    queries
}

fn read(results: &[MetricDataResult], queues: usize) -> Vec<Measured> {
    let mut measured = vec![Measured::default(); queues];
    for result in results {
        let place = result.id().and_then(|id| id.strip_prefix('q')?.split_once('m'));
        let place =
            place.and_then(|(queue, metric)| Some((queue.parse::<usize>().ok()?, metric.parse::<usize>().ok()?)));
        let Some((queue, metric)) = place else { continue };
        let Some(measured) = measured.get_mut(queue) else {
            continue;
        };
        let values = result.values();
        let Some(&latest) = values.first() else { continue };
        let some = values.len().min(MEAN_OF);
        let per_s = values.iter().take(some).sum::<f64>() / (some as f64 * f64::from(PERIOD));
        match metric {
            0 => measured.oldest_age_s = Some(latest),
            1 => measured.sent_per_s = Some(per_s),
            2 => measured.received_per_s = Some(per_s),
            3 => measured.deleted_per_s = Some(per_s),
            _ => {}
        }
        let at = result
            .timestamps()
            .first()
            .and_then(|at| u64::try_from(at.secs()).ok())
            .map(|at| at * 1_000);
        measured.at_ms = measured.at_ms.max(at);
    }
    measured
}
