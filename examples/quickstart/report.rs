//! The table, the dead letters and the verdict, as text.

use std::fmt::Display;
use std::io::IsTerminal;

use redrive::dlq::DeadLetter;
use redrive::queue::memory::CallCounts;
use redrive::worker::Totals;

use crate::gateway::{Ledger, TRANSFER};
use crate::progress::Pauses;
use crate::proof::Check;
use crate::worker::VISIBILITY;

/// What the table is made of.
pub(crate) struct Summary {
    pub(crate) messages: usize,
    pub(crate) orders: usize,
    /// Messages that the queue itself handed out twice.
    pub(crate) doubled: usize,
    /// What the worker counted.
    pub(crate) totals: Totals,
    /// What the gateway counted.
    pub(crate) ledger: Ledger,
    /// How often the gateway was called for the order with the slow handler.
    pub(crate) slow_calls: u64,
    pub(crate) pauses: Pauses,
    pub(crate) calls: CallCounts,
    pub(crate) dead_letter_calls: CallCounts,
}

/// A headline.
pub(crate) fn heading(text: &str) {
    println!("\n{}", styled(text, "1"));
}

pub(crate) fn table(summary: &Summary) {
    let Summary {
        totals, ledger, pauses, ..
    } = summary;
    heading("What happened");
    let copies = format!(
        "in {} messages: some were sent more than once",
        thousands(summary.messages)
    );
    row("orders", thousands(summary.orders), &copies);
    row(
        "charged",
        thousands(ledger.charges.len()),
        "in the gateway's own ledger",
    );
    let doubled = format!(
        "their key was done already; and the queue delivered {} twice",
        summary.doubled
    );
    row("duplicates suppressed", totals.duplicates, &doubled);
    row(
        "retried",
        totals.retried,
        "the gateway failed, or did not answer: tried again, with backoff",
    );
    row("dead-lettered", totals.dead_letters(), "");
    for (reason, count) in &totals.dead_lettered {
        row(&format!("  {reason}"), count, meaning(reason));
    }
    let paused = format!(
        "{} receives in {:.1} s; {} runs failed, none held against its order",
        pauses.receives,
        pauses.lasted.as_secs_f64(),
        totals.uncounted_failures
    );
    row("breaker pauses", pauses.count, &paused);
    let seconds = format!("{} s", TRANSFER.as_secs());
    row("slowest handler", seconds, &slowest(summary.slow_calls));
    calls(summary);
}

/// One row of the table: what, how many, and what it means.
fn row(what: &str, count: impl Display, meaning: &str) {
    println!("  {what:<22} {:>6}   {}", count.to_string(), styled(meaning, "2"));
}

fn meaning(reason: &str) -> &'static str {
    match reason {
        "card_declined" => "it would be declined however often it is tried",
        "fingerprint_mismatch" => "a key used before, with another amount: never run",
        "malformed" => "the body cannot be read; the error says where",
        _ => "",
    }
}

fn slowest(calls: u64) -> String {
    let visibility = VISIBILITY.as_secs();
    match calls {
        1 => format!("on a visibility timeout of {visibility} s: kept by heartbeats, it ran once"),
        n => format!("ran {n} times, as a busy machine lost its lease of {visibility} s; charged once, by its key"),
    }
}

/// What SQS would bill the worker for.
fn calls(summary: &Summary) {
    let per_message = |calls: u64| calls as f64 / summary.messages as f64;
    let (own, dead) = (&summary.calls, &summary.dead_letter_calls);
    let parts = format!(
        "receive {:.2}, delete {:.2}, visibility {:.2}, dead letters {:.2}",
        per_message(own.receive),
        per_message(own.delete),
        per_message(own.change_visibility),
        per_message(dead.send)
    );
    let all = own.receive + own.delete + own.change_visibility + dead.send;
    row("API calls per message", format!("{:.2}", per_message(all)), &parts);
}

/// A dead letter, as an operator sees it.
pub(crate) fn letter(letter: &DeadLetter) {
    println!("  {}  {}", letter.key().as_str(), styled(letter.reason(), "33"));
    println!("      error  {}", letter.error());
    println!("      body   {}", styled(&shortened(letter.body()), "2"));
}

/// What the gateway's books say.
pub(crate) fn ledger(ledger: &Ledger) {
    let line = |count: u64, what: &str| println!("  {:>6}  {what}", thousands(count));
    line(ledger.calls, "calls arrived:");
    line(ledger.charges.len() as u64, "were charged");
    line(ledger.declined, "were declined");
    line(ledger.refused, "came while it was down");
    let unanswered = format!(
        "were not answered in time, though {} of them were charged",
        ledger.unanswered_but_charged
    );
    line(ledger.unanswered, &unanswered);
    line(
        ledger.recognised,
        "asked again for a charge that was made: known by their key, not charged again",
    );
}

/// Says of each check whether it holds, and answers whether all do.
pub(crate) fn verdict(checks: &[Check]) -> bool {
    for check in checks {
        let holds = check.exceptions.is_empty();
        let mark = if holds {
            styled("✓", "32")
        } else {
            styled("✗ NOT TRUE:", "31")
        };
        println!("  {mark} {}", check.what);
        for exception in check.exceptions.iter().take(5) {
            println!("      {exception}");
        }
        if check.exceptions.len() > 5 {
            println!("      and {} more", check.exceptions.len() - 5);
        }
    }
    checks.iter().all(|check| check.exceptions.is_empty())
}

/// The text with an ANSI style, where there is a terminal to show it.
fn styled(text: &str, style: &str) -> String {
    if std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none() {
        format!("\u{1b}[{style}m{text}\u{1b}[0m")
    } else {
        text.to_owned()
    }
}

fn shortened(body: &str) -> String {
    let mut text: String = body.chars().take(80).collect();
    if text.len() < body.len() {
        text.push('…');
    }
    text
}

/// A number with a comma at each thousand.
pub(crate) fn thousands(n: impl TryInto<u64>) -> String {
    let n = n.try_into().unwrap_or(u64::MAX);
    if n < 1000 {
        return n.to_string();
    }
    format!("{},{:03}", thousands(n / 1000), n % 1000)
}
