//! A card gateway that misbehaves, and the client of it that the handlers use.
//!
//! [`Gateway`] is what you would write: a client, wrapped in a [`Downstream`]. [`Acquirer`] stands for the company at the other end
//! of the line. It knows nothing of redrive; its [`Ledger`] is what the quickstart is judged by.

use std::collections::{BTreeMap, BTreeSet};
use std::future::pending;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use redrive::clock::{Clock, Instant};
use redrive::flow::{Advice, BreakerConfig, Classify, Downstream, DownstreamError, FlowError, key_hash};
use serde::Serialize;

use crate::orders::{CardOrder, TransferOrder};

/// What a charge answers.
#[derive(Clone, Debug, Serialize)]
pub struct Receipt {
    charge: String,
}

/// How the gateway refuses.
#[derive(Debug, thiserror::Error)]
pub enum GatewayError {
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
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Down => "gateway_down",
            Self::CardDeclined { .. } => "card_declined",
            Self::KeyReused => "key_reused",
        }
    }
}

/// The client. Clones share it.
#[derive(Clone)]
pub struct Gateway {
    downstream: Downstream,
    acquirer: Acquirer,
}

impl Gateway {
    pub fn new(acquirer: Acquirer) -> Result<Self, FlowError> {
        // The default, open for 30 s at first, is right in production; here nobody wants to wait for so long.
        let breaker = BreakerConfig::default().open_for(Duration::from_millis(400), Duration::from_millis(1600))?;
        let downstream = Downstream::builder("gateway")
            .timeout(Duration::from_millis(400)) // in production some seconds: the default is 10
            .retries(1) // within the call; the message itself is tried again anyway
            .breaker(breaker)
            .build()?;
        Ok(Self { downstream, acquirer })
    }

    pub fn downstream(&self) -> &Downstream {
        &self.downstream
    }

    /// Charges a card: with a timeout, one retry, and a circuit breaker around it.
    pub async fn charge(&self, key: &str, order: &CardOrder) -> Result<Receipt, DownstreamError<GatewayError>> {
        self.downstream
            .keyed(key)
            .call(|| self.acquirer.charge(key, order))
            .await
    }

    /// Collects a bank transfer. The bank takes its time: no timeout would be right.
    pub async fn transfer(&self, key: &str, order: &TransferOrder) -> Result<Receipt, GatewayError> {
        self.acquirer.transfer(key, order).await
    }
}

/// How long a bank transfer takes: several times the queue's visibility timeout.
pub const TRANSFER: Duration = Duration::from_secs(7);

/// How long the gateway takes to answer.
const LATENCY: Duration = Duration::from_millis(25);

/// The outage: it begins with this call, and lasts for so long.
const OUTAGE_AT: u64 = 1200;
const OUTAGE: Duration = Duration::from_millis(2200);

/// One order in so many is unlucky: the gateway does not answer in time when it is charged.
const UNLUCKY: u64 = 40;

/// The company at the other end of the line.
#[derive(Clone)]
pub struct Acquirer {
    state: Arc<Mutex<State>>,
}

struct State {
    clock: Clock,
    ledger: Ledger,
    networks: BTreeSet<&'static str>,
    /// The charge of each key, by its place in the books.
    charged: BTreeMap<String, usize>,
    down_until: Option<Instant>,
    /// Calls of unlucky orders that were left without an answer.
    hung: BTreeMap<String, u32>,
}

/// The books: every call that arrived, and every charge that was made.
#[derive(Clone, Default)]
pub struct Ledger {
    pub charges: Vec<Charge>,
    /// Calls that arrived.
    pub calls: u64,
    /// The same, by key.
    pub calls_by_key: BTreeMap<String, u64>,
    /// Calls that asked for a charge that was made before: recognised by their key, and not charged again.
    pub recognised: u64,
    pub declined: u64,
    /// Calls that were not answered in time, and those of them whose charge was made all the same.
    pub unanswered: u64,
    pub unanswered_but_charged: u64,
    /// Calls that were refused during the outage.
    pub refused: u64,
}

/// Money that was taken.
#[derive(Clone)]
pub struct Charge {
    pub key: String,
    pub order: String,
    pub amount_cents: u64,
}

/// What becomes of a call.
enum Answer {
    Reply(Result<Receipt, GatewayError>),
    Never,
}

impl Acquirer {
    pub fn new() -> Self {
        let state = State {
            clock: Clock::system(),
            ledger: Ledger::default(),
            networks: BTreeSet::from(["visa", "mastercard", "amex"]),
            charged: BTreeMap::new(),
            down_until: None,
            hung: BTreeMap::new(),
        };
        Self {
            state: Arc::new(Mutex::new(state)),
        }
    }

    /// The books as they are now.
    pub fn ledger(&self) -> Ledger {
        self.with(|state| state.ledger.clone())
    }

    /// From now on, takes the cards of this network.
    pub fn accept(&self, network: &'static str) {
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
        if key_hash(key).is_multiple_of(UNLUCKY) && self.hangs(key, order) {
            self.ledger.unanswered += 1;
            return Answer::Never;
        }
        Answer::Reply(self.book(key, &order.id, order.amount_cents))
    }

    /// Whether an unlucky order's call is left without an answer: the first two are. Of every other order the second is charged
    /// all the same, and only the answer is lost, the case in which a retry without the key would charge twice.
    fn hangs(&mut self, key: &str, order: &CardOrder) -> bool {
        let hung = self.hung.entry(key.to_owned()).or_default();
        *hung += 1;
        let times = *hung;
        if times == 2 && order.amount_cents.is_multiple_of(2) && self.book(key, &order.id, order.amount_cents).is_ok() {
            self.ledger.unanswered_but_charged += 1;
        }
        times <= 2
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
