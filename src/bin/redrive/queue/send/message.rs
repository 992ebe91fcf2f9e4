//! Messages as people write them: `--attr` flags, and lines of JSON.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use redrive::message::{Attribute, AttributeValue, KEY_ATTRIBUTE, Outgoing, TYPE_ATTRIBUTE};
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::failure::Failure;
use crate::record::{ReadAttribute, decoded, said};

/// An attribute as the flag gives it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Given {
    Here(Attribute),
    /// Its bytes are in a file.
    InFile {
        data_type: String,
        path: PathBuf,
    },
}

impl Given {
    pub(super) fn attribute(&self) -> Result<Attribute, Failure> {
        match self {
            Self::Here(attribute) => Ok(attribute.clone()),
            Self::InFile { data_type, path } => {
                let unreadable = |error| {
                    Failure::new(format_args!(
                        "the attribute's file `{}` cannot be read: {error}",
                        path.display()
                    ))
                };
                Ok(Attribute {
                    data_type: data_type.clone(),
                    value: AttributeValue::Binary(std::fs::read(path).map_err(unreadable)?.into()),
                })
            }
        }
    }
}

/// Reads `name=value`, `name:Number=5`, `name:Binary=@file` or `name:Binary=BASE64`. SQS allows no colon in a name.
pub(super) fn named_attribute(text: &str) -> Result<(String, Given), String> {
    let Some((name, value)) = text.split_once('=') else {
        return Err("give name=value, or name:TYPE=value".to_owned());
    };
    let (name, data_type) = name.split_once(':').unwrap_or((name, "String"));
    let data_type = data_type.to_owned();
    let value = match (data_type.split('.').next(), value.strip_prefix('@')) {
        (Some("Binary"), Some(path)) => {
            let path = PathBuf::from(path);
            return Ok((name.to_owned(), Given::InFile { data_type, path }));
        }
        (Some("Binary"), None) => {
            let bytes = decoded(name, value).map_err(|error| format!("{error}; for a file give @ and its path"))?;
            AttributeValue::Binary(bytes.into())
        }
        (Some("String" | "Number"), _) => AttributeValue::Text(value.to_owned()),
        _ => {
            return Err(format!(
                "`{data_type}` is no type of SQS; it has String, Number and Binary, each with a label if you like: Number.int"
            ));
        }
    };
    Ok((name.to_owned(), Given::Here(Attribute { data_type, value })))
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Line<'a> {
    #[serde(borrow)]
    body: &'a RawValue,
    #[serde(default)]
    attributes: BTreeMap<String, LineAttribute>,
    key: Option<String>,
    r#type: Option<String>,
    group: Option<String>,
    deduplication_id: Option<String>,
    delay_s: Option<u64>,
}

#[derive(Debug, Deserialize)]
#[serde(
    untagged,
    expecting = "an attribute is a text, a number, or an object with `data_type` and `value` or `value_base64`"
)]
enum LineAttribute {
    Text(String),
    Number(serde_json::Number),
    Typed(ReadAttribute),
}

/// The message of a line.
pub(super) fn of_line(text: &str) -> Result<Outgoing, String> {
    // Of an array serde would take the fields by their order.
    if !text.trim_start().starts_with('{') {
        return Err("no JSON object; give lines such as {\"body\":\"hello\"}".to_owned());
    }
    let line: Line<'_> = serde_json::from_str(text).map_err(|error| said(&error))?;
    let body = line.body.get();
    let mut outgoing = Outgoing::new(match serde_json::from_str::<String>(body) {
        Ok(text) => text,
        Err(_) => body.to_owned(),
    });
    for (name, attribute) in line.attributes {
        let attribute = match attribute {
            LineAttribute::Text(text) => Attribute::string(text),
            LineAttribute::Number(number) => Attribute::number(number),
            LineAttribute::Typed(typed) => typed.attribute(&name)?,
        };
        outgoing.attributes.insert(name, attribute);
    }
    for (name, value) in [(KEY_ATTRIBUTE, line.key), (TYPE_ATTRIBUTE, line.r#type)] {
        if let Some(value) = value
            && outgoing
                .attributes
                .insert(name.to_owned(), Attribute::string(value))
                .is_some()
        {
            return Err(format!("attribute `{name}` is given twice"));
        }
    }
    outgoing.group_id = line.group;
    outgoing.deduplication_id = line.deduplication_id;
    outgoing.delay = line.delay_s.map(Duration::from_secs);
    Ok(outgoing)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn an_attribute_is_a_name_a_type_and_a_value() {
        let text = |data_type: &str, value: &str| Attribute {
            data_type: data_type.into(),
            value: AttributeValue::Text(value.into()),
        };
        for (given, name, attribute) in [
            ("tenant=acme", "tenant", Attribute::string("acme")),
            ("q=a=b:c", "q", Attribute::string("a=b:c")),
            ("n:Number=5", "n", Attribute::number(5)),
            ("n:Number.int=5", "n", text("Number.int", "5")),
            ("b:Binary=AP8=", "b", Attribute::binary(vec![0, 255])),
        ] {
            assert_eq!(
                named_attribute(given).unwrap(),
                (name.to_owned(), Given::Here(attribute))
            );
        }
        for (given, says) in [
            ("x", "name=value"),
            ("x:Text=1", "`Text` is no type"),
            ("x:Binary=%", "not base64"),
        ] {
            let error = named_attribute(given).unwrap_err();
            assert!(error.contains(says), "{given}: {error}");
        }
        let (_, in_file) = named_attribute("x:Binary=@/nowhere").unwrap();
        assert!(
            in_file
                .attribute()
                .unwrap_err()
                .to_string()
                .contains("`/nowhere` cannot be read")
        );
    }

    #[test]
    fn a_body_is_a_text_or_json_as_it_stands() {
        for (line, body) in [
            (r#"{"body":"a \"text\"\n"}"#, "a \"text\"\n"),
            (
                r#"{"body":{"z":1.10,"a":12345678901234567890123}}"#,
                r#"{"z":1.10,"a":12345678901234567890123}"#,
            ),
            (r#"{"body":[1, 2]}"#, "[1, 2]"),
            (r#"{"body":7}"#, "7"),
            (r#"{"body":null}"#, "null"),
        ] {
            assert_eq!(of_line(line).unwrap().body, body);
        }
    }

    #[test]
    fn a_line_has_all_that_a_message_has() {
        let line = r#"{"body":"x","attributes":{"a":"t","n":1.50,"b":{"data_type":"Binary.png","value_base64":"AP8="}},"key":"k","type":"t","group":"g","deduplication_id":"d","delay_s":5}"#;
        let outgoing = of_line(line).unwrap();
        assert_eq!(outgoing.attributes["a"], Attribute::string("t"));
        assert_eq!(outgoing.attributes["n"], Attribute::number("1.5"));
        assert_eq!(outgoing.attributes["b"].data_type, "Binary.png");
        assert_eq!(outgoing.attributes[KEY_ATTRIBUTE], Attribute::string("k"));
        assert_eq!(outgoing.attributes[TYPE_ATTRIBUTE], Attribute::string("t"));
        assert_eq!(
            (outgoing.group_id.as_deref(), outgoing.deduplication_id.as_deref()),
            (Some("g"), Some("d"))
        );
        assert_eq!(outgoing.delay, Some(Duration::from_secs(5)));
    }

    #[test]
    fn inv12_a_line_that_is_no_message_says_why() {
        for (line, says) in [
            ("hello", "no JSON object"),
            ("[\"x\"]", "no JSON object"),
            ("{}", "missing field `body`"),
            (r#"{"body":"x","dedup_id":"d"}"#, "unknown field `dedup_id`"),
            (r#"{"body":"x"} x"#, "column 14: trailing characters"),
            (
                r#"{"body":"x","attributes":{"a":true}}"#,
                "an attribute is a text, a number, or an object",
            ),
            (
                r#"{"body":"x","key":"k","attributes":{"Idempotency-Key":"j"}}"#,
                "given twice",
            ),
            (r#"{"body":"x","delay_s":-1}"#, "invalid value: integer `-1`"),
        ] {
            let error = of_line(line).unwrap_err();
            assert!(error.contains(says), "{line}: {error}");
        }
    }
}
