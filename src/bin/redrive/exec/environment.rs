//! What a command is told of its message, in its environment.

use std::collections::BTreeMap;

use redrive::Context;
use redrive::dlq::ENVELOPE_ATTRIBUTE;
use redrive::key::Key;
use redrive::message::AttributeValue;
use redrive::telemetry::TraceContext;
use sha2::{Digest as _, Sha256};
use tokio::process::Command;

use crate::run::OURS;

/// The most bytes of one value. Linux takes 128 KiB for a variable.
const MAX_VALUE: usize = 32 * 1024;

/// The most bytes of all attributes. Linux takes 2 MiB for arguments and environment, unless the stack is small.
const MAX_VALUES: usize = 128 * 1024;

/// Gives the command its environment: ours, but for the worker's settings, and what `context` tells.
pub(super) fn set(command: &mut Command, context: &Context) {
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with(OURS) {
            command.env_remove(name);
        }
    }
    command.envs(variables(context));
}

fn variables(context: &Context) -> BTreeMap<String, String> {
    let message = context.message();
    let mut variables = BTreeMap::new();
    let mut set = |name: &str, value: String| {
        if can_be_held(&value) {
            variables.insert(name.to_owned(), value);
        }
    };
    set("REDRIVE_MESSAGE_ID", message.id.clone());
    set("REDRIVE_KEY", key(context.key()));
    set("REDRIVE_QUEUE", context.queue().to_owned());
    set("REDRIVE_ATTEMPT", context.attempt().to_string());
    set("REDRIVE_RECEIVE_COUNT", context.delivery().receive_count.to_string());
    if let Some(sent_at) = message.sent_at_ms {
        set("REDRIVE_SENT_AT_MS", sent_at.to_string());
    }
    if let Some(group) = &message.group_id {
        set("REDRIVE_GROUP_ID", group.clone());
    }
    if let Some(claim) = context.claim() {
        set("REDRIVE_FENCING_TOKEN", claim.fencing_token.to_string());
    }
    if let Some(envelope) = context.envelope() {
        // The envelope counts the replays before this one.
        set("REDRIVE_REPLAYS", envelope.replays.saturating_add(1).to_string());
        set("REDRIVE_ORIGINAL_MESSAGE_ID", envelope.message_id.clone());
    }
    if let Some(trace) = TraceContext::current().or_else(|| TraceContext::of(message)) {
        set("REDRIVE_TRACEPARENT", trace.to_string());
    }
    attributes(context, &mut variables);
    variables
}

/// The key, or its hash where no variable can hold it: every command is told one, and the same each time. The inbox names long
/// keys by the same hash.
fn key(key: &Key) -> String {
    let key = key.as_str();
    if can_be_held(key) {
        return key.to_owned();
    }
    let digits = Sha256::digest(key.as_bytes())
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect::<String>();
    format!("sha256:{digits}")
}

fn can_be_held(value: &str) -> bool {
    value.len() <= MAX_VALUE && !value.contains('\0')
}

fn attributes(context: &Context, variables: &mut BTreeMap<String, String>) {
    let mut left_out = Vec::new();
    let mut size = 0;
    for (name, attribute) in &context.message().attributes {
        // It is told by variables of its own.
        if name == ENVELOPE_ATTRIBUTE {
            continue;
        }
        let mut variable = format!("REDRIVE_ATTR_{}", shouted(name));
        let value = match &attribute.value {
            AttributeValue::Text(text) => text.clone(),
            AttributeValue::Binary(bytes) => {
                variable.push_str("_BASE64");
                aws_smithy_types::base64::encode(bytes)
            }
        };
        let fits = can_be_held(&value) && size + value.len() <= MAX_VALUES;
        if fits && !variables.contains_key(&variable) {
            size += value.len();
            variables.insert(variable, value);
        } else {
            left_out.push(name.as_str());
        }
    }
    // SQS has no such names; one with a NUL would keep the command from being started.
    left_out.retain(|name| can_be_held(name));
    if !left_out.is_empty() {
        variables.insert("REDRIVE_ATTRS_LEFT_OUT".to_owned(), left_out.join(" "));
    }
}

/// `name` as part of a variable's name: in capitals, with `_` for all but letters and digits.
fn shouted(name: &str) -> String {
    name.chars()
        .map(|c| {
            if c.is_ascii_alphanumeric() {
                c.to_ascii_uppercase()
            } else {
                '_'
            }
        })
        .collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]
mod tests {
    use std::sync::Arc;

    use redrive::message::{Attribute, Delivery, Message, Receipt};

    use super::*;

    fn told(attributes: &[(&str, Attribute)]) -> BTreeMap<String, String> {
        let mut message = Message::new("mid-1", "body");
        message.group_id = Some("customer-7".into());
        for (name, attribute) in attributes {
            message.attributes.insert((*name).to_owned(), attribute.clone());
        }
        let now = redrive::clock::Clock::system().now();
        let delivery = Delivery::new(message, Receipt::new("r"), 3, now);
        variables(&Context::new(Arc::new(delivery), Key::new("k"), 2, "orders".into()))
    }

    #[test]
    fn a_message_is_told_in_variables() {
        let told = told(&[
            ("content-type", Attribute::string("text/csv")),
            ("raw", Attribute::binary(vec![0, 255])),
        ]);
        for (name, value) in [
            ("REDRIVE_MESSAGE_ID", "mid-1"),
            ("REDRIVE_KEY", "k"),
            ("REDRIVE_QUEUE", "orders"),
            ("REDRIVE_ATTEMPT", "2"),
            ("REDRIVE_RECEIVE_COUNT", "3"),
            ("REDRIVE_GROUP_ID", "customer-7"),
            (concat!("REDRIVE_", "ATTR_CONTENT_TYPE"), "text/csv"),
            (concat!("REDRIVE_", "ATTR_RAW_BASE64"), "AP8="),
        ] {
            assert_eq!(told.get(name).map(String::as_str), Some(value), "{name}");
        }
        assert!(!told.contains_key("REDRIVE_ATTRS_LEFT_OUT"));
    }

    #[test]
    fn what_no_environment_can_hold_is_left_out_by_name() {
        let huge = "x".repeat(MAX_VALUE);
        let told = told(&[
            ("a-b", Attribute::string("first")),
            ("a.b", Attribute::string("second")),
            ("nul", Attribute::string("a\0b")),
            ("nul\0", Attribute::string("a\0b")),
            ("over", Attribute::string(format!("{huge}x"))),
            ("p1", Attribute::string(&huge)),
            ("p2", Attribute::string(&huge)),
            ("p3", Attribute::string(&huge)),
            ("p4", Attribute::string(&huge)),
        ]);
        assert_eq!(told["REDRIVE_ATTRS_LEFT_OUT"], "a.b nul over p4");
        assert_eq!(told[concat!("REDRIVE_", "ATTR_A_B")], "first");
    }
}
