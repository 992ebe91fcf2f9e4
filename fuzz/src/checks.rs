//! What must hold of the tool's readers, whatever they read.

use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use redrive::dlq::{DeadLetter, Intent, Journal as _};
use redrive::flow::LONGEST_DELAY;
use redrive::key::KeySource;
use redrive::message::{AttributeValue, Message, Outgoing};

use crate::made::{context, deceives, delivery, size};
use crate::memory::within;
use crate::tool::dlq::replay::Opened;
use crate::tool::{dlq, exec, forward, lines, queue, record, ui};

/// What stands on one line of a terminal.
fn on_a_line(text: &str) {
    assert!(!text.contains(deceives), "{text:?}");
}

/// A filter is read or refused with the place; what was read is read again from how it is shown, and means the same.
pub fn filter(text: &str, message: Message) {
    let letter = DeadLetter::new(delivery(message), &KeySource::Attribute);
    let now = 1_750_000_000_000;
    let bytes = text.len() + size(letter.message());
    // A regular expression may take a megabyte by its own bound, and a body as JSON some 70 bytes for each of its own.
    within(bytes, 200, 16 << 20, || match text.parse::<dlq::filter::Filter>() {
        Err(error) => {
            let told = error.to_string();
            assert!(told.contains('^') && told.len() < 4_000, "{told}");
            told.lines().for_each(on_a_line);
        }
        Ok(filter) => {
            let shown = filter.to_string();
            let again: dlq::filter::Filter = shown.parse().unwrap_or_else(|error| panic!("{shown}: {error}"));
            assert_eq!(again, filter, "{shown}");
            assert_eq!(dlq::holds(text, &letter, now), dlq::holds(&shown, &letter, now), "{shown}");
        }
    });
}

/// A line of an export, or of `queue send`, is a message or says why not; what was written is read back.
pub fn import(line: &str) {
    within(line.len(), 40, 16 << 10, || {
        match record::read(line) {
            Ok(read) => again(&read),
            Err(why) => told(&why, line),
        }
        match queue::send::of_line(line) {
            Ok(outgoing) => assert!(outgoing.size() <= 2 * line.len() + 64),
            Err(why) => told(&why, line),
        }
        match queue::send::named_attribute(line) {
            Ok((name, attribute)) => {
                assert!(!name.contains('=') && line.starts_with(&name));
                assert!(attribute.is_none_or(|attribute| attribute.size() <= line.len() + "String".len()));
            }
            Err(why) => assert!(!why.is_empty()),
        }
    });
    if let Ok(ranges) = line.parse::<lines::ranges::Ranges>() {
        let shown = ranges.to_string();
        assert_eq!(shown.parse::<lines::ranges::Ranges>(), Ok(ranges), "{shown}");
    }
}

fn told(why: &str, line: &str) {
    assert!(!why.is_empty() && why.len() <= 6 * line.len() + 400, "{why}");
}

fn again(read: &record::Read) {
    let message = message(&read.outgoing, read);
    let letter = DeadLetter::new(delivery(message), &KeySource::Attribute);
    let written = record::Written::of(&letter, "orders-dlq").line().expect("it is written");
    assert_eq!(written.iter().filter(|&&byte| byte == b'\n').count(), 1);
    let text = std::str::from_utf8(&written).expect("JSON is UTF-8");
    let back = record::read(text).unwrap_or_else(|why| panic!("{why}: {text}"));
    assert_eq!(back.outgoing, read.outgoing);
    assert_eq!(
        (back.deduplication_id, back.dead_letter_source),
        (read.deduplication_id.clone(), read.dead_letter_source.clone())
    );
    assert_eq!(read.outgoing.deduplication_id, None, "SQS would swallow what repeats one");
}

fn message(outgoing: &Outgoing, read: &record::Read) -> Message {
    let mut message = Message::new(read.id.clone().unwrap_or_default(), outgoing.body.clone());
    message.attributes = outgoing.attributes.clone();
    message.group_id.clone_from(&outgoing.group_id);
    message.trace_header.clone_from(&outgoing.trace_header);
    message.deduplication_id.clone_from(&read.deduplication_id);
    message.dead_letter_source.clone_from(&read.dead_letter_source);
    message
}

/// A job file is gone on with or refused; refused, it is left as it was; gone on with, it knows what is noted from then on.
pub fn journal(bytes: &[u8]) {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    let path = FOLDER.get_or_init(|| {
        // Where syncing costs nothing, if there is such a place.
        let memory = Path::new("/dev/shm");
        let folder = if memory.is_dir() { memory.to_owned() } else { std::env::temp_dir() };
        folder.join(format!("redrive-fuzz-journal-{}", std::process::id()))
    });
    std::fs::write(path, bytes).expect("a file can be written");
    match within(bytes.len(), 60, 64 << 10, || Opened::of(path)) {
        Err(failure) => {
            assert!(failure.remedy_text().is_some(), "{failure}");
            assert!(failure.to_string().contains("job file"), "{failure}");
            assert_eq!(std::fs::read(path).expect("it is there"), bytes, "it was changed");
        }
        Ok(file) => {
            let kept = std::fs::read(path).expect("it is there");
            if file.is_resumed() {
                assert!(bytes.starts_with(&kept), "only an end that was cut off is taken off");
            }
            let id = file.id().to_owned();
            let knew = (file.journal().was_sent("m-1"), file.sent_before());
            file.journal().intend(&[Intent::new("fresh", "w", true)]).expect("it is noted");
            drop(file);
            let file = Opened::of(path).unwrap_or_else(|failure| panic!("{failure}"));
            assert_eq!(file.id(), id);
            let journal = file.journal();
            assert_eq!((journal.was_sent("m-1"), file.sent_before()), knew, "sent stays sent, unsent unsent");
            assert!(journal.intended("fresh").is_some_and(|intent| intent.forced));
            journal.record(&["fresh".to_owned()]).expect("it is noted");
            assert!(journal.was_sent("fresh"));
            file.finish().expect("it is noted");
        }
    }
    let _ = std::fs::remove_file(path);
}

/// An answer of the endpoint is a result or a failure with bounded, telling words, and no wait over the longest.
pub fn answer(status: u16, headers: &[(&str, &[u8])], body: &[u8], now_ms: u64) {
    let Ok(status) = http::StatusCode::from_u16(status) else { return };
    // No more is read of one.
    let body = &body[..body.len().min(forward::EXCERPT_READ)];
    let mut response = http::Response::new(body.to_vec());
    *response.status_mut() = status;
    let mut bytes = body.len();
    for (name, value) in headers {
        let name = http::header::HeaderName::from_bytes(name.as_bytes());
        if let (Ok(name), Ok(value)) = (name, http::HeaderValue::from_bytes(value)) {
            bytes += value.len();
            response.headers_mut().append(name, value);
        }
    }
    let failure = within(bytes, 40, 64 << 10, || forward::answered(response, now_ms));
    let Some(failure) = failure else {
        assert!(status.is_success());
        return;
    };
    assert!(!status.is_success());
    assert!(failure.error().contains(status.as_str()), "{}", failure.error());
    assert!(failure.error().len() <= redrive::outcome::MAX_ERROR_BYTES);
    assert!(failure.delay().is_none_or(|delay| delay <= LONGEST_DELAY));
    let never = status.is_client_error() && ![401, 408, 429].contains(&status.as_u16());
    assert_eq!(failure.is_reject(), never, "{status}");
}

/// What is shown of foreign text drives no terminal, and shows everything.
pub fn terminal(text: &str, columns: usize) {
    within(text.len(), 80, 16 << 10, || {
        let safe = ui::safe(text);
        on_a_line(&safe);
        assert!(safe.len() >= text.len());
        let brief = ui::brief(text, columns);
        on_a_line(&brief);
        for line in ui::safe_lines(text).lines() {
            line.split('\t').for_each(on_a_line);
        }
        let json = serde_json::to_string(text).expect("a text is JSON");
        let shown = ui::safe_json(&json);
        on_a_line(&shown);
        assert_eq!(serde_json::from_str::<String>(&shown).expect("it stays JSON"), text);
    });
    let mut table = ui::Table::new([ui::Column::new("ID"), ui::Column::elastic("ERROR")]);
    table.row([ui::safe(text).into_owned(), ui::brief(text, columns)]);
    assert_eq!(table.height(), 2);
}

/// What an endpoint or a command is told of a message stays within its header or its variable, and within bounds.
pub fn told_of(message: Message, key: &str) {
    let bytes = size(&message) + key.len();
    let attributes = message.attributes.clone();
    let id = message.id.clone();
    let context = context(message, key);
    let headers = within(bytes, 40, 64 << 10, || forward::headers(&context));
    let mut held = 0;
    for (name, value) in &headers {
        let value = value.to_str().expect("headers are ASCII");
        assert!(!value.contains(|c: char| c.is_control()), "{name}: {value:?}");
        if name.as_str().starts_with("redrive-attr-") || name.as_str().starts_with("redrive-binary-") {
            held += value.len();
        }
    }
    assert!(held <= 4 * 1024, "{held} bytes of attributes");
    let decoded = |name: &str| percent_decoded(headers.get(name).map_or(b"", |value| value.as_bytes()));
    assert_eq!(decoded("idempotency-key"), key.as_bytes());
    assert_eq!(decoded("redrive-message-id"), id.as_bytes());
    assert_eq!(decoded("redrive-attempt"), b"1", "no attribute stands where one of ours belongs");
    assert_eq!(decoded("redrive-queue"), b"orders");

    let variables = within(bytes, 40, 64 << 10, || exec::variables(&context));
    for (name, value) in &variables {
        let name = name.to_str().expect("names are ASCII");
        assert!(name.starts_with("REDRIVE_"), "{name}");
        assert!(name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_'), "{name}");
        assert!(!value.as_encoded_bytes().contains(&0));
    }
    assert_eq!(variables["REDRIVE_ATTEMPT".as_ref() as &std::ffi::OsStr], "1");
    for (name, attribute) in attributes {
        if let AttributeValue::Text(text) = &attribute.value
            && name.bytes().all(|byte| byte.is_ascii_uppercase())
            && !text.contains('\0')
            && name != "LEFT_OUT"
        {
            let variable = format!("REDRIVE_ATTR_{name}");
            assert!(variables.contains_key(std::ffi::OsStr::new(&variable)), "{variable}");
        }
    }
}

fn percent_decoded(value: &[u8]) -> Vec<u8> {
    let mut decoded = Vec::new();
    let mut rest = value;
    while let Some((&byte, after)) = rest.split_first() {
        rest = after;
        if byte == b'%' {
            let digits = std::str::from_utf8(&rest[..2]).expect("two digits");
            decoded.push(u8::from_str_radix(digits, 16).expect("two digits"));
            rest = &rest[2..];
        } else {
            decoded.push(byte);
        }
    }
    decoded
}
