//! What SQS refuses, as pure checks: the rules of the Amazon SQS API Reference (SendMessage, SendMessageBatch,
//! ChangeMessageVisibility, ReceiveMessage) and of the Developer Guide's message quotas.

use std::time::Duration;

use sha2::{Digest, Sha256};

use crate::message::{Attribute, AttributeValue, Outgoing, Receipt};
use crate::queue::{EntryError, MAX_ATTRIBUTES, MAX_BATCH, MAX_BYTES, MAX_VISIBILITY, MAX_WAIT, Receive};

use super::store::Settings;

/// The longest a message can be delayed when it is sent.
pub(super) const MAX_DELAY: Duration = Duration::from_secs(15 * 60);

/// A whole call that is refused: SQS's error code and what was wrong.
pub(super) type Refusal = (&'static str, String);

/// SQS counts in whole seconds; a part of one counts as one.
pub(super) fn whole_seconds(duration: Duration) -> Duration {
    let more = u64::from(duration.subsec_nanos() > 0);
    Duration::from_secs(duration.as_secs().saturating_add(more))
}

pub(super) fn check_receive(request: &Receive) -> Result<(), Refusal> {
    const CODE: &str = "InvalidParameterValue";
    if request.max == 0 || request.max > MAX_BATCH {
        return Err((
            CODE,
            format!(
                "a receive of {} messages was asked for, between 1 and {MAX_BATCH} can be",
                request.max
            ),
        ));
    }
    if request.wait > MAX_WAIT {
        return Err((
            CODE,
            format!(
                "a wait of {:?} was asked for, at most {MAX_WAIT:?} can be",
                request.wait
            ),
        ));
    }
    match request.visibility {
        Some(visibility) if whole_seconds(visibility) > MAX_VISIBILITY => Err((
            CODE,
            format!("a visibility timeout of {visibility:?} was asked for, at most 12 hours can be"),
        )),
        _ => Ok(()),
    }
}

pub(super) fn check_batch(entries: usize) -> Result<(), Refusal> {
    match entries {
        0 => Err(("EmptyBatchRequest", "the batch has no entries".to_owned())),
        n if n > MAX_BATCH => Err((
            "TooManyEntriesInBatchRequest",
            format!("the batch has {n} entries, more than {MAX_BATCH}"),
        )),
        _ => Ok(()),
    }
}

pub(super) fn check_batch_bytes(messages: &[Outgoing]) -> Result<(), Refusal> {
    let bytes: usize = messages.iter().map(Outgoing::size).sum();
    if bytes > MAX_BYTES {
        return Err((
            "BatchRequestTooLong",
            format!("the batch has {bytes} bytes, more than {MAX_BYTES}"),
        ));
    }
    Ok(())
}

pub(super) fn check_message(outgoing: &Outgoing, settings: &Settings) -> Result<(), EntryError> {
    if outgoing.body.is_empty() {
        return Err(entry(
            "MissingParameter",
            "the message has no body; SQS takes no empty ones",
        ));
    }
    if let Some(bad) = outgoing.body.chars().find(|char| !allowed(*char)) {
        return Err(entry(
            "InvalidMessageContents",
            format!("the body has the character {bad:?}, which SQS does not take"),
        ));
    }
    check_attributes(outgoing)?;
    let bytes = outgoing.size();
    if bytes > settings.max_message_bytes {
        let most = settings.max_message_bytes;
        return Err(invalid(format!(
            "the message has {bytes} bytes with its attributes, more than the queue's {most}"
        )));
    }
    if let Some(delay) = outgoing.delay.filter(|delay| whole_seconds(*delay) > MAX_DELAY) {
        return Err(invalid(format!(
            "a delay of {delay:?} was asked for, at most 15 minutes can be"
        )));
    }
    check_id("message group id", outgoing.group_id.as_deref())?;
    check_id("message deduplication id", outgoing.deduplication_id.as_deref())?;
    if !settings.fifo {
        return match outgoing.deduplication_id {
            Some(_) => Err(invalid("a standard queue takes no message deduplication id")),
            None => Ok(()),
        };
    }
    if outgoing.delay.is_some_and(|delay| !delay.is_zero()) {
        return Err(invalid("a FIFO queue takes no delay per message; set the queue's own"));
    }
    if outgoing.group_id.is_none() {
        return Err(entry("MissingParameter", "a FIFO queue needs a message group id"));
    }
    if outgoing.deduplication_id.is_none() && !settings.content_based_deduplication {
        return Err(invalid(
            "a FIFO queue without content-based deduplication needs a message deduplication id",
        ));
    }
    Ok(())
}

/// The deduplication id a message goes by: its own, else the SHA-256 of its body where the queue makes them.
pub(super) fn deduplication_id(outgoing: &Outgoing, settings: &Settings) -> Option<String> {
    outgoing.deduplication_id.clone().or_else(|| {
        settings.content_based_deduplication.then(|| {
            Sha256::digest(outgoing.body.as_bytes())
                .iter()
                .map(|byte| format!("{byte:02x}"))
                .collect()
        })
    })
}

fn check_attributes(outgoing: &Outgoing) -> Result<(), EntryError> {
    let count = outgoing.attributes.len();
    if count > MAX_ATTRIBUTES {
        return Err(invalid(format!(
            "the message has {count} attributes, more than {MAX_ATTRIBUTES}"
        )));
    }
    for (name, attribute) in &outgoing.attributes {
        let lower = name.to_ascii_lowercase();
        let well_formed = name
            .chars()
            .all(|char| char.is_ascii_alphanumeric() || matches!(char, '_' | '-' | '.'))
            && (1..=256).contains(&name.len())
            && !name.starts_with('.')
            && !name.ends_with('.')
            && !name.contains("..");
        if !well_formed || lower.starts_with("aws.") || lower.starts_with("amazon.") {
            return Err(invalid(format!("`{name}` cannot be the name of a message attribute")));
        }
        check_attribute(name, attribute)?;
    }
    Ok(())
}

fn check_attribute(name: &str, attribute: &Attribute) -> Result<(), EntryError> {
    let data_type = attribute.data_type.as_str();
    let base = data_type.split_once('.').map_or(data_type, |(base, _)| base);
    if !matches!(base, "String" | "Number" | "Binary") || data_type.len() > 256 {
        return Err(invalid(format!(
            "the attribute `{name}` has the data type `{data_type}`, not String, Number or Binary"
        )));
    }
    match &attribute.value {
        AttributeValue::Text(text) if base != "Binary" => {
            if text.is_empty() {
                return Err(invalid(format!("the attribute `{name}` is empty")));
            }
            if let Some(bad) = text.chars().find(|char| !allowed(*char)) {
                return Err(invalid(format!(
                    "the attribute `{name}` has the character {bad:?}, which SQS does not take"
                )));
            }
            if base == "Number" && text.parse::<f64>().is_err() {
                return Err(invalid(format!(
                    "the attribute `{name}` is a Number and `{text}` is none"
                )));
            }
            Ok(())
        }
        AttributeValue::Binary(bytes) if base == "Binary" => {
            if bytes.is_empty() {
                return Err(invalid(format!("the attribute `{name}` is empty")));
            }
            Ok(())
        }
        _ => Err(invalid(format!(
            "the value of the attribute `{name}` is not of its data type `{data_type}`"
        ))),
    }
}

fn check_id(what: &str, id: Option<&str>) -> Result<(), EntryError> {
    match id {
        Some(id) if !(1..=128).contains(&id.len()) || !id.bytes().all(|byte| byte.is_ascii_graphic()) => Err(invalid(
            format!("the {what} `{id}` is not 1 to 128 letters, digits and punctuation marks"),
        )),
        _ => Ok(()),
    }
}

/// The characters of XML 1.0, which are those SQS takes.
fn allowed(char: char) -> bool {
    matches!(char, '\u{9}' | '\u{A}' | '\u{D}' | '\u{20}'..='\u{D7FF}' | '\u{E000}'..='\u{FFFD}' | '\u{10000}'..='\u{10FFFF}')
}

/// A receipt handle: the queue's tag, the entry, and the number of its delivery.
pub(super) fn receipt(tag: u64, seq: u64, delivery: u64) -> Receipt {
    Receipt::new(format!("{tag:016x}{seq:016x}{delivery:016x}"))
}

/// The entry and the delivery that a receipt handle of this queue names.
pub(super) fn parse_receipt(tag: u64, receipt: &Receipt) -> Option<(u64, u64)> {
    let handle = receipt.as_str();
    if handle.len() != 48 || !handle.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return None;
    }
    let part = |at: usize| u64::from_str_radix(handle.get(at..at + 16)?, 16).ok();
    (part(0)? == tag).then_some((part(16)?, part(32)?))
}

pub(super) fn unknown_receipt(receipt: &Receipt) -> EntryError {
    entry(
        "ReceiptHandleIsInvalid",
        format!("`{}` is no receipt handle of this queue", receipt.as_str()),
    )
}

pub(super) fn expired_receipt(receipt: &Receipt) -> EntryError {
    invalid(format!("the receipt handle `{}` has expired", receipt.as_str()))
}

pub(super) fn receipt_of_nothing(receipt: &Receipt) -> EntryError {
    invalid(format!(
        "the message of the receipt handle `{}` does not exist",
        receipt.as_str()
    ))
}

pub(super) fn not_in_flight() -> EntryError {
    entry(
        "MessageNotInflight",
        "the message is not in flight under this receipt handle",
    )
}

pub(super) fn visibility_too_long(timeout: Duration) -> EntryError {
    invalid(format!(
        "a visibility timeout of {timeout:?} more would pass the 12 hours a message can be in flight in all"
    ))
}

fn invalid(message: impl Into<String>) -> EntryError {
    entry("InvalidParameterValue", message)
}

fn entry(code: &str, message: impl Into<String>) -> EntryError {
    EntryError::new(code, message, true)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn only_its_own_receipts_are_read() {
        let own = receipt(7, 12, 3);
        assert_eq!(parse_receipt(7, &own), Some((12, 3)));
        assert_eq!(parse_receipt(8, &own), None);
        let text = own.as_str();
        for forged in [
            String::new(),
            text[1..].to_owned(),
            format!("{text}0"),
            text.replace('c', "+"),
            "ü".repeat(24),
        ] {
            assert_eq!(parse_receipt(7, &Receipt::new(forged)), None);
        }
    }

    #[test]
    fn a_part_of_a_second_counts_as_one() {
        let cases = [(0, 0), (1, 1), (999, 1), (1_000, 1), (1_001, 2)];
        for (ms, secs) in cases {
            assert_eq!(whole_seconds(Duration::from_millis(ms)), Duration::from_secs(secs));
        }
        assert_eq!(whole_seconds(Duration::MAX), Duration::from_secs(u64::MAX));
    }

    #[test]
    fn receives_out_of_bounds_are_refused_with_what_was_asked_and_what_can_be() {
        let with = |change: fn(&mut Receive)| {
            let mut request = Receive::new(1, Duration::ZERO);
            change(&mut request);
            check_receive(&request).unwrap_err().1
        };
        assert!(with(|request| request.max = 0).contains("between 1 and 10"));
        assert!(with(|request| request.max = 11).contains("11"));
        assert!(with(|request| request.wait = Duration::from_secs(21)).contains("20s"));
        assert!(with(|request| request.visibility = Some(Duration::MAX)).contains("12 hours"));
        let mut most = Receive::new(10, MAX_WAIT);
        most.visibility = Some(MAX_VISIBILITY);
        assert!(check_receive(&most).is_ok());
    }

    #[test]
    fn no_refusal_of_a_message_or_timeout_reads_as_a_stale_receipt() {
        assert!(!visibility_too_long(MAX_VISIBILITY).is_stale_receipt());
        let handle = Receipt::new("h");
        for stale in [
            unknown_receipt(&handle),
            expired_receipt(&handle),
            receipt_of_nothing(&handle),
            not_in_flight(),
        ] {
            assert!(stale.is_stale_receipt(), "{stale}");
        }
    }
}
