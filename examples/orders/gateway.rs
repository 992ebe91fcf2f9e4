//! A payment gateway, as one meets them: slow, sure of itself, and asking for a key with every charge.

use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use redrive::Failure;
use redrive::handler::IntoFailure;
use serde::Serialize;

use crate::Problem;
use crate::ledger::{Answer, Books, Entry, Kind, Ledger};

/// A client of the gateway.
#[derive(Clone)]
pub(crate) struct Gateway {
    ledger: Arc<Mutex<Ledger>>,
    takes: Duration,
}

/// What a charge came to.
#[derive(Debug, Serialize)]
pub(crate) struct Receipt {
    order: String,
    amount_cents: u64,
}

#[derive(Debug, thiserror::Error)]
pub(crate) enum GatewayError {
    #[error("{payer} was declined: Maestro cards are not taken")]
    Declined { payer: String },
    #[error("the key {key} was used for another amount")]
    KeyReused { key: String },
    #[error("the gateway is not available")]
    Unavailable(#[source] io::Error),
}

/// What the gateway refuses, it will refuse again; what it could not do is worth another try.
impl IntoFailure for GatewayError {
    fn into_failure(self) -> Failure {
        match &self {
            Self::Declined { .. } => Failure::reject(self).because("card_declined"),
            Self::KeyReused { .. } => Failure::reject(self).because("key_reused"),
            Self::Unavailable(_) => Failure::from(self),
        }
    }
}

impl Gateway {
    pub(crate) fn new(ledger: Ledger, takes: Duration) -> Self {
        Self {
            ledger: Arc::new(Mutex::new(ledger)),
            takes,
        }
    }

    /// Charges once for each key, however often it is asked: `payer` is a card's token or an IBAN. The fencing token goes
    /// into the books with it.
    pub(crate) async fn charge(
        &self,
        key: &str,
        fence: u64,
        order: &str,
        payer: &str,
        amount_cents: u64,
    ) -> Result<Receipt, GatewayError> {
        // Half of the time is the way there, half the way back: a worker may die in between.
        tokio::time::sleep(self.takes / 2).await;
        if payer.starts_with("tok_maestro") {
            return Err(GatewayError::Declined {
                payer: payer.to_owned(),
            });
        }
        let request = Entry {
            entry: Kind::Request,
            key: key.to_owned(),
            order: order.to_owned(),
            amount_cents,
            fence,
            pid: std::process::id(),
        };
        let ledger = Arc::clone(&self.ledger);
        let enter = move || {
            let mut ledger = ledger.lock().unwrap_or_else(PoisonError::into_inner);
            ledger.charge(&request)
        };
        // Once asked, a gateway does not stop because the asker went away.
        let entered = tokio::task::spawn_blocking(enter)
            .await
            .map_err(io::Error::other)
            .flatten();
        tokio::time::sleep(self.takes / 2).await;
        match entered.map_err(GatewayError::Unavailable)? {
            Answer::Charged | Answer::ChargedBefore => Ok(Receipt {
                order: order.to_owned(),
                amount_cents,
            }),
            Answer::KeyReused => Err(GatewayError::KeyReused { key: key.to_owned() }),
        }
    }

    /// What was charged in all, by whichever process.
    pub(crate) fn books(&self) -> Result<Books, Problem> {
        let mut ledger = self.ledger.lock().unwrap_or_else(PoisonError::into_inner);
        ledger
            .books()
            .map_err(|error| Problem::NotRight(format!("the ledger cannot be read: {error}")))
    }
}
