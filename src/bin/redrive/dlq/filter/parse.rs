//! Reading a filter.

use std::fmt::Display;
use std::time::Duration;

use regex_lite::{Regex, RegexBuilder};

use super::compare::{Comparison, Literal, Number, Test};
use super::error::FilterError;
use super::field::{ATTRIBUTE_PREFIX, Field, Kind, NAMED};
use super::{MAX_DEPTH, MAX_LENGTH, Node};
use crate::ui::{brief, safe};

/// The most columns of a name that are told of it where it is wrong.
const MAX_NAME: usize = 60;

/// The most bytes a regular expression's program may take.
const MAX_REGEX: usize = 1 << 20;

/// The words of the language; as values they are quoted.
const WORDS: [&str; 5] = ["and", "or", "not", "in", "exists"];

/// Operators, longer ones first.
const OPERATORS: [(&str, Operator); 9] = [
    ("==", Operator::Compare(Comparison::Equal)),
    ("!=", Operator::Compare(Comparison::Unequal)),
    ("<=", Operator::Compare(Comparison::LessOrEqual)),
    (">=", Operator::Compare(Comparison::GreaterOrEqual)),
    ("!~", Operator::Match { negated: true }),
    ("=", Operator::Compare(Comparison::Equal)),
    ("<", Operator::Compare(Comparison::Less)),
    (">", Operator::Compare(Comparison::Greater)),
    ("~", Operator::Match { negated: false }),
];

/// What others write, and what it is here.
const ELSEWHERE: [(&str, &str); 7] = [
    ("&&", "and"),
    ("&", "and"),
    ("||", "or"),
    ("|", "or"),
    ("=~", "~"),
    ("<>", "!="),
    ("!", "not"),
];

#[derive(Clone, Copy)]
enum Operator {
    Compare(Comparison),
    Match { negated: bool },
}

/// A value as it was written, and where.
struct Written {
    at: usize,
    text: String,
    quoted: bool,
}

pub(super) fn parse(text: &str) -> Result<Node, FilterError> {
    let mut parser = Parser { text, at: 0, depth: 0 };
    if text.len() > MAX_LENGTH {
        return Err(parser.error_at(
            MAX_LENGTH,
            format_args!(
                "a filter is at most {MAX_LENGTH} bytes long, and this has {}",
                text.len()
            ),
        ));
    }
    let node = parser.either()?;
    parser.skip_space();
    if parser.rest().is_empty() {
        return Ok(node);
    }
    if parser.rest().starts_with(')') {
        return Err(parser.error("no `(` belongs to this"));
    }
    Err(parser
        .error(parser.instead("expected `and`, `or` or the end; a value with spaces or ( ) , in it is \"quoted\"")))
}

struct Parser<'a> {
    text: &'a str,
    at: usize,
    depth: usize,
}

impl<'a> Parser<'a> {
    fn rest(&self) -> &'a str {
        self.text.get(self.at..).unwrap_or_default()
    }

    fn skip_space(&mut self) {
        let rest = self.rest();
        self.at += rest.len() - rest.trim_start().len();
    }

    fn error(&self, said: impl Display) -> FilterError {
        self.error_at(self.at, said)
    }

    fn error_at(&self, at: usize, said: impl Display) -> FilterError {
        FilterError::new(self.text, at, said)
    }

    /// What to write instead of what stands here, if it is what others write; else what was `expected`.
    fn instead(&self, expected: &str) -> String {
        let known = ELSEWHERE.iter().find(|(theirs, _)| self.rest().starts_with(theirs));
        match known {
            Some((theirs, ours)) => format!("write `{ours}` instead of `{theirs}`"),
            None => expected.to_owned(),
        }
    }

    /// Takes `symbol`, if it is next.
    fn take(&mut self, symbol: &str) -> bool {
        self.skip_space();
        let next = self.rest().starts_with(symbol);
        if next {
            self.at += symbol.len();
        }
        next
    }

    /// Takes a word of the language, in upper or lower case, if it is next.
    fn take_word(&mut self, word: &str) -> bool {
        self.skip_space();
        let next = self.bare(ends_field);
        let found = next.eq_ignore_ascii_case(word);
        if found {
            self.at += next.len();
        }
        found
    }

    /// The run of characters up to the first that ends it.
    fn bare(&self, ends: fn(char) -> bool) -> &'a str {
        let rest = self.rest();
        rest.get(..rest.find(ends).unwrap_or(rest.len())).unwrap_or_default()
    }

    fn either(&mut self) -> Result<Node, FilterError> {
        let mut parts = vec![self.both()?];
        while self.take_word("or") {
            parts.push(self.both()?);
        }
        Ok(one_or(parts, Node::Or))
    }

    fn both(&mut self) -> Result<Node, FilterError> {
        let mut parts = vec![self.negated()?];
        while self.take_word("and") {
            parts.push(self.negated()?);
        }
        Ok(one_or(parts, Node::And))
    }

    fn negated(&mut self) -> Result<Node, FilterError> {
        self.skip_space();
        let at = self.at;
        let negated = self.take_word("not");
        if !negated && !self.take("(") {
            return self.test();
        }
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return Err(self.error_at(at, format_args!("`(` and `not` nest at most {MAX_DEPTH} deep")));
        }
        let node = if negated {
            Node::Not(Box::new(self.negated()?))
        } else {
            let node = self.either()?;
            if !self.take(")") {
                let hint = self.instead(&format!(
                    "expected `and`, `or` or the `)` for the `(` in column {}",
                    self.text.get(..at).unwrap_or_default().chars().count() + 1
                ));
                return Err(self.error(hint));
            }
            node
        };
        self.depth -= 1;
        Ok(node)
    }

    fn test(&mut self) -> Result<Node, FilterError> {
        let (field, name) = self.field()?;
        let negated = self.take_word("not");
        let at = self.at;
        let test = if self.take_word("exists") {
            Test::Exists
        } else if self.take_word("in") {
            self.allow(&field, &name, at, "in")?;
            Test::In(self.list(&field, &name)?)
        } else if negated {
            self.skip_space();
            return Err(self.error("expected `in` or `exists` after `not`"));
        } else {
            self.operation(&field, &name)?
        };
        let test = Node::Test(field, test);
        Ok(if negated { Node::Not(Box::new(test)) } else { test })
    }

    fn operation(&mut self, field: &Field, name: &str) -> Result<Test, FilterError> {
        self.skip_space();
        let at = self.at;
        let alien = ["=~", "<>"].iter().any(|theirs| self.rest().starts_with(theirs));
        let found = OPERATORS.iter().find(|(symbol, _)| self.rest().starts_with(symbol));
        let Some((symbol, operator)) = found.filter(|_| !alien) else {
            let expected = format!("expected an operator after {name}: = != < <= > >= ~ !~ in exists");
            return Err(self.error(self.instead(&expected)));
        };
        self.at += symbol.len();
        self.allow(field, name, at, symbol)?;
        let written = self.value(symbol)?;
        Ok(match *operator {
            Operator::Compare(comparison) => Test::Compare(comparison, self.literal(field, name, written)?),
            Operator::Match { negated } => Test::Match {
                regex: self.regex(&written)?,
                negated,
            },
        })
    }

    /// Refuses operators that make no sense of a field.
    fn allow(&self, field: &Field, name: &str, at: usize, operator: &str) -> Result<(), FilterError> {
        let matching = matches!(operator, "~" | "!~");
        let said = match field.kind() {
            Kind::Count | Kind::Bytes if matching => format!("{name} is a number: use = != < <= > >= or in"),
            // To the millisecond nothing is as old as anything.
            Kind::Duration if matching || matches!(operator, "=" | "==" | "!=" | "in") => {
                format!("{name} is a duration: use < <= > >=")
            }
            _ => return Ok(()),
        };
        Err(self.error_at(at, said))
    }

    fn field(&mut self) -> Result<(Field, String), FilterError> {
        self.skip_space();
        let at = self.at;
        if self.rest().starts_with(['"', '\'']) {
            let name = self.quoted()?;
            if !name.starts_with('/') {
                return Err(self.error_at(
                    at,
                    "expected a field; in quotes that is a JSON pointer, such as \"/shipping address/city\"",
                ));
            }
            return self.pointer(at, name);
        }
        if self.rest().starts_with('/') {
            let name = self.bare_pointer().to_owned();
            self.at += name.len();
            return self.pointer(at, name);
        }
        let name = self.bare(ends_field);
        if name.is_empty() || WORDS.iter().any(|word| word.eq_ignore_ascii_case(name)) {
            let expected = "expected a field, such as reason, error, attr.NAME or /pointer";
            return Err(self.error(self.instead(expected)));
        }
        self.at += name.len();
        let Some(attribute) = name.strip_prefix(ATTRIBUTE_PREFIX) else {
            return match Field::named(name) {
                Some(field) => Ok((field, format!("`{name}`"))),
                None => Err(self.error_at(at, unknown(name))),
            };
        };
        let attribute = if attribute.is_empty() && self.rest().starts_with(['"', '\'']) {
            self.quoted()?
        } else {
            attribute.to_owned()
        };
        if attribute.is_empty() {
            return Err(self.error("expected the attribute's name, such as attr.tenant or attr.\"of two words\""));
        }
        let shown = format!("`{ATTRIBUTE_PREFIX}{}`", brief(&attribute, MAX_NAME));
        Ok((Field::Attribute(attribute), shown))
    }

    /// A pointer without quotes: `~0` and `~1` in it are the escapes of `~` and `/`, not the operator.
    fn bare_pointer(&self) -> &'a str {
        let rest = self.rest();
        let mut end = 0;
        loop {
            let from = rest.get(end..).unwrap_or_default();
            end += from.find(ends_field).unwrap_or(from.len());
            let here = rest.get(end..).unwrap_or_default();
            if !here.starts_with("~0") && !here.starts_with("~1") {
                return rest.get(..end).unwrap_or_default();
            }
            end += 2;
        }
    }

    fn pointer(&self, at: usize, pointer: String) -> Result<(Field, String), FilterError> {
        let escaped = |after: &str| after.starts_with(['0', '1']);
        if pointer.split('~').skip(1).any(|after| !escaped(after)) {
            let said = "in a JSON pointer `~` is written ~0, and a `/` within a name ~1";
            return Err(self.error_at(at, said));
        }
        let shown = format!("`{}`", brief(&pointer, MAX_NAME));
        Ok((Field::Pointer(pointer), shown))
    }

    fn list(&mut self, field: &Field, name: &str) -> Result<Vec<Literal>, FilterError> {
        if !self.take("(") {
            return Err(self.error("expected `(` and a list of values after `in`, such as (a, b)"));
        }
        let mut literals = Vec::new();
        loop {
            let after = if literals.is_empty() { "(" } else { "," };
            let written = self.value(after)?;
            literals.push(self.literal(field, name, written)?);
            if self.take(")") {
                return Ok(literals);
            }
            if !self.take(",") {
                return Err(self.error("expected `,` or the `)` of the list"));
            }
        }
    }

    fn value(&mut self, after: &str) -> Result<Written, FilterError> {
        self.skip_space();
        let at = self.at;
        if self.rest().starts_with(['"', '\'']) {
            let text = self.quoted()?;
            return Ok(Written { at, text, quoted: true });
        }
        let text = self.bare(ends_value).to_owned();
        if text.is_empty() && self.rest().starts_with('(') {
            return Err(self.error("expected a value; quote one that has ( ) in it: \"(like|this)\""));
        }
        if text.is_empty() {
            return Err(self.error(format_args!(
                "expected a value after `{after}`: a word, a number or \"quoted text\""
            )));
        }
        if WORDS.iter().any(|word| word.eq_ignore_ascii_case(&text)) {
            return Err(self.error(format_args!(
                "expected a value after `{after}`; if the word `{text}` is meant, quote it: \"{text}\""
            )));
        }
        self.at += text.len();
        Ok(Written {
            at,
            text,
            quoted: false,
        })
    }

    /// Text in quotes of either kind. A backslash takes a quote or a backslash as it is, and is itself before anything else,
    /// so that regular expressions keep theirs.
    fn quoted(&mut self) -> Result<String, FilterError> {
        let start = self.at;
        let mut text = String::new();
        let mut chars = self.rest().char_indices();
        let Some((_, quote)) = chars.next() else {
            return Err(self.error("expected quoted text"));
        };
        while let Some((at, c)) = chars.next() {
            match c {
                '\\' => match chars.next() {
                    Some((_, next)) if next == quote || next == '\\' => text.push(next),
                    Some((_, next)) => text.extend(['\\', next]),
                    None => break,
                },
                c if c == quote => {
                    self.at += at + c.len_utf8();
                    return Ok(text);
                }
                c => text.push(c),
            }
        }
        Err(self.error_at(start, format_args!("this quote is never closed: a {quote} is missing")))
    }

    fn literal(&self, field: &Field, name: &str, written: Written) -> Result<Literal, FilterError> {
        let Written { at, text, quoted } = written;
        let number = match field.kind() {
            Kind::Text | Kind::Any if quoted => None,
            Kind::Text | Kind::Any | Kind::Count => Number::parse(&text),
            Kind::Bytes => bytes(&text),
            Kind::Duration => duration(&text),
        };
        let expected = match field.kind() {
            Kind::Text | Kind::Any => None,
            Kind::Count => Some("a number"),
            Kind::Bytes => Some("a size, such as 500, 64KiB or 1MB"),
            Kind::Duration => Some("a duration, such as 90s, 15m, 2h or 3d"),
        };
        match expected {
            Some(expected) if number.is_none() => {
                Err(self.error_at(at, format_args!("expected {expected} to compare {name} with")))
            }
            _ => Ok(Literal { text, quoted, number }),
        }
    }

    fn regex(&self, written: &Written) -> Result<Regex, FilterError> {
        RegexBuilder::new(&written.text)
            .case_insensitive(true)
            .size_limit(MAX_REGEX)
            .build()
            .map_err(|error| {
                let error = error.to_string();
                self.error_at(written.at, format_args!("not a regular expression: {}", safe(&error)))
            })
    }
}

fn one_or(mut parts: Vec<Node>, many: fn(Vec<Node>) -> Node) -> Node {
    match parts.pop() {
        Some(only) if parts.is_empty() => only,
        last => {
            parts.extend(last);
            many(parts)
        }
    }
}

/// What ends a field's name or a word of the language.
fn ends_field(c: char) -> bool {
    ends_value(c) || matches!(c, '=' | '!' | '<' | '>' | '~' | '&' | '|')
}

/// What ends a value without quotes.
fn ends_value(c: char) -> bool {
    c.is_whitespace() || matches!(c, '(' | ')' | ',' | '"' | '\'')
}

/// Whole bytes, with a unit if there is one.
fn bytes(text: &str) -> Option<Number> {
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (digits, unit) = text.split_at(end);
    let size: i128 = match unit.trim().to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "kb" => 1_000,
        "k" | "kib" => 1_024,
        "mb" => 1_000_000,
        "m" | "mib" => 1_024 * 1_024,
        _ => return None,
    };
    digits
        .parse::<u64>()
        .ok()
        .map(|count| Number::Whole(i128::from(count) * size))
}

/// Milliseconds.
fn duration(text: &str) -> Option<Number> {
    let duration: Duration = humantime::parse_duration(text).ok()?;
    // A bare zero is the one number without a unit that is taken as a duration.
    i128::try_from(duration.as_millis()).ok().map(Number::Whole)
}

/// What is said of a field that is none.
fn unknown(name: &str) -> String {
    let lower = name.to_lowercase();
    let distance = |known: &str| strsim::damerau_levenshtein(&lower, known);
    let nearest = NAMED.iter().map(|(known, _)| (distance(known), *known)).min();
    let meant = match (nearest, lower.split_once('.')) {
        (_, Some(("body" | "json", path))) => format!("of the body's JSON that is /{}", path.replace('.', "/")),
        (_, Some((_, attribute))) if lower.starts_with("attr") || lower.starts_with("header") => {
            format!("a message attribute is {ATTRIBUTE_PREFIX}{attribute}")
        }
        (Some((distance, known)), _) if distance <= 1 + known.len() / 4 => format!("did you mean `{known}`?"),
        _ => {
            let names: Vec<&str> = NAMED.iter().map(|(known, _)| *known).collect();
            format!(
                "in the body's JSON it is /{name}, among the attributes attr.{name}; the fields are {}",
                names.join(", ")
            )
        }
    };
    format!(
        "there is no field `{}`; {}",
        brief(name, MAX_NAME),
        brief(&meant, 5 * MAX_NAME)
    )
}
