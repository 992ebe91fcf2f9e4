//! A worker made of what flags and variables say.

use std::time::Duration;

use redrive::ecs::ScaleInProtection;
use redrive::emf::Emf;
use redrive::flow::RateLimit;
use redrive::handler::Handler;
use redrive::health::Health;
use redrive::inbox::{DEFAULT_MAX_RESULT, MAX_RESULT};
use redrive::worker::{Builder, Observation};
use redrive::{DynamoInbox, SqsQueue, Worker};

use super::refusal::refusal;
use super::settings::Settings;
use super::table;
use super::text::{self, KeyFrom, Place};
use crate::connection::Aws;
use crate::failure::Failure;

/// How long a receive waits where the worker ends with its queue, unless set: the end waits for it.
const SHORT_POLL: &str = "2s";

/// What is settled before a service is asked.
pub(super) struct Asked {
    table: Option<String>,
    max_result: usize,
    key: Option<Place>,
    tenant: Option<(Place, RateLimit)>,
    fingerprint: Option<String>,
    dead_letter_queue: Option<String>,
    health: Option<Health>,
    emf: Option<Emf>,
    protection: ScaleInProtection,
}

impl Asked {
    pub(super) fn of(settings: &Settings<'_>) -> Result<Self, Failure> {
        let key = match settings.key_from()? {
            KeyFrom::Place(place) => Some(place),
            // The library takes the deduplication id by its variable.
            KeyFrom::Attribute | KeyFrom::DeduplicationId => None,
        };
        let fingerprint = match settings.get(table::FINGERPRINT_POINTER) {
            None => None,
            Some(pointer) => {
                let name = settings.name_of(table::FINGERPRINT_POINTER);
                if settings.get(table::FINGERPRINT).is_some_and(|on| on == "false") {
                    return Err(Failure::usage(format_args!(
                        "{name} says what is compared, but {}=false compares nothing; give one of them",
                        settings.name_of(table::FINGERPRINT)
                    )));
                }
                Place::pointer(&name, pointer.clone())?;
                Some(pointer)
            }
        };
        let dead_letter_queue = settings.get(table::DEAD_LETTER_QUEUE);
        if dead_letter_queue.is_some() && settings.get(table::DEAD_LETTERS).is_some_and(|how| how != "send") {
            return Err(Failure::usage(format_args!(
                "{} names a queue to send dead letters to, but {} sends none; give one of them",
                settings.name_of(table::DEAD_LETTER_QUEUE),
                settings.name_of(table::DEAD_LETTERS)
            )));
        }
        Ok(Self {
            table: settings.inbox()?,
            max_result: max_result(settings)?,
            key,
            tenant: tenant(settings)?,
            fingerprint,
            dead_letter_queue,
            // Before anything is made that counts.
            health: Health::from_variables(|name| settings.get(name)).map_err(|error| refusal(&error, settings))?,
            emf: Emf::from_variables(|name| settings.get(name)).map_err(|error| refusal(&error, settings))?,
            protection: ScaleInProtection::from_variables(|name| settings.get(name))
                .map_err(|error| refusal(&error, settings))?,
        })
    }

    /// The worker of `queue`, whose handler is stopped after `limit` at the latest.
    pub(super) async fn worker<M, H: Handler<M, ()>>(
        self,
        queue: SqsQueue,
        handler: H,
        limit: Duration,
        until_empty: bool,
        settings: &Settings<'_>,
        aws: &Aws,
    ) -> Result<Worker, Failure> {
        let mut builder = Worker::builder(queue).handler(handler).observe(log_fate);
        if let Some(table) = &self.table {
            let inbox = DynamoInbox::builder(table).max_result(self.max_result)?;
            builder = builder.inbox(inbox.connect(aws.config()).await?);
        }
        if let Some(dead) = &self.dead_letter_queue {
            builder = builder.dead_letter(aws.queue(dead).await?);
        }
        let limit = format!("{}ms", limit.as_millis());
        let variables = |name: &str| match name {
            table::TIMEOUT => Some(limit.clone()),
            table::LONG_POLL if until_empty => settings.get(name).or_else(|| Some(SHORT_POLL.to_owned())),
            _ => settings.get(name),
        };
        builder = builder.beside(self.protection.clone());
        self.with_functions(builder)
            .from_variables(variables)
            .build()
            .map_err(|error| refusal(&error, settings))
    }

    fn with_functions(self, mut builder: Builder) -> Builder {
        if let Some(key) = self.key {
            builder = builder.key(key.key());
        }
        if let Some((tenant, rate)) = self.tenant {
            builder = builder.rate_by(move |message| tenant.text(message), rate);
        }
        if let Some(pointer) = self.fingerprint {
            builder = builder.fingerprint(move |message| text::part(message, &pointer));
        }
        builder.beside(self.health).beside(self.emf)
    }
}

/// The most bytes of a result that are kept.
pub(super) fn max_result(settings: &Settings<'_>) -> Result<usize, Failure> {
    let Some(bytes) = settings.whole(table::MAX_RESULT)? else {
        return Ok(DEFAULT_MAX_RESULT);
    };
    match usize::try_from(bytes) {
        Ok(bytes) if bytes <= MAX_RESULT => Ok(bytes),
        _ => Err(Failure::usage(format_args!(
            "{}: {bytes} is over {MAX_RESULT} bytes, the most that an inbox keeps",
            settings.name_of(table::MAX_RESULT)
        ))),
    }
}

fn tenant(settings: &Settings<'_>) -> Result<Option<(Place, RateLimit)>, Failure> {
    let place = settings.place(table::TENANT_ATTRIBUTE, table::TENANT_POINTER)?;
    let rate = settings.number(table::TENANT_RATE)?;
    let burst = settings.whole(table::TENANT_BURST)?;
    let name = settings.name_of(table::TENANT_RATE);
    let (Some(place), Some(rate)) = (place.clone(), rate) else {
        if place.is_none() && rate.is_none() && burst.is_none() {
            return Ok(None);
        }
        return Err(Failure::usage(
            "a rate for each tenant needs both: --tenant-rate, and --tenant-attribute or --tenant-pointer to say whose a \
             message is",
        ));
    };
    let refused = |error| Failure::usage(format_args!("{name}: {error}"));
    let mut limit = RateLimit::per_second(rate).map_err(refused)?;
    if let Some(burst) = burst {
        limit = limit.burst(u32::try_from(burst).unwrap_or(u32::MAX)).map_err(refused)?;
    }
    Ok(Some((place, limit)))
}

/// What became of a delivery, for those who ask: failures and dead letters are logged by the worker itself.
fn log_fate(observation: &Observation<'_>) {
    let key = crate::ui::safe(observation.key.as_str());
    let message_id = crate::ui::safe(&observation.message.id);
    tracing::debug!(%key, %message_id, fate = observation.fate.as_str(), "settled");
}
