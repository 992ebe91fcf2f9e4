//! The `REDRIVE_*` variables of a worker.
#![no_main]

use libfuzzer_sys::fuzz_target;
use redrive::worker::BuildError;
use redrive::{Failure, MemoryInbox, MemoryQueue, Worker};
use redrive_fuzz::memory::within;

async fn nothing() -> Result<(), Failure> {
    Ok(())
}

const NAMES: [&str; 37] = [
    "REDRIVE_CONCURRENCY", "REDRIVE_RATE", "REDRIVE_BURST", "REDRIVE_MAX_ATTEMPTS", "REDRIVE_HANDLER_TIMEOUT",
    "REDRIVE_BACKOFF", "REDRIVE_BACKOFF_CAP", "REDRIVE_DRAIN_DEADLINE", "REDRIVE_LONG_POLL", "REDRIVE_INBOX_RETENTION",
    "REDRIVE_MAX_RECEIVES", "REDRIVE_SHADOW", "REDRIVE_NAME", "REDRIVE_CONSUMER", "REDRIVE_HELD_BACK",
    "REDRIVE_BACKOFF_JITTER", "REDRIVE_KEEP_WHILE_OPEN", "REDRIVE_DEAD_LETTERS", "REDRIVE_AFTER_REJECT",
    "REDRIVE_KEY_FROM_DEDUPLICATION_ID", "REDRIVE_FINGERPRINT", "REDRIVE_LEASE", "REDRIVE_HEARTBEAT",
    "REDRIVE_IN_FLIGHT_DELAY", "REDRIVE_LINGER", "REDRIVE_STALL_AFTER", "REDRIVE_BREAKER", "REDRIVE_BREAKER_FAILURES",
    "REDRIVE_BREAKER_KEYS", "REDRIVE_BREAKER_SHARE", "REDRIVE_BREAKER_SHARE_OF", "REDRIVE_BREAKER_WINDOW",
    "REDRIVE_BREAKER_OPEN_FOR", "REDRIVE_BREAKER_OPEN_FOR_MOST", "REDRIVE_BREAKER_JITTER", "REDRIVE_BREAKER_PROBES",
    "REDRIVE_NO_SUCH_VARIABLE",
];

fuzz_target!(|set: Vec<(u8, &str)>| {
    let get = |name: &str| {
        let found = set.iter().find(|(at, _)| NAMES[usize::from(*at) % NAMES.len()] == name);
        found.map(|(_, value)| (*value).to_owned())
    };
    let bytes = set.iter().map(|(_, value)| value.len()).sum();
    let dead = MemoryQueue::new("orders-dlq").expect("a queue");
    let queue = MemoryQueue::builder("orders").dead_letter(&dead, 50).build().expect("a queue");
    let built = within(bytes, 20, 256 << 10, || {
        Worker::builder(queue)
            .inbox(MemoryInbox::new())
            .from_variables(get)
            .handler(nothing)
            .build()
    });
    match built {
        Ok(worker) => drop(worker),
        Err(error) => {
            let told = error.to_string();
            if let BuildError::Variable { variable, value, why } = &error {
                // One variable, or two that do not fit together.
                assert!(variable.starts_with("REDRIVE_") && !why.is_empty(), "{told}");
                assert!(set.iter().any(|(_, set)| set.trim() == value.trim() || variable.contains(", ")) || value.contains(", ") || !value.is_empty(), "{told}");
            }
            assert!(!told.is_empty());
        }
    }
});
