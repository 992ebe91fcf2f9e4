//! Batches: how entries are cut into calls, and how answers find back to their entries.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Range;

use aws_sdk_sqs::types::BatchResultErrorEntry;
use futures::future::BoxFuture;

use super::super::{EntryError, EntryResults, MAX_BATCH, MAX_BYTES, QueueError};
use super::error::{code_of, may_be_one_entrys_fault};
use crate::aws::short_code;
use crate::message::Receipt;

/// Cuts entries, in order, into calls of at most ten entries and 1 MiB. An entry that is too large by itself goes alone.
fn cut<E>(entries: &[E], size: impl Fn(&E) -> usize) -> VecDeque<Range<usize>> {
    let mut calls = VecDeque::new();
    let (mut start, mut bytes) = (0, 0_usize);
    for (at, entry) in entries.iter().enumerate() {
        let more = size(entry);
        if at > start && (at - start == MAX_BATCH || bytes.saturating_add(more) > MAX_BYTES) {
            calls.push_back(start..at);
            (start, bytes) = (at, 0);
        }
        bytes = bytes.saturating_add(more);
    }
    if start < entries.len() {
        calls.push_back(start..entries.len());
    }
    calls
}

/// Makes the calls that the entries take, one after the other so that their order stands, and answers every entry by its
/// position. A batch that is refused whole is tried one by one where one entry may be the cause. A call that fails
/// otherwise ends the rest: as an error of the whole if nothing is known of any entry yet, else as theirs.
pub(super) async fn run<'a, E, T>(
    entries: &'a [E],
    size: impl Fn(&E) -> usize,
    call: impl Fn(&'a [E]) -> BoxFuture<'a, Result<EntryResults<T>, QueueError>>,
) -> Result<EntryResults<T>, QueueError> {
    let mut answers: EntryResults<T> = Vec::with_capacity(entries.len());
    let mut calls = cut(entries, size);
    while let Some(range) = calls.pop_front() {
        match call(&entries[range.clone()]).await {
            Ok(answer) => answers.extend(answer),
            Err(error) if may_be_one_entrys_fault(&error) => {
                if range.len() == 1 {
                    answers.push(Err(borne_by_entry(&error, true)));
                } else {
                    for at in range.rev() {
                        calls.push_front(at..at + 1);
                    }
                }
            }
            Err(error) if answers.is_empty() => return Err(error),
            Err(error) => {
                let borne = borne_by_entry(&error, false);
                answers.extend((answers.len()..entries.len()).map(|_| Err(borne.clone())));
                break;
            }
        }
    }
    Ok(answers)
}

fn borne_by_entry(error: &QueueError, sender_fault: bool) -> EntryError {
    EntryError::new(plain_code(code_of(error)), error.to_string(), sender_fault)
}

/// An entry's error as the service gave it, in SQS's own vocabulary whichever engine answers: some name the code as the
/// exception is named, and some blame nobody for what only the sender can be blamed for.
fn entry_error(entry: BatchResultErrorEntry) -> EntryError {
    let code = plain_code(&entry.code);
    let senders_by_nature = matches!(
        code,
        "InvalidParameterValue" | "MissingParameter" | "InvalidMessageContents" | "ReceiptHandleIsInvalid"
    );
    let message = entry.message.unwrap_or_else(|| "the service gave no reason".to_owned());
    EntryError::new(code, message, entry.sender_fault || senders_by_nature)
}

fn plain_code(code: &str) -> &str {
    match short_code(code).strip_suffix("Exception").unwrap_or(short_code(code)) {
        "MissingRequiredParameter" => "MissingParameter",
        plain => plain,
    }
}

/// Pairs a batch's answer with its entries, whose ids are their positions. An entry that the service names as failed has
/// failed, whatever else it says of it; one that it does not name has no answer.
pub(super) fn pair<T>(
    entries: usize,
    successful: impl IntoIterator<Item = (String, T)>,
    failed: Vec<BatchResultErrorEntry>,
) -> EntryResults<T> {
    let mut answers: Vec<Option<Result<T, EntryError>>> = (0..entries).map(|_| None).collect();
    for (id, value) in successful {
        match slot(&mut answers, &id) {
            Some(answer) => *answer = Some(Ok(value)),
            None => tracing::warn!(id, "the service answered a batch entry that was not sent"),
        }
    }
    for entry in failed {
        match slot(&mut answers, &entry.id) {
            Some(answer) => *answer = Some(Err(entry_error(entry))),
            None => tracing::warn!(id = entry.id, "the service answered a batch entry that was not sent"),
        }
    }
    answers
        .into_iter()
        .map(|answer| answer.unwrap_or_else(|| Err(no_answer())))
        .collect()
}

fn slot<'a, A>(answers: &'a mut [A], id: &str) -> Option<&'a mut A> {
    answers.get_mut(id.parse::<usize>().ok()?)
}

fn no_answer() -> EntryError {
    EntryError::new(
        "NoAnswer",
        "the service's answer names this entry neither as done nor as failed; whether it had an effect is not known",
        false,
    )
}

/// Whether entries of one call's worth may name one delivery twice; said of every longer list.
pub(super) fn repeats<I>(entries: &[I], receipt: impl Fn(&I) -> &Receipt) -> bool {
    let is_repeat = |at: usize| {
        entries[..at]
            .iter()
            .any(|other| receipt(other) == receipt(&entries[at]))
    };
    entries.len() > MAX_BATCH || (1..entries.len()).any(is_repeat)
}

/// Where each entry's answer is found once equal ones are sent once: the distinct keys' first positions, and for every
/// entry the index among them.
pub(super) struct Distinct {
    pub(super) firsts: Vec<usize>,
    index: Vec<usize>,
}

impl Distinct {
    pub(super) fn of<K: Ord>(keys: impl IntoIterator<Item = K>) -> Self {
        let mut seen = BTreeMap::new();
        let (mut firsts, mut index) = (Vec::new(), Vec::new());
        for (at, key) in keys.into_iter().enumerate() {
            index.push(*seen.entry(key).or_insert_with(|| {
                firsts.push(at);
                firsts.len() - 1
            }));
        }
        Self { firsts, index }
    }

    /// Answers every entry with the answer of the distinct one it equals.
    pub(super) fn spread<T: Clone>(&self, answers: &[Result<T, EntryError>]) -> EntryResults<T> {
        self.index
            .iter()
            .map(|at| answers.get(*at).cloned().unwrap_or_else(|| Err(no_answer())))
            .collect()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]
mod tests {
    use std::sync::Mutex;

    use super::*;

    fn refused(code: &str) -> QueueError {
        QueueError::Refused {
            queue: "orders".into(),
            operation: "SendMessageBatch",
            code: code.into(),
            detail: "said".into(),
            request_id: None,
        }
    }

    fn unavailable() -> QueueError {
        QueueError::Unavailable {
            queue: "orders".into(),
            operation: "SendMessageBatch",
            detail: "said".into(),
            request_id: None,
        }
    }

    /// Runs over entries that are their own size, with the calls scripted by their number; returns the calls' sizes too.
    async fn scripted(
        entries: &[usize],
        answer: impl Fn(usize, &[usize]) -> Result<EntryResults<usize>, QueueError> + Sync,
    ) -> (Result<EntryResults<usize>, QueueError>, Vec<usize>) {
        let calls = Mutex::new(Vec::new());
        let result = run(
            entries,
            |size| *size,
            |batch| {
                let mut calls = calls.lock().unwrap();
                let number = calls.len();
                calls.push(batch.len());
                let answered = answer(number, batch);
                Box::pin(async move { answered })
            },
        )
        .await;
        (result, calls.into_inner().unwrap())
    }

    fn all(batch: &[usize]) -> EntryResults<usize> {
        batch.iter().copied().map(Ok).collect()
    }

    #[tokio::test]
    async fn calls_keep_to_ten_entries_and_one_mebibyte_in_order() {
        let entries: Vec<usize> = (1..=23).collect();
        let (result, calls) = scripted(&entries, |_, batch| Ok(all(batch))).await;
        assert_eq!(calls, [10, 10, 3]);
        assert_eq!(
            result.unwrap().into_iter().map(Result::unwrap).collect::<Vec<_>>(),
            entries
        );

        let (_, calls) = scripted(&[MAX_BYTES / 2, MAX_BYTES / 2, 1, MAX_BYTES + 1, 1], |_, batch| {
            Ok(all(batch))
        })
        .await;
        assert_eq!(calls, [2, 1, 1, 1]);
        let (result, calls) = scripted(&[], |_, batch| Ok(all(batch))).await;
        assert!(result.unwrap().is_empty() && calls.is_empty());
    }

    #[tokio::test]
    async fn inv11_a_batch_refused_whole_is_tried_one_by_one_and_only_the_bad_entry_fails() {
        let (result, calls) = scripted(&[1, 2, 3], |_, batch| {
            if batch.contains(&2) {
                Err(refused("InvalidMessageContents"))
            } else {
                Ok(all(batch))
            }
        })
        .await;
        let result = result.unwrap();
        assert_eq!(calls, [3, 1, 1, 1]);
        assert_eq!((&result[0], &result[2]), (&Ok(1), &Ok(3)));
        let bad = result[1].as_ref().unwrap_err();
        assert_eq!(bad.code, "InvalidMessageContents");
        assert!(bad.sender_fault);
    }

    #[tokio::test]
    async fn a_call_fails_whole_only_while_nothing_is_known_of_any_entry() {
        let entries: Vec<usize> = (1..=25).collect();
        let (result, calls) = scripted(&entries, |_, _| Err(unavailable())).await;
        assert!(matches!(result, Err(QueueError::Unavailable { .. })));
        assert_eq!(calls, [10]);

        let (result, calls) = scripted(&entries, |number, batch| match number {
            0 => Ok(all(batch)),
            _ => Err(unavailable()),
        })
        .await;
        let result = result.unwrap();
        assert_eq!(calls, [10, 10]);
        assert_eq!(result.len(), 25);
        assert!(result[..10].iter().all(Result::is_ok));
        for answer in &result[10..] {
            let error = answer.as_ref().unwrap_err();
            assert_eq!((error.code.as_str(), error.sender_fault), ("Unavailable", false));
        }
    }

    #[tokio::test]
    async fn refusals_that_meet_every_entry_alike_are_not_multiplied() {
        let (result, calls) = scripted(&[1, 2, 3], |_, _| Err(refused("KMS.DisabledException"))).await;
        assert!(matches!(result, Err(QueueError::Refused { .. })));
        assert_eq!(calls, [3]);
    }

    #[test]
    fn inv11_answers_find_their_entries_by_position_in_any_order() {
        let failed = |id: &str| {
            BatchResultErrorEntry::builder()
                .id(id)
                .code("InternalError")
                .sender_fault(false)
                .build()
                .unwrap()
        };
        let answers = pair(
            4,
            [
                ("2".to_owned(), "c"),
                ("0".to_owned(), "a"),
                ("9".to_owned(), "x"),
                ("nonsense".to_owned(), "y"),
            ],
            vec![failed("1"), failed("2"), failed("")],
        );
        assert_eq!(answers[0], Ok("a"));
        assert_eq!(answers[1].as_ref().unwrap_err().code, "InternalError");
        assert_eq!(
            answers[2].as_ref().unwrap_err().code,
            "InternalError",
            "named in both lists"
        );
        assert_eq!(answers[3].as_ref().unwrap_err().code, "NoAnswer");
    }

    #[test]
    fn an_entrys_error_reads_the_same_whichever_engine_answers() {
        for (code, plain, sender_fault) in [
            ("InvalidParameterValueException", "InvalidParameterValue", true),
            (
                "AWS.SimpleQueueService.MissingRequiredParameterException",
                "MissingParameter",
                true,
            ),
            ("ReceiptHandleIsInvalid", "ReceiptHandleIsInvalid", true),
            ("InternalError", "InternalError", false),
        ] {
            let entry = BatchResultErrorEntry::builder().id("0").code(code).sender_fault(false);
            let error = entry_error(entry.build().unwrap());
            assert_eq!((error.code.as_str(), error.sender_fault), (plain, sender_fault));
        }
    }

    #[test]
    fn equal_entries_are_sent_once_and_each_is_answered() {
        let distinct = Distinct::of(["a", "b", "a", "c", "b"]);
        assert_eq!(distinct.firsts, [0, 1, 3]);
        let answers = distinct.spread(&[Ok(1), Ok(2), Err(no_answer())]);
        assert_eq!(answers[..3], [Ok(1), Ok(2), Ok(1)]);
        assert_eq!(answers[3].as_ref().unwrap_err().code, "NoAnswer");
        assert_eq!(answers[4], Ok(2));
    }
}
