//! Reads the `Date` of every answer of an SDK client.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::UNIX_EPOCH;

use aws_sdk_dynamodb::config::interceptors::{
    BeforeDeserializationInterceptorContextRef, BeforeTransmitInterceptorContextRef,
};
use aws_sdk_dynamodb::config::{ConfigBag, Intercept, RuntimeComponents};
use aws_sdk_dynamodb::error::BoxError;
use aws_smithy_types::config_bag::{Storable, StoreReplace};

use crate::clock::{Clock, Moment};
use crate::inbox::service_clock::{Observed, SharedServiceClock};
use crate::telemetry::{self, INBOX_CLOCK_RESTARTS, NAME};

/// Notes when each attempt was sent, and hands the `Date` of its answer to the service clock.
#[derive(Debug)]
pub(super) struct Dating {
    pub(super) table: Arc<str>,
    pub(super) clock: Clock,
    pub(super) service: SharedServiceClock,
    /// Whether the service was seen to name its answers.
    pub(super) named: AtomicBool,
}

#[derive(Clone, Copy, Debug)]
struct SentAt(Moment);

impl Storable for SentAt {
    type Storer = StoreReplace<Self>;
}

impl Intercept for Dating {
    fn name(&self) -> &'static str {
        "redrive::Dating"
    }

    fn read_before_transmit(
        &self,
        _context: &BeforeTransmitInterceptorContextRef<'_>,
        _components: &RuntimeComponents,
        cfg: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        cfg.interceptor_state().store_put(SentAt(self.clock.moment()));
        Ok(())
    }

    fn read_after_transmit(
        &self,
        context: &BeforeDeserializationInterceptorContextRef<'_>,
        _components: &RuntimeComponents,
        cfg: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        let headers = context.response().headers();
        // A proxy on the way answers by its own clock. DynamoDB names every answer; a service that names none is taken at
        // its word.
        if headers.get("x-amzn-requestid").is_some() {
            self.named.store(true, Ordering::Relaxed);
        } else if self.named.load(Ordering::Relaxed) {
            return Ok(());
        }
        let date = headers.get("date").and_then(date_s);
        if let (Some(SentAt(sent)), Some(date)) = (cfg.load::<SentAt>().copied(), date)
            && self.service.answered(&sent, &self.clock.moment(), date) == Observed::StartedOver
        {
            telemetry::counter(&INBOX_CLOCK_RESTARTS, &[(NAME, &self.table)]).increment(1);
            tracing::warn!(table = %self.table, "the inbox's clock jumped, or its hosts disagree: both count until another answer agrees with one");
        }
        Ok(())
    }
}

/// The seconds since 1970 of an HTTP date.
fn date_s(text: &str) -> Option<u64> {
    let date = httpdate::parse_http_date(text).ok()?;
    date.duration_since(UNIX_EPOCH).ok().map(|since| since.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_date_is_read_and_anything_else_is_none() {
        assert_eq!(date_s("Thu, 01 Jan 1970 00:01:00 GMT"), Some(60));
        assert_eq!(date_s("yesterday"), None);
        assert_eq!(date_s(""), None);
    }
}
