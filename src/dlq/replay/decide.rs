//! Which dead letters are replayed, and as what: pure but for the caller's filter and edit.

use std::collections::{BTreeMap, HashSet};

use super::{CompletedKeys, Filter, Intent};
use crate::dlq::browse::identity;
use crate::dlq::envelope::{ENVELOPE_ATTRIBUTE, Envelope, enveloped};
use crate::dlq::letter::DeadLetter;
use crate::flaw::{self, Flaw};
use crate::inbox::{Record, Status};
use crate::key::{Fingerprint, KeySource, digest_id};
use crate::message::{Attribute, Outgoing};
use crate::outcome::Reason;

/// What the decisions go by.
pub(super) struct Rules {
    pub(super) job: String,
    pub(super) completed: CompletedKeys,
    pub(super) keys: KeySource,
    /// Whether workers find the key of messages that have none.
    pub(super) keys_by_worker: bool,
    pub(super) skip_order: bool,
    pub(super) from_fifo: bool,
    pub(super) destinations: Vec<Destination>,
    /// Whether each letter goes to the queue it came from, and not all to the first destination.
    pub(super) by_source: bool,
    pub(super) limit: u64,
}

/// A queue that letters may be sent to.
#[derive(Clone, Debug)]
pub(super) struct Destination {
    pub(super) arn: String,
    pub(super) fifo: bool,
    pub(super) max_bytes: usize,
}

/// Decides about one letter after the other, in the order in which they come.
pub(super) struct Judge {
    filter: Option<Filter>,
    pub(super) rules: Rules,
    /// FIFO groups that stopped at a message that is not replayed, and its place among what was received.
    stopped: BTreeMap<String, u64>,
    /// MessageIds in the dead-letter queue that were looked at.
    seen: HashSet<u128>,
    /// MessageIds in the dead-letter queue that were sent or dropped by this run.
    done: HashSet<u128>,
    /// Key and first MessageId of what was sent by this run: how it is known when it dies again.
    work: HashSet<u128>,
    /// Of these, what has died again.
    died: HashSet<u128>,
    /// Nothing more is sent.
    closed: bool,
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
    /// It came after the replay was done sending.
    TooLate,
}

/// What becomes of a candidate.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Second {
    /// Send this, once it is edited.
    Send(Box<Parcel>),
    /// Delete it: an earlier run was about to send it, and its work is done since.
    Sent,
    /// Delete it: its work is done.
    Drop,
    /// Leave it: its work is done.
    Completed,
    /// Leave it: it cannot be sent.
    Failed(String),
    /// Leave it: there is nowhere to send it.
    Unrouted(String),
}

/// What is sent, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Parcel {
    /// The destination's number.
    pub(super) to: usize,
    pub(super) outgoing: Outgoing,
    /// Whether it runs again under a new key.
    pub(super) forced: bool,
    /// Whether its key is its MessageId, for want of another.
    pub(super) by_message_id: bool,
}

impl Judge {
    pub(super) fn new(filter: Option<Filter>, rules: Rules) -> Self {
        Self {
            filter,
            rules,
            stopped: BTreeMap::new(),
            seen: HashSet::new(),
            done: HashSet::new(),
            work: HashSet::new(),
            died: HashSet::new(),
            closed: false,
            chosen: 0,
        }
    }

    pub(super) fn limit_reached(&self) -> bool {
        self.chosen >= self.rules.limit
    }

    /// From here on only what comes back is looked at.
    pub(super) fn close(&mut self) {
        self.closed = true;
    }

    /// Key and first MessageId of a letter: by which the work it stands for is known when it dies again.
    pub(super) fn work_of(&self, letter: &DeadLetter) -> u128 {
        self.work_of_envelope(&self.envelope(letter))
    }

    /// The work that a message to be sent stands for.
    pub(super) fn work_in(&self, outgoing: &Outgoing) -> u128 {
        self.work_of_envelope(&envelope_in(outgoing).unwrap_or_default())
    }

    fn work_of_envelope(&self, envelope: &Envelope) -> u128 {
        // What went without a key may come back with the one that its worker found.
        let key = if self.rules.keys_by_worker { "" } else { &envelope.key };
        identity(&digest_id(&[key, &envelope.message_id]))
    }

    /// Whether only its workers know this letter's key.
    pub(super) fn is_key_unknown(&self, letter: &DeadLetter) -> bool {
        self.rules.keys_by_worker && letter.envelope.as_ref().is_none_or(|envelope| envelope.key.is_empty())
    }

    /// Notes that what this run has sent as `work` died again; whether that is news.
    pub(super) fn died(&mut self, work: u128) -> bool {
        self.work.contains(&work) && self.died.insert(work)
    }

    /// What becomes of a letter that was received, the `place`th; `earlier` says whether an earlier run of the job sent its work.
    pub(super) fn first(&mut self, letter: &DeadLetter, place: u64, earlier: impl FnOnce(u128) -> bool) -> First {
        if self.done.contains(&identity(letter.id())) {
            return First::Again;
        }
        if !self.seen.insert(identity(letter.id())) {
            return First::Known;
        }
        let work = self.work_of(letter);
        if self.closed {
            return match self.work.contains(&work) {
                true => First::CameBack,
                false => First::TooLate,
            };
        }
        if !self.may_go(letter, place) {
            return First::BehindGroup;
        }
        let verdict = if self.work.contains(&work) || earlier(work) {
            First::CameBack
        } else if self.filter.as_mut().is_some_and(|filter| !filter(letter)) {
            First::Skipped
        } else if self.limit_reached() {
            First::OverLimit
        } else {
            self.chosen += 1;
            return First::Candidate;
        };
        self.left(letter, place);
        verdict
    }

    /// Notes that this letter stays where it is, so that none of its group passes it. Those before it may still go.
    pub(super) fn left(&mut self, letter: &DeadLetter, place: u64) {
        if let Some(group) = self.group(letter)
            && !self.rules.skip_order
        {
            let stopped_at = self.stopped.entry(group).or_insert(place);
            *stopped_at = place.min(*stopped_at);
        }
    }

    /// Notes that a candidate was not sent after all, so that another may take its place within the limit.
    pub(super) fn not_sent(&mut self) {
        self.chosen = self.chosen.saturating_sub(1);
    }

    /// Notes that this letter was sent, or dropped; whether that is news.
    pub(super) fn gone(&mut self, letter: &DeadLetter, sent: Option<&Outgoing>) -> bool {
        let news = self.done.insert(identity(letter.id()));
        if let Some(outgoing) = sent {
            let work = self.work_in(outgoing);
            self.work.insert(work);
        }
        news
    }

    /// Whether this letter is still to be sent: one before it in its group may have failed since.
    pub(super) fn may_go(&self, letter: &DeadLetter, place: u64) -> bool {
        let stopped_at = self.group(letter).and_then(|group| self.stopped.get(&group).copied());
        stopped_at.is_none_or(|at| place < at)
    }

    /// Whether the letter at this place of the group is left because one before it was.
    pub(super) fn is_behind(&self, group: &str, place: u64) -> bool {
        self.stopped.get(group).is_some_and(|&at| at < place)
    }

    /// What becomes of a candidate, by what the inbox has of its key and what an earlier run was about to do with it.
    pub(super) fn second(&self, letter: &DeadLetter, record: Option<&Record>, intent: Option<Intent>) -> Second {
        let completed = record.is_some_and(|record| record.status == Status::Completed);
        let mut envelope = self.envelope(letter);
        let forced = match (&intent, self.rules.completed) {
            (Some(intent), _) if intent.forced => true,
            (Some(_), _) if completed && is_same_work(letter, record) => return Second::Sent,
            // Under which key it was sent, if it was, is known: never under another.
            (Some(_), _) if completed => return Second::Completed,
            (None, CompletedKeys::Skip) if completed => return Second::Completed,
            (None, CompletedKeys::Drop) if completed && is_leftover(letter, record) => return Second::Drop,
            (None, CompletedKeys::Drop) if completed => return Second::Completed,
            (None, CompletedKeys::Force) => completed,
            _ => false,
        };
        if forced {
            if envelope.key.is_empty() {
                letter.key().as_str().clone_into(&mut envelope.key);
            }
            envelope.key = format!("{}~{}", envelope.key, self.rules.job);
        }
        let (to, destination) = match self.destination(letter) {
            Ok(found) => found,
            Err(why) => return Second::Unrouted(why),
        };
        let message = letter.message();
        let unchanged = letter.envelope.as_ref() == Some(&envelope);
        let attributes = if unchanged {
            Some(message.attributes.clone())
        } else {
            enveloped(message, &envelope, destination.max_bytes)
        };
        let Some(attributes) = attributes else {
            return Second::Failed(format!(
                "with its envelope, which keeps its key, it is over the {} bytes that the queue takes; make its body smaller",
                destination.max_bytes
            ));
        };
        let mut outgoing = Outgoing::new(message.body.clone());
        outgoing.attributes = attributes;
        outgoing.group_id.clone_from(&message.group_id);
        outgoing.trace_header.clone_from(&message.trace_header);
        if destination.fifo {
            outgoing.deduplication_id = Some(if flaw::is(Flaw::ReplaysUnderOneDeduplicationId) {
                digest_id(&["replay", &envelope.message_id])
            } else {
                digest_id(&["replay", letter.id(), &self.rules.job])
            });
        }
        let had_key = letter
            .envelope
            .as_ref()
            .is_some_and(|envelope| !envelope.key.is_empty());
        Second::Send(Box::new(Parcel {
            to,
            outgoing,
            forced,
            by_message_id: !had_key && envelope.key == letter.id(),
        }))
    }

    /// Where a letter goes: its number and the queue.
    fn destination(&self, letter: &DeadLetter) -> Result<(usize, &Destination), String> {
        let mut destinations = self.rules.destinations.iter().enumerate();
        if !self.rules.by_source {
            return destinations
                .next()
                .ok_or_else(|| "there is no queue to send it to".to_owned());
        }
        match letter.source() {
            Some(arn) => destinations.find(|(_, queue)| queue.arn == arn).ok_or_else(|| {
                format!(
                    "it came from `{arn}`, which is gone or has another dead-letter queue now; replay it to a queue that \
                     you name"
                )
            }),
            None if self.rules.destinations.len() == 1 => {
                destinations.next().ok_or_else(|| "there is no queue to send it to".to_owned())
            }
            None => Err(
                "which queue it came from is not known, and this dead-letter queue is several queues'; replay it to a queue \
                 that you name"
                    .to_owned(),
            ),
        }
    }

    /// Its envelope, or the one it gets: then its key is the one it was handled under, unless only its workers know that.
    fn envelope(&self, letter: &DeadLetter) -> Envelope {
        let message = letter.message();
        let mut envelope = letter.envelope.clone().unwrap_or_default();
        if envelope.key.is_empty() && !self.rules.keys_by_worker {
            let key = self.rules.keys.key_of(message, Some(&envelope));
            key.as_str().clone_into(&mut envelope.key);
        }
        if envelope.message_id.is_empty() {
            envelope.message_id.clone_from(&message.id);
        }
        if envelope.source.is_empty()
            && let Some(source) = letter.source()
        {
            source.clone_into(&mut envelope.source);
        }
        envelope
    }

    /// Its FIFO group, if order is to be kept.
    pub(super) fn group(&self, letter: &DeadLetter) -> Option<String> {
        letter.message().group_id.clone().filter(|_| self.rules.from_fifo)
    }
}

/// Whether a letter whose key is completed is a copy of the work that was, so that nothing is lost with it: its payload must
/// be the one that was completed, where that is known.
fn is_leftover(letter: &DeadLetter, record: Option<&Record>) -> bool {
    is_same_work(letter, record) && agrees(letter, record) != Some(false)
}

/// Whether a letter that was sent under this key, as it is or edited, is the work that was completed. One that died because
/// its payload is another than the key's is not, and without an envelope to say why it died, the payload itself must agree.
fn is_same_work(letter: &DeadLetter, record: Option<&Record>) -> bool {
    match &letter.envelope {
        Some(envelope) => envelope.reason != Reason::FingerprintMismatch.as_str(),
        None => agrees(letter, record) == Some(true),
    }
}

/// Whether the payload is the record's; unknown where it has no fingerprint.
fn agrees(letter: &DeadLetter, record: Option<&Record>) -> Option<bool> {
    let fingerprint = record.and_then(|record| record.fingerprint)?;
    Some(fingerprint == Fingerprint::of(letter.body().as_bytes()))
}

pub(super) fn envelope_in(outgoing: &Outgoing) -> Option<Envelope> {
    let text = outgoing
        .attributes
        .get(ENVELOPE_ATTRIBUTE)
        .and_then(Attribute::as_str)?;
    serde_json::from_str(text).ok()
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
            keys_by_worker: false,
            skip_order: false,
            from_fifo: true,
            destinations: vec![to("orders.fifo", 1024 * 1024)],
            by_source: false,
            limit: u64::MAX,
        }
    }

    fn to(name: &str, max_bytes: usize) -> Destination {
        Destination {
            arn: format!("arn:{name}"),
            fifo: name.ends_with(".fifo"),
            max_bytes,
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

    /// Letters come in the order of their ids.
    fn place(letter: &DeadLetter) -> u64 {
        letter.id().parse().unwrap_or(u64::MAX)
    }

    fn sent(second: Second) -> Outgoing {
        match second {
            Second::Send(parcel) => parcel.outgoing,
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
        let mut judge = Judge::new(only_rejected(), rules());
        let verdicts = letters
            .each_ref()
            .map(|letter| judge.first(letter, place(letter), |_| false));
        assert_eq!(
            verdicts,
            [First::Candidate, First::Skipped, First::BehindGroup, First::Candidate]
        );
        let may_go = letters.each_ref().map(|letter| judge.may_go(letter, place(letter)));
        assert_eq!(may_go, [true, false, false, true], "those before it still go");
        let mut judge = Judge::new(
            only_rejected(),
            Rules {
                skip_order: true,
                ..rules()
            },
        );
        let verdicts = letters
            .each_ref()
            .map(|letter| judge.first(letter, place(letter), |_| false));
        assert_eq!(
            verdicts,
            [First::Candidate, First::Skipped, First::Candidate, First::Candidate]
        );
        let mut judge = Judge::new(
            only_rejected(),
            Rules {
                from_fifo: false,
                ..rules()
            },
        );
        assert_eq!(
            letters
                .each_ref()
                .map(|letter| judge.first(letter, place(letter), |_| false))[2],
            First::Candidate
        );
    }

    #[test]
    fn what_dies_again_is_not_sent_round() {
        let mut judge = Judge::new(None, rules());
        let first = letter("1", "a", Some("rejected"));
        assert_eq!(judge.first(&first, place(&first), |_| false), First::Candidate);
        let outgoing = sent(judge.second(&first, None, None));
        judge.gone(&first, Some(&outgoing));
        assert_eq!(
            judge.first(&first, place(&first), |_| false),
            First::Again,
            "the same delivered twice"
        );
        let mut back = first.message().clone();
        back.id = "another id".into();
        let back = DeadLetter::new(
            Delivery::new(back, Receipt::new("r"), 1, Clock::system().now()),
            &KeySource::default(),
        );
        assert_eq!(judge.first(&back, place(&back), |_| false), First::CameBack);
    }

    #[test]
    fn key_and_first_message_id_travel_along_and_a_message_without_an_envelope_gets_them() {
        let judge = Judge::new(None, rules());
        let with = sent(judge.second(&letter("1", "a", Some("rejected")), None, None));
        let envelope = envelope_in(&with).unwrap();
        assert_eq!(
            (envelope.key.as_str(), envelope.message_id.as_str()),
            ("key of 1", "first 1")
        );
        let without = sent(judge.second(&letter("2", "a", None), None, None));
        let envelope = envelope_in(&without).unwrap();
        assert_eq!((envelope.key.as_str(), envelope.message_id.as_str()), ("2", "2"));
        assert_eq!(without.group_id.as_deref(), Some("a"));
    }

    #[test]
    fn a_key_that_only_the_workers_know_is_left_to_them_and_the_work_is_still_known_when_it_comes_back() {
        let mut judge = Judge::new(
            None,
            Rules {
                keys_by_worker: true,
                ..rules()
            },
        );
        let bare = letter("1", "a", None);
        assert!(judge.is_key_unknown(&bare) && !judge.is_key_unknown(&letter("2", "a", Some("rejected"))));
        assert_eq!(judge.first(&bare, 1, |_| false), First::Candidate);
        let Second::Send(parcel) = judge.second(&bare, None, None) else {
            panic!("it is sent");
        };
        let envelope = envelope_in(&parcel.outgoing).unwrap();
        assert_eq!((envelope.key.as_str(), envelope.message_id.as_str()), ("", "1"));
        assert!(!parcel.by_message_id);
        judge.gone(&bare, Some(&parcel.outgoing));
        let mut back = bare.message().clone();
        back.id = "another id".into();
        let died = Envelope {
            key: "found by its worker".into(),
            ..Envelope::default()
        };
        back.attributes = enveloped(&back, &died.after(&envelope), 1024 * 1024).unwrap();
        let back = DeadLetter::new(
            Delivery::new(back, Receipt::new("r"), 1, Clock::system().now()),
            &KeySource::default(),
        );
        assert_eq!(judge.first(&back, 2, |_| false), First::CameBack);
        let with_key = sent(judge.second(&letter("2", "a", Some("rejected")), None, None));
        assert_eq!(envelope_in(&with_key).unwrap().key, "key of 2");
    }

    #[test]
    fn inv07_deduplication_ids_are_fresh_for_each_death_and_job_and_the_same_for_a_retry() {
        let id = |id: &str, job: &str| {
            let judge = Judge::new(
                None,
                Rules {
                    job: job.into(),
                    ..rules()
                },
            );
            sent(judge.second(&letter(id, "a", Some("rejected")), None, None))
                .deduplication_id
                .unwrap()
        };
        assert_eq!(id("1", "job"), id("1", "job"));
        assert_ne!(id("1", "job"), id("2", "job"));
        assert_ne!(id("1", "job"), id("1", "other"));
        let judge = Judge::new(
            None,
            Rules {
                destinations: vec![to("orders", 1024 * 1024)],
                ..rules()
            },
        );
        assert_eq!(
            sent(judge.second(&letter("1", "a", None), None, None)).deduplication_id,
            None
        );
    }

    #[test]
    fn inv01_a_message_that_has_no_room_for_its_envelope_stays() {
        let judge = Judge::new(
            None,
            Rules {
                destinations: vec![to("orders.fifo", 20)],
                ..rules()
            },
        );
        assert!(
            matches!(judge.second(&letter("1", "a", None), None, None), Second::Failed(error) if error.contains("20 bytes"))
        );
    }

    #[test]
    fn each_letter_goes_back_to_the_queue_it_came_from() {
        let by_source = |names: &[&str]| {
            let destinations = names.iter().map(|name| to(name, 1_024)).collect();
            Judge::new(
                None,
                Rules {
                    destinations,
                    by_source: true,
                    ..rules()
                },
            )
        };
        let mut from_b = letter("1", "a", None);
        from_b.delivery.message.dead_letter_source = Some("arn:b".into());
        let Second::Send(parcel) = by_source(&["a", "b"]).second(&from_b, None, None) else {
            panic!("it has a way");
        };
        assert_eq!(parcel.to, 1);
        assert_eq!(
            envelope_in(&parcel.outgoing).unwrap().source,
            "arn:b",
            "kept for its next death"
        );
        let gone = by_source(&["a", "c"]).second(&from_b, None, None);
        assert!(matches!(gone, Second::Unrouted(why) if why.contains("arn:b")));
        let unknown = letter("2", "a", Some("rejected"));
        assert!(matches!(
            by_source(&["a"]).second(&unknown, None, None),
            Second::Send(_)
        ));
        assert!(matches!(
            by_source(&["a", "b"]).second(&unknown, None, None),
            Second::Unrouted(_)
        ));
    }

    #[test]
    fn what_an_earlier_run_was_about_to_send_goes_under_the_same_key_or_is_known_as_done() {
        let force = Judge::new(
            None,
            Rules {
                completed: CompletedKeys::Force,
                ..rules()
            },
        );
        let letter = letter("1", "a", Some("rejected"));
        let mut done = Record::new(crate::key::RecordKey::new("orders", letter.key()));
        done.status = Status::Completed;
        let intent = |forced| Some(Intent::new("1", "work", forced));
        let key = |second: Second| envelope_in(&sent(second)).unwrap().key;
        assert_eq!(key(force.second(&letter, Some(&done), None)), "key of 1~job");
        assert_eq!(force.second(&letter, Some(&done), intent(false)), Second::Sent);
        assert_eq!(key(force.second(&letter, None, intent(false))), "key of 1");
        assert_eq!(key(force.second(&letter, None, intent(true))), "key of 1~job");
    }

    #[test]
    fn after_the_last_send_only_what_comes_back_counts() {
        let mut judge = Judge::new(None, rules());
        let first = letter("1", "a", Some("rejected"));
        assert_eq!(judge.first(&first, place(&first), |_| false), First::Candidate);
        let outgoing = sent(judge.second(&first, None, None));
        judge.gone(&first, Some(&outgoing));
        judge.close();
        assert_eq!(
            judge.first(&letter("2", "a", Some("rejected")), 2, |_| false),
            First::TooLate
        );
        let work = judge.work_of(&first);
        assert!(judge.died(work) && !judge.died(work));
    }

    #[test]
    fn what_an_earlier_run_of_the_job_sent_and_died_again_stays() {
        let mut judge = Judge::new(None, rules());
        let back = letter("3", "a", Some("rejected"));
        let work = judge.work_of(&back);
        assert_eq!(judge.first(&back, place(&back), |asked| asked == work), First::CameBack);
    }
}
