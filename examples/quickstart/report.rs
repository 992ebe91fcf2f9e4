//! The table, the dead letters and the verdict, as text.

use std::io::IsTerminal;

use redrive::dlq::DeadLetter;
use redrive::queue::memory::CallCounts;
use redrive::worker::Totals;

use crate::gateway::{Ledger, TRANSFER};
use crate::progress::Pauses;
use crate::proof::Check;
use crate::worker::VISIBILITY;

/// What the table is made of.
pub struct Summary {
    pub messages: usize,
    pub orders: usize,
    /// Messages that the queue handed out twice.
    pub twice: usize,
    pub totals: Totals,
    pub ledger: Ledger,
    pub pauses: Pauses,
    pub calls: CallCounts,
    pub dead_letter_calls: CallCounts,
}

/// A headline.
pub fn heading(text: &str) {
    if std::io::stdout().is_terminal() {
        println!("\n\u{1b}[1m{text}\u{1b}[0m");
    } else {
        println!("\n{text}");
    }
}

/// One row of the table: what, how many, and what it means.
fn row(what: &str, count: impl std::fmt::Display, meaning: &str) {
    println!("  {what:<24}{count:>7}   {meaning}");
}

pub fn table(summary: &Summary) {
    let Summary {
        totals, ledger, pauses, ..
    } = summary;
    let means = |reason: &str| match reason {
        "card_declined" => "the gateway takes no such card, however often it is asked",
        "malformed" => "the body cannot be read; the error says where",
        "fingerprint_mismatch" => "a known key with another amount: never run",
        _ => "",
    };
    heading("What happened");
    row(
        "messages",
        thousands(summary.messages as u64),
        &format!(
            "for {} orders; some were sent, or delivered, more than once",
            thousands(summary.orders as u64)
        ),
    );
    row(
        "charged",
        thousands(ledger.charges.len() as u64),
        "says the gateway's ledger",
    );
    let doubled = format!(
        "{} were sent twice, {} delivered twice; {} of them while the first still ran",
        thousands(summary.messages as u64 - summary.orders as u64),
        summary.twice,
        totals.in_flight_duplicates
    );
    row("duplicates suppressed", totals.duplicates, &doubled);
    row(
        "retried",
        totals.retried,
        "the gateway did not answer in time: tried again later, with backoff",
    );
    row("dead-lettered", totals.dead_letters(), "");
    for (reason, count) in &totals.dead_lettered {
        row(&format!("  {reason}"), count, means(reason));
    }
    let paused = format!(
        "{:.1} s without a receive; {} runs failed meanwhile, and none counts as an attempt",
        pauses.lasted.as_secs_f64(),
        totals.uncounted_failures
    );
    row("breaker pauses", pauses.count, &paused);
    let slow = format!(
        "on a visibility timeout of {} s: heartbeats kept it",
        VISIBILITY.as_secs()
    );
    row("slowest handler", format!("{} s", TRANSFER.as_secs()), &slow);
    calls(summary);
}

/// What SQS would bill the worker for.
fn calls(summary: &Summary) {
    let per_message = |calls: u64| calls as f64 / summary.messages as f64;
    let (own, dead) = (&summary.calls, &summary.dead_letter_calls);
    let all = own.receive + own.delete + own.change_visibility + dead.send;
    let parts = format!(
        "receive {:.2}, delete {:.2}, change visibility {:.2}, send dead letters {:.2}",
        per_message(own.receive),
        per_message(own.delete),
        per_message(own.change_visibility),
        per_message(dead.send)
    );
    row("API calls per message", format!("{:.2}", per_message(all)), &parts);
}

/// A dead letter, as an operator sees it.
pub fn letter(letter: &DeadLetter) {
    println!("  {}  {}", letter.key().as_str(), letter.reason());
    println!("      {}", letter.error());
    println!("      {}", shortened(letter.body()));
}

/// Says of each check whether it holds, and answers whether all do.
pub fn verdict(checks: &[Check]) -> bool {
    for check in checks {
        println!("  {} {}", if check.holds { "ok  " } else { "FAIL" }, check.what);
    }
    checks.iter().all(|check| check.holds)
}

fn shortened(body: &str) -> String {
    let mut text: String = body.chars().take(96).collect();
    if text.len() < body.len() {
        text.push('…');
    }
    text
}

fn thousands(n: u64) -> String {
    if n < 1000 {
        return n.to_string();
    }
    format!("{},{:03}", thousands(n / 1000), n % 1000)
}
