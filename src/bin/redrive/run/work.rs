//! The worker's run: until a signal, or until the queue is empty.

use std::pin::pin;
use std::time::Duration;

use futures::future::{BoxFuture, Fuse, FutureExt as _};
use redrive::clock::{Clock, Instant};
use redrive::handler::Handler;
use redrive::queue::{Queue as _, QueueAttributes, QueueError};
use redrive::worker::{Status, WorkerHandle};
use redrive::{Error, SqsQueue};

use super::empty::Emptiness;
use super::live::{Live, Summary};
use super::logs::{self, Format};
use super::made::{self, Asked};
use super::settings::WorkerFlags;
use super::table;
use crate::connection::Aws;
use crate::failure::{Code, Failure, Outcome};
use crate::ui::{Ui, count};

/// How often the worker is asked how it is.
const TICK: Duration = Duration::from_millis(200);

/// How often the depth of the queue is asked for, for the status line.
const DEPTH_EVERY: Duration = Duration::from_secs(5);

/// How often the log tells how the worker is, where there is no status line.
const STATUS_EVERY: Duration = Duration::from_secs(60);

/// The work on one queue that a command is asked for.
pub(crate) struct Job<'a> {
    pub(crate) flags: &'a WorkerFlags,
    pub(crate) queue: &'a str,
    pub(crate) aws: &'a Aws,
    pub(crate) ui: &'a Ui,
}

fn environment(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

impl Job<'_> {
    /// How long one message may take.
    pub(crate) fn timeout(&self, default: Duration) -> Result<Duration, Failure> {
        self.flags.over(&environment).timeout(default)
    }

    /// The most bytes of a result that are kept.
    pub(crate) fn max_result(&self) -> Result<usize, Failure> {
        made::max_result(&self.flags.over(&environment))
    }

    /// Works until a signal, or until the queue is empty. The handler sees to its own timeout; `limit` is the backstop behind
    /// that.
    pub(crate) async fn work<M, H: Handler<M, ()>>(&self, handler: H, limit: Duration) -> Outcome {
        let settings = self.flags.over(&environment);
        let asked = Asked::of(&settings)?;
        let mut live = Live::new(self.ui);
        let format = settings.get(table::LOG_FORMAT);
        let format = match format.as_deref() {
            None | Some("text" | "json") => Format::of(format.as_deref(), live.is_shown()),
            Some(other) => {
                let name = settings.name_of(table::LOG_FORMAT);
                return Err(Failure::usage(format_args!("{name}=`{other}`: give text or json")));
            }
        };
        let traces = logs::start(format, self.ui.is_quiet(), live.bar())?;
        let until_empty = self.flags.until_empty();
        let made = async {
            let queue = self.aws.queue(self.queue).await?;
            let worker = asked.worker(queue.clone(), handler, limit, until_empty, &settings, self.aws);
            Ok::<_, Failure>((queue, worker.await?))
        };
        let (queue, worker) = tokio::select! {
            biased;
            // Nothing is held yet.
            () = self.ui.interrupt().cancelled() => return Ok(Code::Interrupted),
            made = made => made?,
        };
        let name = queue.attributes().name.clone();
        let handle = worker.handle();
        let clock = Clock::system();
        let begun = clock.now();
        let run = Run {
            queue,
            handle: &handle,
            clock: &clock,
            ui: self.ui,
            emptiness: until_empty.then(Emptiness::default),
            live: &mut live,
        };
        let ended = run.until_ended(worker.run_until_drained()).await;
        traces.flush().await;
        live.clear();
        ended.map_err(|error| match error {
            Error::Preflight(error) => Failure::new(error).remedy(format_args!("`redrive doctor {name}` says more")),
            other => other.into(),
        })?;
        let status = handle.status();
        let ran = clock.now().saturating_duration_since(begun);
        let summary = Summary::new(&name, &status.totals, ran);
        if self.ui.is_json() {
            self.ui.json(&summary);
        } else {
            self.ui.line(summary.text());
        }
        let held = u64::try_from(status.running + status.waiting + status.ending).unwrap_or(u64::MAX);
        if held > 0 {
            return Err(Failure::new(format_args!(
                "the drain's deadline came first: {} still held, which {} back by the visibility timeout",
                count(held, "message"),
                if held == 1 { "comes" } else { "come" },
            ))
            .remedy("raise --drain-deadline, or lower --timeout"));
        }
        let given_up = status.totals.dead_letters() + status.totals.given_up;
        Ok(if until_empty && given_up > 0 {
            Code::Found
        } else {
            Code::Done
        })
    }
}

/// A look at the queue under way, or none.
type Look = Fuse<BoxFuture<'static, Result<QueueAttributes, QueueError>>>;

/// A worker that runs.
struct Run<'a> {
    queue: SqsQueue,
    handle: &'a WorkerHandle,
    clock: &'a Clock,
    ui: &'a Ui,
    emptiness: Option<Emptiness>,
    live: &'a mut Live,
}

impl Run<'_> {
    async fn until_ended(mut self, run: impl Future<Output = Result<(), Error>>) -> Result<(), Error> {
        let mut run = pin!(run);
        let mut look: Look = Fuse::terminated();
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
        let mut draining = false;
        let mut depth_at: Option<Instant> = None;
        let mut status_at = self.clock.now();
        loop {
            tokio::select! {
                biased;
                ended = &mut run => return ended,
                () = self.ui.interrupt().cancelled(), if !draining => {
                    draining = true;
                    self.handle.drain();
                    if self.live.is_shown() {
                        let bar = self.live.bar();
                        bar.suspend(|| self.ui.note("ending in order; press Ctrl-C again to end at once"));
                    }
                }
                found = &mut look => {
                    if self.looked(found) && !draining {
                        draining = true;
                        tracing::info!("the queue is empty");
                        self.handle.drain();
                    }
                }
                _ = tick.tick() => {
                    let now = self.clock.now();
                    let status = self.handle.status();
                    self.live.show(now, &status);
                    let due = |at: Option<Instant>, every| at.is_none_or(|at| now.saturating_duration_since(at) >= every);
                    let wants = self.emptiness.as_mut().is_some_and(|emptiness| emptiness.wants_a_look(now, &status));
                    let shows = self.live.is_shown() && due(depth_at, DEPTH_EVERY);
                    if (wants || shows) && !draining && futures::future::FusedFuture::is_terminated(&look) {
                        depth_at = Some(now);
                        let queue = self.queue.clone();
                        look = async move { queue.describe().await }.boxed().fuse();
                    }
                    if !self.live.is_shown() && due(Some(status_at), STATUS_EVERY) {
                        status_at = now;
                        log_status(&status);
                    }
                }
            }
        }
    }

    /// Takes what a look at the queue found; answers whether the worker is to end.
    fn looked(&mut self, found: Result<QueueAttributes, QueueError>) -> bool {
        let now = self.clock.now();
        match found {
            Ok(attributes) => {
                self.live.depth(attributes.visible + attributes.delayed);
                // What was received since the look began makes it worth nothing.
                let status = self.handle.status();
                self.emptiness.as_mut().is_some_and(|emptiness| {
                    emptiness.wants_a_look(now, &status);
                    emptiness.looked(now, &attributes)
                })
            }
            Err(error) => {
                tracing::debug!(%error, "the queue could not be looked at");
                false
            }
        }
    }
}

fn log_status(status: &Status) {
    let totals = &status.totals;
    tracing::info!(
        running = status.running,
        waiting = status.waiting,
        breaker = ?status.breaker,
        stalled = status.stalled,
        stuck = status.stuck,
        received = totals.received,
        completed = totals.completed,
        duplicates = totals.duplicates,
        failed_attempts = totals.retried,
        uncounted_failures = totals.uncounted_failures,
        dead_lettered = totals.dead_letters(),
        given_up = totals.given_up,
        "status"
    );
}
