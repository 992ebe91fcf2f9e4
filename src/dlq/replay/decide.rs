//! Which dead letters are replayed, and as what: pure but for the caller's filter and edit.

use std::collections::{BTreeSet, HashSet};

use super::{CompletedKeys, Edit, Filter};
use crate::dlq::browse::identity;
use crate::dlq::envelope::{ENVELOPE_ATTRIBUTE, Envelope, enveloped};
use crate::dlq::letter::DeadLetter;
use crate::inbox::{Record, Status};
use crate::key::{Fingerprint, KeySource, digest_id};
use crate::message::{Attribute, Attributes, Outgoing};
use crate::outcome::Reason;

/// What the decisions go by.
pub(super) struct Rules {
    pub(super) job: String,
    pub(super) completed: CompletedKeys,
    pub(super) keys: KeySource,
    pub(super) skip_order: bool,
    pub(super) from_fifo: bool,
    pub(super) to_fifo: bool,
    pub(super) max_bytes: usize,
    pub(super) limit: u64,
}

/// Decides about one letter after the other, in the order in which they come.
pub(super) struct Judge {
    filter: Option<Filter>,
    edit: Option<Edit>,
    pub(super) rules: Rules,
    /// FIFO groups that stopped at a message that is not replayed.
    stopped: BTreeSet<String>,
    /// MessageIds in the dead-letter queue that were looked at.
    seen: HashSet<u128>,
    /// MessageIds in the dead-letter queue that were sent or dropped by this run.
    done: HashSet<u128>,
    /// Key and first MessageId of what was sent by this run: how it is known when it dies again.
    work: HashSet<u128>,
    chosen: u64,
}

/// What becomes of a letter before the inbox is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum First {
    /// It is looked up and sent.
    Candidate,
    /// It is not replayed.
    Skipped,
    /// Nor is this one, as one before it was not.
    BehindGroup,
    /// It came back.
    CameBack,
    /// This run has sent it, and it was delivered once more: delete it.
    Again,
    /// It was delivered once more, and stays.
    Known,
    /// As many were chosen as were asked for.
    OverLimit,
}

/// What becomes of a candidate.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Second {
    /// Send this.
    Send(Box<Outgoing>),
    /// Delete it: its work is done.
    Drop,
    /// Leave it: its work is done.
    Completed,
    /// Leave it: it cannot be sent.
    Failed(String),
}

impl Judge {
    pub(super) fn new(filter: Option<Filter>, edit: Option<Edit>, rules: Rules) -> Self {
        Self {
            filter,
            edit,
            rules,
            stopped: BTreeSet::new(),
            seen: HashSet::new(),
            done: HashSet::new(),
            work: HashSet::new(),
            chosen: 0,
        }
    }

    pub(super) fn limit_reached(&self) -> bool {
        self.chosen >= self.rules.limit
    }

    pub(super) fn first(&mut self, letter: &DeadLetter) -> First {
        if self.done.contains(&identity(letter.id())) {
            return First::Again;
        }
        if !self.seen.insert(identity(letter.id())) {
            return First::Known;
        }
        let group = self.group(letter);
        if group.as_ref().is_some_and(|group| self.stopped.contains(group)) {
            return First::BehindGroup;
        }
        let verdict = if self.work.contains(&work_of(&self.envelope(letter))) {
            First::CameBack
        } else if self.filter.as_mut().is_some_and(|filter| !filter(letter)) {
            First::Skipped
        } else if self.limit_reached() {
            First::OverLimit
        } else {
            self.chosen += 1;
            return First::Candidate;
        };
        self.left(letter);
        verdict
    }

    /// Notes that this letter stays where it is, so that none of its group passes it.
    pub(super) fn left(&mut self, letter: &DeadLetter) {
        if let Some(group) = self.group(letter)
            && !self.rules.skip_order
        {
            self.stopped.insert(group);
        }
    }

    /// Notes that a candidate was not sent after all, so that another may take its place within the limit.
    pub(super) fn not_sent(&mut self) {
        self.chosen = self.chosen.saturating_sub(1);
    }

    /// Notes that this letter was sent, or dropped.
    pub(super) fn gone(&mut self, letter: &DeadLetter, sent: Option<&Outgoing>) {
        self.done.insert(identity(letter.id()));
        if let Some(envelope) = sent.and_then(envelope_in) {
            self.work.insert(work_of(&envelope));
        }
    }

    /// Whether this letter is still to be sent: one before it in its group may have failed since.
    pub(super) fn may_go(&self, letter: &DeadLetter) -> bool {
        !self.group(letter).is_some_and(|group| self.stopped.contains(&group))
    }

    pub(super) fn second(&mut self, letter: &DeadLetter, record: Option<&Record>) -> Second {
        let completed = record.is_some_and(|record| record.status == Status::Completed);
        let mut envelope = self.envelope(letter);
        if completed {
            match self.rules.completed {
                CompletedKeys::Skip => return Second::Completed,
                CompletedKeys::Drop if is_leftover(letter, record) => return Second::Drop,
                CompletedKeys::Drop => return Second::Completed,
                CompletedKeys::Force => envelope.key = format!("{}~{}", envelope.key, self.rules.job),
            }
        }
        let message = letter.message();
        let unchanged = letter.envelope.as_ref() == Some(&envelope);
        let attributes = if unchanged {
            Some(message.attributes.clone())
        } else {
            enveloped(message, &envelope, self.rules.max_bytes)
        };
        let Some(attributes) = attributes else {
            return Second::Failed(format!(
                "with its envelope, which keeps its key, it is over the {} bytes that the queue takes; make its body smaller",
                self.rules.max_bytes
            ));
        };
        let mut outgoing = Outgoing::new(message.body.clone());
        outgoing.attributes = attributes;
        outgoing.group_id.clone_from(&message.group_id);
        outgoing.trace_header.clone_from(&message.trace_header);
        if self.rules.to_fifo {
            outgoing.deduplication_id = Some(digest_id(&["replay", letter.id(), &self.rules.job]));
        }
        match self.edited(letter, outgoing) {
            Ok(outgoing) => Second::Send(Box::new(outgoing)),
            Err(error) => Second::Failed(error),
        }
    }

    /// The message as the caller's edit makes it. The edit sees the attributes without the envelope, which is put back.
    fn edited(&mut self, letter: &DeadLetter, mut outgoing: Outgoing) -> Result<Outgoing, String> {
        let Some(edit) = &mut self.edit else {
            return Ok(outgoing);
        };
        let envelope = envelope_in(&outgoing);
        outgoing.attributes = letter.attributes.clone();
        edit(letter, &mut outgoing).map_err(|error| format!("the edit failed: {error}"))?;
        let Some(envelope) = envelope else {
            return Ok(outgoing);
        };
        let mut edited = letter.message().clone();
        edited.body.clone_from(&outgoing.body);
        edited.attributes = std::mem::take(&mut outgoing.attributes);
        edited.attributes.remove(ENVELOPE_ATTRIBUTE);
        match enveloped(&edited, &envelope, self.rules.max_bytes) {
            Some(attributes) => outgoing.attributes = attributes,
            None => {
                return Err(format!(
                    "as edited, with its envelope, it is over the {} bytes that the queue takes",
                    self.rules.max_bytes
                ));
            }
        }
        Ok(outgoing)
    }

    /// Its envelope, or the one it gets: then its key is the one it was handled under.
    fn envelope(&self, letter: &DeadLetter) -> Envelope {
        let message = letter.message();
        let mut envelope = letter.envelope.clone().unwrap_or_default();
        if envelope.key.is_empty() {
            self.rules
                .keys
                .key_of(message, None)
                .as_str()
                .clone_into(&mut envelope.key);
        }
        if envelope.message_id.is_empty() {
            envelope.message_id.clone_from(&message.id);
        }
        envelope
    }

    fn group(&self, letter: &DeadLetter) -> Option<String> {
        letter.message().group_id.clone().filter(|_| self.rules.from_fifo)
    }
}

/// Whether a letter whose key is completed is a copy of the work that was. One that died because its payload is another
/// than the key's is not, and without an envelope to say why it died, the payload itself must agree.
fn is_leftover(letter: &DeadLetter, record: Option<&Record>) -> bool {
    if letter.envelope.is_some() {
        return letter.reason() != Reason::FingerprintMismatch.as_str();
    }
    record
        .and_then(|record| record.fingerprint)
        .is_some_and(|fingerprint| fingerprint == Fingerprint::of(letter.body().as_bytes()))
}

fn envelope_in(outgoing: &Outgoing) -> Option<Envelope> {
    read(&outgoing.attributes)
}

fn read(attributes: &Attributes) -> Option<Envelope> {
    let text = attributes.get(ENVELOPE_ATTRIBUTE).and_then(Attribute::as_str)?;
    serde_json::from_str(text).ok()
}

fn work_of(envelope: &Envelope) -> u128 {
    identity(&digest_id(&[&envelope.key, &envelope.message_id]))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]
mod tests {
    use super::*;
    use crate::clock::Clock;
    use crate::message::{Delivery, Message, Receipt};

    fn rules() -> Rules {
        Rules {
            job: "job".into(),
            completed: CompletedKeys::Skip,
            keys: KeySource::default(),
            skip_order: false,
            from_fifo: true,
            to_fifo: true,
            max_bytes: 1024 * 1024,
            limit: u64::MAX,
        }
    }

    fn letter(id: &str, group: &str, reason: Option<&str>) -> DeadLetter {
        let mut message = Message::new(id, format!("body of {id}"));
        message.group_id = Some(group.into());
        if let Some(reason) = reason {
            let envelope = Envelope {
                key: format!("key of {id}"),
                reason: reason.into(),
                message_id: format!("first {id}"),
                ..Envelope::default()
            };
            message.attributes = enveloped(&message, &envelope, 1024 * 1024).unwrap();
        }
        DeadLetter::new(
            Delivery::new(message, Receipt::new(id), 1, Clock::system().now()),
            &KeySource::default(),
        )
    }

    fn sent(second: Second) -> Outgoing {
        match second {
            Second::Send(outgoing) => *outgoing,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn inv07_a_group_stops_at_its_first_message_that_is_left() {
        let only_rejected =
            || -> Option<Filter> { Some(Box::new(|letter: &DeadLetter| letter.reason() == "rejected")) };
        let letters = [
            ("1", "a", "rejected"),
            ("2", "a", "other"),
            ("3", "a", "rejected"),
            ("4", "b", "rejected"),
        ]
        .map(|(id, group, reason)| letter(id, group, Some(reason)));
        let mut judge = Judge::new(only_rejected(), None, rules());
        let verdicts = letters.each_ref().map(|letter| judge.first(letter));
        assert_eq!(
            verdicts,
            [First::Candidate, First::Skipped, First::BehindGroup, First::Candidate]
        );
        let mut judge = Judge::new(
            only_rejected(),
            None,
            Rules {
                skip_order: true,
                ..rules()
            },
        );
        let verdicts = letters.each_ref().map(|letter| judge.first(letter));
        assert_eq!(
            verdicts,
            [First::Candidate, First::Skipped, First::Candidate, First::Candidate]
        );
        let mut judge = Judge::new(
            only_rejected(),
            None,
            Rules {
                from_fifo: false,
                ..rules()
            },
        );
        assert_eq!(
            letters.each_ref().map(|letter| judge.first(letter))[2],
            First::Candidate
        );
    }

    #[test]
    fn what_dies_again_is_not_sent_round() {
        let mut judge = Judge::new(None, None, rules());
        let first = letter("1", "a", Some("rejected"));
        assert_eq!(judge.first(&first), First::Candidate);
        let outgoing = sent(judge.second(&first, None));
        judge.gone(&first, Some(&outgoing));
        assert_eq!(judge.first(&first), First::Again, "the same delivered twice");
        let mut back = first.message().clone();
        back.id = "another id".into();
        let back = DeadLetter::new(
            Delivery::new(back, Receipt::new("r"), 1, Clock::system().now()),
            &KeySource::default(),
        );
        assert_eq!(judge.first(&back), First::CameBack);
    }

    #[test]
    fn key_and_first_message_id_travel_along_and_a_message_without_an_envelope_gets_them() {
        let mut judge = Judge::new(None, None, rules());
        let with = sent(judge.second(&letter("1", "a", Some("rejected")), None));
        let envelope = envelope_in(&with).unwrap();
        assert_eq!(
            (envelope.key.as_str(), envelope.message_id.as_str()),
            ("key of 1", "first 1")
        );
        let without = sent(judge.second(&letter("2", "a", None), None));
        let envelope = envelope_in(&without).unwrap();
        assert_eq!((envelope.key.as_str(), envelope.message_id.as_str()), ("2", "2"));
        assert_eq!(without.group_id.as_deref(), Some("a"));
    }

    #[test]
    fn inv07_deduplication_ids_are_fresh_for_each_death_and_job_and_the_same_for_a_retry() {
        let id = |id: &str, job: &str| {
            let mut judge = Judge::new(
                None,
                None,
                Rules {
                    job: job.into(),
                    ..rules()
                },
            );
            sent(judge.second(&letter(id, "a", Some("rejected")), None))
                .deduplication_id
                .unwrap()
        };
        assert_eq!(id("1", "job"), id("1", "job"));
        assert_ne!(id("1", "job"), id("2", "job"));
        assert_ne!(id("1", "job"), id("1", "other"));
        let mut judge = Judge::new(
            None,
            None,
            Rules {
                to_fifo: false,
                ..rules()
            },
        );
        assert_eq!(sent(judge.second(&letter("1", "a", None), None)).deduplication_id, None);
    }

    #[test]
    fn inv01_a_message_that_has_no_room_for_its_envelope_stays() {
        let mut judge = Judge::new(
            None,
            None,
            Rules {
                max_bytes: 20,
                ..rules()
            },
        );
        assert!(
            matches!(judge.second(&letter("1", "a", None), None), Second::Failed(error) if error.contains("20 bytes"))
        );
    }

    #[test]
    fn an_edit_sees_the_original_attributes_and_cannot_lose_the_envelope() {
        let edit: Edit = Box::new(|_, outgoing| {
            assert!(!outgoing.attributes.contains_key(ENVELOPE_ATTRIBUTE));
            outgoing.attributes.clear();
            outgoing.attributes.insert("repaired".into(), Attribute::string("yes"));
            outgoing.body = "mended".into();
            Ok(())
        });
        let mut judge = Judge::new(None, Some(edit), rules());
        let outgoing = sent(judge.second(&letter("1", "a", Some("rejected")), None));
        assert_eq!(outgoing.body, "mended");
        assert_eq!(envelope_in(&outgoing).unwrap().key, "key of 1");
        assert!(outgoing.attributes.contains_key("repaired"));
        let mut judge = Judge::new(None, Some(Box::new(|_, _| Err("no JSON".into()))), rules());
        let failed = judge.second(&letter("1", "a", Some("rejected")), None);
        assert_eq!(failed, Second::Failed("the edit failed: no JSON".into()));
    }
}
