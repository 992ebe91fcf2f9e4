//! One text in a JSON body, found by a JSON pointer (RFC 6901) without reading the rest.

use std::borrow::Cow;
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor};

/// A JSON pointer, taken apart.
#[derive(Clone, Debug)]
pub(super) struct Pointer {
    segments: Vec<String>,
}

/// What a pointer points at.
#[derive(Debug, PartialEq)]
pub(super) enum Found<'a> {
    /// A string.
    Text(Cow<'a, str>),
    /// Something else, of this kind.
    Other(&'static str),
    /// Nothing.
    Nothing,
    /// Nothing that could be found before the body stopped being JSON.
    NotJson {
        /// What is wrong with it, and where.
        detail: String,
    },
}

impl Pointer {
    /// The pointer with this text, if it is one that points into something.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let segments = text.strip_prefix('/')?.split('/');
        Some(Self {
            segments: segments
                .map(|segment| segment.replace("~1", "/").replace("~0", "~"))
                .collect(),
        })
    }

    /// What it points at in `body`. Reading stops there: what comes after it is not looked at.
    pub(super) fn find<'a>(&self, body: &'a str) -> Found<'a> {
        let mut found = None;
        let mut json = serde_json::Deserializer::from_str(body);
        let read = Seek {
            segments: &self.segments,
            found: &mut found,
        }
        .deserialize(&mut json);
        match (found, read) {
            (Some(found), _) => found,
            (None, Err(error)) if !error.is_data() => Found::NotJson {
                detail: error.to_string(),
            },
            (None, _) => Found::Nothing,
        }
    }
}

/// Goes down to where the segments lead, and stops reading by an error once it was there.
struct Seek<'p, 'f, 'de> {
    segments: &'p [String],
    found: &'f mut Option<Found<'de>>,
}

impl<'de> DeserializeSeed<'de> for Seek<'_, '_, 'de> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Seek<'_, '_, 'de> {
    fn scalar<E>(self, scalar: Found<'de>) -> Result<(), E> {
        if self.segments.is_empty() {
            *self.found = Some(scalar);
        }
        Ok(())
    }
}

impl<'de> Visitor<'de> for Seek<'_, '_, 'de> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_borrowed_str<E>(self, text: &'de str) -> Result<(), E> {
        self.scalar(Found::Text(Cow::Borrowed(text)))
    }

    fn visit_str<E>(self, text: &str) -> Result<(), E> {
        self.scalar(Found::Text(Cow::Owned(text.to_owned())))
    }

    fn visit_bool<E>(self, _: bool) -> Result<(), E> {
        self.scalar(Found::Other("a boolean"))
    }

    fn visit_i64<E>(self, _: i64) -> Result<(), E> {
        self.scalar(Found::Other("a number"))
    }

    fn visit_u64<E>(self, _: u64) -> Result<(), E> {
        self.scalar(Found::Other("a number"))
    }

    fn visit_f64<E>(self, _: f64) -> Result<(), E> {
        self.scalar(Found::Other("a number"))
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        self.scalar(Found::Other("null"))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let Some((first, rest)) = self.segments.split_first() else {
            *self.found = Some(Found::Other("an object"));
            return Err(A::Error::custom("found"));
        };
        while let Some(matches) = map.next_key_seed(Is(first))? {
            if matches {
                map.next_value_seed(Seek {
                    segments: rest,
                    found: self.found,
                })?;
                return Err(A::Error::custom("as deep as it goes"));
            }
            map.next_value::<IgnoredAny>()?;
        }
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut elements: A) -> Result<(), A::Error> {
        let Some((first, rest)) = self.segments.split_first() else {
            *self.found = Some(Found::Other("an array"));
            return Err(A::Error::custom("found"));
        };
        let wanted: Option<usize> = first.parse().ok();
        for at in 0.. {
            if Some(at) == wanted {
                let seek = Seek {
                    segments: rest,
                    found: self.found,
                };
                elements.next_element_seed(seek)?;
                return Err(A::Error::custom("as deep as it goes"));
            }
            if elements.next_element::<IgnoredAny>()?.is_none() {
                break;
            }
        }
        Ok(())
    }
}

/// Whether a key is this one.
struct Is<'a>(&'a str);

impl<'de> DeserializeSeed<'de> for Is<'_> {
    type Value = bool;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<bool, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl Visitor<'_> for Is<'_> {
    type Value = bool;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a key")
    }

    fn visit_str<E>(self, key: &str) -> Result<bool, E> {
        Ok(key == self.0)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::Value;

    use super::*;

    fn find<'a>(pointer: &str, body: &'a str) -> Found<'a> {
        Pointer::parse(pointer).unwrap().find(body)
    }

    fn text(text: &str) -> Found<'_> {
        Found::Text(Cow::Borrowed(text))
    }

    #[test]
    fn a_pointer_leads_into_objects_and_arrays() {
        let body = r#"{"n":[1,{"x":{}}],"meta":{"a/b":["p","q\n"],"type":"order"},"type":7}"#;
        assert_eq!(find("/meta/type", body), text("order"));
        assert_eq!(find("/meta/a~1b/1", body), text("q\n"));
        assert_eq!(find("/type", body), Found::Other("a number"));
        assert_eq!(find("/meta", body), Found::Other("an object"));
        assert_eq!(find("/n", body), Found::Other("an array"));
        for nowhere in ["/kind", "/type/deeper", "/n/9", "/n/x", "/meta/type/0", "/"] {
            assert_eq!(find(nowhere, body), Found::Nothing, "{nowhere}");
        }
    }

    #[test]
    fn reading_stops_at_what_is_found() {
        assert_eq!(find("/type", r#"{"type":"order", then nonsense"#), text("order"));
        assert!(matches!(
            find("/type", r#"{"a":1, then nonsense"#),
            Found::NotJson { .. }
        ));
        assert!(matches!(find("/type", ""), Found::NotJson { .. }));
    }

    #[test]
    fn a_pointer_starts_with_a_slash() {
        assert!(Pointer::parse("type").is_none());
        assert!(Pointer::parse("").is_none());
    }

    proptest! {
        #[test]
        fn it_finds_what_a_full_parse_finds(
            body in r#"(\{"a":(1|"t"|null|\[("x",)?true\]|\{"b":"u"\})(,"b":"v")?\})|\["w",2\]|"s""#,
            pointer in "/[ab01]{1}(/[ab01]{1})?",
        ) {
            let parsed: Value = serde_json::from_str(&body).unwrap();
            let expected = parsed.pointer(&pointer).and_then(Value::as_str);
            match (find(&pointer, &body), expected) {
                (Found::Text(found), Some(expected)) => prop_assert_eq!(found, expected),
                (Found::Other(_), None) => prop_assert!(parsed.pointer(&pointer).is_some()),
                (Found::Nothing, None) => prop_assert!(parsed.pointer(&pointer).is_none()),
                (found, expected) => prop_assert!(false, "{found:?} for {expected:?}"),
            }
        }
    }
}
