//! What is wrong with a filter, and where.

use std::fmt;

use crate::ui::safe;

/// How many characters are shown on each side of the place.
const AROUND: usize = 60;

/// A filter that cannot be read. It is shown with a mark under the place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct FilterError {
    /// The filter from shortly before the place, fit to be shown.
    before: String,
    /// And from the place on.
    after: String,
    said: String,
}

impl FilterError {
    /// `text` is wrong at byte `at`.
    pub(super) fn new(text: &str, at: usize, said: impl fmt::Display) -> Self {
        let (before, after) = text.split_at_checked(at).unwrap_or((text, ""));
        let skipped = before.chars().count().saturating_sub(AROUND);
        let start: String = before.chars().skip(skipped).collect();
        let end: String = after.chars().take(AROUND).collect();
        let mark = |cut: bool| if cut { "…" } else { "" };
        Self {
            before: format!("{}{}", mark(skipped > 0), safe(&start)),
            after: format!("{}{}", safe(&end), mark(end.len() < after.len())),
            said: said.to_string(),
        }
    }

    /// How many columns stand before the place.
    #[cfg(test)]
    pub(super) fn column(&self) -> usize {
        console::measure_text_width(&self.before)
    }
}

impl fmt::Display for FilterError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { before, after, said } = self;
        let column = console::measure_text_width(before);
        write!(f, "\n    {before}{after}\n    {:column$}^ {said}", "")
    }
}

impl std::error::Error for FilterError {}
