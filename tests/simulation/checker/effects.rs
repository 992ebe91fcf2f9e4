//! The ledger that handlers write their effects to, as the documentation recommends it: under the key, with the fencing token
//! as the condition.

use std::collections::BTreeMap;

use redrive::key::RecordKey;

use super::{Checker, label};

/// What stands in the ledger under a key.
#[derive(Clone, Copy, Debug)]
struct Effect {
    token: u64,
    payload: usize,
}

#[derive(Clone, Debug, Default)]
pub(crate) struct Ledger {
    effects: BTreeMap<RecordKey, Effect>,
    /// With what each key was completed, since when no effect may follow.
    closed: BTreeMap<RecordKey, Closed>,
}

#[derive(Clone, Copy, Debug)]
struct Closed {
    payload: usize,
    /// The claim's token.
    token: u64,
    /// Its effect was made under that claim, so that the ledger has seen the token.
    under_it: bool,
}

impl Ledger {
    /// The key is completed with this payload under a claim with this token; answers whether its effect stands.
    pub(crate) fn close(&mut self, key: &RecordKey, payload: usize, token: u64) -> bool {
        let effect = self.effects.get(key).filter(|effect| effect.payload == payload);
        let under_it = effect.is_some_and(|effect| effect.token == token);
        let closed = Closed {
            payload,
            token,
            under_it,
        };
        self.closed.insert(key.clone(), closed);
        effect.is_some()
    }

    /// The key's record is gone, by an operator or for its age: what was done may be done again.
    pub(crate) fn reopen(&mut self, key: &RecordKey) {
        self.closed.remove(key);
    }
}

impl Checker {
    /// The run makes its effect; answers whether the ledger took it: not under a token smaller than the one that stands there.
    pub(crate) fn effect(&mut self, run: u64, token: u64) -> bool {
        let Some(run) = self.runs.get(&run).cloned() else {
            return false;
        };
        let sent = self.messages[run.message].clone();
        let stands = self.ledger.effects.get(&sent.key).copied();
        if stands.is_some_and(|effect| effect.token > token) {
            self.note(
                &run.who,
                format!("  the effect of {} is refused, its token is old", label(run.message)),
            );
            return false;
        }
        let closed = self.ledger.closed.get(&sent.key).copied();
        if let Some(closed) = closed.filter(|closed| closed.payload == sent.payload) {
            if !closed.under_it && token < closed.token {
                // A worker recorded what it had done under an earlier claim. The ledger never saw the last one's token, and
                // takes the effect of a run in between whose process stood still beyond its lease: nobody can hold it back.
                self.note(&run.who, format!("  makes the effect of {} late", label(run.message)));
                return true;
            }
            self.broken(
                "inv03",
                format!(
                    "{} makes the effect of {} again, which is completed",
                    run.who,
                    label(run.message)
                ),
            );
        }
        let effect = Effect {
            token,
            payload: sent.payload,
        };
        self.ledger.effects.insert(sent.key.clone(), effect);
        true
    }
}
