//! JSON laid out to be read, with nothing changed in it but space: the order of names and the digits of numbers stay.

use serde::de::IgnoredAny;

/// Down to here values have lines of their own. Beyond, the space before them would be many times the text.
const DEEPEST: usize = 16;

/// `text` with one value a line; none where it is no JSON.
pub(crate) fn pretty(text: &str) -> Option<String> {
    serde_json::from_str::<IgnoredAny>(text).ok()?;
    let mut out = String::with_capacity(2 * text.len());
    let mut depth = 0_usize;
    let mut rest = text.trim_start();
    while let Some(c) = rest.chars().next() {
        let length = if c == '"' { string_length(rest) } else { c.len_utf8() };
        let (token, after) = rest.split_at_checked(length)?;
        rest = after.trim_start();
        match c {
            '{' | '[' if rest.starts_with(['}', ']']) => {
                out.push(c);
                out.extend(rest.chars().next());
                rest = rest.get(1..)?.trim_start();
            }
            '{' | '[' => {
                depth += 1;
                out.push(c);
                if depth <= DEEPEST {
                    new_line(&mut out, depth);
                }
            }
            '}' | ']' => {
                if depth <= DEEPEST {
                    new_line(&mut out, depth.saturating_sub(1));
                }
                depth = depth.saturating_sub(1);
                out.push(c);
            }
            ',' if depth > DEEPEST => out.push_str(", "),
            ',' => {
                out.push(c);
                new_line(&mut out, depth);
            }
            ':' => out.push_str(": "),
            _ => out.push_str(token),
        }
    }
    Some(out)
}

/// How many bytes the string has that `text` begins with, its quotes included.
fn string_length(text: &str) -> usize {
    let mut escaped = false;
    let closing = text.bytes().skip(1).position(|byte| {
        let closes = byte == b'"' && !escaped;
        escaped = byte == b'\\' && !escaped;
        closes
    });
    closing.map_or(text.len(), |at| at + 2)
}

fn new_line(out: &mut String, depth: usize) {
    out.push('\n');
    out.extend(std::iter::repeat_n("  ", depth));
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn it_is_laid_out_and_numbers_names_and_texts_stay_as_they_are() {
        let text = r#" {"z":1.50,"a":[],"id":12345678901234567890123,"a":{ },"t":"a, {b} \" \\","l":[1,{"x":null}]} "#;
        let shown = pretty(text).unwrap();
        assert_eq!(
            shown,
            r#"{
  "z": 1.50,
  "a": [],
  "id": 12345678901234567890123,
  "a": {},
  "t": "a, {b} \" \\",
  "l": [
    1,
    {
      "x": null
    }
  ]
}"#
        );
        for none in ["", "{", "plain text", "{} {}", &"[".repeat(10_000)] {
            assert_eq!(pretty(none), None);
        }
        assert_eq!(pretty(" 17 ").as_deref(), Some("17"));
    }

    #[test]
    fn deep_nesting_does_not_multiply_a_body() {
        let text = format!("{}{}1{}", "[".repeat(126), "1,".repeat(100_000), "]".repeat(126));
        let shown = pretty(&text).unwrap();
        assert!(shown.len() < 2 * text.len(), "{} of {}", shown.len(), text.len());
        let same: String = shown.split_whitespace().collect();
        assert_eq!(same, text);
        let level = |depth| format!("{}{}1{}", "[".repeat(depth), "1,".repeat(100_000), "]".repeat(depth));
        for depth in 0..=126 {
            let text = level(depth.max(1));
            assert!(pretty(&text).unwrap().len() < 20 * text.len(), "at depth {depth}");
        }
    }

    #[test]
    fn what_is_deeper_than_it_is_indented_stays_on_one_line() {
        let text = format!(r#"{}{{"a":1,"b":[],"c":{{"d":2}}}}{}"#, "[".repeat(16), "]".repeat(16));
        let shown = pretty(&text).unwrap();
        let deepest = shown.lines().nth(16).unwrap();
        assert_eq!(deepest.trim_start(), r#"{"a": 1, "b": [], "c": {"d": 2}}"#);
        assert_eq!(shown.lines().count(), 33);
    }

    fn json() -> impl Strategy<Value = serde_json::Value> {
        let leaf = prop_oneof![
            Just(serde_json::Value::Null),
            any::<bool>().prop_map(Into::into),
            any::<i64>().prop_map(Into::into),
            any::<String>().prop_map(Into::into),
        ];
        leaf.prop_recursive(4, 32, 4, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(serde_json::Value::from),
                prop::collection::btree_map(any::<String>(), inner, 0..4)
                    .prop_map(|map| serde_json::Value::Object(map.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn any_json_is_laid_out_as_serde_would(value in json()) {
            prop_assert_eq!(pretty(&value.to_string()).unwrap(), serde_json::to_string_pretty(&value).unwrap());
        }

        #[test]
        fn any_text_is_taken(text in any::<String>()) {
            let _ = pretty(&text);
        }
    }
}
