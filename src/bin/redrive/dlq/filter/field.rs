//! What of a dead letter can be asked about.

use std::borrow::Cow;
use std::cell::OnceCell;
use std::fmt;

use redrive::dlq::DeadLetter;
use serde_json::Value as Json;

use super::compare::{Number, quote};

/// A field of a dead letter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Field {
    Reason,
    Error,
    Type,
    Key,
    Group,
    Id,
    Source,
    Attempts,
    Replays,
    Size,
    Age,
    Body,
    /// A message attribute.
    Attribute(String),
    /// A JSON pointer into the body.
    Pointer(String),
}

/// How a field's values are written and compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Text,
    Count,
    Bytes,
    Duration,
    /// Whatever it turns out to be.
    Any,
}

/// What a field of one letter holds.
#[derive(Clone, Debug)]
pub(super) enum Value<'a> {
    Text(Cow<'a, str>),
    Number(Number),
    /// An attribute of data type `Number`: it is text that stands for a number.
    Digits(&'a str),
    Binary,
    Json(&'a Json),
}

/// A letter that is held against a filter.
pub(super) struct Subject<'a> {
    letter: &'a DeadLetter,
    now_ms: u64,
    body: OnceCell<Option<Json>>,
}

impl<'a> Subject<'a> {
    pub(super) fn new(letter: &'a DeadLetter, now_ms: u64) -> Self {
        Self {
            letter,
            now_ms,
            body: OnceCell::new(),
        }
    }

    /// The body's JSON, read when it is first asked for; none where it is no JSON.
    fn json(&self) -> Option<&Json> {
        self.body
            .get_or_init(|| serde_json::from_str(self.letter.body()).ok())
            .as_ref()
    }
}

/// The fields that have names, in the order in which they are told.
pub(super) const NAMED: [(&str, Field); 12] = [
    ("reason", Field::Reason),
    ("error", Field::Error),
    ("type", Field::Type),
    ("key", Field::Key),
    ("group", Field::Group),
    ("id", Field::Id),
    ("source", Field::Source),
    ("attempts", Field::Attempts),
    ("replays", Field::Replays),
    ("size", Field::Size),
    ("age", Field::Age),
    ("body", Field::Body),
];

/// What begins the name of an attribute.
pub(super) const ATTRIBUTE_PREFIX: &str = "attr.";

impl Field {
    /// The field of this name; neither attribute nor pointer.
    pub(super) fn named(name: &str) -> Option<Self> {
        NAMED
            .into_iter()
            .find_map(|(known, field)| (known == name).then_some(field))
    }

    pub(super) fn kind(&self) -> Kind {
        match self {
            Self::Attempts | Self::Replays => Kind::Count,
            Self::Size => Kind::Bytes,
            Self::Age => Kind::Duration,
            Self::Attribute(_) | Self::Pointer(_) => Kind::Any,
            _ => Kind::Text,
        }
    }

    /// Whether `test` holds for a value of this field: an id is the letter's own or the one it had in its source queue, and a
    /// source has a name and an ARN. False where there is none.
    pub(super) fn any(&self, subject: &Subject<'_>, test: impl Fn(&Value<'_>) -> bool) -> bool {
        let letter = subject.letter;
        let text = |text: &str| test(&Value::Text(Cow::Borrowed(text)));
        let number = |number: u64| test(&Value::Number(Number::Whole(i128::from(number))));
        match self {
            Self::Reason => text(letter.reason()),
            Self::Error => !letter.error().is_empty() && text(letter.error()),
            Self::Type => letter.message_type().is_some_and(text),
            Self::Key => text(letter.key().as_str()),
            Self::Group => letter.message().group_id.as_deref().is_some_and(text),
            Self::Id => text(letter.id()) || letter.original_id().is_some_and(text),
            Self::Source => letter
                .source()
                .is_some_and(|arn| text(arn) || arn.rsplit(':').next().is_some_and(text)),
            Self::Attempts => letter.attempts().is_some_and(|attempts| number(u64::from(attempts))),
            Self::Replays => number(u64::from(letter.replays())),
            Self::Size => number(letter.size() as u64),
            Self::Age => letter
                .age(subject.now_ms)
                .is_some_and(|age| number(u64::try_from(age.as_millis()).unwrap_or(u64::MAX))),
            Self::Body => text(letter.body()),
            Self::Attribute(name) => letter.attributes.get(name).is_some_and(|attribute| {
                test(&match attribute.as_str() {
                    Some(text) if attribute.data_type.starts_with("Number") => Value::Digits(text),
                    Some(text) => Value::Text(Cow::Borrowed(text)),
                    None => Value::Binary,
                })
            }),
            Self::Pointer(pointer) => subject
                .json()
                .and_then(|body| body.pointer(pointer))
                .is_some_and(|value| test(&Value::Json(value))),
        }
    }
}

impl fmt::Display for Field {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Attribute(name) => write!(f, "{ATTRIBUTE_PREFIX}{}", quote(name)),
            Self::Pointer(pointer) => f.write_str(&quote(pointer)),
            named => {
                let name = NAMED.iter().find(|(_, field)| field == named);
                f.write_str(name.map_or("", |(name, _)| name))
            }
        }
    }
}
