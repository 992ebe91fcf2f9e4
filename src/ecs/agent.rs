//! The ECS agent's endpoint for task protection.
//!
//! <https://docs.aws.amazon.com/AmazonECS/latest/developerguide/task-scale-in-protection-endpoint.html>

use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::header::{CONTENT_TYPE, HOST};
use hyper::{Method, Request, StatusCode, Uri};
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use tokio::net::TcpStream;

use super::decide::{Answered, Ask};

/// How long a call may take. The agent gives its own call to ECS a little less.
pub(super) const CALL_LIMIT: Duration = Duration::from_secs(5);

/// The most bytes of an answer that are read.
const MAX_ANSWER: usize = 64 * 1024;

/// The endpoint of one task.
#[derive(Clone, Debug)]
pub(super) struct Agent {
    host: String,
    port: u16,
    authority: String,
    path: String,
}

/// Why a call was not answered as it was asked.
#[derive(Clone, Debug, thiserror::Error)]
pub(super) enum Trouble {
    #[error("no answer within {} s", CALL_LIMIT.as_secs())]
    TimedOut,
    #[error("the agent cannot be reached: {0}")]
    Unreachable(String),
    #[error("the answer broke off: {0}")]
    Broken(String),
    /// ECS cannot do it for this task.
    #[error("ECS does not do it: {reason}{}{}", dash(detail), hint(reason))]
    Failure { reason: String, detail: String },
    /// The agent, or ECS, refused the call.
    #[error("{status} {code}{}{}", dash(message), hint(code))]
    Error { status: u16, code: String, message: String },
    #[error("an answer that says nothing of protection: {status}")]
    Strange { status: u16 },
}

fn dash(text: &str) -> String {
    if text.is_empty() {
        String::new()
    } else {
        format!(": {text}")
    }
}

/// What to do about it.
fn hint(code: &str) -> &'static str {
    match code {
        "TASK_NOT_VALID" => "; only tasks of a service can be protected, and only while they run",
        "DEPLOYMENT_BLOCKED" => "; protected tasks hold a deployment up",
        "AccessDeniedException" => "; the task role needs ecs:UpdateTaskProtection",
        "RequestError" | "RequestTimeout" | "RequestCanceled" => "; the agent cannot reach ECS: look at its network",
        _ => "",
    }
}

impl Trouble {
    /// What makes it another trouble than the one before.
    pub(super) fn kind(&self) -> String {
        match self {
            Self::TimedOut => "timeout".to_owned(),
            Self::Unreachable(_) => "unreachable".to_owned(),
            Self::Broken(_) => "broken".to_owned(),
            Self::Failure { reason, .. } => reason.clone(),
            Self::Error { status, code, .. } => format!("{status} {code}"),
            Self::Strange { status } => format!("{status}"),
        }
    }

    /// Whether it was done all the same.
    pub(super) fn answered(&self) -> Answered {
        match self {
            Self::Failure { .. } | Self::Unreachable(_) => Answered::Refused,
            Self::Error { status, .. } | Self::Strange { status } if (400..500).contains(status) => Answered::Refused,
            // The agent may have lost ECS's answer.
            Self::TimedOut | Self::Broken(_) | Self::Error { .. } | Self::Strange { .. } => Answered::Unknown,
        }
    }

    /// What it is counted as.
    pub(super) fn outcome(&self) -> &'static str {
        match self {
            Self::TimedOut | Self::Unreachable(_) | Self::Broken(_) => "unreachable",
            Self::Failure { .. } | Self::Error { .. } | Self::Strange { .. } => "refused",
        }
    }
}

#[derive(Deserialize)]
struct Answer {
    protection: Option<Protection>,
    failure: Option<Failed>,
    error: Option<Erred>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Protection {
    protection_enabled: bool,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Failed {
    reason: Option<String>,
    detail: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Erred {
    code: Option<String>,
    message: Option<String>,
}

impl Agent {
    /// The agent at what `ECS_AGENT_URI` says.
    ///
    /// # Errors
    /// When that is no `http` address.
    pub(super) fn at(uri: &str) -> Result<Self, &'static str> {
        let uri: Uri = uri.trim().parse().map_err(|_| "it is no URI")?;
        if uri.scheme_str() != Some("http") {
            return Err("it is no http:// URI");
        }
        let authority = uri.authority().ok_or("it names no host")?;
        let host = authority.host().trim_start_matches('[').trim_end_matches(']');
        if host.is_empty() || uri.query().is_some() {
            return Err("it is no host with a path");
        }
        Ok(Self {
            host: host.to_owned(),
            port: authority.port_u16().unwrap_or(80),
            authority: authority.as_str().to_owned(),
            path: format!("{}/task-protection/v1/state", uri.path().trim_end_matches('/')),
        })
    }

    /// Asks it, and waits for the answer for [`CALL_LIMIT`] at most.
    pub(super) async fn put(&self, ask: Ask) -> Result<(), Trouble> {
        let call = async {
            let answer = self.call(ask).await?;
            judge(ask, answer.0, &answer.1)
        };
        tokio::time::timeout(CALL_LIMIT, call)
            .await
            .unwrap_or(Err(Trouble::TimedOut))
    }

    async fn call(&self, ask: Ask) -> Result<(StatusCode, Bytes), Trouble> {
        let body = match ask {
            Ask::Protect { minutes } => serde_json::json!({"ProtectionEnabled": true, "ExpiresInMinutes": minutes}),
            Ask::Release => serde_json::json!({"ProtectionEnabled": false}),
        };
        let request = Request::builder()
            .method(Method::PUT)
            .uri(&self.path)
            .header(HOST, &self.authority)
            .header(CONTENT_TYPE, "application/json")
            .body(Full::new(Bytes::from(body.to_string())))
            .map_err(|error| Trouble::Unreachable(error.to_string()))?;
        let stream = TcpStream::connect((self.host.as_str(), self.port))
            .await
            .map_err(|error| Trouble::Unreachable(error.to_string()))?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .map_err(|error| Trouble::Unreachable(error.to_string()))?;
        let answer = async move {
            let broken = |error: &dyn std::fmt::Display| Trouble::Broken(error.to_string());
            let response = sender.send_request(request).await.map_err(|error| broken(&error))?;
            let status = response.status();
            let body = Limited::new(response.into_body(), MAX_ANSWER).collect().await;
            Ok((status, body.map_err(|error| broken(&error))?.to_bytes()))
        };
        // Driven here, so that no task outlives the call; it ends when its sender is gone.
        let (answer, _) = futures::future::join(answer, connection).await;
        answer
    }
}

/// What the answer says.
fn judge(ask: Ask, status: StatusCode, body: &[u8]) -> Result<(), Trouble> {
    let strange = Trouble::Strange {
        status: status.as_u16(),
    };
    let text = |text: Option<String>| crate::telemetry::shown(&text.unwrap_or_default());
    let Ok(answer) = serde_json::from_slice::<Answer>(body) else {
        return Err(strange);
    };
    if let Some(failure) = answer.failure {
        return Err(Trouble::Failure {
            reason: text(failure.reason),
            detail: text(failure.detail),
        });
    }
    if let Some(error) = answer.error {
        return Err(Trouble::Error {
            status: status.as_u16(),
            code: text(error.code),
            message: text(error.message),
        });
    }
    let protect = matches!(ask, Ask::Protect { .. });
    match answer.protection {
        Some(protection) if status.is_success() && protection.protection_enabled == protect => Ok(()),
        _ => Err(strange),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PROTECT: Ask = Ask::Protect { minutes: 10 };

    fn judged(ask: Ask, status: u16, body: &str) -> Result<(), Trouble> {
        judge(ask, StatusCode::from_u16(status).unwrap(), body.as_bytes())
    }

    #[test]
    fn the_address_is_the_agents_and_plain_http() {
        let agent = Agent::at("http://169.254.170.2/api/0f1e-2d3c").unwrap();
        assert_eq!(
            (agent.host.as_str(), agent.port, agent.path.as_str()),
            ("169.254.170.2", 80, "/api/0f1e-2d3c/task-protection/v1/state")
        );
        let agent = Agent::at(" http://[fd00:ec2::1]:51678/ ").unwrap();
        assert_eq!(
            (agent.host.as_str(), agent.port, agent.authority.as_str()),
            ("fd00:ec2::1", 51678, "[fd00:ec2::1]:51678")
        );
        assert_eq!(agent.path, "/task-protection/v1/state");
        for wrong in [
            "",
            "169.254.170.2",
            "https://169.254.170.2/api",
            "http://",
            "/api",
            "http://a/b?c=d",
            "http:// /",
        ] {
            assert!(Agent::at(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn only_the_protection_that_was_asked_for_is_a_success() {
        let on =
            r#"{"protection":{"ExpirationDate":"2026-10-06T02:29:16Z","ProtectionEnabled":true,"TaskArn":"arn:t"}}"#;
        let off = r#"{"protection":{"ExpirationDate":null,"ProtectionEnabled":false,"TaskArn":"arn:t"}}"#;
        assert!(judged(PROTECT, 200, on).is_ok());
        assert!(judged(Ask::Release, 200, off).is_ok());
        for (ask, status, body) in [
            (PROTECT, 200, off),
            (Ask::Release, 200, on),
            (PROTECT, 500, on),
            (PROTECT, 200, "{}"),
            (PROTECT, 200, "<html>"),
        ] {
            assert!(judged(ask, status, body).is_err(), "{ask:?} {status} {body}");
        }
    }

    #[test]
    fn refusals_say_what_ecs_said_and_what_to_do() {
        let failure = r#"{"failure":{"Arn":"arn:t","Detail":null,"Reason":"TASK_NOT_VALID"}}"#;
        let trouble = judged(PROTECT, 200, failure).unwrap_err();
        assert_eq!(trouble.kind(), "TASK_NOT_VALID");
        assert_eq!(trouble.answered(), Answered::Refused);
        assert!(trouble.to_string().contains("only tasks of a service"), "{trouble}");

        let denied =
            r#"{"requestID":"1-2","error":{"Arn":"arn:t","Code":"AccessDeniedException","Message":"no\nidentity"}}"#;
        let trouble = judged(PROTECT, 403, denied).unwrap_err();
        assert_eq!(trouble.kind(), "403 AccessDeniedException");
        assert_eq!(trouble.answered(), Answered::Refused);
        assert!(trouble.to_string().contains("ecs:UpdateTaskProtection"), "{trouble}");
        assert!(!trouble.to_string().contains('\n'), "{trouble}");

        let lost = r#"{"error":{"Arn":"arn:t","Code":"RequestCanceled","Message":"Timed out"}}"#;
        let trouble = judged(PROTECT, 504, lost).unwrap_err();
        assert_eq!(trouble.answered(), Answered::Unknown);
    }
}
