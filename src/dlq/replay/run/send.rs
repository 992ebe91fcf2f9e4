//! From a candidate to a message sent, confirmed and deleted.

use std::collections::VecDeque;
use std::pin::pin;

use super::super::decide::{Parcel, Second, envelope_in};
use super::super::follow::Followed;
use super::super::journal::{Intent, work_text};
use super::{Prepared, Ready, Run, Stop};
use crate::dlq::envelope::{ENVELOPE_ATTRIBUTE, enveloped};
use crate::dlq::hold::lock;
use crate::dlq::letter::DeadLetter;
use crate::inbox::Record;
use crate::producer::{NewMessage, ProducerError};
use crate::queue::QueueError;

impl Run {
    /// What is sent, edited as it is to be, and what is only deleted: as it was sent before, or as its work is done.
    pub(super) async fn prepared(&self, candidates: Vec<(u64, DeadLetter)>, records: Vec<Option<Record>>) -> Prepared {
        let mut prepared = Prepared::default();
        for ((number, letter), record) in candidates.into_iter().zip(records) {
            let second = {
                let mut judge = lock(&self.judge);
                if !judge.may_go(&letter, number) {
                    judge.not_sent();
                    lock(&self.report).behind_group += 1;
                    continue;
                }
                let intent = self
                    .settings
                    .journal
                    .as_ref()
                    .and_then(|journal| journal.intended(letter.id()));
                judge.second(&letter, record.as_ref(), intent)
            };
            let parcel = match second {
                Second::Send(parcel) => *parcel,
                Second::Drop => {
                    lock(&self.judge).not_sent();
                    prepared.drops.push((number, letter));
                    continue;
                }
                other => {
                    prepared
                        .gone
                        .extend(self.not_sent(&letter, number, other).then_some(number));
                    continue;
                }
            };
            let edited = tokio::select! {
                biased;
                () = self.stop.cancelled() => {
                    self.not_reached([(number, &letter)]);
                    continue;
                }
                edited = self.edited(&letter, parcel) => edited,
            };
            // What cannot be sent must be known before the next of its group is.
            let checked = edited.and_then(|parcel| match self.producers.get(parcel.to) {
                Some(producer) => producer
                    .check(&NewMessage::verbatim(parcel.outgoing.clone()))
                    .map(|()| parcel)
                    .map_err(|error| error.to_string()),
                None => Ok(parcel),
            });
            match checked {
                Ok(parcel) => prepared.sends.push_back(Ready {
                    followed: self.followed(&letter, &parcel, record.as_ref()).await,
                    number,
                    letter,
                    parcel,
                }),
                Err(error) => {
                    self.not_sent(&letter, number, Second::Failed(error));
                }
            }
        }
        prepared
    }

    /// Deletes letters whose work is done, once the caller has kept them.
    pub(super) async fn drop_all(&self, drops: Vec<(u64, DeadLetter)>) {
        if drops.is_empty() {
            return;
        }
        if !self.settings.dry_run
            && let Some(backup) = &self.says.backup
        {
            let letters: Vec<&DeadLetter> = drops.iter().map(|(_, letter)| letter).collect();
            if let Err(error) = lock(backup)(&letters) {
                lock(&self.report).not_reached += drops.len() as u64;
                self.fail(Stop::Backup(error));
                return;
            }
        }
        let mut numbers = Vec::with_capacity(drops.len());
        for (number, letter) in &drops {
            lock(&self.judge).gone(letter, None);
            numbers.push(*number);
        }
        lock(&self.report).dropped += drops.len() as u64;
        if !self.settings.dry_run {
            let failed = self.delete(&numbers).await;
            lock(&self.report).not_dropped += failed;
        }
    }

    /// Whose record is to be read once this is sent, if any is; `record` is what the letter was judged by.
    async fn followed(&self, letter: &DeadLetter, parcel: &Parcel, record: Option<&Record>) -> Option<Followed> {
        let (inbox, consumer) = self.settings.inbox.as_ref().filter(|_| self.follows())?;
        let key = self.sent_key(consumer, parcel)?;
        let before = if parcel.forced {
            0
        } else if key == self.record_key(consumer, letter, letter.key()) {
            record.map_or(0, |record| record.fencing_token)
        } else {
            // Another queue's workers may have had this key before. Where that is not known, no rejection can be told from an
            // earlier one.
            let theirs = inbox.get(&key).await;
            theirs.map_or(u64::MAX, |record| record.map_or(0, |record| record.fencing_token))
        };
        Some(Followed {
            key,
            before,
            work: lock(&self.judge).work_in(&parcel.outgoing),
        })
    }

    /// Notes why a candidate is not sent; whether it is to be deleted.
    fn not_sent(&self, letter: &DeadLetter, number: u64, why: Second) -> bool {
        let mut judge = lock(&self.judge);
        let mut report = lock(&self.report);
        judge.not_sent();
        match why {
            Second::Sent => {
                judge.gone(letter, None);
                report.resumed += 1;
                return true;
            }
            Second::Completed => report.completed += 1,
            Second::Failed(error) => {
                judge.left(letter, number);
                report.fail(letter.id(), letter.key().as_str(), error);
            }
            Second::Unrouted(error) => {
                judge.left(letter, number);
                report.unrouted += 1;
                report.fail(letter.id(), letter.key().as_str(), error);
            }
            Second::Send(_) | Second::Drop => {}
        }
        false
    }

    /// The message as the caller's edit makes it. The edit sees the attributes without the envelope, which is put back.
    async fn edited(&self, letter: &DeadLetter, mut parcel: Parcel) -> Result<Parcel, String> {
        let Some(edit) = &self.says.edit else {
            return Ok(parcel);
        };
        let envelope = envelope_in(&parcel.outgoing);
        parcel.outgoing.attributes = letter.attributes.clone();
        let edit = lock(edit)(letter, parcel.outgoing);
        parcel.outgoing = edit.await.map_err(|error| format!("the edit failed: {error}"))?;
        let Some(envelope) = envelope else {
            return Ok(parcel);
        };
        let mut edited = letter.message().clone();
        edited.body.clone_from(&parcel.outgoing.body);
        edited.attributes = std::mem::take(&mut parcel.outgoing.attributes);
        edited.attributes.remove(ENVELOPE_ATTRIBUTE);
        let most = self.max_bytes.get(parcel.to).copied().unwrap_or_default();
        match enveloped(&edited, &envelope, most) {
            Some(attributes) => parcel.outgoing.attributes = attributes,
            None => {
                return Err(format!(
                    "as edited, with its envelope, it is over the {most} bytes that the queue takes"
                ));
            }
        }
        Ok(parcel)
    }

    /// Sends at the rate allowed, and deletes what was confirmed, chunk by chunk.
    pub(super) async fn send_all(&self, mut sends: VecDeque<Ready>) {
        while !sends.is_empty() {
            let many = self.tokens(sends.len()).await;
            let moving = self.moving.lock().await;
            if many == 0 || self.is_to_stop() {
                self.not_reached(sends.iter().map(|ready| (ready.number, &ready.letter)));
                return;
            }
            let mut chunk = Vec::new();
            for ready in sends.drain(..many) {
                // It comes back by itself, and could not be deleted once it was sent.
                if lock(&self.held).receipt(ready.number).is_none() {
                    self.not_reached([(ready.number, &ready.letter)]);
                } else if lock(&self.judge).may_go(&ready.letter, ready.number) {
                    chunk.push(ready);
                } else {
                    lock(&self.judge).not_sent();
                    lock(&self.report).behind_group += 1;
                }
            }
            if let Some(journal) = &self.settings.journal {
                let intents: Vec<Intent> = {
                    let judge = lock(&self.judge);
                    let intent = |Ready { letter, parcel, .. }: &Ready| {
                        Intent::new(letter.id(), work_text(judge.work_in(&parcel.outgoing)), parcel.forced)
                    };
                    chunk.iter().map(intent).collect()
                };
                if let Err(error) = journal.intend(&intents) {
                    self.not_reached(chunk.iter().chain(&sends).map(|ready| (ready.number, &ready.letter)));
                    self.fail(Stop::Journal(error));
                    return;
                }
            }
            let answers = self.send(&chunk).await;
            *lock(&self.last_send) = self.settings.clock.now();
            let sent = self.answered(chunk, answers);
            if let Some(journal) = &self.settings.journal
                && !sent.is_empty()
            {
                let ids: Vec<_> = sent.iter().map(|(_, id)| id.clone()).collect();
                if let Err(error) = journal.record(&ids) {
                    self.fail(Stop::Journal(error));
                }
            }
            let numbers: Vec<_> = sent.into_iter().map(|(number, _)| number).collect();
            let failed = self.delete(&numbers).await;
            lock(&self.report).not_deleted += failed;
            drop(moving);
            self.tell();
        }
    }

    /// Sends a chunk, each message to its queue; answers by position.
    async fn send(&self, chunk: &[Ready]) -> Vec<Option<Result<String, ProducerError>>> {
        let mut answers: Vec<_> = chunk.iter().map(|_| None).collect();
        for (to, producer) in self.producers.iter().enumerate() {
            let places: Vec<usize> = (0..chunk.len())
                .filter(|&at| chunk.get(at).is_some_and(|ready| ready.parcel.to == to))
                .collect();
            if places.is_empty() {
                continue;
            }
            let messages: Vec<NewMessage> = places
                .iter()
                .filter_map(|&at| chunk.get(at))
                .map(|ready| NewMessage::verbatim(ready.parcel.outgoing.clone()))
                .collect();
            for (at, answer) in places.iter().zip(producer.send_all(messages).await) {
                if let Some(slot) = answers.get_mut(*at) {
                    *slot = Some(answer);
                }
            }
        }
        answers
    }

    /// Reads the answers entry by entry, and says what was sent.
    fn answered(&self, chunk: Vec<Ready>, answers: Vec<Option<Result<String, ProducerError>>>) -> Vec<(u64, String)> {
        let mut sent = Vec::new();
        let mut judge = lock(&self.judge);
        let mut report = lock(&self.report);
        for (ready, answer) in chunk.into_iter().zip(answers) {
            let Ready {
                number,
                letter,
                parcel,
                followed,
            } = ready;
            let error = match answer {
                Some(Ok(_)) => {
                    report.replayed += 1;
                    report.reason(letter.reason()).replayed += 1;
                    report.keyed_by_message_id += u64::from(parcel.by_message_id);
                    judge.gone(&letter, Some(&parcel.outgoing));
                    if let Some(followed) = followed {
                        lock(&self.follow).add(followed);
                    }
                    sent.push((number, letter.id().to_owned()));
                    continue;
                }
                Some(Err(error)) => error,
                None => {
                    judge.not_sent();
                    judge.left(&letter, number);
                    report.not_reached += 1;
                    continue;
                }
            };
            judge.not_sent();
            judge.left(&letter, number);
            match error {
                ProducerError::GroupFailed { .. } => report.behind_group += 1,
                // This message's own fault; the next may go.
                ProducerError::Invalid { .. }
                | ProducerError::Refused { .. }
                | ProducerError::Queue(QueueError::Refused { .. }) => {
                    report.fail(letter.id(), letter.key().as_str(), error.to_string());
                }
                error => {
                    report.not_reached += 1;
                    self.fail(Stop::Send(error));
                }
            }
        }
        sent
    }

    pub(super) fn not_reached<'a>(&self, letters: impl IntoIterator<Item = (u64, &'a DeadLetter)>) {
        let mut judge = lock(&self.judge);
        let mut report = lock(&self.report);
        for (number, letter) in letters {
            judge.not_sent();
            judge.left(letter, number);
            report.not_reached += 1;
        }
    }

    /// Waits for as many tokens as make a chunk; none if the replay is to end.
    async fn tokens(&self, most: usize) -> usize {
        let wanted = most.min(self.chunk);
        let mut taken = 0;
        while taken < wanted && !self.stop.is_cancelled() {
            match self.bucket.take(self.settings.clock.now()) {
                Ok(()) => taken += 1,
                Err(wait) => {
                    let waited = pin!(tokio::time::sleep(wait));
                    tokio::select! {
                        biased;
                        () = self.stop.cancelled() => {}
                        () = waited => {}
                    }
                }
            }
        }
        if self.stop.is_cancelled() { 0 } else { taken }
    }
}
