//! A card gateway that misbehaves, and the client of it that the handlers use.
//!
//! [`Gateway`] is what you would write: a client, wrapped in a [`Downstream`]. [`Acquirer`] stands for the company at the other end
//! of the line. It knows nothing of redrive; its [`Ledger`] is what the quickstart is judged by.

use std::collections::{BTreeMap, BTreeSet};
use std::future::pending;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use redrive::clock::{Clock, Instant};
use redrive::flow::{Advice, BreakerConfig, Classify, Downstream, DownstreamError, FlowError};
use serde::Serialize;

use crate::orders::{CardOrder, TransferOrder};

/// What a charge answers.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Receipt {
    charge: String,
}

/// How the gateway refuses.
#[derive(Debug, thiserror::Error)]
pub(crate) enum GatewayError {
    #[error("503: the gateway is down")]
    Down,
    #[error("402: the gateway takes no {network} cards for this shop")]
    CardDeclined { network: String },
    #[error("422: the key was used for another charge")]
    KeyReused,
}

/// Says which errors may pass: only those are tried again, and only those count for the circuit breaker.
impl Classify for GatewayError {
    fn advice(&self) -> Advice {
        match self {
            Self::Down => Advice::Retry,
            Self::CardDeclined { .. } | Self::KeyReused => Advice::Reject,
        }
    }
}

impl GatewayError {
    /// The reason by which an operator finds the dead letter.
    pub(crate) fn reason(&self) -> &'static str {
        match self {
            Self::Down => "gateway_down",
            Self::CardDeclined { .. } => "card_declined",
            Self::KeyReused => "key_reused",
        }
    }
}

/// The client. Clones share it.
#[derive(Clone)]
pub(crate) struct Gateway {
    downstream: Downstream,
    acquirer: Acquirer,
}

impl Gateway {
    pub(crate) fn new(acquirer: Acquirer) -> Result<Self, FlowError> {
        let breaker = BreakerConfig::default()
            // 5 unless set. At a thousand calls a second, that many timeouts in a row are no outage yet.
            .failures_in_a_row(12)?
            // 30 s, doubling to 5 min, unless set. That is right in production; here nobody wants to wait for so long.
            .open_for(Duration::from_millis(400), Duration::from_millis(1600))?;
        let downstream = Downstream::builder("gateway")
            .timeout(Duration::from_millis(300)) // in production some seconds: the default is 10
            .retries(0) // the message is tried again anyway; by default a call is tried twice more at once
            .breaker(breaker)
            .build()?;
        Ok(Self { downstream, acquirer })
    }

    pub(crate) fn downstream(&self) -> &Downstream {
        &self.downstream
    }

    /// Charges a card: with a timeout and a circuit breaker around it.
    pub(crate) async fn charge(&self, key: &str, order: &CardOrder) -> Result<Receipt, DownstreamError<GatewayError>> {
        self.downstream
            .keyed(key)
            .call(|| self.acquirer.charge(key, order))
            .await
    }

    /// Collects a bank transfer. The bank takes its time: no timeout would be right.
    pub(crate) async fn transfer(&self, key: &str, order: &TransferOrder) -> Result<Receipt, GatewayError> {
        self.acquirer.transfer(key, order).await
    }
}

/// How long a bank transfer takes: several times the queue's visibility timeout.
pub(crate) const TRANSFER: Duration = Duration::from_secs(6);

/// How long the gateway takes to answer.
const LATENCY: Duration = Duration::from_millis(25);

/// The outage: it begins with this call, and lasts for so long.
const OUTAGE_AT: u64 = 1200;
const OUTAGE: Duration = Duration::from_millis(1800);

/// Of so many calls, one is not answered in time.
const UNANSWERED: u64 = 90;

/// The company at the other end of the line.
#[derive(Clone)]
pub(crate) struct Acquirer {
    state: Arc<Mutex<State>>,
}

struct State {
    clock: Clock,
    ledger: Ledger,
    networks: BTreeSet<&'static str>,
    /// The charge of each key, by its place in the books.
    charged: BTreeMap<String, usize>,
    down_until: Option<Instant>,
}

/// The books: every call that arrived, and every charge that was made.
#[derive(Clone, Default)]
pub(crate) struct Ledger {
    pub(crate) charges: Vec<Charge>,
    /// Calls that arrived.
    pub(crate) calls: u64,
    /// The same, by key.
    calls_by_key: BTreeMap<String, u64>,
    /// Calls that asked for a charge that was made before: recognised by their key, and not charged again.
    pub(crate) recognised: u64,
    pub(crate) declined: u64,
    /// Calls that were not answered in time, and those of them whose charge was made all the same.
    pub(crate) unanswered: u64,
    pub(crate) unanswered_but_charged: u64,
    /// Calls that were refused during the outage.
    pub(crate) refused: u64,
}

impl Ledger {
    /// How many calls arrived for this key.
    pub(crate) fn calls_for(&self, key: &str) -> u64 {
        self.calls_by_key.get(key).copied().unwrap_or(0)
    }
}

/// Money that was taken.
#[derive(Clone)]
pub(crate) struct Charge {
    pub(crate) key: String,
    pub(crate) order: String,
    pub(crate) amount_cents: u64,
}

/// What becomes of a call.
enum Answer {
    Reply(Result<Receipt, GatewayError>),
    Never,
}

impl Acquirer {
    pub(crate) fn new() -> Self {
        let state = State {
            clock: Clock::system(),
            ledger: Ledger::default(),
            networks: BTreeSet::from(["visa", "mastercard", "amex"]),
            charged: BTreeMap::new(),
            down_until: None,
        };
        Self {
            state: Arc::new(Mutex::new(state)),
        }
    }

    /// The books as they are now.
    pub(crate) fn ledger(&self) -> Ledger {
        self.with(|state| state.ledger.clone())
    }

    /// From now on, takes the cards of this network.
    pub(crate) fn accept(&self, network: &'static str) {
        self.with(|state| state.networks.insert(network));
    }

    async fn charge(&self, key: &str, order: &CardOrder) -> Result<Receipt, GatewayError> {
        tokio::time::sleep(LATENCY).await;
        match self.with(|state| state.charge(key, order)) {
            Answer::Reply(reply) => reply,
            Answer::Never => pending().await,
        }
    }

    async fn transfer(&self, key: &str, order: &TransferOrder) -> Result<Receipt, GatewayError> {
        self.with(|state| state.called(key));
        tokio::time::sleep(TRANSFER).await;
        self.with(|state| state.book(key, &order.id, order.amount_cents))
    }

    fn with<T>(&self, f: impl FnOnce(&mut State) -> T) -> T {
        f(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl State {
    fn called(&mut self, key: &str) {
        self.ledger.calls += 1;
        *self.ledger.calls_by_key.entry(key.to_owned()).or_default() += 1;
    }

    fn charge(&mut self, key: &str, order: &CardOrder) -> Answer {
        self.called(key);
        if self.is_down() {
            self.ledger.refused += 1;
            return Answer::Reply(Err(GatewayError::Down));
        }
        // A token names its network: `tok_visa_81f2c9`.
        let network = order.card.split('_').nth(1).unwrap_or_default();
        if !self.networks.contains(network) {
            self.ledger.declined += 1;
            let network = network.to_owned();
            return Answer::Reply(Err(GatewayError::CardDeclined { network }));
        }
        let reply = |state: &mut Self| state.book(key, &order.id, order.amount_cents);
        if !self.ledger.calls.is_multiple_of(UNANSWERED) {
            return Answer::Reply(reply(self));
        }
        self.ledger.unanswered += 1;
        // Of these, every other is charged all the same, and only the answer is lost. This is where a retry without the key would
        // charge twice.
        if self.ledger.unanswered.is_multiple_of(2) && reply(self).is_ok() {
            self.ledger.unanswered_but_charged += 1;
        }
        Answer::Never
    }

    /// Charges, unless the key says that it was done before.
    fn book(&mut self, key: &str, order: &str, amount_cents: u64) -> Result<Receipt, GatewayError> {
        let charges = &mut self.ledger.charges;
        let number = *self.charged.entry(key.to_owned()).or_insert(charges.len());
        match charges.get(number) {
            None => charges.push(Charge {
                key: key.to_owned(),
                order: order.to_owned(),
                amount_cents,
            }),
            Some(charge) if charge.order == order && charge.amount_cents == amount_cents => self.ledger.recognised += 1,
            Some(_) => return Err(GatewayError::KeyReused),
        }
        Ok(Receipt {
            charge: format!("ch_{number:06}"),
        })
    }

    fn is_down(&mut self) -> bool {
        let now = self.clock.now();
        if self.ledger.calls >= OUTAGE_AT {
            self.down_until.get_or_insert(now + OUTAGE);
        }
        self.down_until.is_some_and(|until| now < until)
    }
}
