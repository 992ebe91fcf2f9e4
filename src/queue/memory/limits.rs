//! What SQS refuses besides messages, as pure checks: the rules of the Amazon SQS API Reference (SendMessageBatch,
//! ChangeMessageVisibility, ReceiveMessage). Those of messages are [`rules`]'.

use std::time::Duration;

use sha2::{Digest, Sha256};

use crate::message::{Outgoing, Receipt};
use crate::queue::rules::{self, whole_seconds};
use crate::queue::{EntryError, MAX_BATCH, MAX_BYTES, MAX_VISIBILITY, MAX_WAIT, Receive};

use super::store::Settings;

/// A whole call that is refused: SQS's error code and what was wrong.
pub(super) type Refusal = (&'static str, String);

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
    let limits = rules::Limits {
        fifo: settings.fifo,
        content_based_deduplication: settings.content_based_deduplication,
        max_message_bytes: settings.max_message_bytes,
    };
    rules::check(outgoing, limits).map_err(|flaw| entry(flaw.code, format!("{}: {}", flaw.what, flaw.why)))
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

/// How many hexadecimal digits each of a receipt handle's three numbers has.
const DIGITS: usize = 16;

/// A receipt handle: the queue's tag, the entry, and the number of its delivery.
pub(super) fn receipt(tag: u64, seq: u64, delivery: u64) -> Receipt {
    const PAIRS: [[u8; 2]; 256] = {
        let hex = b"0123456789abcdef";
        let mut pairs = [[0; 2]; 256];
        let mut byte = 0;
        while byte < 256 {
            pairs[byte] = [hex[byte >> 4], hex[byte & 15]];
            byte += 1;
        }
        pairs
    };
    // By hand, because `format!` costs ten times as much, and every delivery has its receipt made.
    let mut text = [0; 3 * DIGITS];
    for (digits, number) in text.as_chunks_mut::<DIGITS>().0.iter_mut().zip([tag, seq, delivery]) {
        for (pair, byte) in digits.as_chunks_mut::<2>().0.iter_mut().zip(number.to_be_bytes()) {
            *pair = PAIRS[usize::from(byte)];
        }
    }
    Receipt::shared(str::from_utf8(&text).unwrap_or_default().into())
}

/// The entry and the delivery that a receipt handle of this queue names.
pub(super) fn parse_receipt(tag: u64, receipt: &Receipt) -> Option<(u64, u64)> {
    let (numbers, rest) = receipt.as_str().as_bytes().as_chunks::<DIGITS>();
    let [own, seq, delivery] = numbers else {
        return None;
    };
    let (own, seq, delivery) = (parse_hex(own)?, parse_hex(seq)?, parse_hex(delivery)?);
    (rest.is_empty() && own == tag).then_some((seq, delivery))
}

fn parse_hex(digits: &[u8; DIGITS]) -> Option<u64> {
    /// What a byte is worth as a digit, and [`NONE`] where it is none.
    const WORTH: [u8; 256] = {
        let mut worth = [NONE; 256];
        let mut digit: u8 = 0;
        while digit < 16 {
            let text = if digit < 10 { b'0' + digit } else { b'a' + digit - 10 };
            worth[text as usize] = digit;
            worth[text.to_ascii_uppercase() as usize] = digit;
            digit += 1;
        }
        worth
    };
    const NONE: u8 = 0xff;
    let mut number = 0;
    let mut seen = 0;
    for digit in digits {
        let worth = WORTH[usize::from(*digit)];
        seen |= worth;
        number = number << 4 | u64::from(worth & 15);
    }
    (seen != NONE).then_some(number)
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
    fn a_receipt_is_three_numbers_in_hexadecimal_and_read_in_either_case() {
        for (tag, seq, delivery) in [
            (0, 0, 0),
            (0xfedc_ba98_7654_3210, 12, 3),
            (u64::MAX, u64::MAX, u64::MAX),
        ] {
            let made = receipt(tag, seq, delivery);
            assert_eq!(made.as_str(), format!("{tag:016x}{seq:016x}{delivery:016x}"));
            let upper = Receipt::new(made.as_str().to_uppercase());
            for read in [made, upper] {
                assert_eq!(parse_receipt(tag, &read), Some((seq, delivery)));
            }
        }
    }

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
            text.replace('c', "g"),
            text.repeat(2),
            "ü".repeat(24),
        ] {
            assert_eq!(parse_receipt(7, &Receipt::new(forged)), None);
        }
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
