//! What a message says of itself in headers. Whoever may send to the queue chose these texts: none of them may become a
//! header of its own, or stand where one of ours belongs.

use redrive::Context;
use redrive::dlq::ENVELOPE_ATTRIBUTE;
use redrive::message::{AttributeValue, Message, TRACEPARENT_ATTRIBUTE};
use redrive::telemetry::TraceContext;
use reqwest::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, USER_AGENT};
use serde::de::IgnoredAny;

use crate::failure::Failure;

/// The header that carries the key.
pub(super) const KEY: HeaderName = HeaderName::from_static("idempotency-key");

/// The most bytes of one attribute's value; servers take 8 KiB for all headers, some of them.
const MAX_VALUE: usize = 2 * 1024;

/// The most bytes of all attributes.
const MAX_VALUES: usize = 4 * 1024;

/// The headers of a message.
pub(super) fn of_message(context: &Context) -> HeaderMap {
    let message = context.message();
    let delivery = context.delivery();
    let mut headers = HeaderMap::new();
    headers.insert(
        USER_AGENT,
        HeaderValue::from_static(concat!("redrive/", env!("CARGO_PKG_VERSION"))),
    );
    headers.insert(CONTENT_TYPE, content_type(message));
    let mut set = |name: &'static str, value: &str| {
        headers.insert(HeaderName::from_static(name), encoded(value));
    };
    set("idempotency-key", context.key().as_str());
    set("redrive-message-id", &message.id);
    set("redrive-queue", context.queue());
    set("redrive-attempt", &context.attempt().to_string());
    set("redrive-receive-count", &delivery.receive_count.to_string());
    if let Some(sent_at) = message.sent_at_ms {
        set("redrive-sent-at-ms", &sent_at.to_string());
    }
    if let Some(group) = &message.group_id {
        set("redrive-group-id", group);
    }
    if let Some(claim) = context.claim() {
        set("redrive-fencing-token", &claim.fencing_token.to_string());
    }
    if let Some(envelope) = context.envelope() {
        // The envelope counts the replays before this one.
        set("redrive-replays", &envelope.replays.saturating_add(1).to_string());
        set("redrive-original-message-id", &envelope.message_id);
    }
    if let Some(trace) = TraceContext::current().or_else(|| TraceContext::of(message)) {
        set(TRACEPARENT_ATTRIBUTE, &trace.to_string());
    }
    attributes(message, &mut headers);
    headers
}

fn attributes(message: &Message, headers: &mut HeaderMap) {
    let mut left_out = Vec::new();
    let mut size = 0;
    for (name, attribute) in &message.attributes {
        // It is told by headers of its own.
        if name == ENVELOPE_ATTRIBUTE {
            continue;
        }
        let (prefix, value) = match &attribute.value {
            AttributeValue::Text(text) => ("redrive-attr-", encoded(text)),
            AttributeValue::Binary(bytes) => ("redrive-binary-", encoded(&aws_smithy_types::base64::encode(bytes))),
        };
        size += name.len() + value.len();
        match HeaderName::from_bytes(format!("{prefix}{name}").as_bytes()) {
            Ok(header) if value.len() <= MAX_VALUE && size <= MAX_VALUES => {
                headers.append(header, value);
            }
            _ => {
                size -= name.len() + value.len();
                left_out.push(name.as_str());
            }
        }
    }
    if !left_out.is_empty() {
        let names = left_out.join(", ");
        headers.insert(HeaderName::from_static("redrive-attrs-left-out"), encoded(&names));
    }
}

/// The `Content-Type` attribute, else what the body is.
fn content_type(message: &Message) -> HeaderValue {
    let given = message
        .attributes
        .iter()
        .find(|(name, _)| name.eq_ignore_ascii_case("content-type"))
        .and_then(|(_, attribute)| attribute.as_str())
        .filter(|text| text.contains('/') && text.bytes().all(|byte| (0x20..=0x7e).contains(&byte)))
        .and_then(|text| HeaderValue::from_str(text.trim()).ok());
    given.unwrap_or_else(|| {
        let json = serde_json::from_str::<IgnoredAny>(&message.body).is_ok();
        HeaderValue::from_static(if json {
            "application/json"
        } else {
            "text/plain; charset=utf-8"
        })
    })
}

/// `text` as a header's value: percent-encoded, but for printable ASCII other than `%`. A receiver that decodes it has the
/// text again, whatever was in it.
pub(super) fn encoded(text: &str) -> HeaderValue {
    let mut value = String::with_capacity(text.len());
    let last = text.len().saturating_sub(1);
    for (at, byte) in text.bytes().enumerate() {
        // Servers drop spaces at either end.
        let edge = byte == b' ' && (at == 0 || at == last);
        if (0x20..=0x7e).contains(&byte) && byte != b'%' && !edge {
            value.push(char::from(byte));
        } else {
            value.push_str(&format!("%{byte:02X}"));
        }
    }
    // It is printable ASCII by now.
    HeaderValue::from_str(&value).unwrap_or_else(|_| HeaderValue::from_static(""))
}

/// The headers that the command line adds to every message.
pub(super) fn fixed(
    headers: &[String],
    from_environment: &[String],
    environment: impl Fn(&str) -> Option<String>,
) -> Result<HeaderMap, Failure> {
    let mut fixed = HeaderMap::new();
    for header in headers {
        let (name, value) = header.split_once(':').ok_or_else(|| {
            Failure::usage(format_args!("--header `{}`: no colon", crate::ui::safe(header)))
                .remedy("write 'Name: value'")
        })?;
        fixed.append(named("--header", name)?, valued("--header", name, value.trim())?);
    }
    for header in from_environment {
        let (name, variable) = header.split_once('=').ok_or_else(|| {
            Failure::usage(format_args!("--header-env `{}`: no `=`", crate::ui::safe(header)))
                .remedy("write 'Name=VARIABLE', such as 'Authorization=API_AUTH'")
        })?;
        let value = environment(variable.trim()).ok_or_else(|| {
            Failure::usage(format_args!(
                "--header-env: the environment variable `{}` for the header `{name}` is not set",
                variable.trim()
            ))
        })?;
        let mut value = valued("--header-env", name, value.trim())?;
        value.set_sensitive(true);
        fixed.append(named("--header-env", name)?, value);
    }
    Ok(fixed)
}

fn named(flag: &str, name: &str) -> Result<HeaderName, Failure> {
    let wrong = |why: &str| Failure::usage(format_args!("{flag}: `{}` {why}", crate::ui::safe(name.trim())));
    let header = HeaderName::from_bytes(name.trim().as_bytes()).map_err(|_| wrong("cannot be the name of a header"))?;
    let ours = header == KEY || header == TRACEPARENT_ATTRIBUTE || header.as_str().starts_with("redrive-");
    if ours {
        return Err(wrong("is a header that every message sets itself"));
    }
    if [
        "content-length",
        "transfer-encoding",
        "connection",
        "upgrade",
        "te",
        "trailer",
    ]
    .contains(&header.as_str())
    {
        return Err(wrong("is for the HTTP client to set"));
    }
    Ok(header)
}

fn valued(flag: &str, name: &str, value: &str) -> Result<HeaderValue, Failure> {
    // The value may be a secret: it is not shown.
    HeaderValue::from_str(value).map_err(|_| {
        Failure::usage(format_args!(
            "{flag}: the value for `{}` has characters that no header can have",
            crate::ui::safe(name.trim())
        ))
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]
mod tests {
    use std::sync::Arc;

    use redrive::dlq::Envelope;
    use redrive::key::Key;
    use redrive::message::{Attribute, Delivery, Receipt};

    use super::*;

    fn context(message: Message, key: &str) -> Context {
        let now = redrive::clock::Clock::system().now();
        let delivery = Delivery::new(message, Receipt::new("r"), 3, now);
        Context::new(Arc::new(delivery), Key::new(key), 2, "orders".into())
    }

    fn text<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
        headers.get(name).map(|value| value.to_str().unwrap())
    }

    #[test]
    fn a_message_tells_its_key_attempt_origin_and_trace() {
        let mut message = Message::new("mid-1", "{\"a\":1}");
        message.sent_at_ms = Some(1_700_000_000_123);
        message.group_id = Some("customer-7".into());
        message.trace_header =
            Some("Root=1-5759e988-bd862e3fe1be46a994272793;Parent=53995c3f42cd8ad8;Sampled=1".into());
        message
            .attributes
            .insert("type".into(), Attribute::string("order.created"));
        message.attributes.insert("raw".into(), Attribute::binary(vec![0, 255]));
        let mut envelope = Envelope::default();
        envelope.key = "order-7".into();
        envelope.message_id = "mid-0".into();
        envelope.replays = 1;
        let envelope = serde_json::to_string(&envelope).unwrap();
        message
            .attributes
            .insert(ENVELOPE_ATTRIBUTE.into(), Attribute::string(envelope));
        let headers = of_message(&context(message, "order-7"));
        for (name, value) in [
            ("content-type", "application/json"),
            ("idempotency-key", "order-7"),
            ("redrive-message-id", "mid-1"),
            ("redrive-queue", "orders"),
            ("redrive-attempt", "2"),
            ("redrive-receive-count", "3"),
            ("redrive-sent-at-ms", "1700000000123"),
            ("redrive-group-id", "customer-7"),
            ("traceparent", "00-5759e988bd862e3fe1be46a994272793-53995c3f42cd8ad8-01"),
            ("redrive-replays", "2"),
            ("redrive-original-message-id", "mid-0"),
            ("redrive-attr-type", "order.created"),
            ("redrive-binary-raw", "AP8="),
        ] {
            assert_eq!(text(&headers, name), Some(value), "{name}");
        }
        assert!(headers.get("redrive-fencing-token").is_none());
        assert!(headers.get("redrive-attr-redrive-envelope").is_none());
    }

    #[test]
    fn hostile_texts_stay_inside_their_header() {
        let mut message = Message::new("mid-1", "plain");
        for (name, value) in [
            ("note", "x\r\nRedrive-Attempt: 9\r\n\r\nGET / HTTP/1.1"),
            ("Content-Type", "text/html\r\nX-Evil: 1"),
            ("spaces", " 50% off\u{e4} "),
            ("Idempotency-Key", "forged"),
            ("traceparent", "not one"),
        ] {
            message.attributes.insert(name.into(), Attribute::string(value));
        }
        message.attributes.insert("no header: ä".into(), Attribute::string("v"));
        let headers = of_message(&context(message, "k\n1"));
        assert_eq!(text(&headers, "idempotency-key"), Some("k%0A1"));
        assert_eq!(text(&headers, "redrive-attempt"), Some("2"));
        assert_eq!(text(&headers, "content-type"), Some("text/plain; charset=utf-8"));
        assert_eq!(text(&headers, "redrive-attr-spaces"), Some("%2050%25 off%C3%A4%20"));
        assert_eq!(text(&headers, "redrive-attr-idempotency-key"), Some("forged"));
        assert_eq!(text(&headers, "traceparent"), None);
        assert_eq!(text(&headers, "redrive-attrs-left-out"), Some("no header: %C3%A4"));
        let note = text(&headers, "redrive-attr-note").unwrap();
        assert!(note.starts_with("x%0D%0ARedrive-Attempt: 9"), "{note}");
        assert!(headers.get("x-evil").is_none());
    }

    #[test]
    fn what_is_too_large_for_headers_is_left_out_by_name() {
        let mut message = Message::new("mid-1", "plain");
        for (name, size) in [
            ("a", 10),
            ("b", MAX_VALUE + 1),
            ("c", 2_000),
            ("d", 2_000),
            ("e", 2_000),
            ("f", 5),
        ] {
            message
                .attributes
                .insert(name.into(), Attribute::string("x".repeat(size)));
        }
        let headers = of_message(&context(message, "k"));
        assert_eq!(text(&headers, "redrive-attrs-left-out"), Some("b, e"));
        assert!(headers.get("redrive-attr-f").is_some());
    }

    #[test]
    fn inv12_headers_of_the_command_line_are_checked() {
        let environment = |name: &str| (name == "API_AUTH").then(|| "Bearer s3cret\n".to_owned());
        let strings = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>();
        let fixed_with = |headers: &[&str], env: &[&str]| fixed(&strings(headers), &strings(env), environment);
        let good = fixed_with(&["X-Team: shop", "Content-Type: text/csv"], &["Authorization=API_AUTH"]).unwrap();
        assert_eq!(text(&good, "authorization"), Some("Bearer s3cret"));
        assert!(good["authorization"].is_sensitive());
        for (header, why) in [
            ("no colon", "colon"),
            ("idempotency-KEY: x", "sets itself"),
            ("Redrive-Queue: x", "sets itself"),
            ("Content-Length: 3", "HTTP client"),
            ("a b: x", "name of a header"),
            ("X-A: a\u{7}", "characters"),
        ] {
            let error = fixed_with(&[header], &[]).unwrap_err().to_string();
            assert!(error.contains(why), "{error}");
        }
        let error = fixed_with(&[], &["X-Key=MISSING"]).unwrap_err().to_string();
        assert!(error.contains("MISSING") && error.contains("X-Key"), "{error}");
    }
}
