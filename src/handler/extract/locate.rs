//! Where in a JSON text an error is.

use crate::outcome::bounded;

/// The most bytes of a path that are told.
const MAX_PATH: usize = 200;

/// The path, as `items[2].price`, of the value that ends or begins at this line (from 1) and column (bytes, from 1); empty
/// for the whole. The text is valid JSON up to there. Only errors pay for it.
pub(super) fn path_at(text: &str, line: usize, column: usize) -> String {
    let start: usize = text
        .split_inclusive('\n')
        .take(line.saturating_sub(1))
        .map(str::len)
        .sum();
    let end = start.saturating_add(column).min(text.len());
    bounded(render(&frames(&text.as_bytes()[..end])), MAX_PATH)
}

enum Frame<'a> {
    /// In an object, at this key, if it has come.
    Object(Option<&'a [u8]>),
    /// In an array, at this element, if one has begun.
    Array(Option<usize>),
}

/// The objects and arrays that are open at the text's end.
fn frames(text: &[u8]) -> Vec<Frame<'_>> {
    let mut frames = Vec::new();
    let mut at = 0;
    while let Some(&byte) = text.get(at) {
        at += 1;
        match byte {
            b'}' | b']' => {
                frames.pop();
                continue;
            }
            b',' => {
                match frames.last_mut() {
                    Some(Frame::Object(key)) => *key = None,
                    Some(Frame::Array(Some(element))) => *element += 1,
                    Some(Frame::Array(None)) | None => {}
                }
                continue;
            }
            b' ' | b'\t' | b'\r' | b'\n' | b':' => continue,
            _ => {}
        }
        if let Some(Frame::Array(element @ None)) = frames.last_mut() {
            *element = Some(0);
        }
        match byte {
            b'{' => frames.push(Frame::Object(None)),
            b'[' => frames.push(Frame::Array(None)),
            b'"' => {
                let length = string_length(&text[at..]);
                if let Some(Frame::Object(key @ None)) = frames.last_mut() {
                    *key = Some(&text[at..at + length]);
                }
                at += length + 1;
            }
            _ => {}
        }
    }
    frames
}

/// How many bytes a string has to its closing quote, or to the end where it has none.
fn string_length(text: &[u8]) -> usize {
    let mut at = 0;
    while let Some(byte) = text.get(at) {
        match byte {
            b'"' => return at,
            b'\\' => at += 2,
            _ => at += 1,
        }
    }
    text.len()
}

fn render(frames: &[Frame<'_>]) -> String {
    let mut path = String::new();
    for frame in frames {
        match frame {
            Frame::Object(Some(key)) => {
                if !path.is_empty() {
                    path.push('.');
                }
                path.push_str(&String::from_utf8_lossy(key));
            }
            Frame::Array(Some(element)) => path.push_str(&format!("[{element}]")),
            Frame::Object(None) | Frame::Array(None) => {}
        }
    }
    path
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn strings_with_quotes_brackets_and_escapes_do_not_lead_astray() {
        let text = r#"{"a\"]":["}{",{"b":1"#;
        assert_eq!(path_at(text, 1, text.len()), r#"a\"][1].b"#);
        assert_eq!(path_at("[1,2,3", 1, 6), "[2]");
        assert_eq!(path_at("[", 1, 1), "");
        assert_eq!(path_at(r#"{"ä":{"ö"#, 1, 100), "ä.ö");
    }

    #[test]
    fn a_path_is_bounded() {
        let text = format!("{{\"{}\":", "k".repeat(5_000));
        assert!(path_at(&text, 1, text.len()).len() <= MAX_PATH);
    }

    proptest! {
        #[test]
        fn no_text_and_no_position_is_too_odd(text in "[\\[\\]{}\",:\\\\ \na0ä]{0,40}", line in 0_usize..5, column in 0_usize..60) {
            path_at(&text, line, column);
        }
    }
}
