//! What a command says: results to standard output, everything about them to standard error.

mod table;

use std::borrow::Cow;
use std::fmt::{Display, Write as _};
use std::io::{self, BufRead as _, IsTerminal as _, Write as _};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use clap::{Args, ValueEnum};
use console::{Style, Term};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressState, ProgressStyle};
use serde::Serialize;
use tokio_util::sync::CancellationToken;

use crate::failure::Failure;

pub(crate) use table::{Column, Table};

/// How a command speaks.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Output")]
pub(crate) struct UiFlags {
    /// Print JSON for machines: one document, or one per line for streams. The fields are in the pages under docs.
    #[arg(long, global = true)]
    json: bool,

    /// When to colour. `auto` colours on a terminal unless NO_COLOR is set.
    #[arg(
        long,
        global = true,
        value_name = "WHEN",
        default_value = "auto",
        hide_possible_values = false
    )]
    color: Colour,

    /// Say only results and errors: no notes, no progress.
    #[arg(long, short, global = true)]
    quiet: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Colour {
    Auto,
    Always,
    Never,
}

/// The terminal, or whatever stands in its place.
#[derive(Clone, Debug)]
pub(crate) struct Ui {
    json: bool,
    quiet: bool,
    interrupt: CancellationToken,
    /// Why standard output could not be written, if not because nobody reads it any more.
    unwritten: Arc<OnceLock<io::Error>>,
}

impl Ui {
    pub(crate) fn new(flags: &UiFlags, interrupt: CancellationToken) -> Self {
        match flags.color {
            Colour::Auto => {
                // https://no-color.org: set and not empty means no colour.
                if std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty()) {
                    console::set_colors_enabled(false);
                    console::set_colors_enabled_stderr(false);
                }
            }
            Colour::Always | Colour::Never => {
                console::set_colors_enabled(flags.color == Colour::Always);
                console::set_colors_enabled_stderr(flags.color == Colour::Always);
            }
        }
        Self {
            json: flags.json,
            quiet: flags.quiet,
            interrupt,
            unwritten: Arc::default(),
        }
    }

    /// Whether results are for machines.
    pub(crate) fn is_json(&self) -> bool {
        self.json
    }

    pub(crate) fn is_quiet(&self) -> bool {
        self.quiet
    }

    /// Fires when the command is to end: at Ctrl-C, at other signals that end, and when standard output can be written no more.
    pub(crate) fn interrupt(&self) -> &CancellationToken {
        &self.interrupt
    }

    /// One line of the result.
    pub(crate) fn line(&self, text: impl Display) {
        self.out(format_args!("{text}\n"));
    }

    /// Part of the result as it is, without a line end.
    pub(crate) fn raw(&self, bytes: &[u8]) {
        let done = io::stdout().lock().write_all(bytes);
        self.written(done);
    }

    /// The result as one JSON document on one line; of a stream, one call each.
    pub(crate) fn json(&self, document: &impl Serialize) {
        match serde_json::to_string(document) {
            Ok(text) => self.line(safe_json(&text)),
            Err(error) => self.warn(format_args!("the result cannot be written as JSON: {error}")),
        }
    }

    /// Part of the result that is JSON already, line ends included.
    pub(crate) fn raw_json(&self, text: &[u8]) {
        self.raw(safe_json(&String::from_utf8_lossy(text)).as_bytes());
    }

    /// A table, as wide as the terminal where standard output is one and as wide as it needs elsewhere.
    pub(crate) fn table(&self, table: Table) {
        let term = Term::stdout();
        let width = if term.is_term() {
            term.size_checked().map(|(_, columns)| columns)
        } else {
            None
        };
        for line in table.render(width) {
            self.line(line);
        }
    }

    /// Something about the result or on its way; not part of it.
    pub(crate) fn note(&self, text: impl Display) {
        if !self.quiet {
            let _ = writeln!(
                io::stderr().lock(),
                "{}",
                Style::new().for_stderr().dim().apply_to(text)
            );
        }
    }

    /// Something the reader should know before relying on the result.
    pub(crate) fn warn(&self, text: impl Display) {
        let word = Style::new().for_stderr().yellow().bold().apply_to("warning");
        let _ = writeln!(io::stderr().lock(), "{word}: {text}");
    }

    /// Why the command failed.
    pub(crate) fn failure(failure: &Failure) {
        let mut err = io::stderr().lock();
        let word = Style::new().for_stderr().red().bold().apply_to("error");
        let _ = writeln!(err, "{word}: {failure}");
        if let Some(remedy) = failure.remedy_text() {
            let word = Style::new().for_stderr().cyan().apply_to("  try");
            let _ = writeln!(err, "{word}: {remedy}");
        }
    }

    /// A progress bar on standard error, hidden where that is no terminal; without a total it counts.
    pub(crate) fn progress(&self, total: Option<u64>, doing: &'static str) -> ProgressBar {
        let hidden = self.quiet || !Term::stderr().is_term();
        let target = if hidden {
            ProgressDrawTarget::hidden()
        } else {
            ProgressDrawTarget::stderr_with_hz(10)
        };
        let (bar, template) = match total {
            Some(total) => (
                ProgressBar::with_draw_target(Some(total), target),
                "{msg} [{bar:30}] {human_pos}/{human_len} {rate}, {eta} left",
            ),
            None => (
                ProgressBar::with_draw_target(None, target),
                "{spinner} {msg} {human_pos} in {elapsed}, {rate}",
            ),
        };
        if let Ok(style) = ProgressStyle::with_template(template) {
            let style = style.with_key("rate", |state: &ProgressState, out: &mut dyn std::fmt::Write| {
                let _ = out.write_str(&per_second(state.per_sec()));
            });
            bar.set_style(style.progress_chars("=> "));
        }
        bar.set_message(doing);
        if !hidden {
            bar.enable_steady_tick(Duration::from_millis(200));
        }
        bar
    }

    /// Asks before a dangerous act: `yes` is the flag that answers beforehand, and where nobody can be asked it is needed; then
    /// `remedy` is what to do.
    pub(crate) fn confirm(&self, question: impl Display, yes: bool, remedy: impl Display) -> Result<(), Failure> {
        if yes {
            return Ok(());
        }
        if !io::stdin().is_terminal() || !io::stderr().is_terminal() {
            return Err(Failure::usage(format_args!(
                "this asks for confirmation, and there is no terminal to ask on: {question}"
            ))
            .remedy(remedy));
        }
        let _ = write!(io::stderr().lock(), "{question} [y/N] ");
        let (answered, answer) = tokio::sync::oneshot::channel();
        // A thread of its own, because a read of the terminal cannot be called off: it ends with the process.
        std::thread::spawn(move || {
            let mut line = String::new();
            let read = io::stdin().lock().read_line(&mut line);
            let _ = answered.send(read.is_ok() && matches!(line.trim().to_ascii_lowercase().as_str(), "y" | "yes"));
        });
        let said = tokio::task::block_in_place(|| {
            tokio::runtime::Handle::current().block_on(async {
                tokio::select! {
                    biased;
                    () = self.interrupt.cancelled() => None,
                    answer = answer => Some(answer.unwrap_or(false)),
                }
            })
        });
        match said {
            Some(true) => Ok(()),
            Some(false) => Err(Failure::new("not done, as it was not confirmed")),
            None => Err(Failure::interrupted()),
        }
    }

    fn out(&self, text: std::fmt::Arguments<'_>) {
        let done = io::stdout().lock().write_fmt(text);
        self.written(done);
    }

    /// Whoever reads may have seen enough (`| head`): then the command ends as if interrupted, giving back what it holds. So
    /// it does where the disk is full, which is told at the end.
    fn written(&self, done: io::Result<()>) {
        if let Err(error) = done {
            if error.kind() != io::ErrorKind::BrokenPipe {
                let _ = self.unwritten.set(error);
            }
            self.interrupt.cancel();
        }
    }

    /// Asked at the end of the command: why its result is not whole.
    pub(crate) fn unwritten(&self) -> Option<Failure> {
        // A last line without an end still stands in the buffer.
        let flushed = io::stdout().lock().flush();
        self.written(flushed);
        let error = self.unwritten.get()?;
        let failure = Failure::new(format_args!("standard output cannot be written: {error}"));
        Some(match error.kind() {
            io::ErrorKind::StorageFull => failure.remedy("make room, or send it elsewhere"),
            _ => failure,
        })
    }
}

/// Text from a message or a service on one line, with control characters and whatever reorders text made visible: nothing
/// that somebody sent reaches the terminal as a command.
pub(crate) fn safe(text: &str) -> Cow<'_, str> {
    if !text.contains(is_unsafe) {
        return Cow::Borrowed(text);
    }
    let mut shown = String::with_capacity(text.len() + 8);
    for c in text.chars() {
        match c {
            '\n' => shown.push_str("\\n"),
            '\r' => shown.push_str("\\r"),
            '\t' => shown.push_str("\\t"),
            c if is_unsafe(c) => {
                let _ = write!(shown, "\\u{{{:x}}}", u32::from(c));
            }
            c => shown.push(c),
        }
    }
    Cow::Owned(shown)
}

/// Foreign text on one line, cut at `columns`.
pub(crate) fn brief(text: &str, columns: usize) -> String {
    // A character may take no column; then it is cut by their number.
    let start: String = text.chars().take(4 * columns).collect();
    console::truncate_str(&safe(&start), columns, "…").into_owned()
}

/// As [`safe`], with line ends and tabs left as they are: for texts that have lines.
pub(crate) fn safe_lines(text: &str) -> String {
    text.lines()
        .map(|line| line.split('\t').map(safe).collect::<Vec<_>>().join("\t"))
        .collect::<Vec<_>>()
        .join("\n")
}

/// JSON with whatever a terminal might obey written as `\uXXXX`: the same values. JSON itself escapes the control characters of
/// ASCII alone.
pub(crate) fn safe_json(json: &str) -> Cow<'_, str> {
    let is_odd = |c: char| c >= '\u{7f}' && is_unsafe(c);
    if !json.contains(is_odd) {
        return Cow::Borrowed(json);
    }
    let mut shown = String::with_capacity(json.len() + 8);
    for c in json.chars() {
        if is_odd(c) {
            // None of them is beyond four digits.
            let _ = write!(shown, "\\u{:04x}", u32::from(c));
        } else {
            shown.push(c);
        }
    }
    Cow::Owned(shown)
}

/// Control characters, line ends of Unicode, and the marks that turn the direction of text or are not seen.
fn is_unsafe(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}')
}

/// A duration in its two largest units: `3d 4h`, `12m 5s`, `0s`.
pub(crate) fn short_age(age: Duration) -> String {
    let seconds = age.as_secs();
    let units = [(86_400, "d"), (3_600, "h"), (60, "m"), (1, "s")];
    let mut left = seconds;
    let mut parts = Vec::new();
    for (size, unit) in units {
        let count = left / size;
        left %= size;
        if count > 0 {
            parts.push(format!("{count}{unit}"));
        } else if !parts.is_empty() {
            break;
        }
        if parts.len() == 2 {
            break;
        }
    }
    if parts.is_empty() {
        "0s".to_owned()
    } else {
        parts.join(" ")
    }
}

/// A time in ms since 1970 as RFC 3339 in UTC, to the second.
pub(crate) fn timestamp(ms: u64) -> String {
    let time = std::time::UNIX_EPOCH.checked_add(Duration::from_millis(ms));
    match time {
        // The formatter knows no year after 9999.
        Some(time) if ms < 253_402_300_800_000 => humantime::format_rfc3339_seconds(time).to_string(),
        _ => format!("{ms} ms since 1970"),
    }
}

/// A count of bytes for people: `312 B`, `4.0 KiB`, `1.0 MiB`.
pub(crate) fn bytes(count: u64) -> String {
    indicatif::BinaryBytes(count).to_string()
}

/// How fast something goes, for people: `1,218/s`; of what is slow a digit more, `0.5/s`.
pub(crate) fn per_second(rate: f64) -> String {
    if rate < 9.95 {
        let text = format!("{rate:.1}");
        return format!("{}/s", text.strip_suffix(".0").unwrap_or(&text));
    }
    format!("{}/s", indicatif::HumanCount(rate.round() as u64))
}

/// A count with its noun: `1 message`, `12 messages`.
pub(crate) fn count(number: u64, noun: &str) -> String {
    let number_text = indicatif::HumanCount(number);
    if number == 1 {
        format!("{number_text} {noun}")
    } else {
        format!("{number_text} {noun}s")
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn what_a_message_holds_cannot_drive_the_terminal() {
        assert_eq!(safe("plain text é"), "plain text é");
        assert_eq!(safe("a\u{1b}[31mred\n\u{202e}x\t"), "a\\u{1b}[31mred\\n\\u{202e}x\\t");
        assert_eq!(safe("\u{61c}\u{feff}"), "\\u{61c}\\u{feff}");
        assert_eq!(safe_lines("a\tb\r\n\u{7}c"), "a\tb\n\\u{7}c");
    }

    #[test]
    fn json_is_the_same_without_what_drives_a_terminal() {
        let evil = "a\u{7f}\u{9b}31m\u{202e}é\u{1b}[2J\n\u{1f980}";
        let json = serde_json::to_string(evil).unwrap();
        let shown = safe_json(&json);
        assert_eq!(shown, r#""a\u007f\u009b31m\u202eé\u001b[2J\n🦀""#);
        assert_eq!(serde_json::from_str::<String>(&shown).unwrap(), evil);
        assert!(matches!(safe_json("{\"a\":\"é\"}\n"), Cow::Borrowed(_)));
    }

    #[test]
    fn ages_show_their_two_largest_units() {
        for (seconds, shown) in [
            (0, "0s"),
            (59, "59s"),
            (60, "1m"),
            (3_605, "1h"),
            (7_380, "2h 3m"),
            (273_600, "3d 4h"),
        ] {
            assert_eq!(short_age(Duration::from_secs(seconds)), shown);
        }
    }

    #[test]
    fn times_and_counts_read_well() {
        assert_eq!(timestamp(1_700_000_000_123), "2023-11-14T22:13:20Z");
        assert_eq!(timestamp(u64::MAX), format!("{} ms since 1970", u64::MAX));
        for (rate, shown) in [
            (0.0, "0/s"),
            (0.5, "0.5/s"),
            (9.96, "10/s"),
            (218.1271, "218/s"),
            (12_345.6, "12,346/s"),
        ] {
            assert_eq!(per_second(rate), shown);
        }
        assert_eq!(count(1, "message"), "1 message");
        assert_eq!(count(12_000, "message"), "12,000 messages");
    }
}
