//! `redrive dlq replay`: dead letters go back to be handled again.

mod backup;
mod edit;
mod job;
mod report;
mod route;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use clap::Args;
use redrive::clock::{Clock, Random};
use redrive::dlq::{CompletedKeys, DeadLetter, Journal, Replay as Replaying, ReplayEnd, ReplayReport};
use redrive::queue::{Queue, QueueError};

use self::backup::Backup;
use self::edit::Edit;
use self::job::{Job, JobFile};
use self::report::Told;
use self::route::Route;
use super::filter::{LANGUAGE, Where};
use super::look::Target;
use super::moves;
use crate::connection::{Aws, DeadLetters};
use crate::failure::{Code, Failure, Outcome};
use crate::keys::KeyFlags;
use crate::ui::{Ui, count, timestamp};
use crate::values;

pub(crate) const EXAMPLES: &str = "Examples:
  redrive dlq replay orders --dry-run
  redrive dlq replay orders --where 'reason = timeout' --rate 50/s --job night.job
  redrive dlq replay orders --where '/currency = euro' --edit '/currency=EUR' --edit -/debug
  redrive dlq replay orders --rate 20/s --stop-at 10 --watch 5m --table redrive-inbox
  redrive dlq replay orders-dlq --to orders-v2 --yes";

/// The longest that what comes back is watched for: as long as SQS keeps a message.
const LONGEST_WATCH: Duration = Duration::from_secs(14 * 24 * 3_600);

/// How long what comes back is watched for unless told otherwise.
const WATCH: Duration = Duration::from_secs(60);

/// The fewest that died again before `--stop-at` judges.
const FEWEST_DEATHS: u64 = 5;

const SHORTEST_HOLD: Duration = Duration::from_secs(20);

const LONGEST_HOLD: Duration = Duration::from_secs(3_600);

/// Beyond the hold of an earlier run, what servers take to give back what it held.
const LATE: Duration = Duration::from_secs(5);

pub(crate) fn long_help() -> String {
    format!(
        "{EXAMPLES}\n\n{LANGUAGE}\n\nEach message is sent, its acceptance read, and then deleted: whatever happens in between, it \
         is in one of the two queues. It keeps its key. What a kill leaves in both, at most one batch of ten, workers with an \
         inbox handle once.\n\n{}\n\nExit codes: 0 all that was meant is replayed; 3 some was left, or it stopped by itself; 130 \
         ended by Ctrl-C; 1 failed. The report is printed in any case.",
        moves::LIMITS
    )
}

/// What `redrive dlq replay` is asked.
#[derive(Args, Debug)]
pub(crate) struct Replay {
    #[command(flatten)]
    target: Target,

    /// Send them to this queue. Unless given, each goes back to the queue it came from; if QUEUE is a source, only its own
    /// letters are replayed.
    #[arg(long, value_name = "QUEUE")]
    to: Option<String>,

    #[command(flatten)]
    filter: Where,

    /// Replay at most this many; with --job, in all runs of the job together.
    #[arg(long, short = 'n', value_name = "N", value_parser = values::limit)]
    limit: Option<u64>,

    /// Send at most this many a second, such as 50 or 0.5/s.
    #[arg(long, value_name = "N", value_parser = values::rate)]
    rate: Option<f64>,

    /// Only say what would be replayed, by reason. Edits are tried; nothing is sent or deleted, and the job file is not touched.
    #[arg(long)]
    dry_run: bool,

    /// Change the JSON body first: /path=VALUE sets a field, -/path deletes one. VALUE is JSON, or else text. May be given
    /// several times. A body that cannot be changed so stays.
    #[arg(long = "edit", value_name = "EDIT", allow_hyphen_values = true)]
    edits: Vec<Edit>,

    /// Run each body through this shell command first, after the edits: it reads the body and prints the new one, within 30 s.
    /// If it fails, the message stays. It must print the same for the same body each time.
    #[arg(long, value_name = "COMMAND")]
    edit_command: Option<String>,

    /// Keep in this file what was sent, so that the same command goes on where it was ended, by whatever.
    #[arg(long, value_name = "FILE")]
    job: Option<PathBuf>,

    /// The workers' inbox: keys that are completed are then not sent again. None is asked unless it is named, here or in the
    /// variable; `redrive init` makes redrive-inbox unless told otherwise.
    #[arg(long, value_name = "TABLE", env = "REDRIVE_INBOX_TABLE")]
    table: Option<String>,

    /// The name the workers' keys are kept under; unless given, that of the source queue, and of --to for what is sent there.
    #[arg(long, value_name = "NAME", env = values::CONSUMER, value_parser = values::consumer)]
    consumer: Option<String>,

    /// Delete letters whose key is completed, instead of leaving them, if their payload is the one that was completed. Each is
    /// written to a file first.
    #[arg(long, requires = "table", conflicts_with = "force")]
    drop_completed: bool,

    /// The file that gets what --drop-completed deletes; a new one, named after queue and time unless given.
    #[arg(long, value_name = "FILE", requires = "drop_completed")]
    backup: Option<PathBuf>,

    /// Write no file: what --drop-completed deletes is gone.
    #[arg(long, requires = "drop_completed", conflicts_with = "backup")]
    no_backup: bool,

    /// Run letters again whose key is completed, under a new key.
    #[arg(long, requires = "table")]
    force: bool,

    #[command(flatten)]
    keys: KeyFlags,

    /// Leave it to the workers to find the key of letters without an envelope: for workers whose key is a function of theirs.
    /// Such letters are not looked up in the inbox. Not for keys that are the deduplication id: a replay gives a fresh one.
    #[arg(long, help_heading = "Keys", conflicts_with_all = ["key-attribute", "key-pointer", "key-from-deduplication-id"])]
    key_by_worker: bool,

    /// On a FIFO queue, go on with a group past a message that is left. Without it a group stops there.
    #[arg(long)]
    skip_order: bool,

    /// After the last send, watch this long for what comes back dead, such as 5m; 1m with --stop-at.
    #[arg(long, value_name = "DURATION", value_parser = values::duration_within(Duration::ZERO, LONGEST_WATCH))]
    watch: Option<Duration>,

    /// Stop by itself when more than this share of what was replayed has died again, and at least 5 have. What died is known
    /// from the inbox with --table, else when it is seen among the letters: give it a --rate, so that there is time to see it.
    #[arg(long, value_name = "PERCENT", value_parser = percent)]
    stop_at: Option<f64>,

    /// How long a letter stays hidden if this is killed while it holds it: 20s to 1h. A rerun of a job waits for it.
    #[arg(long, value_name = "DURATION", value_parser = values::duration_within(SHORTEST_HOLD, LONGEST_HOLD), default_value = "2m")]
    hold: Duration,

    /// Let SQS move the whole queue by itself; see below for what it cannot do.
    #[arg(long, conflicts_with_all = [
        "filters", "limit", "dry_run", "edits", "edit_command", "job", "drop_completed", "force", "skip_order", "watch",
        "stop_at", "hold",
    ])]
    native: bool,

    /// Do not ask.
    #[arg(long, short)]
    yes: bool,
}

fn percent(text: &str) -> Result<f64, String> {
    let number = text.strip_suffix('%').unwrap_or(text);
    number
        .parse()
        .ok()
        .filter(|percent| (0.0..=100.0).contains(percent))
        .ok_or_else(|| "give a share from 0 to 100 percent, such as 10".to_owned())
}

impl Replay {
    pub(crate) async fn run(&self, aws: &Aws, ui: &Ui) -> Outcome {
        let dead = self.target.open(aws, ui).await?;
        if self.native {
            self.warn_of_what_native_leaves_out(ui);
            let to = self.native_target(&dead, aws, ui).await?;
            let to = to.as_ref().map(|queue| queue.attributes().arn.as_str());
            return moves::start(&dead, to, self.rate, self.yes, ui).await;
        }
        let route = self.route(&dead, aws, ui).await?;
        let inbox = match &self.table {
            Some(table) => Some(aws.inbox(table).await?),
            None => None,
        };
        let keys = self.keys.source(aws, &dead).await?;
        // A job is begun once it is confirmed; a file that is there says first what was done.
        let begun = self.job.as_deref().is_some_and(Path::exists);
        let mut job_file = if begun { self.job_file(&dead, &route)? } else { None };
        if let Some(file) = &job_file {
            if let Some(at_ms) = file.finished_at_ms {
                return Ok(told_finished(file, at_ms, ui));
            }
            if file.resumed {
                ui.note(format_args!(
                    "going on with the job of {}, which has replayed {}",
                    timestamp(file.job().started_at_ms),
                    count(file.sent_before, "message"),
                ));
            }
        }
        if !self.dry_run {
            ui.confirm(
                self.question(&dead, &route),
                self.yes,
                "look with --dry-run, then give --yes",
            )?;
        }
        if job_file.is_none() {
            job_file = self.job_file(&dead, &route)?;
        }
        let others = Arc::new(AtomicU64::new(0));
        let clock = Clock::system();
        let began = clock.now();
        let bar = ui.progress(
            self.expected(&dead),
            if self.dry_run { "looking at" } else { "replaying" },
        );
        let id = match &job_file {
            Some(file) => file.job().id.clone(),
            None => self.job_of(&dead, &route)?.id,
        };
        let replaying = match (route.by_source, route.targets.first()) {
            (false, Some(target)) => Replaying::new(dead.queue.clone(), target.clone(), &id),
            _ => {
                let sources = route
                    .targets
                    .iter()
                    .map(|queue| Arc::new(queue.clone()) as Arc<dyn Queue>);
                Replaying::to_sources(dead.queue.clone(), sources, &id)
            }
        };
        let backup = (self.drop_completed && !self.no_backup && !self.dry_run)
            .then(|| Backup::new(self.backup.as_deref(), &dead.queue.attributes().name))
            .transpose()?;
        let mut replaying = self.set(replaying, &dead, inbox, job_file.clone(), &others, ui)?;
        replaying = replaying.keys(keys).keys_by_worker(self.key_by_worker);
        if let Some(backup) = backup.clone() {
            replaying = replaying.backup(move |letters| backup.keep(letters));
        }
        let shown = bar.clone();
        let done = replaying
            .progress(move |report| shown.set_position(report.seen))
            .run()
            .await;
        bar.finish_and_clear();
        let kept = backup.as_ref().and_then(Backup::finish);
        let report = match &done {
            Ok(report) => report,
            Err(error) => match error.report() {
                Some(report) => report,
                None => return Err(self.resumable(Failure::new(error))),
            },
        };
        let told = Told {
            job: &id,
            job_file: job_file.as_ref().map(|file| file.path()),
            from: &dead.queue.attributes().name,
            to: route
                .targets
                .iter()
                .map(|queue| queue.attributes().name.as_str())
                .collect(),
            dry_run: self.dry_run,
            backup: kept,
            other_source: others.load(Ordering::Relaxed),
            sent_before: job_file.as_ref().map_or(0, |file| file.sent_before),
            elapsed: clock.now().saturating_duration_since(began),
            report,
        };
        told.print(ui);
        self.advise(report, &told, ui);
        let hidden = self.hidden(&dead, report, ui).await;
        if let Err(error) = &done {
            return Err(self.resumable(Failure::new(error)));
        }
        if let Some(file) = job_file.as_ref().filter(|_| told.is_finished() && !hidden) {
            file.finish(clock.epoch_ms())?;
        }
        Ok(told.code())
    }

    /// The job's file, opened or made.
    fn job_file(&self, dead: &DeadLetters, route: &Route) -> Result<Option<Arc<JobFile>>, Failure> {
        match &self.job {
            Some(path) if !self.dry_run => Ok(Some(Arc::new(JobFile::open(path, self.job_of(dead, route)?)?))),
            _ => Ok(None),
        }
    }

    fn job_of(&self, dead: &DeadLetters, route: &Route) -> Result<Job, Failure> {
        let clock = Clock::system();
        let id = format!("{:016x}", Random::from_system().next_u64());
        let to = route
            .targets
            .iter()
            .map(|queue| queue.attributes().arn.clone())
            .collect();
        let mut edits: Vec<String> = self.edits.iter().map(ToString::to_string).collect();
        edits.extend(self.edit_command.as_ref().map(|command| format!("| {command}")));
        // They are part of how the job knows what it sent.
        edits.extend(self.key_by_worker.then(|| "--key-by-worker".to_owned()));
        edits.extend(self.keys.told()?);
        Ok(Job::new(id, clock.epoch_ms(), &dead.queue.attributes().arn, to, edits))
    }

    /// About how many there are to be looked at; none where that is not known.
    fn expected(&self, dead: &DeadLetters) -> Option<u64> {
        let visible = dead.queue.attributes().visible;
        let expected = match self.limit {
            Some(limit) if self.filter.is_everything() => visible.min(limit),
            _ => visible,
        };
        Some(expected).filter(|&expected| expected > 0)
    }

    fn question(&self, dead: &DeadLetters, route: &Route) -> String {
        let names: Vec<String> = route
            .targets
            .iter()
            .map(|queue| format!("`{}`", queue.attributes().name))
            .collect();
        let which = if self.filter.is_everything() {
            ""
        } else {
            " that match --where"
        };
        let most = self.limit.map_or(String::new(), |limit| format!("at most {limit} of "));
        format!(
            "replay {most}the dead letters of `{}` (about {}){which} to {}?",
            dead.queue.attributes().name,
            dead.queue.attributes().visible,
            names.join(", "),
        )
    }

    fn set(
        &self,
        mut replaying: Replaying,
        dead: &DeadLetters,
        inbox: Option<redrive::DynamoInbox>,
        job_file: Option<Arc<JobFile>>,
        others: &Arc<AtomicU64>,
        ui: &Ui,
    ) -> Result<Replaying, Failure> {
        let sent_before = job_file.as_ref().map_or(0, |file| file.sent_before);
        replaying = replaying
            .filter(self.chooser(dead, Arc::clone(others)))
            .dry_run(self.dry_run)
            .skip_order(self.skip_order)
            .hold(self.hold)
            .limit(self.limit.map_or(u64::MAX, |limit| limit.saturating_sub(sent_before)))
            .cancel(ui.interrupt().clone());
        if let Some(rate) = self.rate {
            replaying = replaying.rate(rate)?;
        }
        if let Some(inbox) = inbox {
            replaying = match &self.consumer {
                Some(consumer) => replaying.inbox(Arc::new(inbox), consumer),
                None => replaying.inbox_of_sources(Arc::new(inbox), self.likely_consumer(dead)),
            };
        }
        if self.drop_completed {
            replaying = replaying.completed(CompletedKeys::Drop);
        } else if self.force {
            replaying = replaying.completed(CompletedKeys::Force);
        }
        if let Some(file) = job_file {
            if file.resumed {
                replaying = replaying.wait_for_hidden(self.hold + LATE);
            }
            replaying = replaying.journal(file as Arc<dyn Journal>);
        }
        if !self.edits.is_empty() || self.edit_command.is_some() {
            let (edits, command) = (self.edits.clone(), self.edit_command.clone());
            replaying = replaying.edit_with(move |_, mut outgoing| {
                let (edits, command) = (edits.clone(), command.clone());
                async move {
                    for edit in &edits {
                        outgoing.body = edit.apply(&outgoing.body)?;
                    }
                    if let Some(command) = command {
                        outgoing.body = edit::through(&command, &outgoing.body).await?;
                    }
                    Ok(outgoing)
                }
            });
        }
        if let Some(percent) = self.stop_at {
            replaying = replaying.stop_when(move |report| too_many_died(report, percent));
        }
        if let Some(watch) = self.watch.or(self.stop_at.map(|_| WATCH)) {
            replaying = replaying.watch(watch);
        }
        Ok(replaying)
    }

    /// Whether a letter is meant. `others` counts those of another queue than that which was named.
    fn chooser(&self, dead: &DeadLetters, others: Arc<AtomicU64>) -> impl FnMut(&DeadLetter) -> bool + Send + 'static {
        let now_ms = Clock::system().epoch_ms();
        let filter = self.filter.clone();
        let named = dead.named_source.as_ref().map(|queue| queue.attributes().arn.clone());
        let shared = dead.sources.len() > 1;
        move |letter| {
            let elsewhere = named.as_deref().is_some_and(|named| match letter.source() {
                Some(source) => source != named,
                None => shared,
            });
            if elsewhere {
                others.fetch_add(1, Ordering::Relaxed);
            }
            !elsewhere && filter.matches(letter, now_ms)
        }
    }

    /// The consumer that letters are looked up as which do not say where they came from.
    fn likely_consumer(&self, dead: &DeadLetters) -> String {
        let named = dead.named_source.as_ref().map(|queue| queue.attributes().name.clone());
        let only = || match dead.sources.as_slice() {
            [url] => url.rsplit('/').next().map(ToOwned::to_owned),
            _ => None,
        };
        named
            .or_else(only)
            .unwrap_or_else(|| dead.queue.attributes().name.clone())
    }

    /// What to do about what the report says.
    fn advise(&self, report: &ReplayReport, told: &Told<'_>, ui: &Ui) {
        if report.unrouted > 0 {
            ui.note("for letters whose queue is gone or not known, give --to QUEUE");
        }
        if report.completed > 0 {
            ui.note("of completed keys, --drop-completed deletes the letters and --force runs them again");
        }
        if report.not_deleted > 0 {
            ui.warn(format_args!(
                "{} could not be deleted after being sent: what is in both queues is handled once by workers with an inbox, and \
                 a rerun with the same --job deletes it",
                count(report.not_deleted, "message")
            ));
        }
        if told.unseen_groups() > 0 {
            ui.note(format_args!(
                "{} {} letters that cannot be seen behind what is left of {}: SQS shows the first ten of a group",
                count(told.unseen_groups(), "FIFO group"),
                if told.unseen_groups() == 1 {
                    "may have"
                } else {
                    "may each have"
                },
                if told.unseen_groups() == 1 { "it" } else { "them" },
            ));
        }
        if report.keyed_by_message_id > 0 {
            ui.warn(format_args!(
                "{} without an envelope {} under the MessageId as key: if the workers have keys of their own, what is completed \
                 runs again; then give --key-attribute, --key-pointer or --key-from-deduplication-id as they have it, or \
                 --key-by-worker",
                count(report.keyed_by_message_id, "letter"),
                if self.dry_run { "would go" } else { "went" },
            ));
        }
        if report.not_dropped > 0 {
            ui.warn(format_args!(
                "{} whose key is completed could not be deleted: they come back, and a rerun deletes them",
                count(report.not_dropped, "letter")
            ));
        }
        if let Some(path) = told.backup {
            ui.note(format_args!(
                "what was deleted is in `{path}`; to bring it back: redrive dlq import {} {path}",
                told.from,
                path = path.display(),
            ));
        }
        if report.came_back > 0 && self.job.is_some() {
            ui.note("what died again is left by this job; another --job file replays it once more");
        }
        if report.end == ReplayEnd::InFlightLimit {
            ui.warn("no more could be held at once: what was left is in the way; run it again for the rest");
        }
        if !told.is_all_done() && !self.dry_run && matches!(report.end, ReplayEnd::Cancelled | ReplayEnd::Stopped) {
            ui.note(self.how_to_go_on());
        }
    }

    fn how_to_go_on(&self) -> &'static str {
        if self.job.is_some() {
            "what was held is given back; the same command with the same --job goes on"
        } else {
            "what was held is given back; the same command goes on with what is left (with a --job file, sure not to send twice)"
        }
    }

    fn resumable(&self, failure: Failure) -> Failure {
        failure.remedy(if self.job.is_some() {
            "when that is mended, the same command with the same --job goes on where it ended"
        } else {
            "when that is mended, the same command goes on with what is left"
        })
    }

    /// Tells of messages that somebody else holds; whether there are any.
    async fn hidden(&self, dead: &DeadLetters, report: &ReplayReport, ui: &Ui) -> bool {
        if report.end != ReplayEnd::Exhausted {
            return false;
        }
        let hidden = match dead.queue.describe().await {
            Ok(attributes) => attributes.in_flight,
            Err(QueueError::AccessDenied { .. }) => 0,
            Err(_) => return true,
        };
        if hidden > 0 {
            ui.note(format_args!(
                "{} of `{}` are hidden: somebody else holds them, or a run that was killed did; they come back by themselves",
                count(hidden, "message"),
                dead.queue.attributes().name
            ));
        }
        hidden > 0
    }
}

/// Says that the job was finished before.
fn told_finished(file: &JobFile, at_ms: u64, ui: &Ui) -> Code {
    if ui.is_json() {
        ui.json(&serde_json::json!({
            "job": file.job().id, "job_file": file.path().display().to_string(), "end": "finished_before",
            "finished_at_ms": at_ms, "replayed": 0, "replayed_before": file.sent_before,
        }));
    } else {
        ui.line(format_args!(
            "job {} is finished since {}: it replayed {}; begin another with another file",
            file.path().display(),
            timestamp(at_ms),
            count(file.sent_before, "message"),
        ));
    }
    Code::Done
}

fn too_many_died(report: &ReplayReport, percent: f64) -> bool {
    #[allow(clippy::cast_precision_loss, reason = "counts of messages are far below 2^52")]
    let share = 100.0 * report.died_again as f64 / report.replayed.max(1) as f64;
    report.died_again >= FEWEST_DEATHS && share > percent
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn shares_are_read_as_people_write_them() {
        assert_eq!((percent("10"), percent("2.5%")), (Ok(10.0), Ok(2.5)));
        assert!(percent("101").is_err() && percent("-1").is_err());
    }

    #[test]
    fn it_stops_only_on_enough_deaths() {
        let mut report = ReplayReport::default();
        report.replayed = 10;
        report.died_again = 4;
        assert!(!too_many_died(&report, 10.0));
        report.died_again = 5;
        assert!(too_many_died(&report, 10.0) && !too_many_died(&report, 50.0));
    }
}
