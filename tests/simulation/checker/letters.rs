//! Dead letters: that each explains itself, that none is lost on its way there, there, or on its way back.

use std::collections::{BTreeMap, BTreeSet};

use redrive::dlq::Envelope;
use redrive::message::Message;

use crate::plan::Letters;
use crate::scene::NUMBER;

use super::{Checker, label};

/// A message's work as dead letters know it: the message it was at first, and how often that came back.
pub(crate) type Life = (usize, u32);

/// Why a life ended that the queue's own policy ended.
pub(crate) const MOVED: &str = "moved by the queue";

/// A dead letter in its queue.
#[derive(Clone, Debug)]
pub(crate) struct Letter {
    pub(super) life: Life,
    pub(super) reason: String,
}

#[derive(Clone, Debug, Default)]
pub(crate) struct Post {
    /// What is in the dead-letter queue, by its MessageId there.
    pub(super) there: BTreeMap<String, Letter>,
    /// How many letters of each first message have left their queue.
    gone: BTreeMap<usize, usize>,
    /// Messages that the queue has moved by itself.
    moved: BTreeSet<usize>,
    /// Which life ended with each letter that ever was there.
    lives: BTreeMap<String, Life>,
    /// The letter that is on its way back as it is, without an envelope that would tell of it: its body and its life.
    pub(crate) moving: Option<(String, Life)>,
    /// Why each life ended that did.
    pub(crate) ended: BTreeMap<Life, Vec<String>>,
}

impl Checker {
    /// The life of a message that came into the queue: its first, or one after a death.
    pub(crate) fn life_of(&self, number: usize, message: &Message) -> Life {
        let Some(envelope) = Envelope::of(message) else {
            let moving = self.post.moving.as_ref().filter(|(body, _)| *body == message.body);
            return moving.map_or((number, 0), |(_, (first, lives))| (*first, lives + 1));
        };
        let first = self.first_of(&envelope.message_id).unwrap_or(number);
        (first, envelope.replays + 1)
    }

    /// The first message of the work that an envelope names: the one that was sent, or what the queue itself had moved.
    fn first_of(&self, message_id: &str) -> Option<usize> {
        let sent = self.by_id.get(message_id).map(|&number| self.messages[number].life.0);
        sent.or_else(|| self.post.lives.get(message_id).map(|life| life.0))
    }

    /// SQS begins to move a letter back as it is, or has moved it.
    pub(crate) fn moves_back(&mut self, letter: Option<&Message>) {
        self.post.moving = letter.and_then(|letter| Some((letter.body.clone(), *self.post.lives.get(&letter.id)?)));
    }

    /// The message that the queue has just moved as this letter, by itself.
    fn moved_as(&self, letter: &Message) -> Option<usize> {
        if !matches!(self.modes.letters, Letters::ByPolicy(_)) {
            return None;
        }
        let number = letter.attribute(NUMBER).and_then(|number| number.parse().ok());
        let is_it = |n: &usize| {
            let sent = &self.messages[*n];
            sent.body == letter.body && sent.moved_group == letter.group_id && Some(sent.planned) == number
        };
        let like_it: Vec<usize> = (0..self.messages.len()).filter(is_it).collect();
        let left = |n: &&usize| {
            let sent = &self.messages[**n];
            sent.held && !self.queue.contains(&sent.id) && !self.post.moved.contains(n)
        };
        // Of what is in the queue twice, one may be moved and the other stay.
        let copied = |n: &&usize| self.messages[**n].copied;
        like_it
            .iter()
            .find(left)
            .or_else(|| like_it.iter().find(copied))
            .copied()
    }

    /// Takes note of dead letters that arrived, and of those that are gone.
    pub(crate) fn look_for_dead_letters(&mut self, who: &str) {
        // Where the queue moves letters by itself, one may have come and another gone.
        let moves = matches!(self.modes.letters, Letters::ByPolicy(_));
        if !moves && self.dead.len() == self.post.there.len() {
            return;
        }
        let letters = self.dead.messages();
        for letter in &letters {
            if !self.post.there.contains_key(&letter.id) {
                self.letter_arrives(who, letter);
            }
        }
        let gone: Vec<String> = self
            .post
            .there
            .keys()
            .filter(|id| !letters.iter().any(|letter| letter.id == **id))
            .cloned()
            .collect();
        for id in gone {
            self.letter_is_gone(who, &id);
        }
    }

    fn letter_arrives(&mut self, who: &str, letter: &Message) {
        let envelope = Envelope::of(letter);
        let moved = self.moved_as(letter);
        let named = envelope
            .as_ref()
            .and_then(|envelope| Some((self.first_of(&envelope.message_id)?, envelope.replays)));
        self.post.moved.extend(moved);
        let Some(life) = moved.map(|message| self.messages[message].life).or(named) else {
            return self.broken(
                "inv10",
                format!("a dead letter names no message that was sent: {envelope:?}"),
            );
        };
        let first = life.0;
        let name = label(first);
        let reason = match (&envelope, moved) {
            (Some(envelope), None) => envelope.reason.clone(),
            _ => MOVED.to_owned(),
        };
        let attempts = envelope.as_ref().map_or(0, |envelope| envelope.attempts);
        self.note(
            who,
            format!(
                "  dead letter of {name} arrives: {reason}, {attempts} attempts, life {}",
                life.1
            ),
        );
        if let (Some(envelope), None) = (&envelope, moved) {
            self.explains_itself(life, letter, envelope);
        }
        let completed = self.messages.iter().enumerate().any(|(number, sent)| {
            sent.life == life && self.completed.contains(&number) && self.has_its_key_to_itself(number)
        });
        if completed && moved.is_none() {
            self.broken("inv03", format!("{name} is completed and dead-lettered after that"));
        }
        let there = Letter {
            life,
            reason: reason.clone(),
        };
        self.post.lives.insert(letter.id.clone(), life);
        self.post.there.insert(letter.id.clone(), there);
        self.post.ended.entry(life).or_default().push(reason);
    }

    fn explains_itself(&mut self, life: Life, letter: &Message, envelope: &Envelope) {
        let first = self.messages[life.0].clone();
        let name = label(life.0);
        let failed = self.failures.get(&first.key).copied();
        let attempts = envelope.attempts;
        let mut wrong = Vec::new();
        if envelope.reason.is_empty() {
            wrong.push("no reason".to_owned());
        }
        if envelope.key != first.plain_key {
            wrong.push(format!("the key {} for {}", envelope.key, first.plain_key));
        }
        if envelope.source != self.source {
            wrong.push(format!("the source {}", envelope.source));
        }
        if letter.body != first.body {
            wrong.push(format!("the body {}", letter.body));
        }
        let after_failure = ["rejected", "attempts_exhausted"].contains(&envelope.reason.as_str());
        if envelope.error.is_empty() && (after_failure || envelope.reason == "worker_died") {
            wrong.push("no error".to_owned());
        }
        if after_failure && attempts == 0 {
            wrong.push("no attempts".to_owned());
        }
        // What an earlier version left has failed before.
        let stranger = self.strangers.contains(&first.key);
        // A batch that fails as a whole is an attempt of each, also of what had not begun.
        let batches = self.hosts.values().any(|host| host.batches);
        if after_failure && failed.is_none() && !stranger && !batches {
            wrong.push("a failure that never was".to_owned());
        }
        if !wrong.is_empty() {
            let wrong = wrong.join(", ");
            self.broken(
                "inv10",
                format!("the dead letter of {name} does not explain itself: {wrong}"),
            );
        }
        let failures = failed.unwrap_or_default();
        let most = if self.modes.counts_receives {
            u32::MAX
        } else {
            self.max_attempts
        };
        if attempts > most || (!self.modes.counts_receives && !stranger && !batches && attempts > failures) {
            self.broken(
                "inv09",
                format!("the dead letter of {name} says {attempts} attempts, and {failures} runs of it failed"),
            );
        }
        if envelope.reason == "attempts_exhausted" && attempts < self.max_attempts {
            self.broken("inv09", format!("{name} is given up after {attempts} attempts"));
        }
    }

    /// A letter left its queue: what it stands for must be back in the source queue, or done.
    fn letter_is_gone(&mut self, who: &str, id: &str) {
        let Some(letter) = self.post.there.remove(id) else {
            return;
        };
        let (first, lives) = letter.life;
        let name = label(first);
        self.note(who, format!("  dead letter of {name} is gone, life {lives}"));
        let sent = &self.messages[first];
        let done = self.done.contains(&(sent.key.clone(), sent.payload));
        let gone = self.post.gone.entry(first).or_default();
        *gone += 1;
        // What the queue itself has moved says nothing new of how often it died: then there are as many back as are gone.
        let back = |number: &usize| *number != first && self.messages[*number].life.0 == first;
        let again = if matches!(self.modes.letters, Letters::ByPolicy(_)) {
            (0..self.messages.len()).filter(back).count() >= *gone
        } else {
            (0..self.messages.len()).any(|number| self.messages[number].life == (first, lives + 1))
        };
        let elsewhere = self.post.there.values().any(|other| other.life == letter.life);
        if !done && !again && !elsewhere {
            self.broken(
                "inv01",
                format!(
                    "the dead letter of {name} ({}) is gone, and it is neither back nor done",
                    letter.reason
                ),
            );
        }
    }

    /// Why its life ended, as dead letters say.
    pub(crate) fn dead_letter_reasons(&self, message: usize) -> &[String] {
        let ended = self.post.ended.get(&self.messages[message].life);
        ended.map_or(&[], Vec::as_slice)
    }
}
