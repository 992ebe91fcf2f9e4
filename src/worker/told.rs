//! A worker's settings as its status may show them: what it goes by, and nothing that a program handed in. Names alone stand
//! for queues and inboxes: an address may hold an account's number, or more.

use std::time::Duration;

use super::config::{AfterReject, Config, DeadLetters, FingerprintSource, WithoutDeadLetters};

/// The names of the builder's methods, and what they came to.
pub(super) fn settings(config: &Config, has_inbox: bool) -> Vec<(&'static str, String)> {
    let on = |on: bool| if on { "on" } else { "off" }.to_owned();
    let optional = |value: Option<String>| value.unwrap_or_else(|| "none".to_owned());
    let dead_letters = match &config.dead_letters {
        DeadLetters::Queue(queue) => queue.attributes().name.clone(),
        DeadLetters::RedrivePolicy => "by the redrive policy".to_owned(),
        DeadLetters::Without(WithoutDeadLetters::Keep) => "kept in the queue".to_owned(),
        DeadLetters::Without(WithoutDeadLetters::Discard) => "discarded".to_owned(),
    };
    let fingerprint = match &config.fingerprint {
        FingerprintSource::Body => "the body",
        FingerprintSource::Function(_) => "a function",
        FingerprintSource::Off => "off",
    };
    let after_reject = match config.after_reject {
        AfterReject::Continue => "continue",
        AfterReject::Block => "block",
    };
    let adaptive = config
        .adaptive
        .map(|bounds| format!("{} to {}", bounds.min(), bounds.max()));
    let rate = config
        .rate
        .map(|limit| format!("{}/s, burst {}", limit.rate(), limit.burst_size()));
    let (base, cap) = (config.backoff.base(), config.backoff.cap());
    let mut told = vec![
        ("adaptive_concurrency", optional(adaptive)),
        ("after_reject", after_reject.to_owned()),
        ("backoff", format!("{} to {}", span(base), span(cap))),
        ("breaker", on(config.breaker.is_some())),
        ("concurrency", config.concurrency.to_string()),
        ("consumer", config.consumer.clone()),
        ("dead_letters", dead_letters),
        ("drain_deadline", span(config.drain_deadline)),
        ("handler_timeout", optional(config.handler_timeout.map(span))),
        ("heartbeat", on(config.heartbeat)),
        ("held_back", config.held_back.to_string()),
        ("inbox", on(has_inbox)),
        ("keep_while_open", span(config.keep_while_open)),
        ("linger", span(config.linger)),
        ("long_poll", span(config.long_poll)),
        ("max_attempts", config.max_attempts.to_string()),
        ("max_receives", config.max_receives.to_string()),
        ("rate", optional(rate)),
        ("rate_by", on(config.tenants.is_some())),
        ("stall_after", span(config.stall_after)),
        ("visibility_timeout", span(config.visibility)),
    ];
    if has_inbox {
        told.extend([
            ("fingerprint", fingerprint.to_owned()),
            ("in_flight_delay", span(config.in_flight_delay)),
            ("inbox_retention", span(config.retention)),
            ("lease", span(config.lease)),
            ("shadow", on(config.shadow)),
        ]);
    }
    told
}

/// In the largest unit that it is a whole number of, as variables are written.
fn span(span: Duration) -> String {
    let whole = |unit: u64| {
        let seconds = span.as_secs();
        (span.subsec_nanos() == 0 && seconds > 0 && seconds.is_multiple_of(unit)).then_some(seconds / unit)
    };
    if let Some(days) = whole(24 * 60 * 60) {
        format!("{days}d")
    } else if let Some(hours) = whole(60 * 60) {
        format!("{hours}h")
    } else if let Some(minutes) = whole(60) {
        format!("{minutes}m")
    } else if span.is_zero() {
        "0s".to_owned()
    } else {
        format!("{span:?}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_shown_as_variables_are_written() {
        for (millis, shown) in [
            (0, "0s"),
            (5, "5ms"),
            (1_500, "1.5s"),
            (110_000, "110s"),
            (900_000, "15m"),
            (7_200_000, "2h"),
            (35 * 86_400_000, "35d"),
        ] {
            assert_eq!(span(Duration::from_millis(millis)), shown);
        }
    }
}
