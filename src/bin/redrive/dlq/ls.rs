//! `redrive dlq ls`: which dead letters there are, or how many of what.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::time::Duration;

use clap::{Args, ValueEnum};
use console::Style;
use futures::StreamExt as _;
use redrive::clock::Clock;
use redrive::dlq::{DeadLetter, ErrorGroup, ErrorGroups, MOVED_BY_SQS, ScanEnd, Visit, error_shape};
use redrive::key::{KeySource, RecordKey};
use redrive::queue::Queue as _;
use serde::Serialize;

use super::filter::{LANGUAGE, Where};
use super::inbox::{InboxFlags, Knows, is_silent};
use super::look::{self, COST, Target};
use super::summary::{Earlier, Summary, TEXT_WIDTH, ago, brief};
use crate::connection::{Aws, DeadLetters};
use crate::failure::{Code, Failure, Outcome};
use crate::keys::KeyFlags;
use crate::ui::{Column, Table, Ui, bytes, safe, short_age};
use crate::values;

pub(crate) const EXAMPLES: &str = "Examples:
  redrive dlq ls orders --group-by reason
  redrive dlq ls orders --where 'reason = attempts_exhausted and age < 2h'
  redrive dlq ls orders --where '/amount > 100' --oldest --limit 20
  redrive dlq ls orders --json | jq -r .key";

/// How many rows a table has unless told otherwise.
const ROWS: usize = 100;

/// Longer tables are printed in parts, each with its titles: what is laid out takes much more memory than its rows.
const PART: usize = 1_000;

/// How wide an error is at most, in columns.
const ERROR_WIDTH: usize = 100;

/// The most bytes kept of an error that waits for its place in a table, and of another foreign text.
const KEPT_ERROR: usize = 4 * ERROR_WIDTH;
const KEPT_TEXT: usize = 4 * TEXT_WIDTH;

/// Texts up to this many bytes keep their place on a narrow terminal.
const NARROW: usize = 16;

/// What is said where something was seen and nothing is shown: only a filter can be why.
const NO_MATCH: &str = "no dead letter matches --where";

/// How many reads of the inbox are under way at once.
const ASKED_AT_ONCE: usize = 8;

/// The fewest characters of an id that are shown.
const SHORT_ID: usize = 8;

pub(crate) fn long_help() -> String {
    format!("{EXAMPLES}\n\n{LANGUAGE}\n\n{COST}")
}

/// What `redrive dlq ls` is asked.
#[derive(Args, Debug)]
pub(crate) struct Ls {
    #[command(flatten)]
    target: Target,

    #[command(flatten)]
    filter: Where,

    /// Count them by what they have in common. Errors that differ only in numbers and ids are one group.
    #[arg(long, value_name = "WHAT")]
    group_by: Option<GroupBy>,

    /// The last to die first; so unless --oldest is given.
    #[arg(long, conflicts_with_all = ["oldest", "group_by"])]
    newest: bool,

    /// The first to die first.
    #[arg(long, conflicts_with = "group_by")]
    oldest: bool,

    /// Show at most this many; 0 shows all. 100 unless given, and all with --json.
    #[arg(long, short = 'n', value_name = "N", value_parser = values::limit_or_all)]
    limit: Option<usize>,

    #[command(flatten)]
    inbox: InboxFlags,

    #[command(flatten)]
    keys: KeyFlags,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum GroupBy {
    Reason,
    Error,
    Type,
}

impl Ls {
    pub(crate) async fn run(&self, aws: &Aws, ui: &Ui) -> Outcome {
        let dead = self.target.open(aws, ui).await?;
        let keys = self.keys.source(aws, &dead).await?;
        match self.group_by {
            Some(by) => self.groups(&dead, keys, by, ui).await,
            // A stream needs no memory: it comes in the queue's order.
            None if ui.is_json() && !self.is_ordered() => self.stream(&dead, keys, ui).await,
            None => {
                let inbox = self.inbox.open(aws, &dead).await?;
                self.rows(&dead, keys, inbox.as_ref(), ui).await
            }
        }
    }

    async fn stream(&self, dead: &DeadLetters, keys: KeySource, ui: &Ui) -> Outcome {
        let now_ms = Clock::system().epoch_ms();
        let report = look::look(dead, keys, ui, |letter| {
            if self.filter.matches(letter, now_ms) {
                ui.json(&Summary::of(letter, now_ms));
            }
            Visit::Keep
        })
        .await?;
        look::account(dead, ui, &report);
        Ok(look::code(&report))
    }

    /// Whether all must be seen before the first is shown.
    fn is_ordered(&self) -> bool {
        self.newest || self.oldest || self.limit.is_some() || self.inbox.has_table()
    }

    async fn rows(&self, dead: &DeadLetters, keys: KeySource, inbox: Option<&Knows>, ui: &Ui) -> Outcome {
        let now_ms = Clock::system().epoch_ms();
        let mut rows = Rows::new(!self.oldest, self.most(ui), !ui.is_json());
        let report = look::look(dead, keys, ui, |letter| {
            if self.filter.matches(letter, now_ms) {
                rows.offer(letter, inbox, now_ms);
            }
            Visit::Keep
        })
        .await?;
        if report.end == ScanEnd::Cancelled {
            look::account(dead, ui, &report);
            return Ok(Code::Interrupted);
        }
        let (offered, mut rows) = rows.into_sorted();
        if let Some(inbox) = inbox {
            ask(inbox, &mut rows).await?;
        }
        let rows: Vec<Summary> = rows.into_iter().map(|row| row.summary).collect();
        if ui.is_json() {
            rows.iter().for_each(|row| ui.json(row));
        } else if report.seen == 0 {
            ui.line(look::nothing_in(dead));
        } else if rows.is_empty() {
            ui.line(NO_MATCH);
        } else {
            print(&rows, dead.queue.attributes().fifo, ui);
        }
        if (rows.len() as u64) < offered {
            ui.note(format_args!(
                "shown: the {} {} of {}; --limit 0 shows all",
                if self.oldest { "oldest" } else { "newest" },
                rows.len(),
                indicatif::HumanCount(offered),
            ));
        }
        look::account(dead, ui, &report);
        Ok(Code::Done)
    }

    async fn groups(&self, dead: &DeadLetters, keys: KeySource, by: GroupBy, ui: &Ui) -> Outcome {
        let now_ms = Clock::system().epoch_ms();
        let mut groups = ErrorGroups::default();
        let report = look::look(dead, keys, ui, |letter| {
            if self.filter.matches(letter, now_ms) {
                groups.add(&by.name_of(letter), letter);
            }
            Visit::Keep
        })
        .await?;
        if report.end == ScanEnd::Cancelled {
            look::account(dead, ui, &report);
            return Ok(Code::Interrupted);
        }
        let found = groups.largest_first();
        let shown = self.most(ui).unwrap_or(usize::MAX).min(found.len());
        let others = groups.others();
        if ui.is_json() {
            for (name, group) in found.iter().take(shown) {
                ui.json(&GroupJson::of(by, Some(name), group));
            }
            if others.count > 0 {
                ui.json(&GroupJson::of(by, None, others));
            }
        } else if report.seen == 0 {
            ui.line(look::nothing_in(dead));
        } else if found.is_empty() {
            ui.line(NO_MATCH);
        } else {
            let mut table = Table::new([
                Column::number("COUNT"),
                Column::elastic(by.title()),
                Column::new("FIRST DIED"),
                Column::new("LAST DIED"),
            ]);
            let named = found.iter().take(shown).map(|(name, group)| (by.shown(name), *group));
            let rest = (others.count > 0).then(|| ("(all further ones)".to_owned(), others));
            for (name, group) in named.chain(rest) {
                table.row([
                    indicatif::HumanCount(group.count).to_string(),
                    name,
                    ago(group.first_ms, now_ms),
                    ago(group.last_ms, now_ms),
                ]);
            }
            ui.table(table);
        }
        if shown < found.len() {
            ui.note(format_args!(
                "shown: the {shown} largest of {} groups; --limit 0 shows all",
                found.len()
            ));
        }
        look::account(dead, ui, &report);
        Ok(Code::Done)
    }

    /// How many are shown at most.
    fn most(&self, ui: &Ui) -> Option<usize> {
        match self.limit {
            Some(0) => None,
            Some(limit) => Some(limit),
            None if ui.is_json() => None,
            None => Some(ROWS),
        }
    }
}

/// The first so many of all that are offered, in order of death.
struct Rows {
    newest_first: bool,
    most: Option<usize>,
    /// Whether they are for a table, which shows the beginnings of long texts.
    brief: bool,
    offered: u64,
    kept: BTreeMap<(u64, String), Row>,
}

/// A letter that waits for its place.
struct Row {
    summary: Summary,
    /// What to ask the inbox for, where the letter does not say what it died of.
    ask: Option<RecordKey>,
}

impl Rows {
    fn new(newest_first: bool, most: Option<usize>, brief: bool) -> Self {
        Self {
            newest_first,
            most,
            brief,
            offered: 0,
            kept: BTreeMap::new(),
        }
    }

    fn offer(&mut self, letter: &DeadLetter, inbox: Option<&Knows>, now_ms: u64) {
        self.offered += 1;
        // When it died is not always known; then it comes last.
        let place = match (letter.died_at_ms(), self.newest_first) {
            (Some(at), true) => u64::MAX - at,
            (Some(at), false) => at,
            (None, _) => u64::MAX,
        };
        let place = (place, letter.id().to_owned());
        if self.most.is_some_and(|most| self.kept.len() >= most) {
            if self.kept.last_key_value().is_none_or(|(last, _)| *last < place) {
                return;
            }
            self.kept.pop_last();
        }
        let mut summary = Summary::of(letter, now_ms);
        if self.brief {
            shorten(&mut summary);
        }
        let silent = inbox.filter(|_| is_silent(letter.reason()));
        let ask = silent.and_then(|inbox| inbox.record_key(letter));
        self.kept.insert(place, Row { summary, ask });
    }

    /// How many were offered, and those that are kept.
    fn into_sorted(self) -> (u64, Vec<Row>) {
        (self.offered, self.kept.into_values().collect())
    }
}

/// Leaves of each foreign text what a table has room for: a message may be all key.
fn shorten(summary: &mut Summary) {
    let cut = |text: &mut String, most: usize| {
        text.truncate(text.floor_char_boundary(most));
        text.shrink_to_fit();
    };
    let earlier = summary.earlier.as_mut().and_then(|earlier| earlier.error.as_mut());
    for error in summary.error.iter_mut().chain(earlier) {
        cut(error, KEPT_ERROR);
    }
    let others = [&mut summary.message_type, &mut summary.group];
    for text in others.into_iter().flatten().chain([&mut summary.key]) {
        cut(text, KEPT_TEXT);
    }
}

/// Asks the inbox about the letters that do not say themselves what they died of.
async fn ask(inbox: &Knows, rows: &mut [Row]) -> Result<(), Failure> {
    let mut asked = futures::stream::iter(rows)
        .filter_map(|row| std::future::ready(row.ask.take().map(|key| (key, &mut row.summary))))
        .map(|(key, summary)| async move { (inbox.get(&key).await, summary) })
        .buffer_unordered(ASKED_AT_ONCE);
    while let Some((answer, summary)) = asked.next().await {
        summary.inbox = answer?;
    }
    Ok(())
}

fn print(rows: &[Summary], fifo: bool, ui: &Ui) {
    let id_length = id_length(rows);
    let typed = rows.iter().any(|row| row.message_type.is_some());
    let several_sources = rows
        .windows(2)
        .any(|pair| matches!(pair, [a, b] if a.source != b.source));
    for part in rows.chunks(PART) {
        let mut columns = vec![
            Column::new("ID"),
            Column::number("AGE"),
            Column::number("ATTEMPTS"),
            Column::new("REASON"),
            Column::elastic("ERROR"),
            narrow_or_elastic("KEY", part.iter().map(|row| Some(&row.key))),
        ];
        columns.extend(typed.then(|| narrow_or_elastic("TYPE", part.iter().map(|row| row.message_type.as_ref()))));
        columns.extend(fifo.then(|| narrow_or_elastic("GROUP", part.iter().map(|row| row.group.as_ref()))));
        columns.extend(several_sources.then(|| Column::elastic("SOURCE")));
        columns.push(Column::number("SIZE"));
        let mut table = Table::new(columns);
        for row in part {
            let text = |text: Option<&str>| brief(text.unwrap_or("-"), TEXT_WIDTH);
            let known = row.inbox.as_ref();
            let attempts = row.attempts.or(known.map(|record| record.attempts));
            let error = row
                .error
                .as_deref()
                .or(known.and_then(|record| record.error.as_deref()))
                .map(Cow::Borrowed)
                .or_else(|| row.earlier.as_ref().map(before));
            let id: String = row.id.chars().take(id_length).collect();
            let mut cells = vec![
                safe(&id).into_owned(),
                row.age_s
                    .map_or("-".to_owned(), |age| short_age(Duration::from_secs(age))),
                attempts.map_or("-".to_owned(), |attempts| attempts.to_string()),
                reason(&row.reason),
                brief(error.as_deref().unwrap_or("-"), ERROR_WIDTH),
                brief(&row.key, TEXT_WIDTH),
            ];
            cells.extend(typed.then(|| text(row.message_type.as_deref())));
            cells.extend(fifo.then(|| text(row.group.as_deref())));
            cells.extend(several_sources.then(|| text(row.source_name())));
            cells.push(bytes(row.size_bytes as u64));
            table.row(cells);
        }
        ui.table(table);
    }
}

/// What stands for the error of a letter that only tells of an earlier death.
fn before(earlier: &Earlier) -> Cow<'_, str> {
    match &earlier.error {
        Some(error) => format!("(died before: {}: {error})", earlier.reason).into(),
        None => format!("(died before: {})", earlier.reason).into(),
    }
}

/// A column of foreign texts: it gives way on a narrow terminal only where some are long.
fn narrow_or_elastic<'a>(title: &'static str, texts: impl IntoIterator<Item = Option<&'a String>>) -> Column {
    if texts.into_iter().flatten().all(|text| text.len() <= NARROW) {
        Column::new(title)
    } else {
        Column::elastic(title)
    }
}

/// How much of the ids is shown: as much as tells them apart.
fn id_length(rows: &[Summary]) -> usize {
    let mut ids: Vec<&str> = rows.iter().map(|row| row.id.as_str()).collect();
    ids.sort_unstable();
    ids.windows(2)
        .map(|pair| match pair {
            [a, b] => 1 + a.chars().zip(b.chars()).take_while(|(a, b)| a == b).count(),
            _ => 0,
        })
        .max()
        .unwrap_or(0)
        .max(SHORT_ID)
}

fn reason(reason: &str) -> String {
    let style = match reason {
        MOVED_BY_SQS => Style::new().dim(),
        _ => Style::new().yellow(),
    };
    style.apply_to(brief(reason, TEXT_WIDTH)).to_string()
}

impl GroupBy {
    fn title(self) -> &'static str {
        match self {
            Self::Reason => "REASON",
            Self::Error => "ERROR",
            Self::Type => "TYPE",
        }
    }

    /// Under what a letter is counted; empty where it has none.
    fn name_of(self, letter: &DeadLetter) -> String {
        match self {
            Self::Reason => letter.reason().to_owned(),
            Self::Error => error_shape(letter.error()),
            Self::Type => letter.message_type().unwrap_or_default().to_owned(),
        }
    }

    fn shown(self, name: &str) -> String {
        match (self, name) {
            (Self::Error, "") => "(no error is known)".to_owned(),
            (_, "") => "(none)".to_owned(),
            (Self::Reason, name) => reason(name),
            (_, name) => brief(name, ERROR_WIDTH),
        }
    }
}

/// A group as machines read it.
#[derive(Serialize)]
struct GroupJson<'a> {
    group_by: &'static str,
    /// None where letters have none, and for what came after a thousand groups were there.
    group: Option<&'a str>,
    count: u64,
    example_error: Option<&'a str>,
    first_died_at_ms: Option<u64>,
    last_died_at_ms: Option<u64>,
    /// Whether this is what came after a thousand groups were there.
    others: bool,
}

impl<'a> GroupJson<'a> {
    fn of(by: GroupBy, name: Option<&'a str>, group: &'a ErrorGroup) -> Self {
        Self {
            group_by: match by {
                GroupBy::Reason => "reason",
                GroupBy::Error => "error",
                GroupBy::Type => "type",
            },
            group: name.filter(|name| !name.is_empty()),
            count: group.count,
            example_error: Some(group.example.as_str()).filter(|error| !error.is_empty()),
            first_died_at_ms: group.first_ms,
            last_died_at_ms: group.last_ms,
            others: name.is_none(),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]
mod tests {
    use super::*;
    use redrive::message::{Attribute, Delivery, Message, Receipt};

    fn letter(id: &str, sent_at_ms: Option<u64>) -> DeadLetter {
        let mut message = Message::new(id, "{}");
        message.sent_at_ms = sent_at_ms;
        let delivery = Delivery::new(message, Receipt::new("r"), 1, Clock::system().now());
        DeadLetter::new(delivery, &KeySource::Attribute)
    }

    #[test]
    fn no_more_is_kept_than_shown_whatever_the_order_of_arrival() {
        for (newest_first, expected) in [(true, ["9999", "9998", "9997"]), (false, ["0", "1", "2"])] {
            let mut rows = Rows::new(newest_first, Some(3), true);
            rows.offer(&letter("unknown", None), None, 0);
            for n in 0..10_000_u64 {
                // 7919 is prime: every number once, in no order.
                let n = n * 7_919 % 10_000;
                rows.offer(&letter(&n.to_string(), Some(n)), None, 0);
                assert!(rows.kept.len() <= 3);
            }
            let (offered, kept) = rows.into_sorted();
            let ids: Vec<&str> = kept.iter().map(|row| row.summary.id.as_str()).collect();
            assert_eq!((offered, ids.as_slice()), (10_001, expected.as_slice()));
        }
        let mut all = Rows::new(true, None, true);
        for id in ["b", "a", "c"] {
            all.offer(&letter(id, None), None, 0);
        }
        let ids: Vec<String> = all.into_sorted().1.into_iter().map(|row| row.summary.id).collect();
        assert_eq!(ids, ["a", "b", "c"], "the same in every look");
    }

    #[test]
    fn inv05_a_row_of_a_table_keeps_little_of_a_message_and_json_keeps_all() {
        let mut hostile = letter("m", None);
        hostile
            .attributes
            .insert("type".into(), Attribute::string("é".repeat(500_000)));
        hostile.delivery.message.group_id = Some("g".repeat(100_000));
        for brief in [true, false] {
            let mut rows = Rows::new(true, None, brief);
            rows.offer(&hostile, None, 0);
            let row = &rows.kept.into_values().next().unwrap().summary;
            let kept = row.message_type.as_ref().unwrap().len() + row.group.as_ref().unwrap().len();
            assert_eq!(kept <= 2 * KEPT_TEXT, brief, "{kept} bytes");
        }
    }

    #[test]
    fn ids_are_shown_as_far_as_they_differ() {
        let rows = |ids: &[&str]| -> Vec<Summary> { ids.iter().map(|id| Summary::of(&letter(id, None), 0)).collect() };
        assert_eq!(id_length(&rows(&[])), SHORT_ID);
        assert_eq!(id_length(&rows(&["12345678-a"])), SHORT_ID);
        assert_eq!(id_length(&rows(&["12345678-ax", "22222222", "12345678-bx"])), 10);
    }
}
