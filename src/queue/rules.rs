//! What SQS takes as a message: the rules of `SendMessage` in the Amazon SQS API Reference, and of "Amazon SQS message
//! metadata" and the message quotas in its Developer Guide. The producer asks them before it sends, the embedded queue when
//! it is sent to.

use std::time::Duration;

use super::{MAX_ATTRIBUTES, MAX_DELAY, QueueAttributes};
use crate::message::{Attribute, AttributeValue, Outgoing};
use crate::telemetry::printable;

/// The most characters of a group id, a deduplication id.
const MAX_ID: usize = 128;

/// The most characters of an attribute's name or data type.
const MAX_NAME: usize = 256;

const INVALID: &str = "InvalidParameterValue";
const MISSING: &str = "MissingParameter";
const CONTENTS: &str = "InvalidMessageContents";

/// What of a queue's settings bears on the messages it takes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    pub(crate) fifo: bool,
    pub(crate) content_based_deduplication: bool,
    pub(crate) max_message_bytes: usize,
}

impl From<&QueueAttributes> for Limits {
    fn from(queue: &QueueAttributes) -> Self {
        Self {
            fifo: queue.fifo,
            content_based_deduplication: queue.content_based_deduplication,
            max_message_bytes: queue.max_message_bytes,
        }
    }
}

/// Why SQS refuses a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Flaw {
    /// SQS's error code.
    pub(crate) code: &'static str,
    /// Which part of the message.
    pub(crate) what: String,
    /// What is wrong with it and what to do.
    pub(crate) why: String,
}

fn flaw(code: &'static str, what: impl Into<String>, why: impl Into<String>) -> Result<(), Flaw> {
    Err(Flaw {
        code,
        what: what.into(),
        why: why.into(),
    })
}

/// SQS counts in whole seconds; a part of one counts as one, so that nothing comes back sooner than was asked for.
pub(crate) fn whole_seconds(duration: Duration) -> Duration {
    let more = u64::from(duration.subsec_nanos() > 0);
    Duration::from_secs(duration.as_secs().saturating_add(more))
}

/// The first flaw for which a queue with these limits refuses the message.
pub(crate) fn check(outgoing: &Outgoing, queue: Limits) -> Result<(), Flaw> {
    if outgoing.body.is_empty() {
        let why = "it is empty; SQS takes no message without at least one character";
        return flaw(MISSING, "the body", why);
    }
    if let Some(why) = illegal(&outgoing.body) {
        return flaw(CONTENTS, "the body", why);
    }
    check_attributes(outgoing)?;
    for (what, id) in [
        ("the group id", &outgoing.group_id),
        ("the deduplication id", &outgoing.deduplication_id),
    ] {
        if let Some(why) = id.as_deref().and_then(bad_id) {
            return flaw(INVALID, what, why);
        }
    }
    if queue.fifo {
        check_fifo(outgoing, queue)?;
    } else if outgoing.deduplication_id.is_some() {
        let why = "only FIFO queues take one; a producer's `.key(…)` is what a consumer's inbox goes by";
        return flaw(INVALID, "the deduplication id", why);
    }
    if let Some(delay) = outgoing.delay.map(whole_seconds).filter(|delay| *delay > MAX_DELAY) {
        let (given, most) = (delay.as_secs(), MAX_DELAY.as_secs());
        let why = format!("{given} s is over the {most} s (15 minutes) that SQS allows");
        return flaw(INVALID, "the delay", why);
    }
    let (size, most) = (outgoing.size(), queue.max_message_bytes);
    if size > most {
        let why = format!(
            "body and attributes have {size} bytes, and the queue takes {most}; put the payload elsewhere and send where it is"
        );
        return flaw(INVALID, "the message", why);
    }
    Ok(())
}

fn check_fifo(outgoing: &Outgoing, queue: Limits) -> Result<(), Flaw> {
    if outgoing.group_id.is_none() {
        let why = "a FIFO queue needs one; set `.group(…)` to what must stay in order";
        return flaw(MISSING, "the group id", why);
    }
    if outgoing.deduplication_id.is_none() && !queue.content_based_deduplication {
        let why = "this FIFO queue needs one; set `.deduplication_id(…)`, or with a producer `.key(…)`";
        return flaw(INVALID, "the deduplication id", why);
    }
    if outgoing.delay.is_some_and(|delay| !delay.is_zero()) {
        let why = "a FIFO queue takes none per message; set the queue's own `DelaySeconds`, or leave it out";
        return flaw(INVALID, "the delay", why);
    }
    Ok(())
}

fn check_attributes(outgoing: &Outgoing) -> Result<(), Flaw> {
    let count = outgoing.attributes.len();
    if count > MAX_ATTRIBUTES {
        let names: Vec<_> = outgoing.attributes.keys().map(String::as_str).collect();
        let why = format!(
            "{count} of them ({}), and SQS allows {MAX_ATTRIBUTES}; put some into the body",
            names.join(", ")
        );
        return flaw(INVALID, "the attributes", why);
    }
    for (name, attribute) in &outgoing.attributes {
        if let Some(why) = bad_name(name).or_else(|| bad_attribute(attribute)) {
            return flaw(INVALID, format!("attribute `{name}`"), why);
        }
    }
    Ok(())
}

/// Whether SQS takes this attribute in a message.
pub(crate) fn takes_attribute(name: &str, attribute: &Attribute) -> bool {
    bad_name(name).is_none() && bad_attribute(attribute).is_none()
}

/// Where the first character is that SQS refuses: it takes those of XML 1.0.
fn illegal(text: &str) -> Option<String> {
    let legal = |c: char| matches!(c, '\t' | '\n' | '\r' | ' '..='\u{fffd}' | '\u{10000}'..);
    text.char_indices().find(|&(_, c)| !legal(c)).map(|(at, c)| {
        format!(
            "the character U+{:04X} at byte {at} is one that SQS refuses; encode the text (as JSON, say), or send a binary attribute",
            u32::from(c)
        )
    })
}

fn bad_name(name: &str) -> Option<String> {
    let lower = name.to_ascii_lowercase();
    let why = if name.is_empty() {
        "a name cannot be empty"
    } else if name.len() > MAX_NAME {
        "a name has at most 256 characters"
    } else if !name
        .bytes()
        .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.'))
    {
        "a name has only A–Z, a–z, 0–9, `_`, `-` and `.`"
    } else if lower.starts_with("aws.") || lower.starts_with("amazon.") {
        "names that begin with `AWS.` or `Amazon.` are reserved"
    } else if name.starts_with('.') || name.ends_with('.') || name.contains("..") {
        "a name neither begins nor ends with a period, nor has two in a row"
    } else {
        return None;
    };
    Some(format!("{why}; rename it"))
}

fn bad_attribute(attribute: &Attribute) -> Option<String> {
    let data_type = &attribute.data_type;
    let kind = data_type.split('.').next().unwrap_or_default();
    if data_type.len() > MAX_NAME || illegal(data_type).is_some() {
        return Some("its data type has over 256 characters, or one that SQS refuses".to_owned());
    }
    match (kind, &attribute.value) {
        ("String" | "Number", AttributeValue::Text(text)) if text.is_empty() => {
            Some("its value is empty, which SQS refuses; leave the attribute out".to_owned())
        }
        ("Binary", AttributeValue::Binary(bytes)) if bytes.is_empty() => {
            Some("its value is empty, which SQS refuses; leave the attribute out".to_owned())
        }
        ("Number", AttributeValue::Text(text)) => {
            let number = text.parse::<f64>().is_ok_and(f64::is_finite)
                && text
                    .bytes()
                    .all(|b| b.is_ascii_digit() || matches!(b, b'+' | b'-' | b'.' | b'e' | b'E'));
            (!number).then(|| format!("`{}` is not a number", printable(text)))
        }
        ("String", AttributeValue::Text(text)) => illegal(text),
        ("Binary", AttributeValue::Binary(_)) => None,
        ("String" | "Number" | "Binary", _) => Some(format!("its value is not what its data type `{data_type}` says")),
        _ => Some(format!(
            "its data type `{}` is none of String, Number and Binary",
            printable(data_type)
        )),
    }
}

fn bad_id(id: &str) -> Option<String> {
    let why = if id.is_empty() {
        "it is empty"
    } else if id.len() > MAX_ID {
        "it has over 128 characters"
    } else if !id.bytes().all(|b| b.is_ascii_graphic()) {
        "it has other characters than ASCII letters, digits and punctuation"
    } else {
        return None;
    };
    Some(format!(
        "{why}; SQS takes 1 to 128 ASCII letters, digits and punctuation marks, so send a hash of it"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits(fifo: bool) -> Limits {
        Limits {
            fifo,
            content_based_deduplication: false,
            max_message_bytes: 1_024,
        }
    }

    #[test]
    fn each_flaw_has_the_code_that_sqs_gives_it() {
        let text = || Outgoing::new("x");
        for (message, fifo, code, what) in [
            (Outgoing::new(""), false, MISSING, "the body"),
            (Outgoing::new("\u{0}"), false, CONTENTS, "the body"),
            (Outgoing::new("x".repeat(1_025)), false, INVALID, "the message"),
            (text().group("ü"), false, INVALID, "the group id"),
            (text().deduplication_id("d"), false, INVALID, "the deduplication id"),
            (text(), true, MISSING, "the group id"),
            (text().group("g"), true, INVALID, "the deduplication id"),
            (
                text().group("g").deduplication_id("d").delay(Duration::from_millis(1)),
                true,
                INVALID,
                "the delay",
            ),
            (
                text().attribute("n", Attribute::number("inf")),
                false,
                INVALID,
                "attribute `n`",
            ),
        ] {
            let found = check(&message, limits(fifo)).err().map(|flaw| (flaw.code, flaw.what));
            assert_eq!(found, Some((code, what.to_owned())), "{message:?}");
        }
        assert_eq!(check(&text().delay(MAX_DELAY), limits(false)), Ok(()));
        assert!(check(&text().delay(MAX_DELAY + Duration::from_millis(1)), limits(false)).is_err());
    }

    #[test]
    fn a_part_of_a_second_counts_as_one() {
        let cases = [(0, 0), (1, 1), (999, 1), (1_000, 1), (1_001, 2)];
        for (ms, secs) in cases {
            assert_eq!(whole_seconds(Duration::from_millis(ms)), Duration::from_secs(secs));
        }
        assert_eq!(whole_seconds(Duration::MAX), Duration::from_secs(u64::MAX));
    }
}
