//! Line numbers in few words: `3,7-12,40-`.

use std::fmt;
use std::str::FromStr;

/// Ranges of line numbers, in order and apart; the last may be open.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Ranges(Vec<(u64, Option<u64>)>);

impl Ranges {
    /// Every line from this one on.
    pub(crate) fn from_line(line: u64) -> Self {
        Self(vec![(line, None)])
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn contains(&self, line: u64) -> bool {
        let after = self.0.partition_point(|&(first, _)| first <= line);
        let range = after.checked_sub(1).and_then(|at| self.0.get(at));
        range.is_some_and(|&(_, last)| last.is_none_or(|last| line <= last))
    }

    /// Adds a line; lines are added in their order.
    pub(crate) fn add(&mut self, line: u64) {
        self.add_range(line, Some(line));
    }

    /// Adds every line from this one on.
    pub(crate) fn add_from(&mut self, line: u64) {
        self.add_range(line, None);
    }

    fn add_range(&mut self, first: u64, last: Option<u64>) {
        match self.0.last_mut() {
            Some((_, end)) if end.is_none_or(|end| first <= end.saturating_add(1)) => {
                *end = end.and_then(|end| last.map(|last| last.max(end)));
            }
            _ => self.0.push((first, last)),
        }
    }
}

impl FromStr for Ranges {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let number = |text: &str| match text.trim().parse::<u64>() {
            Ok(number) if number > 0 => Ok(number),
            _ => Err(format!("`{text}` is no line number; give lines such as 3,7-12,40-")),
        };
        let mut given = Vec::new();
        for part in text.split(',') {
            given.push(match part.split_once('-') {
                None => (number(part)?, Some(number(part)?)),
                Some((first, "")) => (number(first)?, None),
                Some((first, last)) => (number(first)?, Some(number(last)?)),
            });
        }
        if let Some((first, last)) = given
            .iter()
            .find(|(first, last)| last.is_some_and(|last| last < *first))
        {
            return Err(format!("`{first}-{}` ends before it begins", last.unwrap_or_default()));
        }
        given.sort_unstable();
        let mut ranges = Self::default();
        for (first, last) in given {
            ranges.add_range(first, last);
        }
        Ok(ranges)
    }
}

impl fmt::Display for Ranges {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, (first, last)) in self.0.iter().enumerate() {
            if at > 0 {
                f.write_str(",")?;
            }
            match last {
                Some(last) if last == first => write!(f, "{first}")?,
                Some(last) => write!(f, "{first}-{last}")?,
                None => write!(f, "{first}-")?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn lines_are_named_in_few_words() {
        let mut ranges = Ranges::default();
        for line in [3, 7, 8, 9, 12, 20, 21] {
            ranges.add(line);
        }
        assert_eq!(ranges.to_string(), "3,7-9,12,20-21");
        ranges.add_from(22);
        assert_eq!(ranges.to_string(), "3,7-9,12,20-");
        ranges.add(40);
        assert_eq!(ranges.to_string(), "3,7-9,12,20-");
        for (line, inside) in [
            (1, false),
            (3, true),
            (4, false),
            (8, true),
            (10, false),
            (19, false),
            (999, true),
        ] {
            assert_eq!(ranges.contains(line), inside, "{line}");
        }
        assert!(!Ranges::default().contains(1));
    }

    #[test]
    fn what_is_said_is_understood() {
        for (given, shown) in [
            ("5", "5"),
            ("40-,3,7-12", "3,7-12,40-"),
            ("1-3,2-7,8", "1-8"),
            ("1-,5-6", "1-"),
            (" 2 - 4 ", "2-4"),
        ] {
            assert_eq!(given.parse::<Ranges>().unwrap().to_string(), shown);
        }
        for wrong in ["", "x", "0", "3,", "5-2", "-4"] {
            assert!(wrong.parse::<Ranges>().is_err(), "{wrong}");
        }
    }
}
