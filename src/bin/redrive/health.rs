//! `redrive health`: whether a worker on this host is alive, as an exit code, for a container's health check.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use clap::Args;
use reqwest::Url;
use serde::Serialize;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::failure::{Code, Failure, Outcome};
use crate::ui::{Ui, safe};
use crate::values::duration_within;

pub(crate) const EXAMPLES: &str = "\
Exit code 0: healthy; 1: not, and why in one line on standard error. It asks the health endpoint of a worker in the same \
container: --health or REDRIVE_HEALTH of `redrive forward` and `redrive exec`, `redrive::health::Health` in code. It needs no \
AWS, no shell and no files.

Examples:
  redrive health
  redrive health --ready
  redrive health --url http://127.0.0.1:9000/livez --timeout 1s
  HEALTHCHECK CMD [\"/usr/local/bin/redrive\", \"health\"]    in a Dockerfile";

/// Where an endpoint listens that nothing says more of.
const PORT: u16 = 8080;

/// How much of an answer is read.
const MOST: u64 = 64 * 1024;

/// What `redrive health` is asked.
#[derive(Args, Debug)]
pub(crate) struct Health {
    /// What to ask, instead of /livez at the port of REDRIVE_HEALTH, or 8080, of this host.
    #[arg(long, value_name = "URL")]
    url: Option<String>,

    /// Ask /readyz: whether every worker has started, and none drains.
    #[arg(long, conflicts_with = "url")]
    ready: bool,

    /// How long the answer may take.
    #[arg(long, value_name = "DURATION", value_parser = duration_within(Duration::from_millis(1), Duration::from_secs(60 * 60)), default_value = "2s")]
    timeout: Duration,
}

/// What is asked, and where.
#[derive(Debug, PartialEq, Eq)]
struct Asked {
    /// To connect to.
    host: String,
    port: u16,
    path: String,
}

#[derive(Serialize)]
struct Healthy<'a> {
    healthy: bool,
    url: &'a str,
}

impl Health {
    pub(crate) async fn run(&self, ui: &Ui) -> Outcome {
        let asked = match &self.url {
            Some(url) => Asked::of_url(url)?,
            None => Asked::here(std::env::var("REDRIVE_HEALTH").ok().as_deref(), self.ready)?,
        };
        let url = asked.url();
        let answer = tokio::time::timeout(self.timeout, asked.ask()).await;
        match answer {
            Err(_) => Err(Failure::new(format_args!(
                "{url} does not answer within {}",
                crate::values::shown(self.timeout)
            ))),
            Ok(Err(error)) => Err(Failure::new(format_args!("{url} cannot be asked: {error}"))),
            Ok(Ok(answer)) => match verdict(&answer) {
                Ok(()) => {
                    if ui.is_json() {
                        let url = url.as_str();
                        ui.json(&Healthy { healthy: true, url });
                    }
                    Ok(Code::Done)
                }
                Err(why) => Err(Failure::new(format_args!("{url} says {}", safe(&why)))),
            },
        }
    }
}

impl Asked {
    /// The endpoint of a worker in this container.
    fn here(variable: Option<&str>, ready: bool) -> Result<Self, Failure> {
        let path = if ready { "/readyz" } else { "/livez" };
        let at = match variable.map(str::trim).filter(|value| !value.is_empty()) {
            None => SocketAddr::new(Ipv4Addr::LOCALHOST.into(), PORT),
            Some(value) => value.parse().map_err(|_| {
                Failure::usage(format_args!(
                    "REDRIVE_HEALTH=`{}`: it is no address with a port",
                    safe(value)
                ))
                .remedy("give one such as 0.0.0.0:8080, as for the worker")
            })?,
        };
        // One that listens everywhere is asked by the shortest way.
        let ip = match at.ip() {
            IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
            IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
            ip => ip,
        };
        Ok(Self {
            host: ip.to_string(),
            port: at.port(),
            path: path.to_owned(),
        })
    }

    fn of_url(text: &str) -> Result<Self, Failure> {
        let wrong = |why: &str| {
            Failure::usage(format_args!("--url `{}`: {why}", safe(text)))
                .remedy("give one such as http://127.0.0.1:8080/livez")
        };
        let url = Url::parse(text).map_err(|error| wrong(&error.to_string()))?;
        if url.scheme() != "http" {
            return Err(wrong("health endpoints speak plain http"));
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err(wrong("no user or password is sent"));
        }
        let host = url.host_str().unwrap_or_default();
        let path = match url.query() {
            Some(query) => format!("{}?{query}", url.path()),
            None => url.path().to_owned(),
        };
        Ok(Self {
            host: host.trim_matches(['[', ']']).to_owned(),
            port: url.port_or_known_default().unwrap_or(80),
            path,
        })
    }

    /// `host:port`, as in a URL.
    fn authority(&self) -> String {
        if self.host.contains(':') {
            format!("[{}]:{}", self.host, self.port)
        } else {
            format!("{}:{}", self.host, self.port)
        }
    }

    fn url(&self) -> String {
        format!("http://{}{}", self.authority(), self.path)
    }

    /// All that is answered.
    async fn ask(&self) -> std::io::Result<Vec<u8>> {
        let mut stream = TcpStream::connect((self.host.as_str(), self.port)).await?;
        let request = format!(
            "GET {} HTTP/1.1\r\nHost: {}\r\nUser-Agent: redrive-health\r\nConnection: close\r\n\r\n",
            self.path,
            self.authority()
        );
        stream.write_all(request.as_bytes()).await?;
        let mut answer = Vec::new();
        stream.take(MOST).read_to_end(&mut answer).await?;
        Ok(answer)
    }
}

/// Healthy, or what was said in place of it, on one line.
fn verdict(answer: &[u8]) -> Result<(), String> {
    let text = String::from_utf8_lossy(answer);
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or((&text, ""));
    let code = head
        .strip_prefix("HTTP/1.")
        .and_then(|rest| rest.split(' ').nth(1))
        .and_then(|code| code.trim().parse::<u16>().ok());
    match code {
        None => Err("nothing that is HTTP".to_owned()),
        Some(200) => Ok(()),
        Some(code) => {
            let said: Vec<&str> = body.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
            let said: String = said.join("; ").chars().take(1_000).collect();
            Err(if said.is_empty() {
                code.to_string()
            } else {
                format!("{code}: {said}")
            })
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn what_listens_everywhere_is_asked_on_this_host_and_by_the_variables_port() {
        let url = |variable, ready| Asked::here(variable, ready).unwrap().url();
        assert_eq!(url(None, false), "http://127.0.0.1:8080/livez");
        assert_eq!(url(Some(" "), true), "http://127.0.0.1:8080/readyz");
        assert_eq!(url(Some("0.0.0.0:9000"), false), "http://127.0.0.1:9000/livez");
        assert_eq!(url(Some("[::]:9000"), false), "http://[::1]:9000/livez");
        assert_eq!(url(Some("10.0.0.7:80"), false), "http://10.0.0.7:80/livez");
        assert!(Asked::here(Some("8080"), false).is_err());
    }

    #[test]
    fn a_url_is_taken_apart_and_one_that_cannot_be_asked_is_refused() {
        let url = |text| Asked::of_url(text).unwrap().url();
        assert_eq!(url("http://localhost/livez"), "http://localhost:80/livez");
        assert_eq!(url("http://[::1]:8080/readyz?x=1"), "http://[::1]:8080/readyz?x=1");
        for wrong in [
            "https://localhost/livez",
            "localhost:8080",
            "http://a:b@localhost/",
            "nonsense",
        ] {
            assert!(Asked::of_url(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn only_a_200_is_healthy_and_all_else_is_told_on_one_line() {
        assert_eq!(verdict(b"HTTP/1.1 200 OK\r\n\r\nalive\n"), Ok(()));
        let told = |answer: &[u8]| verdict(answer).unwrap_err();
        assert_eq!(
            told(b"HTTP/1.1 503 No\r\nA: b\r\n\r\na: stuck\nb: ended\n"),
            "503: a: stuck; b: ended"
        );
        assert_eq!(told(b"HTTP/1.1 404 Not Found\r\n\r\n"), "404");
        assert_eq!(told(b"SSH-2.0-x\r\n"), "nothing that is HTTP");
        assert_eq!(told(b""), "nothing that is HTTP");
    }
}
