//! Whether an answer is the service's own.

use aws_sdk_dynamodb::config::interceptors::AfterDeserializationInterceptorContextRef;
use aws_sdk_dynamodb::config::{ConfigBag, Intercept, RuntimeComponents};
use aws_sdk_dynamodb::error::BoxError;

/// Refuses an HTTP 200 that holds no JSON object. To the SDK such an answer is one whose members are all left out, and the
/// answer to a write needs none: a proxy's empty page would pass for a claim that was made. DynamoDB's own says at least `{}`.
/// The SDK does not try again what an interceptor refuses; the worker does.
#[derive(Clone, Copy, Debug)]
pub(super) struct Genuine;

impl Intercept for Genuine {
    fn name(&self) -> &'static str {
        "redrive::Genuine"
    }

    fn read_after_deserialization(
        &self,
        context: &AfterDeserializationInterceptorContextRef<'_>,
        _components: &RuntimeComponents,
        _cfg: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        let body = context.response().body().bytes().unwrap_or_default();
        if context.output_or_error().is_ok() && body.trim_ascii_start().first() != Some(&b'{') {
            return Err("the answer holds no JSON object, so that nothing says that the call was made".into());
        }
        Ok(())
    }
}
