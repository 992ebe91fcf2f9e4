//! Tests of one field.

use std::cmp::Ordering;
use std::fmt;

use regex_lite::Regex;
use serde_json::Value as Json;

use super::field::{Field, Subject, Value};

/// What is asked of a field. Where it is not there nothing holds but `!=` and `!~`.
#[derive(Clone, Debug)]
pub(super) enum Test {
    Exists,
    Compare(Comparison, Literal),
    In(Vec<Literal>),
    Match { regex: Regex, negated: bool },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Comparison {
    Equal,
    Unequal,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
}

/// A value as it stands in a filter.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Literal {
    pub(super) text: String,
    pub(super) quoted: bool,
    /// What it stands for, if that is a number: bytes of a size, ms of a duration.
    pub(super) number: Option<Number>,
}

/// Whole numbers are compared exactly: ids may be too long for a float.
#[derive(Clone, Copy, Debug)]
pub(super) enum Number {
    Whole(i128),
    Real(f64),
}

impl Test {
    pub(super) fn holds(&self, field: &Field, subject: &Subject<'_>) -> bool {
        match self {
            Self::Exists => field.any(subject, |_| true),
            Self::Compare(Comparison::Unequal, literal) => !field.any(subject, |value| literal.equals(value)),
            Self::Compare(Comparison::Equal, literal) => field.any(subject, |value| literal.equals(value)),
            Self::Compare(comparison, literal) => field.any(subject, |value| {
                literal.order(value).is_some_and(|order| match comparison {
                    Comparison::Less => order.is_lt(),
                    Comparison::LessOrEqual => order.is_le(),
                    Comparison::Greater => order.is_gt(),
                    Comparison::GreaterOrEqual => order.is_ge(),
                    Comparison::Equal | Comparison::Unequal => false,
                })
            }),
            Self::In(literals) => field.any(subject, |value| literals.iter().any(|literal| literal.equals(value))),
            Self::Match { regex, negated } => field.any(subject, |value| matches(regex, value)) != *negated,
        }
    }
}

fn matches(regex: &Regex, value: &Value<'_>) -> bool {
    match value {
        Value::Text(text) => regex.is_match(text),
        Value::Digits(text) => regex.is_match(text),
        Value::Json(Json::String(text)) => regex.is_match(text),
        Value::Json(json) => regex.is_match(&json.to_string()),
        Value::Number(_) | Value::Binary => false,
    }
}

impl Literal {
    fn equals(&self, value: &Value<'_>) -> bool {
        let bare = |word: &str| !self.quoted && self.text == word;
        match value {
            Value::Text(text) => *text == self.text,
            Value::Json(Json::String(text)) => *text == self.text,
            Value::Number(number) => self.number.is_some_and(|own| number.order(own).is_eq()),
            Value::Digits(text) => *text == self.text || self.order(value).is_some_and(Ordering::is_eq),
            Value::Json(Json::Number(_)) => self.order(value).is_some_and(Ordering::is_eq),
            Value::Json(Json::Bool(flag)) => bare(if *flag { "true" } else { "false" }),
            Value::Json(Json::Null) => bare("null"),
            Value::Json(Json::Array(_) | Json::Object(_)) | Value::Binary => false,
        }
    }

    /// How `value` stands to this: as numbers where both are, as texts where neither is a number.
    fn order(&self, value: &Value<'_>) -> Option<Ordering> {
        match value {
            Value::Number(number) => Some(number.order(self.number?)),
            Value::Json(Json::Number(number)) => Some(Number::of_json(number)?.order(self.number?)),
            Value::Digits(text) => Some(Number::parse(text)?.order(self.number?)),
            Value::Text(text) => self.order_of_text(text),
            Value::Json(Json::String(text)) => self.order_of_text(text),
            Value::Json(_) | Value::Binary => None,
        }
    }

    fn order_of_text(&self, text: &str) -> Option<Ordering> {
        match self.number {
            Some(own) => Some(Number::parse(text)?.order(own)),
            None => Some(text.cmp(&self.text)),
        }
    }
}

impl Number {
    /// A number as JSON writes it, with a `+` or zeros in front of it if need be.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let numeric = |c: char| c.is_ascii_digit() || matches!(c, '+' | '-' | '.' | 'e' | 'E');
        if !text.chars().all(numeric) {
            return None;
        }
        if let Ok(whole) = text.parse() {
            return Some(Self::Whole(whole));
        }
        text.parse().ok().filter(|real: &f64| real.is_finite()).map(Self::Real)
    }

    fn of_json(number: &serde_json::Number) -> Option<Self> {
        let whole = number.as_i64().map(i128::from).or(number.as_u64().map(i128::from));
        whole.map(Self::Whole).or(number.as_f64().map(Self::Real))
    }

    fn order(self, other: Self) -> Ordering {
        match (self, other) {
            (Self::Whole(own), Self::Whole(other)) => own.cmp(&other),
            // Zero has two signs as a float.
            (own, other) => (own.real() + 0.0).total_cmp(&(other.real() + 0.0)),
        }
    }

    #[allow(
        clippy::cast_precision_loss,
        reason = "compared with a float, it is as exact as that"
    )]
    fn real(self) -> f64 {
        match self {
            Self::Whole(whole) => whole as f64,
            Self::Real(real) => real,
        }
    }
}

impl PartialEq for Number {
    fn eq(&self, other: &Self) -> bool {
        self.order(*other).is_eq()
    }
}

impl PartialEq for Test {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Exists, Self::Exists) => true,
            (Self::Compare(own, literal), Self::Compare(other, others)) => own == other && literal == others,
            (Self::In(own), Self::In(other)) => own == other,
            (
                Self::Match { regex, negated },
                Self::Match {
                    regex: other,
                    negated: others,
                },
            ) => regex.as_str() == other.as_str() && negated == others,
            _ => false,
        }
    }
}

impl fmt::Display for Test {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exists => f.write_str("exists"),
            Self::Compare(comparison, literal) => write!(f, "{comparison} {literal}"),
            Self::In(literals) => {
                let literals: Vec<String> = literals.iter().map(Literal::to_string).collect();
                write!(f, "in ({})", literals.join(", "))
            }
            Self::Match { regex, negated } => {
                let operator = if *negated { "!~" } else { "~" };
                write!(f, "{operator} {}", quote(regex.as_str()))
            }
        }
    }
}

impl fmt::Display for Comparison {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Equal => "=",
            Self::Unequal => "!=",
            Self::Less => "<",
            Self::LessOrEqual => "<=",
            Self::Greater => ">",
            Self::GreaterOrEqual => ">=",
        })
    }
}

impl fmt::Display for Literal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.quoted {
            f.write_str(&quote(&self.text))
        } else {
            f.write_str(&self.text)
        }
    }
}

/// `text` in quotes, as a filter reads it back.
pub(super) fn quote(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""))
}
