//! Attribute values and items: how they are read, compared, sized and written.

use std::borrow::Cow;
use std::cmp::Ordering;
use std::fmt;
use std::rc::Rc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::de::{Deserialize, Deserializer, Error, MapAccess, Visitor};

/// An attribute's value. Sets are not known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Value {
    S(Box<str>),
    N(Box<str>),
    B(Box<[u8]>),
    Bool(bool),
    Null,
    L(Box<[Value]>),
    M(Box<[(Box<str>, Value)]>),
}

impl Value {
    pub(crate) fn text(text: &str) -> Self {
        Self::S(text.into())
    }

    /// Whether it is the same, numbers by what they stand for.
    pub(crate) fn equals(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::N(one), Self::N(two)) => compare_numbers(one, two) == Ordering::Equal,
            (one, two) => one == two,
        }
    }

    /// Which comes first; nothing where they are of types that have no order, or of two.
    pub(crate) fn order(&self, other: &Self) -> Option<Ordering> {
        match (self, other) {
            (Self::S(one), Self::S(two)) => Some(one.as_bytes().cmp(two.as_bytes())),
            (Self::N(one), Self::N(two)) => Some(compare_numbers(one, two)),
            (Self::B(one), Self::B(two)) => Some(one.cmp(two)),
            _ => None,
        }
    }

    /// How many bytes DynamoDB counts it for.
    pub(crate) fn size(&self) -> usize {
        match self {
            Self::S(text) => text.len(),
            Self::N(text) => significant_digits(text).div_ceil(2) + 1,
            Self::B(bytes) => bytes.len(),
            Self::Bool(_) | Self::Null => 1,
            Self::L(values) => 3 + values.iter().map(|value| 1 + value.size()).sum::<usize>(),
            Self::M(values) => {
                3 + values
                    .iter()
                    .map(|(name, value)| 1 + name.len() + value.size())
                    .sum::<usize>()
            }
        }
    }

    /// Writes it as JSON.
    pub(crate) fn write(&self, out: &mut Vec<u8>) {
        match self {
            Self::S(text) => {
                out.extend_from_slice(b"{\"S\":");
                quoted(out, text);
            }
            Self::N(text) => {
                out.extend_from_slice(b"{\"N\":");
                quoted(out, text);
            }
            Self::B(bytes) => {
                out.extend_from_slice(b"{\"B\":");
                quoted(out, &STANDARD.encode(bytes));
            }
            Self::Bool(true) => out.extend_from_slice(b"{\"BOOL\":true"),
            Self::Bool(false) => out.extend_from_slice(b"{\"BOOL\":false"),
            Self::Null => out.extend_from_slice(b"{\"NULL\":true"),
            Self::L(values) => {
                out.extend_from_slice(b"{\"L\":[");
                for (at, value) in values.iter().enumerate() {
                    if at > 0 {
                        out.push(b',');
                    }
                    value.write(out);
                }
                out.push(b']');
            }
            Self::M(values) => {
                out.extend_from_slice(b"{\"M\":");
                write_map(out, values.iter().map(|(name, value)| (&**name, value)));
            }
        }
        out.push(b'}');
    }
}

fn write_map<'a>(out: &mut Vec<u8>, values: impl Iterator<Item = (&'a str, &'a Value)>) {
    out.push(b'{');
    for (at, (name, value)) in values.enumerate() {
        if at > 0 {
            out.push(b',');
        }
        quoted(out, name);
        out.push(b':');
        value.write(out);
    }
    out.push(b'}');
}

pub(crate) fn quoted(out: &mut Vec<u8>, text: &str) {
    // Writing to a vector does not fail.
    let _ = serde_json::to_writer(out, text);
}

/// A number's sign, digits without zeros around them, and where its point is before them.
fn parts(number: &str) -> Option<(bool, Vec<u8>, i32)> {
    let (negative, rest) = match number.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, number.strip_prefix('+').unwrap_or(number)),
    };
    let (mantissa, exponent) = match rest.find(['e', 'E']) {
        Some(at) => (&rest[..at], rest[at + 1..].parse::<i32>().ok()?),
        None => (rest, 0),
    };
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let digits: Vec<u8> = whole.bytes().chain(fraction.bytes()).collect();
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let leading = digits.iter().take_while(|digit| **digit == b'0').count();
    let mut significant = digits[leading..].to_vec();
    while significant.last() == Some(&b'0') {
        significant.pop();
    }
    let point = i32::try_from(whole.len()).ok()? - i32::try_from(leading).ok()?;
    Some((
        negative && !significant.is_empty(),
        significant,
        point.checked_add(exponent)?,
    ))
}

/// Whether the text is a number.
pub(crate) fn is_number(text: &str) -> bool {
    parts(text).is_some_and(|(_, digits, _)| digits.len() <= 38)
}

fn significant_digits(number: &str) -> usize {
    parts(number).map_or(0, |(_, digits, _)| digits.len())
}

fn compare_numbers(one: &str, two: &str) -> Ordering {
    if let (Ok(one), Ok(two)) = (one.parse::<i64>(), two.parse::<i64>()) {
        return one.cmp(&two);
    }
    let (Some((negative, digits, point)), Some((other_negative, other_digits, other_point))) = (parts(one), parts(two))
    else {
        return one.cmp(two);
    };
    let sign = |negative, digits: &[u8]| match (negative, digits) {
        (_, []) => 0,
        (true, _) => -1,
        (false, _) => 1,
    };
    let (first, second) = (sign(negative, &digits), sign(other_negative, &other_digits));
    if first != second || first == 0 {
        return first.cmp(&second);
    }
    let sizes = point.cmp(&other_point).then_with(|| digits.cmp(&other_digits));
    if first < 0 { sizes.reverse() } else { sizes }
}

struct ValueVisitor;

impl<'de> Visitor<'de> for ValueVisitor {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an attribute value of S, N, B, BOOL, NULL, L or M")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        let Some(Text(kind)) = map.next_key()? else {
            return Err(A::Error::custom("an attribute value is empty"));
        };
        let value = match &*kind {
            "S" => Value::S(map.next_value::<Text<'de>>()?.0.into()),
            "N" => {
                let text = map.next_value::<Text<'de>>()?.0;
                if !is_number(&text) {
                    return Err(A::Error::custom(format!(
                        "`{text}` is not a number of at most 38 digits"
                    )));
                }
                Value::N(text.into())
            }
            "B" => {
                let text = map.next_value::<Text<'de>>()?.0;
                let bytes = STANDARD.decode(text.as_bytes()).map_err(A::Error::custom)?;
                Value::B(bytes.into())
            }
            "BOOL" => Value::Bool(map.next_value()?),
            "NULL" => {
                map.next_value::<bool>()?;
                Value::Null
            }
            "L" => Value::L(map.next_value::<Vec<Value>>()?.into()),
            "M" => {
                let values = map.next_value::<Map<'de>>()?.0.into_iter();
                Value::M(values.map(|(name, value)| (name.into(), value)).collect())
            }
            other => {
                return Err(A::Error::custom(format!(
                    "the stand-in knows no values of type {other}"
                )));
            }
        };
        match map.next_key::<Text<'de>>()? {
            None => Ok(value),
            Some(Text(more)) => Err(A::Error::custom(format!("a value is of two types, {kind} and {more}"))),
        }
    }
}

impl<'de> Deserialize<'de> for Value {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(ValueVisitor)
    }
}

/// Text that is not copied where it has nothing escaped.
#[derive(Clone, Debug, PartialEq, Eq, serde::Deserialize)]
pub(crate) struct Text<'a>(#[serde(borrow)] pub(crate) Cow<'a, str>);

/// Values by name, in the order they came.
#[derive(Clone, Debug, Default)]
pub(crate) struct Map<'a>(pub(crate) Vec<(Cow<'a, str>, Value)>);

impl Map<'_> {
    pub(crate) fn get(&self, name: &str) -> Option<&Value> {
        self.0.iter().find(|(known, _)| known == name).map(|(_, value)| value)
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Map<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(Self(
            deserializer.deserialize_map(PairsVisitor(std::marker::PhantomData))?,
        ))
    }
}

/// Texts by name.
#[derive(Clone, Debug, Default)]
pub(crate) struct Names<'a>(pub(crate) Vec<(Cow<'a, str>, Text<'a>)>);

impl Names<'_> {
    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(known, _)| known == name).map(|(_, text)| &*text.0)
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Names<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(Self(
            deserializer.deserialize_map(PairsVisitor(std::marker::PhantomData))?,
        ))
    }
}

struct PairsVisitor<T>(std::marker::PhantomData<T>);

impl<'de, T: Deserialize<'de>> Visitor<'de> for PairsVisitor<T> {
    type Value = Vec<(Cow<'de, str>, T)>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a map")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut pairs = Vec::with_capacity(16);
        while let Some(Text(name)) = map.next_key()? {
            pairs.push((name, map.next_value()?));
        }
        Ok(pairs)
    }
}

/// An item: its attributes, by names that all items of a table share.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Item(Vec<(Rc<str>, Value)>);

impl Item {
    /// One with room for so many attributes and no more: there may be millions of it.
    pub(crate) fn with_room(attributes: usize) -> Self {
        Self(Vec::with_capacity(attributes))
    }

    pub(crate) fn get(&self, name: &str) -> Option<&Value> {
        self.0
            .iter()
            .find(|(known, _)| **known == *name)
            .map(|(_, value)| value)
    }

    pub(crate) fn set(&mut self, name: Rc<str>, value: Value) {
        match self.0.iter_mut().find(|(known, _)| *known == name) {
            Some((_, old)) => *old = value,
            None => self.0.push((name, value)),
        }
    }

    pub(crate) fn remove(&mut self, name: &str) {
        self.0.retain(|(known, _)| **known != *name);
    }

    /// How many bytes DynamoDB counts it for.
    pub(crate) fn size(&self) -> usize {
        self.0.iter().map(|(name, value)| name.len() + value.size()).sum()
    }

    /// Writes it as JSON.
    pub(crate) fn write(&self, out: &mut Vec<u8>) {
        write_map(out, self.0.iter().map(|(name, value)| (&**name, value)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value(json: &str) -> Value {
        serde_json::from_str(json).unwrap()
    }

    #[test]
    fn values_are_written_as_they_were_read() {
        for json in [
            r#"{"S":"a \"b\" é"}"#,
            r#"{"N":"-1.50"}"#,
            r#"{"B":"AJ8="}"#,
            r#"{"BOOL":false}"#,
            r#"{"NULL":true}"#,
            r#"{"L":[{"S":""},{"N":"1"}]}"#,
            r#"{"M":{"a":{"M":{}},"b":{"BOOL":true}}}"#,
        ] {
            let mut out = Vec::new();
            value(json).write(&mut out);
            assert_eq!(String::from_utf8(out).unwrap(), json);
        }
        for json in [
            r#"{"SS":["a"]}"#,
            "{}",
            r#"{"N":"x"}"#,
            r#"{"N":""}"#,
            r#"{"S":"a","N":"1"}"#,
            r#"{"B":"*"}"#,
        ] {
            assert!(serde_json::from_str::<Value>(json).is_err(), "{json}");
        }
    }

    #[test]
    fn numbers_are_compared_by_what_they_stand_for() {
        let sorted = [
            "-1e3",
            "-2.5",
            "-2",
            "-0.1",
            "0",
            "1e-2",
            "0.1",
            "1",
            "2",
            "10",
            "99999999999999999999",
            "1e30",
        ];
        for (at, one) in sorted.iter().enumerate() {
            for (other, two) in sorted.iter().enumerate() {
                assert_eq!(compare_numbers(one, two), at.cmp(&other), "{one} {two}");
            }
        }
        for (one, two) in [("1", "1.0"), ("100", "1e2"), ("-0", "0"), ("0.10", ".1"), ("+7", "007")] {
            assert!(Value::N(one.into()).equals(&Value::N(two.into())), "{one} {two}");
        }
        assert_eq!(value(r#"{"N":"1"}"#).order(&value(r#"{"S":"1"}"#)), None);
    }

    #[test]
    fn sizes_are_those_that_the_documentation_of_dynamodb_gives() {
        for (json, size) in [
            (r#"{"S":"é1"}"#, 3),
            (r#"{"N":"27"}"#, 2),
            (r#"{"N":"-1800000000123"}"#, 8),
            (r#"{"N":"1000"}"#, 2),
            (r#"{"B":"AJ8="}"#, 2),
            (r#"{"NULL":true}"#, 1),
            (r#"{"L":[{"S":"ab"}]}"#, 6),
            (r#"{"M":{"k":{"BOOL":true}}}"#, 6),
        ] {
            assert_eq!(value(json).size(), size, "{json}");
        }
        let mut item = Item::default();
        item.set("pk".into(), Value::text("abc"));
        item.set("n".into(), Value::N("12".into()));
        assert_eq!(item.size(), 2 + 3 + 1 + 2);
        item.remove("n");
        assert_eq!(item.size(), 5);
    }
}
