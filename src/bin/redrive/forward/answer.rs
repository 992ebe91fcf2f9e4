//! What an HTTP answer means for the message.

use std::time::Duration;

use redrive::Failure as HandlerFailure;
use redrive::flow::parse_retry_after;
use reqwest::header::{LOCATION, RETRY_AFTER};
use reqwest::{Response, StatusCode};

/// The most bytes of an answer that are read to say what it was.
pub(super) const EXCERPT_READ: usize = 4 * 1024;

/// The most characters of an answer that are told.
const EXCERPT: usize = 600;

/// What becomes of the message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Done,
    /// Again, as late as the answer says.
    Again(Option<Duration>),
    /// A redirect: the endpoint moved, and the message cannot help it.
    Moved,
    Never,
}

/// An answer whose body was not read yet.
#[derive(Debug)]
pub(super) struct Answer {
    status: StatusCode,
    pub(super) verdict: Verdict,
    location: Option<String>,
}

impl Answer {
    pub(super) fn of(response: &Response, now_epoch_ms: u64, again_on: &[u16]) -> Self {
        let header = |name| response.headers().get(name).and_then(|value| value.to_str().ok());
        let status = response.status();
        Self {
            status,
            verdict: verdict(status.as_u16(), header(RETRY_AFTER), now_epoch_ms, again_on),
            location: header(LOCATION).map(str::to_owned),
        }
    }

    /// The failure that it is, with what the body says of it.
    pub(super) fn failure(&self, body: &[u8]) -> HandlerFailure {
        let said = told(self.status, body);
        match self.verdict {
            Verdict::Again(Some(delay)) => HandlerFailure::retry_after(said, delay),
            Verdict::Moved => {
                let to = self.location.as_deref().unwrap_or("nowhere");
                let to: String = crate::ui::safe(to).chars().take(200).collect();
                tracing::warn!(
                    status = self.status.as_u16(), location = %to,
                    "the endpoint answers with a redirect, which is not followed; give --to the new place"
                );
                HandlerFailure::retry(format_args!("{said}: a redirect to {to}, which is not followed"))
            }
            Verdict::Never => HandlerFailure::reject(said).because(format!("http_{}", self.status.as_u16())),
            Verdict::Done | Verdict::Again(None) => HandlerFailure::retry(said),
        }
    }
}

fn verdict(status: u16, retry_after: Option<&str>, now_epoch_ms: u64, again_on: &[u16]) -> Verdict {
    match status {
        200..=299 => Verdict::Done,
        300..=399 => Verdict::Moved,
        400..=499 if status != 408 && status != 429 && !again_on.contains(&status) => Verdict::Never,
        _ => Verdict::Again(retry_after.and_then(|value| parse_retry_after(value, now_epoch_ms))),
    }
}

/// The status and the beginning of the body, on one line.
fn told(status: StatusCode, body: &[u8]) -> String {
    let mut said = format!("HTTP {}", status.as_u16());
    if let Some(reason) = status.canonical_reason() {
        said.push(' ');
        said.push_str(reason);
    }
    let body = String::from_utf8_lossy(body);
    let words: Vec<&str> = body.split_whitespace().collect();
    if !words.is_empty() {
        let body = words.join(" ");
        let excerpt: String = body.chars().take(EXCERPT).collect();
        said.push_str(": ");
        said.push_str(&excerpt);
        if excerpt.len() < body.len() {
            said.push('…');
        }
    }
    said
}

/// An error with its sources, each said once.
pub(super) fn chain(error: &dyn std::error::Error) -> String {
    let mut said = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        let text = error.to_string();
        if !said.contains(&text) {
            said.push_str(": ");
            said.push_str(&text);
        }
        source = error.source();
    }
    said
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn the_table_of_answers() {
        let again = Verdict::Again(None);
        for (status, expected) in [
            (200, Verdict::Done),
            (204, Verdict::Done),
            (299, Verdict::Done),
            (301, Verdict::Moved),
            (307, Verdict::Moved),
            (400, Verdict::Never),
            (401, Verdict::Never),
            (404, Verdict::Never),
            (408, again),
            (409, Verdict::Never),
            (422, Verdict::Never),
            (429, again),
            (499, Verdict::Never),
            (500, again),
            (501, again),
            (503, again),
            (599, again),
            (700, again),
        ] {
            assert_eq!(verdict(status, None, 0, &[]), expected, "{status}");
        }
        assert_eq!(verdict(404, None, 0, &[401, 404]), again);
        for status in [408, 429, 500, 503] {
            let seven = Some(Duration::from_secs(7));
            assert_eq!(verdict(status, Some("7"), 0, &[]), Verdict::Again(seven));
            assert_eq!(verdict(status, Some("soon"), 0, &[]), again);
        }
    }

    #[test]
    fn an_answer_is_told_in_one_bounded_line() {
        let said = told(StatusCode::UNPROCESSABLE_ENTITY, b"{\n  \"error\": \"no such card\"\n}");
        assert_eq!(said, "HTTP 422 Unprocessable Entity: { \"error\": \"no such card\" }");
        assert_eq!(told(StatusCode::BAD_GATEWAY, b" \n"), "HTTP 502 Bad Gateway");
        let long = told(StatusCode::BAD_REQUEST, "ä".repeat(2_000).as_bytes());
        assert!(long.chars().count() < EXCERPT + 40 && long.ends_with('…'), "{long}");
    }
}
