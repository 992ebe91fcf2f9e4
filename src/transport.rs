//! Plain HTTP only where it stays on this host, unless it is asked for: messages, and the signatures of calls, are for nobody
//! on the way to read.

use std::net::{Ipv4Addr, Ipv6Addr};

#[cfg(feature = "aws")]
pub use crate::aws::EndpointProbe;

/// The variable that allows plain HTTP to other hosts: `1` does.
pub const ALLOW_HTTP: &str = "REDRIVE_ALLOW_HTTP";

/// Whether the environment allows plain HTTP to other hosts. Any other value than `1` and `true` does not.
#[must_use]
pub fn is_allowed() -> bool {
    std::env::var(ALLOW_HTTP).is_ok_and(|value| matches!(value.trim(), "1" | "true"))
}

/// The host that `url` would be sent to in the clear; `None` where it is encrypted, or does not leave this host. It is the
/// name that counts and not what it resolves to.
#[must_use]
pub fn exposed_host(url: &str) -> Option<&str> {
    let (scheme, rest) = url.split_once("://")?;
    if !scheme.trim().eq_ignore_ascii_case("http") {
        return None;
    }
    let authority = rest.split(['/', '?', '#', '\\']).next().unwrap_or(rest);
    let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
    let host = match host.strip_prefix('[') {
        Some(host) => host.split(']').next().unwrap_or(host),
        None => host.split(':').next().unwrap_or(host),
    };
    (!is_loopback(host)).then_some(host)
}

fn is_loopback(host: &str) -> bool {
    host.eq_ignore_ascii_case("localhost")
        || host.parse::<Ipv4Addr>().is_ok_and(|address| address.is_loopback())
        || host.parse::<Ipv6Addr>().is_ok_and(|address| {
            let mapped = address.to_ipv4_mapped();
            address.is_loopback() || mapped.is_some_and(|address| address.is_loopback())
        })
}

/// Why nothing is sent to `host`, and what to do.
#[must_use]
pub fn refusal(host: &str) -> String {
    format!(
        "plain http to `{}`, which is not this host, would show messages and signatures to the network; use https, or set \
         {ALLOW_HTTP}=1 where the network may be trusted, as between containers of one machine",
        crate::telemetry::printable(host)
    )
}

/// What a service says, without what a signature should have been made of: the headers of the call are in that, the session
/// token too.
#[must_use]
pub fn without_headers(said: &str) -> &str {
    said.find("The Canonical String").map_or(said, |at| &said[..at])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_http_stays_on_this_host() {
        for url in [
            "http://localhost:4566",
            "http://LOCALHOST/000000000000/orders",
            "http://127.0.0.1:8000/",
            "http://127.9.9.9",
            "http://[::1]:4566/x",
            "http://[::ffff:127.0.0.1]/",
            "http://user:password@localhost:1/",
            "https://sqs.eu-west-1.amazonaws.com",
            "HTTPS://anywhere",
            "no url",
        ] {
            assert_eq!(exposed_host(url), None, "{url}");
        }
        for (url, host) in [
            ("http://localstack:4566", "localstack"),
            ("HTTP://10.0.0.7/x", "10.0.0.7"),
            ("http://[fe80::1]:80/", "fe80::1"),
            ("http://[::ffff:10.0.0.1]/", "::ffff:10.0.0.1"),
            ("http://0.0.0.0:4566", "0.0.0.0"),
            ("http://localhost.example.com/", "localhost.example.com"),
            ("http://x.localhost", "x.localhost"),
            ("http://localhost@evil.example/", "evil.example"),
            ("http://evil.example\\@localhost/", "evil.example"),
            ("http://evil.example#@localhost/", "evil.example"),
            ("http://evil.example?@127.0.0.1/", "evil.example"),
            ("http://127.0.0.1.example/", "127.0.0.1.example"),
            ("http:///", ""),
        ] {
            assert_eq!(exposed_host(url), Some(host), "{url}");
        }
        let why = refusal("localstack\u{1b}");
        assert!(
            why.contains("REDRIVE_ALLOW_HTTP=1") && why.contains("localstack\\u{1b}"),
            "{why}"
        );
    }
}
