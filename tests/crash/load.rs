//! What is sent, and what must become of it.

use std::collections::BTreeMap;

use redrive::clock::Random;
use redrive::message::Outgoing;
use serde::{Deserialize, Serialize};

/// What a handler is to do with a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Kind {
    /// It succeeds.
    Plain,
    /// Its first two attempts fail.
    Flaky,
    /// It can never succeed and says so.
    Poison,
    /// It takes its process down with it.
    Killer,
}

/// A message's body.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Job {
    pub(crate) kind: Kind,
    /// How long the handler takes before its effect.
    pub(crate) millis: u64,
}

/// One key, and the queue that its message, or messages, are sent to.
#[derive(Clone, Debug)]
pub(crate) struct Work {
    pub(crate) key: String,
    pub(crate) job: Job,
    /// The FIFO group and the position in it; none on the standard queue.
    pub(crate) group: Option<(String, usize)>,
    /// The producer sends it twice.
    pub(crate) twice: bool,
}

/// All that is sent: of each hundred messages four poison, two flaky, five sent twice; every fourth goes to the FIFO queue. A
/// few in all kill their process; in a small run none does, as it takes a minute until such a message is found out.
#[derive(Debug)]
pub(crate) struct Load {
    pub(crate) works: Vec<Work>,
    pub(crate) messages: usize,
}

impl Load {
    pub(crate) fn draw(messages: usize, random: &Random) -> Self {
        let killers = (messages / 1_500).min(4);
        let groups = (messages / 40).clamp(8, 400);
        let mut positions: BTreeMap<String, usize> = BTreeMap::new();
        let mut load = Self {
            works: Vec::new(),
            messages: 0,
        };
        while load.messages < messages {
            let n = load.works.len();
            // By turns one on either queue.
            let turn = n / 100 % 2;
            let kind = match n % 100 {
                at if at % 25 == 17 + 2 * turn => Kind::Poison,
                38 | 83 => Kind::Flaky,
                at if at == 62 + turn && n / 100 < killers => Kind::Killer,
                _ => Kind::Plain,
            };
            let twice = kind != Kind::Killer && matches!(n % 100, 5 | 17 | 29 | 50 | 71);
            let group = (n % 4 == 3).then(|| {
                let group = format!("group-{}", random.below(groups as u64));
                let position = positions.entry(group.clone()).or_default();
                *position += 1;
                (group, *position)
            });
            load.messages += 1 + usize::from(twice);
            load.works.push(Work {
                key: format!("key-{n}"),
                job: Job {
                    kind,
                    millis: 10 + random.below(50),
                },
                group,
                twice,
            });
        }
        load
    }

    /// The load of its first `keys` alone.
    pub(crate) fn first(&self, keys: usize) -> Self {
        let works = self.works[..keys].to_vec();
        Self {
            messages: works.iter().map(|work| 1 + usize::from(work.twice)).sum(),
            works,
        }
    }

    /// The keys whose effect must be there once.
    pub(crate) fn healthy(&self) -> impl Iterator<Item = &Work> {
        self.works
            .iter()
            .filter(|work| matches!(work.job.kind, Kind::Plain | Kind::Flaky))
    }

    /// The keys that must be dead-lettered, with their reasons.
    pub(crate) fn doomed(&self) -> BTreeMap<String, &'static str> {
        let reason = |work: &Work| match work.job.kind {
            Kind::Poison => Some("declined"),
            Kind::Killer => Some("worker_died"),
            Kind::Plain | Kind::Flaky => None,
        };
        self.works
            .iter()
            .filter_map(|work| Some((work.key.clone(), reason(work)?)))
            .collect()
    }
}

impl Work {
    /// The `copy`-th message of it.
    pub(crate) fn message(&self, copy: usize) -> Outgoing {
        let body = serde_json::to_string(&self.job).unwrap();
        let message = Outgoing::new(body).attribute(
            redrive::message::KEY_ATTRIBUTE,
            redrive::message::Attribute::string(&self.key),
        );
        match &self.group {
            Some((group, _)) => message.group(group).deduplication_id(format!("{}-{copy}", self.key)),
            None => message,
        }
    }
}
