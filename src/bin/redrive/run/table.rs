//! The worker's settings: their flags, variables, and names in the library.

/// What a flag takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Takes {
    /// A whole number.
    Whole,
    /// A number.
    Number,
    /// A number per second.
    Rate,
    /// A duration.
    Span,
    /// Any text, shown as this.
    Text(&'static str),
    /// The name that keys are kept under.
    Consumer,
    /// One of these.
    OneOf(&'static [&'static str]),
    /// `true` or `false`; `true` where nothing is given.
    Switch,
}

/// One setting.
#[derive(Clone, Copy, Debug)]
pub(super) struct Setting {
    /// The flag, without its dashes.
    pub(super) flag: &'static str,
    /// The variable.
    pub(super) variable: &'static str,
    pub(super) takes: Takes,
    /// What the library calls it in its errors; empty where it has no name of its own.
    pub(super) name: &'static str,
    pub(super) heading: &'static str,
    pub(super) help: &'static str,
}

const fn setting(
    heading: &'static str,
    flag: &'static str,
    variable: &'static str,
    takes: Takes,
    name: &'static str,
    help: &'static str,
) -> Setting {
    Setting {
        flag,
        variable,
        takes,
        name,
        heading,
        help,
    }
}

use Takes::{Consumer, Number, OneOf, Rate, Span, Switch, Text, Whole};

const INBOX: &str = "The inbox";
const PACE: &str = "How much, how fast";
const FAILURES: &str = "Failures";
const END: &str = "Leases and the end";
const WATCH: &str = "Health and metrics";

pub(super) const TABLE: &str = "REDRIVE_INBOX_TABLE";
pub(super) const CONSUMER: &str = "REDRIVE_CONSUMER";
pub(super) const KEY_ATTRIBUTE: &str = "REDRIVE_KEY_ATTRIBUTE";
pub(super) const KEY_POINTER: &str = "REDRIVE_KEY_POINTER";
pub(super) const KEY_DEDUPLICATION: &str = "REDRIVE_KEY_FROM_DEDUPLICATION_ID";
pub(super) const FINGERPRINT: &str = "REDRIVE_FINGERPRINT";
pub(super) const FINGERPRINT_POINTER: &str = "REDRIVE_FINGERPRINT_POINTER";
pub(super) const SHADOW: &str = "REDRIVE_SHADOW";
pub(super) const MAX_RESULT: &str = "REDRIVE_MAX_RESULT";
pub(super) const TENANT_ATTRIBUTE: &str = "REDRIVE_TENANT_ATTRIBUTE";
pub(super) const TENANT_POINTER: &str = "REDRIVE_TENANT_POINTER";
pub(super) const TENANT_RATE: &str = "REDRIVE_TENANT_RATE";
pub(super) const TENANT_BURST: &str = "REDRIVE_TENANT_BURST";
pub(super) const LONG_POLL: &str = "REDRIVE_LONG_POLL";
pub(super) const TIMEOUT: &str = "REDRIVE_HANDLER_TIMEOUT";
pub(super) const BREAKER: &str = "REDRIVE_BREAKER";
pub(super) const DEAD_LETTERS: &str = "REDRIVE_DEAD_LETTERS";
pub(super) const DEAD_LETTER_QUEUE: &str = "REDRIVE_DEAD_LETTER_QUEUE";
pub(super) const HEALTH: &str = "REDRIVE_HEALTH";
pub(super) const EMF: &str = "REDRIVE_EMF";
pub(super) const SERVICE: &str = "REDRIVE_SERVICE";
pub(super) const LOG_FORMAT: &str = "REDRIVE_LOG_FORMAT";

/// Settings of which a flag of one takes the variables of the others out of the way.
pub(super) const RIVALS: [&[&str]; 4] = [
    &[KEY_ATTRIBUTE, KEY_POINTER, KEY_DEDUPLICATION],
    &[FINGERPRINT, FINGERPRINT_POINTER],
    &[TENANT_ATTRIBUTE, TENANT_POINTER],
    &[DEAD_LETTERS, DEAD_LETTER_QUEUE],
];

/// Every setting that a worker has and that is no code.
pub(super) const SETTINGS: [Setting; 56] = [
    setting(
        INBOX,
        "table",
        TABLE,
        Text("TABLE"),
        "inbox",
        "The inbox table, where keys are claimed; `redrive init` makes redrive-inbox. Needed, unless --no-inbox",
    ),
    setting(
        INBOX,
        "consumer",
        CONSUMER,
        Consumer,
        "consumer",
        "Whose keys these are; the queue's name unless set",
    ),
    setting(
        INBOX,
        "key-attribute",
        KEY_ATTRIBUTE,
        Text("NAME"),
        "key",
        "The message attribute that holds the key; `Idempotency-Key`, then the MessageId, where it is missing",
    ),
    setting(
        INBOX,
        "key-pointer",
        KEY_POINTER,
        Text("POINTER"),
        "key",
        "Where the key is in a JSON body, such as /order/id; as above where it is missing",
    ),
    setting(
        INBOX,
        "key-from-deduplication-id",
        KEY_DEDUPLICATION,
        Switch,
        "key_from_deduplication_id",
        "Take the FIFO deduplication id as key; SQS means that id for five minutes only",
    ),
    setting(
        INBOX,
        "fingerprint",
        FINGERPRINT,
        Switch,
        "fingerprint",
        "Whether messages of one key must have one body to be duplicates; true unless set",
    ),
    setting(
        INBOX,
        "fingerprint-pointer",
        FINGERPRINT_POINTER,
        Text("POINTER"),
        "fingerprint",
        "The part of a JSON body that is compared; the whole body where it is missing",
    ),
    setting(
        INBOX,
        "inbox-retention",
        "REDRIVE_INBOX_RETENTION",
        Span,
        "inbox_retention",
        "How long the inbox keeps a key; 35d unless set",
    ),
    setting(
        INBOX,
        "shadow",
        SHADOW,
        Switch,
        "shadow",
        "Record and count duplicates, but suppress none",
    ),
    setting(
        INBOX,
        "in-flight-delay",
        "REDRIVE_IN_FLIGHT_DELAY",
        Span,
        "in_flight_delay",
        "The first delay of a message whose key is running elsewhere; 30s unless set",
    ),
    setting(
        INBOX,
        "max-result",
        MAX_RESULT,
        Whole,
        "",
        "The most bytes of a result that are kept; 4096 unless set",
    ),
    setting(
        PACE,
        "concurrency",
        "REDRIVE_CONCURRENCY",
        Whole,
        "concurrency",
        "How many messages are worked on at once; 16 unless set",
    ),
    setting(
        PACE,
        "concurrency-min",
        "REDRIVE_CONCURRENCY_MIN",
        Whole,
        "adaptive_concurrency",
        "The fewest messages at once, where their number finds itself by how long they take; with --concurrency-max",
    ),
    setting(
        PACE,
        "concurrency-max",
        "REDRIVE_CONCURRENCY_MAX",
        Whole,
        "adaptive_concurrency",
        "The most messages at once, where their number finds itself by how long they take; with --concurrency-min",
    ),
    setting(
        PACE,
        "concurrency-start",
        "REDRIVE_CONCURRENCY_START",
        Whole,
        "adaptive_concurrency",
        "With how many messages at once it begins to find itself; 16 unless set",
    ),
    setting(
        PACE,
        "rate",
        "REDRIVE_RATE",
        Rate,
        "",
        "How many messages are started per second, at most",
    ),
    setting(
        PACE,
        "burst",
        "REDRIVE_BURST",
        Whole,
        "",
        "How many may start at once after a rest; needs a rate",
    ),
    setting(
        PACE,
        "tenant-attribute",
        TENANT_ATTRIBUTE,
        Text("NAME"),
        "",
        "The message attribute that says whose a message is; needs --tenant-rate",
    ),
    setting(
        PACE,
        "tenant-pointer",
        TENANT_POINTER,
        Text("POINTER"),
        "",
        "Where a JSON body says whose it is; needs --tenant-rate",
    ),
    setting(
        PACE,
        "tenant-rate",
        TENANT_RATE,
        Rate,
        "",
        "How many messages of one tenant are started per second, at most",
    ),
    setting(
        PACE,
        "tenant-burst",
        TENANT_BURST,
        Whole,
        "",
        "How many of one tenant may start at once after a rest",
    ),
    setting(
        PACE,
        "held-back",
        "REDRIVE_HELD_BACK",
        Whole,
        "held_back",
        "How many may wait aside for their tenant's rate; the concurrency, at least 100, unless set",
    ),
    setting(
        PACE,
        "max-receives",
        "REDRIVE_MAX_RECEIVES",
        Whole,
        "max_receives",
        "The most receives in flight at once; a quarter of the concurrency, at most 16, unless set",
    ),
    setting(
        PACE,
        "long-poll",
        LONG_POLL,
        Span,
        "long_poll",
        "How long a receive waits for a message, at most 20s; 20s unless set. A drain waits for it",
    ),
    setting(
        PACE,
        "linger",
        "REDRIVE_LINGER",
        Span,
        "linger",
        "How long a delete or an inbox write waits for others to share a call; 5ms unless set",
    ),
    setting(
        FAILURES,
        "max-attempts",
        "REDRIVE_MAX_ATTEMPTS",
        Whole,
        "max_attempts",
        "How many attempts a message has before it is dead-lettered; 5 unless set",
    ),
    setting(
        FAILURES,
        "timeout",
        TIMEOUT,
        Span,
        "handler_timeout",
        "How long one message may take; longer is a failed attempt. See below for what it is unless set",
    ),
    setting(
        FAILURES,
        "backoff",
        "REDRIVE_BACKOFF",
        Span,
        "",
        "The first backoff of a failed message, doubling; 500ms unless set",
    ),
    setting(
        FAILURES,
        "backoff-cap",
        "REDRIVE_BACKOFF_CAP",
        Span,
        "",
        "The longest backoff, at most 12h; 30s unless set",
    ),
    setting(
        FAILURES,
        "backoff-jitter",
        "REDRIVE_BACKOFF_JITTER",
        OneOf(&["full", "equal", "decorrelated", "none"]),
        "",
        "How chance spreads the backoff; full unless set",
    ),
    setting(
        FAILURES,
        "breaker",
        BREAKER,
        Switch,
        "",
        "Whether receiving pauses while most messages fail; true unless set",
    ),
    setting(
        FAILURES,
        "breaker-failures",
        "REDRIVE_BREAKER_FAILURES",
        Whole,
        "",
        "How many failures in a row open the breaker; 5 unless set",
    ),
    setting(
        FAILURES,
        "breaker-keys",
        "REDRIVE_BREAKER_KEYS",
        Whole,
        "",
        "Of how many keys at least; 3 unless set",
    ),
    setting(
        FAILURES,
        "breaker-share",
        "REDRIVE_BREAKER_SHARE",
        Number,
        "",
        "The share of failures that opens it; 0.5 unless set",
    ),
    setting(
        FAILURES,
        "breaker-share-of",
        "REDRIVE_BREAKER_SHARE_OF",
        Whole,
        "",
        "Of how many outcomes at least; 20 unless set",
    ),
    setting(
        FAILURES,
        "breaker-window",
        "REDRIVE_BREAKER_WINDOW",
        Span,
        "",
        "Within which time; 30s unless set",
    ),
    setting(
        FAILURES,
        "breaker-open-for",
        "REDRIVE_BREAKER_OPEN_FOR",
        Span,
        "",
        "How long it stays open first, doubling; 30s unless set",
    ),
    setting(
        FAILURES,
        "breaker-open-for-most",
        "REDRIVE_BREAKER_OPEN_FOR_MOST",
        Span,
        "",
        "How long it stays open at most; 5m unless set",
    ),
    setting(
        FAILURES,
        "breaker-jitter",
        "REDRIVE_BREAKER_JITTER",
        Number,
        "",
        "The share of an open time that chance takes off; 0.2 unless set",
    ),
    setting(
        FAILURES,
        "breaker-probes",
        "REDRIVE_BREAKER_PROBES",
        Whole,
        "",
        "How many successes close it; 3 unless set",
    ),
    setting(
        FAILURES,
        "keep-while-open",
        "REDRIVE_KEEP_WHILE_OPEN",
        Span,
        "keep_while_open",
        "How long messages are held while it is open before they are given back; 15m unless set",
    ),
    setting(
        FAILURES,
        "dead-letters",
        DEAD_LETTERS,
        OneOf(&["send", "policy", "keep", "discard"]),
        "dead_letter_by_redrive_policy",
        "What becomes of messages that are given up: sent to the dead-letter queue, left to the queue's redrive policy, kept in the queue, or thrown away; send unless set",
    ),
    setting(
        FAILURES,
        "dead-letter-queue",
        DEAD_LETTER_QUEUE,
        Text("QUEUE"),
        "dead_letter",
        "Where dead letters are sent instead of where the queue's redrive policy says",
    ),
    setting(
        FAILURES,
        "after-reject",
        "REDRIVE_AFTER_REJECT",
        OneOf(&["continue", "block"]),
        "after_reject",
        "What a FIFO group does after one of its messages was given up; continue unless set",
    ),
    setting(
        END,
        "lease",
        "REDRIVE_LEASE",
        Span,
        "lease",
        "How long a claim holds without a heartbeat; the visibility timeout, 10s to 15m, unless set",
    ),
    setting(
        END,
        "heartbeat",
        "REDRIVE_HEARTBEAT",
        Switch,
        "",
        "Whether lease and visibility are extended while a message is worked on; true unless set",
    ),
    setting(
        END,
        "drain-deadline",
        "REDRIVE_DRAIN_DEADLINE",
        Span,
        "drain_deadline",
        "How long the end may take after Ctrl-C or SIGTERM; 110s unless set",
    ),
    setting(
        END,
        "scale-in-protection",
        "REDRIVE_SCALE_IN_PROTECTION",
        OneOf(&["off", "auto", "long-jobs"]),
        "",
        "Protect the ECS task that this runs in from scale-in and deployments while messages are worked on, or only while one \
         takes longer than a minute; off unless set",
    ),
    setting(
        END,
        "protection-max",
        "REDRIVE_PROTECTION_MAX",
        Span,
        "",
        "How long that may protect it at a stretch; 2h unless set, 48h at most",
    ),
    setting(
        END,
        "stall-after",
        "REDRIVE_STALL_AFTER",
        Span,
        "stall_after",
        "How long no receive may succeed before the worker counts as stalled; three long polls and a minute unless set",
    ),
    setting(
        END,
        "name",
        "REDRIVE_NAME",
        Text("NAME"),
        "",
        "The worker's name in logs; the queue's name unless set",
    ),
    setting(
        WATCH,
        "health",
        HEALTH,
        Text("ADDRESS"),
        "",
        "Answer /livez, /readyz, /metrics and /status over HTTP at this address and port, such as 0.0.0.0:8080",
    ),
    setting(
        WATCH,
        "emf",
        EMF,
        Text("NAMESPACE"),
        "",
        "Write metrics for CloudWatch to standard output once a minute, for this namespace (Embedded Metric Format)",
    ),
    setting(
        WATCH,
        "service",
        SERVICE,
        Text("NAME"),
        "",
        "The dimension `service` of these metrics; the worker's name unless set",
    ),
    setting(
        "Output",
        "log-format",
        LOG_FORMAT,
        OneOf(&["text", "json"]),
        "",
        "How logs are written to standard error; text on a terminal and json elsewhere unless set. RUST_LOG says how much",
    ),
    setting(
        END,
        "until-empty",
        "",
        Switch,
        "",
        "End once the queue is empty, also of messages that wait for another attempt. Exit code 3 if any became a dead letter",
    ),
];
