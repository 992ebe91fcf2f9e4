//! Finding one dead letter by what a person has of it.

use redrive::dlq::{DeadLetter, Visit};

/// The fewest characters of an id that stand for it.
const MIN_PREFIX: usize = 4;

/// How many candidates are kept.
const MAX_RIVALS: usize = 10;

/// Looks for a letter whose id, original id or key is the one wanted, or whose id or original id begins with it.
#[derive(Debug)]
pub(crate) struct Finder<'a> {
    wanted: &'a str,
    best: Option<(Rank, DeadLetter)>,
    rivals: Vec<Candidate>,
    more: u64,
}

/// How well a letter fits; larger is better.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Rank {
    Prefix,
    /// Two letters may have one key, or one original id.
    Named,
    Id,
}

/// What was found.
#[derive(Debug)]
pub(crate) enum Found {
    Nothing,
    One(Box<DeadLetter>),
    /// Several fit equally well: the first ten, and how many there are.
    Several {
        candidates: Vec<Candidate>,
        all: u64,
    },
}

/// What tells a letter from others that fit as well.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Candidate {
    pub(crate) id: String,
    pub(crate) reason: String,
    pub(crate) died_at_ms: Option<u64>,
}

impl Candidate {
    fn of(letter: &DeadLetter) -> Self {
        Self {
            id: letter.id().to_owned(),
            reason: letter.reason().to_owned(),
            died_at_ms: letter.died_at_ms(),
        }
    }
}

impl<'a> Finder<'a> {
    pub(crate) fn new(wanted: &'a str) -> Self {
        Self {
            wanted,
            best: None,
            rivals: Vec::new(),
            more: 0,
        }
    }

    /// Shows it a letter; it says whether it has seen enough.
    pub(crate) fn offer(&mut self, letter: &DeadLetter) -> Visit {
        let Some(rank) = self.rank(letter) else {
            return Visit::Keep;
        };
        match &self.best {
            Some((best, _)) if *best == rank => {
                self.more += 1;
                if self.rivals.len() + 1 < MAX_RIVALS {
                    self.rivals.push(Candidate::of(letter));
                }
            }
            Some((best, _)) if *best > rank => {}
            _ => {
                self.best = Some((rank, letter.clone()));
                self.rivals.clear();
                self.more = 0;
            }
        }
        // No other has this id.
        if rank == Rank::Id { Visit::Stop } else { Visit::Keep }
    }

    fn rank(&self, letter: &DeadLetter) -> Option<Rank> {
        let wanted = self.wanted;
        let begins = |id: &str| wanted.len() >= MIN_PREFIX && id.starts_with(wanted);
        if letter.id() == wanted {
            Some(Rank::Id)
        } else if letter.original_id() == Some(wanted) || letter.key().as_str() == wanted {
            Some(Rank::Named)
        } else if begins(letter.id()) || letter.original_id().is_some_and(begins) {
            Some(Rank::Prefix)
        } else {
            None
        }
    }

    pub(crate) fn into_found(self) -> Found {
        match self.best {
            None => Found::Nothing,
            Some((_, letter)) if self.more == 0 => Found::One(Box::new(letter)),
            Some((_, letter)) => {
                let mut candidates = vec![Candidate::of(&letter)];
                candidates.extend(self.rivals);
                Found::Several {
                    candidates,
                    all: self.more + 1,
                }
            }
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]
mod tests {
    use super::*;
    use redrive::clock::Clock;
    use redrive::dlq::{ENVELOPE_ATTRIBUTE, Envelope};
    use redrive::key::KeySource;
    use redrive::message::{Attribute, Delivery, Message, Receipt};

    fn letter(id: &str, original: &str, key: &str) -> DeadLetter {
        let mut envelope = Envelope::default();
        envelope.key = key.into();
        envelope.message_id = original.into();
        let mut message = Message::new(id, "{}");
        let text = serde_json::to_string(&envelope).unwrap();
        message
            .attributes
            .insert(ENVELOPE_ATTRIBUTE.into(), Attribute::string(text));
        let delivery = Delivery::new(message, Receipt::new("r"), 1, Clock::system().now());
        DeadLetter::new(delivery, &KeySource::Attribute)
    }

    fn found(wanted: &str) -> (Found, usize) {
        let letters = [
            letter("aaaa-1", "orig-1", "k1"),
            letter("aaaa-2", "orig-2", "k2"),
            letter("bbbb-3", "orig-3", "aaaa"),
            letter("cccc-4", "orig-2", "k4"),
            letter("bbbb", "orig-5", "k5"),
            letter("dddd-6", "x", "k6"),
        ];
        let mut finder = Finder::new(wanted);
        let seen = letters.iter().position(|letter| finder.offer(letter) == Visit::Stop);
        (finder.into_found(), seen.map_or(letters.len(), |at| at + 1))
    }

    #[test]
    fn a_letter_is_found_by_id_prefix_original_id_or_key() {
        for (wanted, id) in [
            ("aaaa-2", "aaaa-2"),
            ("aaaa", "bbbb-3"),
            ("bbbb", "bbbb"),
            ("bbbb-", "bbbb-3"),
            ("orig-1", "aaaa-1"),
            ("k4", "cccc-4"),
            ("dddd", "dddd-6"),
        ] {
            match found(wanted).0 {
                Found::One(letter) => assert_eq!(letter.id(), id, "{wanted}"),
                other => panic!("{wanted}: {other:?}"),
            }
        }
        assert_eq!(found("aaaa-2").1, 2, "it stops at a full id");
        assert_eq!(found("k1").1, 6, "another may have the same key");
    }

    #[test]
    fn what_fits_several_names_them_and_too_short_a_prefix_fits_none() {
        for (wanted, fit) in [("aaaa-", ["aaaa-1", "aaaa-2"]), ("orig-2", ["aaaa-2", "cccc-4"])] {
            match found(wanted).0 {
                Found::Several { candidates, all } => {
                    let ids: Vec<&str> = candidates.iter().map(|candidate| candidate.id.as_str()).collect();
                    assert_eq!((ids.as_slice(), all), (fit.as_slice(), 2));
                }
                other => panic!("{wanted}: {other:?}"),
            }
        }
        assert!(matches!(found("dd").0, Found::Nothing));
        assert!(matches!(found("nope").0, Found::Nothing));
        let mut finder = Finder::new("same");
        for n in 0..50 {
            finder.offer(&letter(&format!("id-{n}"), "o", "same"));
        }
        assert!(
            matches!(finder.into_found(), Found::Several { all: 50, candidates } if candidates.len() == MAX_RIVALS)
        );
    }
}
