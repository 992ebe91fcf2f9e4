//! What it all came to.

use std::fmt;
use std::time::Duration;

use redrive::worker::Totals;

use crate::ledger::Books;
use crate::work::come_to_their_end;

pub(crate) struct Report {
    /// What this process sent, if it did.
    pub(crate) sent: Option<u64>,
    /// Whether what is left in the queue is lost with this process.
    pub(crate) queue_ends: bool,
    pub(crate) totals: Totals,
    pub(crate) books: Books,
    pub(crate) took: Duration,
}

impl Report {
    /// What must not be, if it is.
    pub(crate) fn wrong(&self) -> Option<String> {
        if self.books.double > 0 {
            return Some(format!("{} orders were charged more than once", self.books.double));
        }
        let ended = come_to_their_end(&self.totals);
        let sent = self.sent.filter(|&sent| self.queue_ends && ended < sent)?;
        Some(format!("{} of {sent} orders did not come to their end", sent - ended))
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let totals = &self.totals;
        let mut rows: Vec<(String, u64)> = Vec::new();
        let mut row = |what: &str, count: u64| rows.push((what.to_owned(), count));
        if let Some(sent) = self.sent {
            row("sent", sent);
        }
        row("received", totals.received);
        row("completed", totals.completed);
        row("duplicates suppressed", totals.duplicates);
        row("dead-lettered", totals.dead_letters());
        for (reason, count) in &totals.dead_lettered {
            row(&format!("  {reason}"), *count);
        }
        row("retried", totals.retried);
        row("given back", totals.released);
        row("charges in the books", self.books.charges);
        row("requests in the books", self.books.requests);
        row("cents charged", self.books.cents);
        for (what, count) in &rows {
            writeln!(f, "{what:<24}{count:>12}")?;
        }
        let seconds = self.took.as_secs_f64();
        #[allow(clippy::cast_precision_loss, reason = "a rate to be read")]
        let rate = come_to_their_end(totals) as f64 / seconds.max(0.001);
        write!(f, "{:<24}{seconds:>10.1} s, {rate:.0} messages/s", "took")
    }
}
