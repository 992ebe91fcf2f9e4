//! What was asked and done since the setup.

use std::collections::BTreeMap;

use serde::Serialize;

/// What `GET /control/counts` answers.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Counts {
    /// The stand-in's monotonic clock, in µs.
    pub now_us: u64,
    /// How often messages were handed out.
    pub received: u64,
    /// How many messages were deleted.
    pub deleted: u64,
    /// How many messages are handed out and neither deleted nor visible again.
    pub in_flight: u64,
    /// How many messages could be received; `None` of an endless backlog.
    pub left: Option<u64>,
    /// How often messages were handed out that had been before.
    pub redelivered: u64,
    /// How many messages were moved to the dead-letter queue for having been received too often.
    pub sent_to_dlq: u64,
    /// When the first `ReceiveMessage` came, on the clock of `now_us`.
    pub first_receive_call_us: Option<u64>,
    /// Calls by service and operation.
    pub calls: Calls,
    /// The CPU time of the thread that answers, in µs, since it started.
    pub cpu_us: u64,
}

/// Calls by operation.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Calls {
    /// Of SQS.
    pub sqs: BTreeMap<String, SqsCalls>,
    /// Of DynamoDB.
    pub dynamodb: BTreeMap<String, DynamoCalls>,
}

/// Calls of one operation of SQS.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct SqsCalls {
    /// How many.
    pub calls: u64,
    /// How many messages, receipts or changes they had.
    pub entries: u64,
    /// How many requests are billed: one for each 64 KiB of payload that a call has, at least one.
    pub billed: u64,
    /// How many receives brought nothing.
    pub empty: u64,
}

/// Calls of one operation of DynamoDB.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct DynamoCalls {
    /// How many.
    pub calls: u64,
    /// How many statements or items they had.
    pub entries: u64,
    /// The write units billed.
    pub write_units: f64,
    /// The read units billed.
    pub read_units: f64,
    /// How many writes were not made for their condition.
    pub failed_conditions: u64,
}

/// How many requests of SQS are billed for a payload of so many bytes.
pub(crate) fn billed(bytes: usize) -> u64 {
    (bytes as u64).div_ceil(64 * 1024).max(1)
}

/// The CPU time of this thread in µs; 0 where the system does not tell.
pub(crate) fn cpu_us() -> u64 {
    let told = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    let nanoseconds = told.split_whitespace().next().and_then(|text| text.parse::<u64>().ok());
    nanoseconds.unwrap_or(0) / 1_000
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_64_kib_of_a_payload_is_billed_and_one_request_at_least() {
        assert_eq!([0, 1, 65_536, 65_537, 655_360].map(billed), [1, 1, 1, 2, 10]);
    }
}
