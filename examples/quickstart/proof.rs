//! The proof: the gateway's ledger and the queues, held against what was sent. It asks redrive for no number.

use std::collections::{BTreeMap, BTreeSet};

use redrive::message::{KEY_ATTRIBUTE, Message};
use serde_json::Value;

use crate::gateway::Ledger;
use crate::orders::{Line, mended};

/// What was sent under each key: the amounts asked for. More than one is a key that was used twice.
pub struct Expected {
    amounts: BTreeMap<String, BTreeSet<u64>>,
}

/// Something that had to be true, and whether it was.
pub struct Check {
    pub what: String,
    pub holds: bool,
}

impl Expected {
    pub fn of(lines: &[Line]) -> Self {
        let mut amounts: BTreeMap<String, BTreeSet<u64>> = BTreeMap::new();
        for line in lines {
            let asked = amounts.entry(line.key.clone()).or_default();
            asked.extend(amount(&line.body()));
        }
        Self { amounts }
    }

    /// How many different orders there are.
    pub fn orders(&self) -> usize {
        self.amounts.len()
    }

    /// Whether the fault is the message's own: then no outage brought it into the dead-letter queue.
    fn is_at_fault(&self, letter: &Message) -> bool {
        let body: Option<Value> = serde_json::from_str(&letter.body).ok();
        let Some(body) = body.filter(|body| body["amount_cents"].is_u64()) else {
            return true; // cannot be read
        };
        let declined = body["card"]
            .as_str()
            .is_some_and(|card| card.starts_with("tok_maestro_"));
        declined
            || self
                .amounts
                .get(key_of(letter))
                .is_some_and(|amounts| amounts.len() > 1)
    }

    /// What must be true of the dead letters before anything is repaired.
    pub fn check_dead_letters(&self, dead: &[Message]) -> Check {
        let healthy = dead.iter().filter(|letter| !self.is_at_fault(letter)).count();
        Check {
            what: format!(
                "The outage dead-lettered no healthy order: each of the {} dead letters is itself at fault ({healthy} are not).",
                dead.len()
            ),
            holds: healthy == 0,
        }
    }

    /// What must be true in the end. `slow` is the key of the order whose handler outlived its visibility timeout.
    pub fn check_ledger(&self, ledger: &Ledger, left: usize, dead: &[Message], slow: &str) -> Vec<Check> {
        let mut by_order: BTreeMap<&str, u64> = BTreeMap::new();
        let mut charged: BTreeMap<&str, u64> = BTreeMap::new();
        let mut strange = 0;
        for charge in &ledger.charges {
            *by_order.entry(&charge.order).or_default() += 1;
            charged.insert(&charge.key, charge.amount_cents);
            let asked = self.amounts.get(&charge.key);
            strange += u64::from(!asked.is_some_and(|amounts| amounts.contains(&charge.amount_cents)));
        }
        let twice = by_order.values().filter(|&&times| times > 1).count();
        let missing = self
            .amounts
            .keys()
            .filter(|key| !charged.contains_key(key.as_str()))
            .count();
        let lost = self.lost(&charged, dead);
        let calls = ledger.calls_by_key.get(slow).copied().unwrap_or(0);
        vec![
            Check {
                what: format!(
                    "Nobody was charged twice: {} orders, {} charges ({twice} orders with more than one, {strange} of an amount \
                     nobody asked for).",
                    by_order.len(),
                    ledger.charges.len()
                ),
                holds: twice == 0 && strange == 0 && by_order.len() == ledger.charges.len(),
            },
            Check {
                what: format!("Every order was charged: {missing} of {} are missing.", self.orders()),
                holds: missing == 0,
            },
            Check {
                what: format!(
                    "Nothing was lost: each message was charged or is still a dead letter ({lost} are neither, {left} are left in the \
                     queue)."
                ),
                holds: lost == 0 && left == 0,
            },
            Check {
                what: format!(
                    "The slow handler ran once, on one delivery (the gateway was called {calls} time for it)."
                ),
                holds: calls == 1 && charged.contains_key(slow),
            },
        ]
    }

    /// How many amounts were asked for that were neither charged nor are in the dead-letter queue.
    fn lost(&self, charged: &BTreeMap<&str, u64>, dead: &[Message]) -> usize {
        let kept: BTreeSet<(&str, u64)> = dead
            .iter()
            .filter_map(|letter| Some((key_of(letter), amount(&letter.body)?)))
            .collect();
        let all = self
            .amounts
            .iter()
            .flat_map(|(key, amounts)| amounts.iter().map(move |&amount| (key.as_str(), amount)));
        all.filter(|(key, amount)| charged.get(key) != Some(amount) && !kept.contains(&(key, *amount)))
            .count()
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
