//! `traceparent` and `AWSTraceHeader`.
#![no_main]

use libfuzzer_sys::fuzz_target;
use redrive::message::{Attribute, Message, TRACEPARENT_ATTRIBUTE};
use redrive::telemetry::TraceContext;
use redrive_fuzz::{made::deceives, memory::within};

fuzz_target!(|text: &str| {
    let read = within(text.len(), 12, 2 << 10, || text.parse::<TraceContext>());
    match read {
        Ok(context) => {
            // Version 0 is written, whatever was read; ids and flags are the same.
            assert_eq!(context.to_string().parse(), Ok(context));
            assert!(context.trace_id().bytes().any(|digit| digit != b'0'));
        }
        Err(error) => {
            assert!(error.text.len() <= 80, "{error}");
            assert!(!error.to_string().contains(deceives), "{error:?}");
        }
    }
    let header = within(text.len(), 4, 2 << 10, || TraceContext::from_aws_header(text));
    if let Some(context) = header {
        assert_eq!(context.to_string().parse(), Ok(context));
    }
    let mut message = Message::new("m", "{}");
    message.attributes.insert(TRACEPARENT_ATTRIBUTE.into(), Attribute::string(text));
    message.trace_header = Some(text.to_owned());
    assert_eq!(TraceContext::of(&message), text.parse().ok().or(header));
});
