//! The body as JSON.

use std::any::type_name;
use std::fmt;

use serde::de::DeserializeOwned;
use serde::{Serialize, Serializer};
use serde_json::error::Category;

use super::FromDelivery;
use super::locate::path_at;
use crate::handler::{Context, IntoFailure};
use crate::outcome::{Failure, Reason};

/// The body, read as JSON. What cannot be read as a `T` is dead-lettered for the reason `malformed`; the error names the
/// place, and never the value found there.
///
/// `Option<Json<T>>` is `None` where the body is empty, and `Result<Json<T>, JsonRejection>` leaves it to the handler.
///
/// ```
/// use redrive::{Failure, extract::Json};
///
/// #[derive(serde::Deserialize)]
/// struct Order {
///     amount: u64,
/// }
///
/// async fn charge(Json(order): Json<Order>) -> Result<(), Failure> {
///     println!("{}", order.amount);
///     Ok(())
/// }
/// # let _ = redrive::handler::Handler::into_service(charge, ());
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Json<T>(pub T);

impl<T: Serialize> Serialize for Json<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.serialize(serializer)
    }
}

impl<S: Sync, T: DeserializeOwned + Send + 'static> FromDelivery<S> for Json<T> {
    type Rejection = JsonRejection;

    async fn from_delivery(context: &Context, _: &S) -> Result<Self, JsonRejection> {
        let body = &context.message().body;
        serde_json::from_str(body)
            .map(Self)
            .map_err(|error| JsonRejection::new::<T>(body, &error))
    }

    fn is_absent(rejection: &JsonRejection) -> bool {
        matches!(rejection, JsonRejection::Empty { .. })
    }
}

/// Why a body cannot be read as [`Json`]. All are rejects for the reason `malformed`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum JsonRejection {
    /// There is nothing in the body.
    #[error(
        "the body is empty, but JSON is expected, to be read as `{expected}`; send the body, or take it as `Option<Json<_>>`"
    )]
    Empty {
        /// The type it was to be read as.
        expected: String,
    },
    /// The body is not JSON.
    #[error("the body is not JSON: {detail} at line {line}, column {column}")]
    Syntax {
        /// The line, from 1.
        line: usize,
        /// The byte in the line, from 1.
        column: usize,
        /// What is wrong.
        detail: String,
    },
    /// The body is JSON, but not of the type expected.
    #[error("the body cannot be read as `{expected}`: {detail}, {} (line {line}, column {column})", Place(.path))]
    Data {
        /// The type it was to be read as.
        expected: String,
        /// Where in the JSON, as `items[2].price`; empty for the JSON as a whole.
        path: String,
        /// The line, from 1.
        line: usize,
        /// The byte in the line, from 1.
        column: usize,
        /// What is wrong.
        detail: String,
    },
}

impl JsonRejection {
    pub(super) fn new<T>(body: &str, error: &serde_json::Error) -> Self {
        let (line, column) = (error.line(), error.column());
        if body.trim().is_empty() {
            return Self::Empty {
                expected: short_name::<T>(),
            };
        }
        let text = error.to_string();
        let detail = text
            .strip_suffix(&format!(" at line {line} column {column}"))
            .unwrap_or(&text);
        match error.classify() {
            Category::Data => Self::Data {
                expected: short_name::<T>(),
                path: path_at(body, line, column),
                line,
                column,
                detail: without_value(detail),
            },
            Category::Syntax | Category::Eof | Category::Io => Self::Syntax {
                line,
                column,
                detail: detail.to_owned(),
            },
        }
    }
}

impl IntoFailure for JsonRejection {
    fn into_failure(self) -> Failure {
        Failure::reject(self).for_reason(Reason::Malformed)
    }
}

struct Place<'a>(&'a str);

impl fmt::Display for Place<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            f.write_str("at the top")
        } else {
            write!(f, "at `{}`", self.0)
        }
    }
}

/// The type's name without the paths of modules.
fn short_name<T>() -> String {
    let mut short = String::new();
    let mut word = 0;
    for character in type_name::<T>().chars() {
        short.push(character);
        if !(character.is_alphanumeric() || character == '_') {
            if short.ends_with("::") {
                short.truncate(word);
            }
            if character != ':' {
                word = short.len();
            }
        }
    }
    short
}

/// `invalid type: string "secret", expected u64` without the secret: payloads stay out of errors and logs.
fn without_value(detail: &str) -> String {
    // What it is not one of are the names of the type's own variants.
    if detail.starts_with("unknown variant ") {
        let expected = detail.rsplit_once("`, expected ").map(|(_, expected)| expected);
        return expected.map_or("unknown variant".to_owned(), |names| {
            format!("unknown variant, expected {names}")
        });
    }
    let cut = || {
        let (kind, rest) = detail
            .split_once(": ")
            .filter(|(kind, _)| kind.starts_with("invalid "))?;
        let (found, expected) = rest.rsplit_once(", expected ")?;
        let found = found.split(['`', '"']).next()?.trim_end();
        Some(format!("{kind}: {found}, expected {expected}"))
    };
    cut().unwrap_or_else(|| detail.to_owned())
}

#[cfg(test)]
#[allow(dead_code, reason = "the fields are there to be read into")]
mod tests {
    use std::collections::BTreeMap;

    use serde::Deserialize;

    use super::*;

    #[derive(Debug, Deserialize)]
    struct Order {
        amount: u64,
        #[serde(default)]
        items: Vec<Item>,
    }

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Item {
        price: u64,
        kind: Option<Kind>,
    }

    #[derive(Debug, Deserialize)]
    enum Kind {
        Book,
    }

    fn reject<T: DeserializeOwned + fmt::Debug>(body: &str) -> JsonRejection {
        JsonRejection::new::<T>(body, &serde_json::from_str::<T>(body).unwrap_err())
    }

    fn path(body: &str) -> String {
        match reject::<Order>(body) {
            JsonRejection::Data { path, .. } => path,
            other => panic!("{other}"),
        }
    }

    #[test]
    fn wrong_data_is_named_by_its_path() {
        assert_eq!(path(r#"{"amount":"12"}"#), "amount");
        assert_eq!(
            path("{\"amount\":1,\n \"items\":[{\"price\":1},\n{\"price\":[]}]}"),
            "items[1].price"
        );
        assert_eq!(path(r#"{"amount":1,"items":[{}]}"#), "items[0]");
        assert_eq!(
            path(r#"{"amount":1,"items":[{"price":1,"extra":2}]}"#),
            "items[0].extra"
        );
        assert_eq!(
            path(r#"{"amount":1,"items":[{"price":1,"kind":"Pen"}]}"#),
            "items[0].kind"
        );
        assert_eq!(path(r#"{"amount":1,"items":{}}"#), "items");
        assert_eq!(path(r#"{"amount":-1}"#), "amount");
        assert_eq!(path("{}"), "");
        assert_eq!(path("12"), "");
    }

    #[test]
    fn the_error_says_what_is_wrong_and_where_but_not_the_value() {
        assert_eq!(
            reject::<Order>(r#"{"amount":"4111-secret"}"#).to_string(),
            "the body cannot be read as `Order`: invalid type: string, expected u64, at `amount` (line 1, column 23)"
        );
        assert_eq!(
            reject::<Order>(r#"{"amount":-12345}"#).to_string(),
            "the body cannot be read as `Order`: invalid value: integer, expected u64, at `amount` (line 1, column 16)"
        );
        assert_eq!(
            reject::<Order>("{\"amount\":\n12,}").to_string(),
            "the body is not JSON: trailing comma at line 2, column 4"
        );
        assert_eq!(
            reject::<Order>(r#"{"amount":1,"items":[{"price":1,"kind":"4111-`secret`, expected x"}]}"#).to_string(),
            "the body cannot be read as `Order`: unknown variant, expected `Book`, at `items[0].kind` (line 1, column 66)"
        );
        assert!(reject::<Order>("{\"amount\":").to_string().contains("EOF"));
        assert!(reject::<Order>("{} {}").to_string().contains("top"));
    }

    #[test]
    fn an_empty_body_is_no_syntax_error() {
        assert!(matches!(reject::<Order>(""), JsonRejection::Empty { .. }));
        assert!(matches!(reject::<Order>(" \n"), JsonRejection::Empty { .. }));
    }

    #[test]
    fn types_are_named_without_their_modules() {
        assert_eq!(short_name::<Vec<Order>>(), "Vec<Order>");
        assert_eq!(
            short_name::<BTreeMap<String, Option<&str>>>(),
            "BTreeMap<String, Option<&str>>"
        );
        assert_eq!(short_name::<u64>(), "u64");
    }

    #[test]
    fn every_malformed_body_is_a_reject_for_that_reason() {
        for body in ["", "{", "[]", "\u{feff}{}", "nul"] {
            assert_eq!(
                reject::<Order>(body).into_failure().reason(),
                Some(&Reason::Malformed),
                "{body}"
            );
        }
    }
}
