//! The proof: the gateway's ledger and the queues, held against what was sent. It asks the worker nothing.

use std::collections::{BTreeMap, BTreeSet};

use redrive::message::{KEY_ATTRIBUTE, Message};
use serde_json::Value;

use crate::gateway::Ledger;
use crate::orders::{Line, mended};
use crate::report::thousands;

/// What the messages asked for: the amounts under each key. A key with two of them was used twice.
pub(crate) struct Expected {
    amounts: BTreeMap<String, BTreeSet<u64>>,
}

/// Something that has to be true, and where it is not.
pub(crate) struct Check {
    pub(crate) what: String,
    pub(crate) exceptions: Vec<String>,
}

impl Expected {
    pub(crate) fn of(lines: &[Line]) -> Self {
        let mut amounts: BTreeMap<String, BTreeSet<u64>> = BTreeMap::new();
        for line in lines {
            let asked = amounts.entry(line.key.clone()).or_default();
            asked.extend(amount(&line.body()));
        }
        Self { amounts }
    }

    /// How many different orders there are.
    pub(crate) fn orders(&self) -> usize {
        self.amounts.len()
    }

    /// An outage must not bring a healthy order into the dead-letter queue. To be asked before anything is repaired.
    pub(crate) fn only_faulty_dead_letters(&self, dead: &[Message]) -> Check {
        let healthy = dead.iter().filter(|letter| !self.is_faulty(letter));
        Check {
            what: format!(
                "No outage made a dead letter: all {} of them were faulty themselves.",
                dead.len()
            ),
            exceptions: healthy.map(|letter| format!("{} is healthy", key_of(letter))).collect(),
        }
    }

    /// Whether a dead letter's fault is its own: it cannot be read, its card is declined, or its key was used twice.
    fn is_faulty(&self, letter: &Message) -> bool {
        let order: Value = serde_json::from_str(&letter.body).unwrap_or_default();
        let card = order["card"].as_str().unwrap_or_default();
        let used_twice = self
            .amounts
            .get(key_of(letter))
            .is_some_and(|amounts| amounts.len() > 1);
        !order["amount_cents"].is_u64() || card.starts_with("tok_maestro_") || used_twice
    }

    pub(crate) fn nobody_charged_twice(&self, ledger: &Ledger) -> Check {
        let mut charges: BTreeMap<&str, u64> = BTreeMap::new();
        for charge in &ledger.charges {
            *charges.entry(&charge.order).or_default() += 1;
        }
        let twice = charges.iter().filter(|(_, times)| **times > 1);
        let mut exceptions: Vec<_> = twice
            .map(|(order, times)| format!("order {order} was charged {times} times"))
            .collect();
        let unasked = ledger.charges.iter().filter(|charge| {
            let asked = self.amounts.get(&charge.key);
            !asked.is_some_and(|amounts| amounts.contains(&charge.amount_cents))
        });
        exceptions.extend(
            unasked.map(|charge| format!("{} cents of {} were never asked for", charge.amount_cents, charge.key)),
        );
        Check {
            what: format!(
                "Nobody was charged twice: {} charges for {} orders.",
                thousands(ledger.charges.len()),
                thousands(charges.len())
            ),
            exceptions,
        }
    }

    pub(crate) fn everybody_charged(&self, ledger: &Ledger) -> Check {
        let charged: BTreeSet<&str> = ledger.charges.iter().map(|charge| charge.key.as_str()).collect();
        let missing = self.amounts.keys().filter(|key| !charged.contains(key.as_str()));
        Check {
            what: format!("Everybody was charged: all {} orders.", thousands(self.orders())),
            exceptions: missing.map(|key| format!("{key} was not")).collect(),
        }
    }

    /// Every amount that was asked for is charged, or is kept as a dead letter.
    pub(crate) fn nothing_lost(&self, ledger: &Ledger, queued: usize, dead: &[Message]) -> Check {
        let charged = ledger
            .charges
            .iter()
            .map(|charge| (charge.key.as_str(), charge.amount_cents));
        let kept = dead
            .iter()
            .filter_map(|letter| Some((key_of(letter), amount(&letter.body)?)));
        let found: BTreeSet<(&str, u64)> = charged.chain(kept).collect();
        let asked = self
            .amounts
            .iter()
            .flat_map(|(key, amounts)| amounts.iter().map(move |&amount| (key.as_str(), amount)));
        let lost = asked.filter(|asked| !found.contains(asked));
        let mut exceptions: Vec<_> = lost
            .map(|(key, amount)| format!("{key} over {amount} cents is nowhere"))
            .collect();
        exceptions.extend((queued > 0).then(|| format!("{queued} messages are left in the queue")));
        Check {
            what: format!(
                "Nothing was lost: what was not charged is among the {} dead letters that are left.",
                dead.len()
            ),
            exceptions,
        }
    }
}

/// The amount a body asks for, as its sender meant it.
fn amount(body: &str) -> Option<u64> {
    let order: Value = serde_json::from_str(&mended(body).ok()?).ok()?;
    order["amount_cents"].as_u64()
}

fn key_of(letter: &Message) -> &str {
    letter.attribute(KEY_ATTRIBUTE).unwrap_or_default()
}
