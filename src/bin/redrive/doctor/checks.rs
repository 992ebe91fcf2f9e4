//! What can be said from what queues tell of themselves. Pure.

use std::time::Duration;

use redrive::queue::{ClockSkew, MAX_VISIBILITY, QueueAttributes, QueueSettings, RedriveAllow, RedrivePolicy};

use super::finding::Finding;
use crate::ui::{count, short_age};

/// SQS hands out no more messages of a queue than this before some are settled.
const MOST_IN_FLIGHT: u64 = 120_000;

/// Below it every hiccup of a worker makes a duplicate delivery.
const SHORT_VISIBILITY: Duration = Duration::from_secs(10);

/// Messages do not outlive a night and a day of an outage.
const SHORT_RETENTION: Duration = Duration::from_secs(24 * 3_600);

/// AWS refuses requests whose time is further off than this.
const REFUSED_SKEW: Duration = Duration::from_secs(5 * 60);
const LARGE_SKEW: Duration = Duration::from_secs(60);

/// How this host's clock stands.
pub(super) fn clock(skew: ClockSkew) -> Finding {
    const CODE: &str = "clock_skew";
    let off = Duration::from_millis(skew.ahead_ms.unsigned_abs());
    let side = if skew.ahead_ms > 0 { "ahead of" } else { "behind" };
    let text = format!(
        "this host's clock is {} {side} SQS's; AWS refuses signatures that are 5 minutes off; let the host keep time (chrony, \
         ntpd)",
        short_age(off)
    );
    if off > REFUSED_SKEW {
        Finding::problem(CODE, text)
    } else if off > LARGE_SKEW {
        Finding::warning(CODE, text)
    } else {
        Finding::ok(CODE, "this host's clock agrees with SQS's within a minute")
    }
}

/// A source queue's limits.
pub(super) fn queue(source: &QueueAttributes) -> Vec<Finding> {
    let name = &source.name;
    let mut findings = Vec::new();
    let visibility = source.visibility_timeout;
    // A worker does not start with one of zero, and says so itself.
    findings.push(if visibility < SHORT_VISIBILITY {
        Finding::warning(
            "visibility_timeout",
            format_args!(
                "the visibility timeout of `{name}` is {}: one missed heartbeat is enough for a second delivery; set it to 30 s or \
                 more",
                short_age(visibility)
            ),
        )
    } else if visibility >= MAX_VISIBILITY {
        Finding::warning(
            "visibility_timeout",
            format_args!(
                "the visibility timeout of `{name}` is 12 h, SQS's longest: what a dead worker held comes back half a day later, \
                 and no heartbeat can extend it; set it to minutes and let the worker's heartbeat do the rest"
            ),
        )
    } else {
        Finding::ok(
            "visibility_timeout",
            format_args!("the visibility timeout of `{name}` is {}", short_age(visibility)),
        )
    });
    findings.push(if source.retention < SHORT_RETENTION {
        Finding::warning(
            "retention",
            format_args!(
                "`{name}` keeps messages for {}: an outage that lasts longer loses them; set its retention to 4 days or more",
                short_age(source.retention)
            ),
        )
    } else {
        Finding::ok(
            "retention",
            format_args!("`{name}` keeps messages for {}", short_age(source.retention)),
        )
    });
    findings.push(in_flight(source));
    if source.fifo && source.content_based_deduplication {
        findings.push(Finding::info(
            "content_based_deduplication",
            format_args!(
                "`{name}` deduplicates by content: two messages with equal bodies within five minutes are one, whatever their \
                 attributes say"
            ),
        ));
    }
    findings
}

fn in_flight(queue: &QueueAttributes) -> Finding {
    const CODE: &str = "in_flight";
    let text = format!(
        "{} of `{}` in flight, of the {} that SQS allows",
        count(queue.in_flight, "message"),
        queue.name,
        indicatif::HumanCount(MOST_IN_FLIGHT)
    );
    if queue.in_flight >= MOST_IN_FLIGHT / 10 * 8 {
        Finding::warning(
            CODE,
            format_args!(
                "{text}: at the cap it hands out no more; look for consumers that hold messages and do not settle them"
            ),
        )
    } else {
        Finding::ok(CODE, text)
    }
}

/// A dead-letter queue against its source. Its retention is the preflight's, and so is a size that is too small.
pub(super) fn dead_letter_queue(source: &QueueAttributes, dead: &QueueAttributes) -> Vec<Finding> {
    let mut findings = Vec::new();
    let kind = |queue: &QueueAttributes| if queue.fifo { "a FIFO queue" } else { "a standard queue" };
    findings.push(if source.fifo == dead.fifo {
        Finding::ok("fifo_mismatch", format_args!("both are {}s", kind(source).trim_start_matches("a ")))
    } else {
        Finding::problem(
            "fifo_mismatch",
            format_args!(
                "`{}` is {} and its dead-letter queue `{}` is {}: SQS moves nothing between them; make a dead-letter queue of the \
                 same kind (redrive init {} --dlq NAME --update)",
                source.name,
                kind(source),
                dead.name,
                kind(dead),
                source.name
            ),
        )
    });
    if dead.max_message_bytes >= source.max_message_bytes {
        findings.push(Finding::ok(
            "message_size",
            format_args!("`{}` takes messages as large as `{}`", dead.name, source.name),
        ));
    }
    findings.push(in_flight(dead));
    findings
}

/// Whether SQS may move messages of the source there.
pub(super) fn redrive_allow(source: &QueueAttributes, dead: &QueueAttributes, allow: &RedriveAllow) -> Finding {
    const CODE: &str = "redrive_allow";
    let (source, dead, arn) = (&source.name, &dead.name, &source.arn);
    if allow.admits(arn) {
        return Finding::ok(CODE, format_args!("`{dead}` admits `{source}` as a source"));
    }
    let whom = match allow {
        RedriveAllow::Nobody => "no queue",
        _ => "other queues only",
    };
    Finding::problem(
        CODE,
        format_args!(
            "the redrive-allow policy of `{dead}` admits {whom}: SQS moves nothing there from `{source}`, so that a message that \
             kills its worker goes round until it expires; add {arn} to it (redrive init {source} --update)"
        ),
    )
}

/// The dead-letter queue has a redrive policy itself.
pub(super) fn dead_letters_move_on(dead: &QueueAttributes, policy: &RedrivePolicy) -> Finding {
    let name = policy.dead_letter_arn.rsplit(':').next().unwrap_or_default();
    Finding::warning(
        "redrive_chain",
        format_args!(
            "the dead-letter queue `{}` has a redrive policy itself: a letter that is received more than {} times, by whoever \
             looks at it, moves on to `{name}`; remove the policy of `{}`",
            dead.name, policy.max_receive_count, dead.name
        ),
    )
}

/// Queues that redrive to each other, all round.
pub(super) fn circle(path: &[QueueAttributes]) -> Finding {
    let names: Vec<&str> = path
        .iter()
        .chain(path.first())
        .map(|queue| queue.name.as_str())
        .collect();
    let last = path.last().map_or("", |queue| queue.name.as_str());
    Finding::problem(
        "redrive_loop",
        format_args!(
            "redrive policies go round in a circle, {}: messages would never rest; remove the redrive policy of `{last}`",
            names.join(" → ")
        ),
    )
}

/// A queue with a key of its own: what its role needs cannot be seen from here.
pub(super) fn encryption(queue: &QueueAttributes, settings: &QueueSettings, doing: &str) -> Option<Finding> {
    let key = settings.kms_key.as_ref()?;
    // The service's own key needs no permission to be given.
    if key == "alias/aws/sqs" {
        return None;
    }
    let actions = if doing.starts_with("receive") {
        "kms:Decrypt"
    } else {
        "kms:GenerateDataKey and kms:Decrypt"
    };
    Some(Finding::info(
        "encryption",
        format_args!(
            "`{}` is encrypted with the key {key}: to {doing} it, the worker's role needs {actions} on that key, in the key's own \
             policy too; that cannot be tried without an effect",
            queue.name
        ),
    ))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]
mod tests {
    use super::super::finding::Severity;
    use super::*;

    fn worst(findings: &[Finding]) -> (&'static str, Severity) {
        let finding = findings.iter().min_by_key(|finding| finding.severity).unwrap();
        (finding.code, finding.severity)
    }

    #[test]
    fn a_queue_as_sqs_makes_it_is_fine() {
        assert_eq!(worst(&queue(&QueueAttributes::new("orders"))).1, Severity::Ok);
    }

    #[test]
    fn limits_are_found_with_the_queue_and_what_to_do() {
        type Case = (fn(&mut QueueAttributes), (&'static str, Severity));
        let cases: [Case; 4] = [
            (
                |q| q.visibility_timeout = Duration::from_secs(2),
                ("visibility_timeout", Severity::Warning),
            ),
            (
                |q| q.visibility_timeout = MAX_VISIBILITY,
                ("visibility_timeout", Severity::Warning),
            ),
            (
                |q| q.retention = Duration::from_secs(600),
                ("retention", Severity::Warning),
            ),
            (|q| q.in_flight = 119_999, ("in_flight", Severity::Warning)),
        ];
        for (change, expected) in cases {
            let mut source = QueueAttributes::new("orders");
            change(&mut source);
            let findings = queue(&source);
            assert_eq!(worst(&findings), expected);
            let text = &findings.iter().min_by_key(|finding| finding.severity).unwrap().text;
            assert!(text.contains("`orders`") && text.contains(';'), "{text}");
        }
    }

    #[test]
    fn a_dead_letter_queue_must_fit_its_source() {
        let (source, mut dead) = (QueueAttributes::new("orders.fifo"), QueueAttributes::new("dead"));
        assert_eq!(
            worst(&dead_letter_queue(&source, &dead)),
            ("fifo_mismatch", Severity::Problem)
        );
        dead = QueueAttributes::new("dead.fifo");
        assert_eq!(worst(&dead_letter_queue(&source, &dead)).1, Severity::Ok);
        dead.max_message_bytes = 1_024;
        let codes = |dead| dead_letter_queue(&source, dead).into_iter().map(|finding| finding.code);
        assert!(!codes(&dead).any(|code| code == "message_size"), "the preflight tells of it");
    }

    #[test]
    fn a_clock_is_judged_by_the_minute() {
        let severity = |ahead_ms| {
            let mut skew = ClockSkew::default();
            skew.ahead_ms = ahead_ms;
            clock(skew).severity
        };
        assert_eq!(severity(0), Severity::Ok);
        assert_eq!(severity(-60_000), Severity::Ok);
        assert_eq!(severity(90_000), Severity::Warning);
        assert_eq!(severity(-301_000), Severity::Problem);
    }

    #[test]
    fn a_policy_that_leaves_the_source_out_is_a_problem() {
        let (source, dead) = (QueueAttributes::new("orders"), QueueAttributes::new("orders-dlq"));
        let judged = |allow: RedriveAllow| redrive_allow(&source, &dead, &allow).severity;
        assert_eq!(judged(RedriveAllow::Everyone), Severity::Ok);
        assert_eq!(judged(RedriveAllow::Queues(vec![source.arn.clone()])), Severity::Ok);
        assert_eq!(judged(RedriveAllow::Queues(Vec::new())), Severity::Problem);
        assert_eq!(judged(RedriveAllow::Nobody), Severity::Problem);
    }
}
