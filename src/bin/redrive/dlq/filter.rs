//! The language of `--where`: which dead letters are meant.
//!
//! Text is read once into a tree of tests; a letter is held against it without allocating more than its body's JSON, which
//! is read at most once and only if a test asks for it.

mod compare;
mod error;
mod field;
mod parse;

use std::fmt;
use std::str::FromStr;

use clap::Args;
use redrive::dlq::DeadLetter;

use compare::Test;
use field::{Field, Subject};

pub(crate) use error::FilterError;

/// The language in brief, for the help of commands that filter.
pub(crate) const LANGUAGE: &str = "Filters (--where):
  FIELD = VALUE    and != < <= > >=; as numbers where both sides are numbers
  FIELD ~ REGEX    and !~; capitals or not, unless it begins with (?-i)
  FIELD in (A, B)    FIELD exists    and, or, not, ( )
  Fields: reason error type key group id source attempts replays size age
  body, attr.NAME for a message attribute, /a/b for what a JSON pointer finds
  in the body. Ages are 90s, 2h or 3d. A value with spaces, commas or ( ) in
  it is quoted: 'single' or \"double\". For example:
    --where 'reason = attempts_exhausted and age > 2h'
    --where '/amount > 100 and not /coupon exists'
    --where 'error ~ \"timed? ?out\" or attr.tenant in (acme, globex)'";

/// The most nested `(` and `not`.
const MAX_DEPTH: usize = 64;

/// The most bytes of a filter.
const MAX_LENGTH: usize = 16 * 1024;

/// Which dead letters are meant: the flag, as every command takes it.
#[derive(Args, Clone, Debug, Default)]
pub(crate) struct Where {
    /// Only the dead letters for which this holds, such as 'reason = timeout and /amount > 100'. May be given several times:
    /// then all must hold.
    #[arg(long = "where", value_name = "FILTER")]
    filters: Vec<Filter>,
}

impl Where {
    /// Whether everything is meant.
    pub(crate) fn is_everything(&self) -> bool {
        self.filters.is_empty()
    }

    /// Whether `letter` is meant; `now_ms` is in ms since 1970.
    pub(crate) fn matches(&self, letter: &DeadLetter, now_ms: u64) -> bool {
        let subject = Subject::new(letter, now_ms);
        self.filters.iter().all(|filter| filter.root.holds(&subject))
    }
}

/// One filter.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Filter {
    root: Node,
}

impl FromStr for Filter {
    type Err = FilterError;

    fn from_str(text: &str) -> Result<Self, FilterError> {
        Ok(Self {
            root: parse::parse(text)?,
        })
    }
}

/// It can be read back.
impl fmt::Display for Filter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.root.fmt(f)
    }
}

/// `and` and `or` hold at least two parts each.
#[derive(Clone, Debug, PartialEq)]
enum Node {
    And(Vec<Node>),
    Or(Vec<Node>),
    Not(Box<Node>),
    Test(Field, Test),
}

impl Node {
    fn holds(&self, subject: &Subject<'_>) -> bool {
        match self {
            Self::And(parts) => parts.iter().all(|part| part.holds(subject)),
            Self::Or(parts) => parts.iter().any(|part| part.holds(subject)),
            Self::Not(part) => !part.holds(subject),
            Self::Test(field, test) => test.holds(field, subject),
        }
    }
}

impl fmt::Display for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let list = |f: &mut fmt::Formatter<'_>, parts: &[Self], word: &str| {
            for (at, part) in parts.iter().enumerate() {
                if at > 0 {
                    write!(f, " {word} ")?;
                }
                match part {
                    Self::And(_) | Self::Or(_) => write!(f, "({part})")?,
                    Self::Not(_) | Self::Test(..) => part.fmt(f)?,
                }
            }
            Ok(())
        };
        match self {
            Self::And(parts) => list(f, parts, "and"),
            Self::Or(parts) => list(f, parts, "or"),
            Self::Not(part) => match part.as_ref() {
                Self::Test(..) => write!(f, "not {part}"),
                _ => write!(f, "not ({part})"),
            },
            Self::Test(field, test) => write!(f, "{field} {test}"),
        }
    }
}

#[cfg(test)]
mod tests;
