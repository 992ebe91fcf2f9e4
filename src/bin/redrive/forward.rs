//! `redrive forward`: each message as a POST to an HTTP endpoint, with a worker around it.

mod answer;
mod headers;
mod sign;

use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use redrive::clock::Clock;
use redrive::outcome::StoredResult;
use redrive::transport;
use redrive::{Context, Failure as HandlerFailure, Outcome as HandlerOutcome};
use reqwest::header::HeaderMap;
use reqwest::{Client, Response, Url, redirect};

use crate::connection::Aws;
use crate::failure::{Failure, Outcome};
use crate::run::{Job, WorkerFlags, stored};
use crate::ui::Ui;
use crate::values::duration_within;
use answer::{Answer, Verdict};
use sign::Secrets;

pub(crate) const EXAMPLES: &str = "\
The answer decides: 2xx is done (its body is the result); 408, 429 and 5xx are tried again, as late as Retry-After says; \
any other 4xx is a dead letter. No answer within the timeout (30s unless set), a broken connection, and a redirect, which \
is not followed, are tried again.

Every setting of the worker is a flag or a variable (in brackets); a flag wins. Logs go to standard error, what was done to \
standard output. Ctrl-C or SIGTERM ends in order, with exit code 0.

Examples:
  redrive forward orders --to http://localhost:8080/orders --table redrive-inbox
  redrive forward orders --to https://a.example/in --table inbox --sign-secret-env HOOK_SECRET
  redrive forward orders --to https://a.example/in --table inbox --header-env Authorization=API_AUTH
  redrive forward orders --to http://localhost:8080/ --no-inbox --until-empty";

/// How long an answer may take, unless set.
const TIMEOUT: Duration = Duration::from_secs(30);

const MOST_CONNECT: Duration = Duration::from_secs(60 * 60);

/// What the worker's own timeout is beyond ours.
const BACKSTOP: Duration = Duration::from_secs(5);

/// What `redrive forward` is asked.
#[derive(Args, Debug)]
pub(crate) struct Forward {
    /// The queue to work on: its name, URL or ARN.
    queue: String,

    /// Where each message is posted.
    #[arg(long, value_name = "URL")]
    to: String,

    /// A header to send along; may be given several times.
    #[arg(long, value_name = "NAME: VALUE")]
    header: Vec<String>,

    /// A header whose value is in an environment variable, for secrets; may be given several times.
    #[arg(long, value_name = "NAME=VARIABLE")]
    header_env: Vec<String>,

    /// The environment variable that holds the secret to sign with (HMAC-SHA256 in the header `Redrive-Signature`). Given
    /// twice while a secret is being changed: then both sign.
    #[arg(long, value_name = "VARIABLE")]
    sign_secret_env: Vec<String>,

    /// Answers that are tried again although they would be dead letters, such as 401,404.
    #[arg(long, value_name = "STATUS", value_delimiter = ',', value_parser = clap::value_parser!(u16).range(400..500))]
    again_on: Vec<u16>,

    /// How long connecting may take, within the timeout.
    #[arg(long, value_name = "DURATION", value_parser = duration_within(Duration::from_millis(1), MOST_CONNECT), default_value = "5s")]
    connect_timeout: Duration,

    #[command(flatten)]
    worker: WorkerFlags,
}

/// What posts messages.
struct Poster {
    client: Client,
    url: Url,
    fixed: HeaderMap,
    secrets: Secrets,
    again_on: Vec<u16>,
    timeout: Duration,
    max_result: usize,
    clock: Clock,
}

impl Forward {
    pub(crate) async fn run(&self, aws: &Aws, ui: &Ui) -> Outcome {
        let job = Job {
            flags: &self.worker,
            queue: &self.queue,
            aws,
            ui,
        };
        let environment = |name: &str| std::env::var(name).ok();
        let timeout = job.timeout(TIMEOUT)?;
        let poster = Arc::new(Poster {
            client: self.client()?,
            url: endpoint(&self.to, transport::is_allowed())?,
            fixed: headers::fixed(&self.header, &self.header_env, environment)?,
            secrets: Secrets::read(&self.sign_secret_env, environment)?,
            again_on: self.again_on.clone(),
            timeout,
            max_result: job.max_result()?,
            clock: Clock::system(),
        });
        let handler = move |context: Context| {
            let poster = Arc::clone(&poster);
            async move { poster.post(&context).await }
        };
        job.work(handler, timeout + BACKSTOP).await
    }

    fn client(&self) -> Result<Client, Failure> {
        Client::builder()
            // Nothing that an answer says makes the worker call anything else.
            .redirect(redirect::Policy::none())
            .referer(false)
            .connect_timeout(self.connect_timeout)
            .build()
            .map_err(|error| Failure::new(format_args!("the HTTP client cannot start: {}", answer::chain(&error))))
    }
}

/// The endpoint in `--to`.
fn endpoint(text: &str, allow_http: bool) -> Result<Url, Failure> {
    let wrong = |why: &str| {
        Failure::usage(format_args!("--to `{}`: {why}", crate::ui::safe(text)))
            .remedy("give a whole URL such as https://shop.example/hooks/orders")
    };
    let url = Url::parse(text).map_err(|error| wrong(&error.to_string()))?;
    if !matches!(url.scheme(), "http" | "https") {
        return Err(wrong("only http and https are spoken"));
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err(Failure::usage(
            "--to holds a user name or a password, which would be seen in the list of processes",
        )
        .remedy("put `Basic …` in a variable and give --header-env 'Authorization=VARIABLE'"));
    }
    if !allow_http && let Some(host) = transport::exposed_host(url.as_str()) {
        return Err(Failure::usage(format_args!("--to: {}", transport::refusal(host))));
    }
    Ok(url)
}

impl Poster {
    async fn post(&self, context: &Context) -> HandlerOutcome {
        let begun = self.clock.now();
        let mut sent = headers::of_message(context);
        for name in self.fixed.keys() {
            sent.remove(name);
        }
        for (name, value) in &self.fixed {
            sent.append(name, value.clone());
        }
        if let Some(signature) = self.secrets.sign(self.clock.epoch_ms() / 1_000, &sent, context) {
            sent.insert(sign::HEADER, signature);
        }
        let request = self
            .client
            .post(self.url.clone())
            .headers(sent)
            .body(context.message().body.clone());
        let response = match tokio::time::timeout(self.timeout, request.send()).await {
            Ok(Ok(response)) => response,
            Ok(Err(error)) => {
                let error = error.without_url();
                return HandlerOutcome::Failed(HandlerFailure::retry(format_args!(
                    "no answer: {}",
                    answer::chain(&error)
                )));
            }
            Err(_) => return HandlerOutcome::Failed(HandlerFailure::timed_out(self.timeout)),
        };
        let status = response.status();
        let answer = Answer::of(&response, self.clock.epoch_ms(), &self.again_on);
        let spent = self.clock.now().saturating_duration_since(begun);
        // The status has been said; a body that does not come changes nothing.
        let left = self.timeout.saturating_sub(spent);
        let limit = match answer.verdict {
            Verdict::Done => self.max_result,
            _ => answer::EXCERPT_READ,
        };
        let body = read(response, limit, left).await;
        tracing::debug!(
            status = status.as_u16(),
            took_ms = u64::try_from(spent.as_millis()).unwrap_or(u64::MAX),
            bytes = body.bytes.len(),
            "answered"
        );
        match answer.verdict {
            Verdict::Done => HandlerOutcome::Done(self.result(&body)),
            _ => HandlerOutcome::Failed(answer.failure(&body.bytes)),
        }
    }

    fn result(&self, body: &Body) -> StoredResult {
        if !body.whole {
            tracing::warn!(
                max_result = self.max_result,
                "the answer's body is too large, or did not come whole, and is not kept; the message is done all the same"
            );
        }
        stored(&body.bytes, body.whole)
    }
}

/// As much of an answer's body as is wanted.
struct Body {
    bytes: Vec<u8>,
    whole: bool,
}

/// Reads at most `limit` bytes, for at most `left`.
async fn read(mut response: Response, limit: usize, left: Duration) -> Body {
    let mut bytes = Vec::new();
    let reading = async {
        loop {
            match response.chunk().await {
                Ok(Some(chunk)) => {
                    let room = limit - bytes.len();
                    bytes.extend_from_slice(&chunk[..chunk.len().min(room)]);
                    if chunk.len() > room {
                        return false;
                    }
                }
                Ok(None) => return true,
                Err(_) => return false,
            }
        }
    };
    let whole = tokio::time::timeout(left, reading).await.unwrap_or(false);
    Body { bytes, whole }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn inv12_an_endpoint_is_a_whole_url_without_secrets() {
        assert!(endpoint("http://localhost:8080/orders?x=1", false).is_ok());
        assert!(endpoint("http://127.1:8080/", false).is_ok(), "it is 127.0.0.1");
        assert!(endpoint("https://shop.example/", false).is_ok());
        assert!(endpoint("http://shop.example/", true).is_ok());
        let error = endpoint("http://shop.example/", false).unwrap_err().to_string();
        assert!(
            error.contains("REDRIVE_ALLOW_HTTP=1") && error.contains("shop.example"),
            "{error}"
        );
        for (wrong, why) in [
            ("localhost:8080", "http and https"),
            ("orders", "relative URL"),
            ("ftp://x/", "http and https"),
            ("https://user:secret@x/", "list of processes"),
        ] {
            let error = endpoint(wrong, true).unwrap_err();
            assert!(error.to_string().contains(why), "{error}");
            assert!(!error.to_string().contains("secret"), "{error}");
        }
    }
}
