//! What failed calls of the AWS SDK mean, in words that the queue and the inbox share.

use std::error::Error;
use std::sync::{Arc, OnceLock};

use aws_smithy_runtime_api::box_error::BoxError;
use aws_smithy_runtime_api::client::interceptors::context::BeforeTransmitInterceptorContextRef;
use aws_smithy_runtime_api::client::interceptors::{Intercept, dyn_dispatch_hint};
use aws_smithy_runtime_api::client::orchestrator::HttpResponse;
use aws_smithy_runtime_api::client::result::SdkError;
use aws_smithy_runtime_api::client::runtime_components::RuntimeComponents;
use aws_smithy_types::config_bag::ConfigBag;
use aws_smithy_types::error::metadata::ProvideErrorMetadata;

use crate::outcome::Chain;
use crate::transport;

/// The most characters of a service's own words that go into an error.
const MAX_DETAIL: usize = 600;

/// What kind of failure a call ended in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FailureKind {
    /// No connection, no answer in time, an answer that cannot be read, or a failure on the service's side.
    Unavailable,
    /// The service asks for fewer calls.
    Throttled,
    /// The service knows who calls and does not allow it.
    AccessDenied,
    /// No credentials could be loaded, or they have expired: that passes when their provider recovers.
    NoCredentials,
    /// The credentials are wrong, or this host's clock is.
    WrongCredentials,
    /// Understood and refused, or never sent; [`CallFailure::code`] says why.
    Refused,
}

/// One failed call of the AWS SDK.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct CallFailure {
    /// What kind of failure it is.
    pub(crate) kind: FailureKind,
    /// The service's error code as it gave it; a word of ours (`Timeout`, `NoConnection`, …) where it gave none.
    pub(crate) code: String,
    /// What is known of the failure, and what to do where that is known.
    pub(crate) detail: String,
    /// The AWS request id.
    pub(crate) request_id: Option<String>,
}

impl CallFailure {
    fn local(kind: FailureKind, code: &str, detail: String) -> Self {
        Self {
            kind,
            code: code.to_owned(),
            detail,
            request_id: None,
        }
    }

    /// The error code without its namespace, as [`short_code`].
    pub(crate) fn short_code(&self) -> &str {
        short_code(&self.code)
    }
}

/// An error code without its namespace: services answer `com.amazonaws.sqs#QueueDoesNotExist`,
/// `AWS.SimpleQueueService.NonExistentQueue` and plain names for the same things.
pub(crate) fn short_code(code: &str) -> &str {
    code.rsplit(['#', '.']).next().unwrap_or(code)
}

/// Reads what an SDK error means. `endpoint` is where the call went, as far as known.
pub(crate) fn call_failure<E>(error: &SdkError<E, HttpResponse>, endpoint: Option<&str>) -> CallFailure
where
    E: ProvideErrorMetadata + Error + 'static,
{
    let at = endpoint.unwrap_or("the service");
    match error {
        SdkError::ServiceError(refusal) => {
            let metadata = refusal.err().meta();
            let status = refusal.raw().status().as_u16();
            let code = metadata.code().filter(|code| !code.is_empty());
            let said = metadata.message().filter(|said| !said.is_empty());
            CallFailure {
                request_id: request_id(refusal.raw()),
                ..answered(status, code, said.or_else(|| excerpt(refusal.raw())), at)
            }
        }
        SdkError::ResponseError(unreadable) => CallFailure {
            kind: FailureKind::Unavailable,
            code: "UnreadableAnswer".to_owned(),
            detail: format!(
                "{at} answered HTTP {} with something that is not this API's answer: {}",
                unreadable.raw().status().as_u16(),
                excerpt(unreadable.raw()).map_or_else(|| chain(error), |said| clip(transport::without_headers(said))),
            ),
            request_id: request_id(unreadable.raw()),
        },
        SdkError::TimeoutError(_) => CallFailure::local(
            FailureKind::Unavailable,
            "Timeout",
            format!("no answer from {at} in time ({})", chain(error)),
        ),
        SdkError::DispatchFailure(failure) if failure.is_timeout() => CallFailure::local(
            FailureKind::Unavailable,
            "Timeout",
            format!("no connection to or no answer from {at} in time ({})", chain(error)),
        ),
        // A connection that breaks under a request is of kind `other` to the SDK, with its retry kind set; what fails before
        // there is a connection, such as loading credentials, is of the same kind without one.
        SdkError::DispatchFailure(failure) if failure.is_io() || failure.as_other().is_some() => {
            no_connection(error, at)
        }
        SdkError::DispatchFailure(failure) if !failure.is_user() => {
            before_sending(&chain(error)).unwrap_or_else(|| no_connection(error, at))
        }
        SdkError::DispatchFailure(_) | SdkError::ConstructionFailure(_) => {
            let words = chain(error);
            before_sending(&words).unwrap_or_else(|| {
                CallFailure::local(
                    FailureKind::Refused,
                    "NotSent",
                    format!("the request could not be made ({words})"),
                )
            })
        }
        other => CallFailure::local(FailureKind::Unavailable, "Unknown", chain(other)),
    }
}

fn no_connection(error: &(dyn Error + 'static), at: &str) -> CallFailure {
    CallFailure::local(
        FailureKind::Unavailable,
        "NoConnection",
        format!(
            "no connection to {at}, or it broke ({}); check the endpoint, the region, DNS and the network",
            chain(error)
        ),
    )
}

/// Causes within this process: the SDK has one untyped error for all of them, so its words are all there is to tell them
/// apart.
fn before_sending(words: &str) -> Option<CallFailure> {
    if let Some(at) = words.find(PLAIN_HTTP) {
        let why = words[at + PLAIN_HTTP.len()..].to_owned();
        return Some(CallFailure::local(FailureKind::Refused, "PlainHttp", why));
    }
    let lower = words.to_ascii_lowercase();
    if lower.contains("credential") || lower.contains("identity") {
        return Some(CallFailure::local(
            FailureKind::NoCredentials,
            "NoCredentials",
            format!(
                "no AWS credentials could be loaded ({words}); set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, a profile, \
                 or a role for this process"
            ),
        ));
    }
    (lower.contains("region must be set") || lower.contains("missing region")).then(|| {
        CallFailure::local(
            FailureKind::Refused,
            "NoRegion",
            format!("no AWS region is set ({words}); set AWS_REGION or the region of the SDK's configuration"),
        )
    })
}

/// An error that the service answered with, by its code, else by its HTTP status.
fn answered(status: u16, code: Option<&str>, said: Option<&str>, at: &str) -> CallFailure {
    let kind = code.map_or(FailureKind::Refused, kind_of_code);
    let kind = match (kind, status) {
        (FailureKind::Refused, 429) => FailureKind::Throttled,
        (FailureKind::Refused, 500..) => FailureKind::Unavailable,
        // Something else than the service answers there: a proxy, a login page, another server.
        (FailureKind::Refused, ..=399) if code.is_none() => FailureKind::Unavailable,
        (FailureKind::Refused, 401 | 403) if code.is_none() => FailureKind::AccessDenied,
        (kind, _) => kind,
    };
    let code = code.map_or_else(|| format!("Http{status}"), ToOwned::to_owned);
    let said = said.map_or_else(
        || format!("{at} answered HTTP {status} and no reason"),
        |said| clip(transport::without_headers(said)),
    );
    let detail = match (kind, short_code(&code)) {
        (FailureKind::Unavailable, _) => format!("{at} answered HTTP {status} ({code}): {said}"),
        (FailureKind::NoCredentials, _) => {
            format!("the AWS credentials in use have expired: {said}; renew them, or use a provider that does")
        }
        (FailureKind::WrongCredentials, "RequestExpired" | "RequestTimeTooSkewed") => {
            format!("the request's time was not accepted: {said}; set this host's clock")
        }
        (FailureKind::WrongCredentials, _) => {
            format!(
                "the AWS credentials in use are not accepted: {said}; check which account and keys this process has"
            )
        }
        _ => said,
    };
    CallFailure::local(kind, &code, detail)
}

/// What a service's error code means, where all of AWS means the same by it.
pub(crate) fn kind_of_code(code: &str) -> FailureKind {
    // Codes of the key service come through the services that use it, and an access denied by a key is not one by the
    // queue or table: it stays a refusal under its own name.
    if code.starts_with("KMS.") || short_code(code).starts_with("Kms") {
        return match short_code(code) {
            "ThrottlingException" | "KmsThrottled" => FailureKind::Throttled,
            _ => FailureKind::Refused,
        };
    }
    match short_code(code) {
        "Throttling"
        | "ThrottlingException"
        | "ThrottledException"
        | "RequestThrottled"
        | "RequestThrottledException"
        | "TooManyRequestsException"
        | "ProvisionedThroughputExceededException"
        | "ProvisionedThroughputExceeded"
        | "RequestLimitExceeded"
        | "SlowDown" => FailureKind::Throttled,
        "AccessDenied"
        | "AccessDeniedException"
        | "AuthorizationError"
        | "AuthorizationErrorException"
        | "UnauthorizedOperation"
        | "OptInRequired" => FailureKind::AccessDenied,
        "ExpiredToken" | "ExpiredTokenException" => FailureKind::NoCredentials,
        "InvalidClientTokenId"
        | "UnrecognizedClientException"
        | "InvalidSecurityToken"
        | "InvalidAccessKeyId"
        | "InvalidSignatureException"
        | "SignatureDoesNotMatch"
        | "IncompleteSignature"
        | "MissingAuthenticationToken"
        | "MissingAuthenticationTokenException"
        | "NotAuthorized"
        | "RequestExpired"
        | "RequestTimeTooSkewed" => FailureKind::WrongCredentials,
        "InternalError"
        | "InternalFailure"
        | "InternalServerError"
        | "ServiceUnavailable"
        | "ServiceUnavailableException" => FailureKind::Unavailable,
        _ => FailureKind::Refused,
    }
}

/// The id AWS gave a request, from the answer's headers.
pub(crate) fn request_id(response: &HttpResponse) -> Option<String> {
    let headers = response.headers();
    headers
        .get("x-amzn-requestid")
        .or_else(|| headers.get("x-amz-request-id"))
        .filter(|id| !id.is_empty())
        .map(ToOwned::to_owned)
}

fn excerpt(response: &HttpResponse) -> Option<&str> {
    let body = std::str::from_utf8(response.body().bytes()?).ok()?.trim();
    (!body.is_empty()).then_some(body)
}

/// An error and its causes in one line, each said once.
fn chain(error: &(dyn Error + 'static)) -> String {
    clip(&Chain(error).to_string())
}

fn clip(text: &str) -> String {
    let one_line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    match one_line.char_indices().nth(MAX_DETAIL) {
        Some((end, _)) => format!("{}…", &one_line[..end]),
        None => one_line,
    }
}

/// What marks the refusal of plain HTTP among the SDK's words about it.
const PLAIN_HTTP: &str = "nothing was sent: ";

/// Remembers where a client's calls go, so that an error can name the endpoint: the SDK resolves it from the region, the
/// environment, profiles and settings, and tells it nowhere else. For the same reason it is what refuses plain HTTP to other
/// hosts, before a call is signed. Add a clone to the client as an interceptor.
#[derive(Clone, Debug)]
pub struct EndpointProbe {
    found: Arc<OnceLock<String>>,
    /// Found, and not refused: what every call but the first goes to.
    passed: Arc<OnceLock<String>>,
    allow_http: bool,
}

impl EndpointProbe {
    /// `allow_http` lets calls go to other hosts in the clear.
    #[must_use]
    pub fn new(allow_http: bool) -> Self {
        Self {
            found: Arc::default(),
            passed: Arc::default(),
            allow_http,
        }
    }

    /// Scheme, host and port of the first request, once one was about to be sent.
    pub(crate) fn endpoint(&self) -> Option<&str> {
        self.found.get().map(String::as_str)
    }
}

#[dyn_dispatch_hint]
impl Intercept for EndpointProbe {
    fn name(&self) -> &'static str {
        "EndpointProbe"
    }

    fn read_before_signing(
        &self,
        context: &BeforeTransmitInterceptorContextRef<'_>,
        _components: &RuntimeComponents,
        _config: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        let url = context.request().uri();
        let at = origin(url);
        if self.passed.get().is_some_and(|passed| passed == at) {
            return Ok(());
        }
        if self.found.get().is_none() {
            let _ = self.found.set(at.to_owned());
        }
        match transport::exposed_host(url) {
            Some(host) if !self.allow_http => Err(format!("{PLAIN_HTTP}{}", transport::refusal(host)).into()),
            _ => {
                let _ = self.passed.set(at.to_owned());
                Ok(())
            }
        }
    }
}

/// Scheme, host and port of a URL.
pub(crate) fn origin(url: &str) -> &str {
    let host_at = url.find("://").map_or(0, |at| at + 3);
    let end = url[host_at..]
        .find(['/', '?', '#'])
        .map_or(url.len(), |at| host_at + at);
    &url[..end]
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn a_code_means_the_same_with_and_without_its_namespace() {
        for code in [
            "QueueDoesNotExist",
            "com.amazonaws.sqs#QueueDoesNotExist",
            "AWS.SimpleQueueService.QueueDoesNotExist",
        ] {
            assert_eq!(short_code(code), "QueueDoesNotExist");
        }
        assert_eq!(
            kind_of_code("com.amazon.coral.service#ThrottlingException"),
            FailureKind::Throttled
        );
        assert_eq!(kind_of_code("AccessDeniedException"), FailureKind::AccessDenied);
        assert_eq!(kind_of_code("KMS.AccessDeniedException"), FailureKind::Refused);
        assert_eq!(kind_of_code("KMS.ThrottlingException"), FailureKind::Throttled);
        assert_eq!(kind_of_code("InvalidParameterValue"), FailureKind::Refused);
    }

    #[test]
    fn an_answer_without_a_code_is_judged_by_its_status() {
        let kind = |status| answered(status, None, None, "http://host").kind;
        assert_eq!(kind(429), FailureKind::Throttled);
        assert_eq!(kind(503), FailureKind::Unavailable);
        assert_eq!(kind(403), FailureKind::AccessDenied);
        assert_eq!(kind(400), FailureKind::Refused);
        assert_eq!(kind(200), FailureKind::Unavailable);
        let failure = answered(503, None, None, "http://host");
        assert_eq!(failure.code, "Http503");
        assert!(failure.detail.contains("http://host"), "{}", failure.detail);
    }

    #[test]
    fn causes_are_told_once_and_bounded() {
        #[derive(Debug, thiserror::Error)]
        #[error("outer")]
        struct Outer(#[source] Inner);
        #[derive(Debug, thiserror::Error)]
        #[error("{0}")]
        struct Inner(String);
        assert_eq!(chain(&Outer(Inner("outer".into()))), "outer");
        assert_eq!(chain(&Outer(Inner("inner\n  cause".into()))), "outer: inner cause");
        assert_eq!(chain(&Outer(Inner("é".repeat(5_000)))).chars().count(), MAX_DETAIL + 1);
    }

    #[test]
    fn an_origin_is_scheme_host_and_port() {
        assert_eq!(
            origin("http://localhost:4566/000000000000/q?x"),
            "http://localhost:4566"
        );
        assert_eq!(
            origin("https://sqs.eu-west-1.amazonaws.com"),
            "https://sqs.eu-west-1.amazonaws.com"
        );
    }
}
