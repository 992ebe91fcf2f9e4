//! Condition and update expressions.

use std::cmp::Ordering;
use std::rc::Rc;

use super::lexer::{Language, Reader, Token, tokens};
use super::value::{Item, Map, Names, Value};

/// How two values are compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Comparison {
    Equal,
    NotEqual,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
}

impl Comparison {
    /// Takes a comparison, if one is next.
    pub(crate) fn read(reader: &mut Reader<'_>) -> Option<Self> {
        let comparison = match reader.peek()? {
            Token::Symbol("=") => Self::Equal,
            Token::Symbol("<>") => Self::NotEqual,
            Token::Symbol("<") => Self::Less,
            Token::Symbol("<=") => Self::LessOrEqual,
            Token::Symbol(">") => Self::Greater,
            Token::Symbol(">=") => Self::GreaterOrEqual,
            _ => return None,
        };
        reader.next();
        Some(comparison)
    }

    pub(crate) fn holds(self, one: &Value, two: &Value) -> bool {
        let order = || one.order(two);
        match self {
            Self::Equal => one.equals(two),
            Self::NotEqual => !one.equals(two),
            Self::Less => order() == Some(Ordering::Less),
            Self::LessOrEqual => order().is_some_and(Ordering::is_le),
            Self::Greater => order() == Some(Ordering::Greater),
            Self::GreaterOrEqual => order().is_some_and(Ordering::is_ge),
        }
    }
}

/// What stands for a value.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Operand {
    /// An attribute: its name, or a placeholder of that.
    Attribute(String),
    Placeholder(String),
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Test {
    All(Vec<Test>),
    Any(Vec<Test>),
    Not(Box<Test>),
    Compare(Operand, Comparison, Operand),
    In(Operand, Vec<Operand>),
    Between(Operand, Operand, Operand),
    Exists(Operand),
    NotExists(Operand),
    BeginsWith(Operand, Operand),
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Assigned {
    Operand(Operand),
    IfNotExists(Operand, Operand),
}

/// What an expression means, with the placeholders it uses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Parsed<T> {
    meaning: T,
    names: Vec<String>,
    values: Vec<String>,
}

/// A condition expression.
pub(crate) type Condition = Parsed<ConditionMeaning>;

/// An update expression.
pub(crate) type Update = Parsed<UpdateMeaning>;

/// What a condition asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ConditionMeaning(Test);

/// What an update does.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct UpdateMeaning {
    sets: Vec<(String, Assigned)>,
    removes: Vec<String>,
}

/// What placeholders stand for.
#[derive(Clone, Copy)]
pub(crate) struct Bindings<'a> {
    pub(crate) names: &'a Names<'a>,
    pub(crate) values: &'a Map<'a>,
}

impl Bindings<'_> {
    /// The name that an attribute is written as.
    fn name<'a>(&'a self, written: &'a str) -> &'a str {
        if written.starts_with('#') {
            self.names.get(written).unwrap_or(written)
        } else {
            written
        }
    }

    fn value<'a>(&'a self, operand: &'a Operand, item: Option<&'a Item>) -> Option<&'a Value> {
        match operand {
            Operand::Attribute(written) => item?.get(self.name(written)),
            Operand::Placeholder(written) => self.values.get(written),
        }
    }

    /// # Errors
    /// When an expression uses what is not given, or something is given that none uses.
    pub(crate) fn check(&self, condition: Option<&Condition>, update: Option<&Update>) -> Result<(), String> {
        let uses = |pick: fn(&Parsed<ConditionMeaning>) -> &[String],
                    other: fn(&Parsed<UpdateMeaning>) -> &[String]| {
            let of_condition = condition.map(pick).unwrap_or_default();
            let of_update = update.map(other).unwrap_or_default();
            of_condition.iter().chain(of_update)
        };
        let names = || uses(|parsed| &parsed.names, |parsed| &parsed.names);
        let values = || uses(|parsed| &parsed.values, |parsed| &parsed.values);
        if let Some(missing) = names().find(|name| self.names.get(name).is_none()) {
            return Err(format!(
                "An expression attribute name used in the document path is not defined; attribute name: {missing}"
            ));
        }
        if let Some(missing) = values().find(|value| self.values.get(value).is_none()) {
            return Err(format!(
                "An expression attribute value used in expression is not defined; attribute value: {missing}"
            ));
        }
        if let Some((unused, _)) = self.names.0.iter().find(|(name, _)| !names().any(|used| used == name)) {
            return Err(format!(
                "Value provided in ExpressionAttributeNames unused in expressions: keys: {{{unused}}}"
            ));
        }
        if let Some((unused, _)) = self
            .values
            .0
            .iter()
            .find(|(value, _)| !values().any(|used| used == value))
        {
            return Err(format!(
                "Value provided in ExpressionAttributeValues unused in expressions: keys: {{{unused}}}"
            ));
        }
        Ok(())
    }
}

impl Condition {
    /// # Errors
    /// Names what the stand-in does not understand.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let tokens = tokens(text, Language::Expression)?;
        let mut parser = Parser::new(&tokens);
        let test = parser.any()?;
        parser.finish(ConditionMeaning(test))
    }

    /// Whether it holds of an item, or of there being none.
    pub(crate) fn holds(&self, item: Option<&Item>, bindings: Bindings<'_>) -> bool {
        self.meaning.0.holds(item, bindings)
    }
}

impl Test {
    fn holds(&self, item: Option<&Item>, bindings: Bindings<'_>) -> bool {
        let value = |operand| bindings.value(operand, item);
        match self {
            Self::All(tests) => tests.iter().all(|test| test.holds(item, bindings)),
            Self::Any(tests) => tests.iter().any(|test| test.holds(item, bindings)),
            Self::Not(test) => !test.holds(item, bindings),
            Self::Compare(one, comparison, two) => match (value(one), value(two)) {
                (Some(one), Some(two)) => comparison.holds(one, two),
                // What is not there differs from everything.
                _ => *comparison == Comparison::NotEqual,
            },
            Self::In(one, list) => {
                let Some(one) = value(one) else { return false };
                list.iter().filter_map(value).any(|two| one.equals(two))
            }
            Self::Between(one, low, high) => match (value(one), value(low), value(high)) {
                (Some(one), Some(low), Some(high)) => {
                    Comparison::GreaterOrEqual.holds(one, low) && Comparison::LessOrEqual.holds(one, high)
                }
                _ => false,
            },
            Self::Exists(operand) => value(operand).is_some(),
            Self::NotExists(operand) => value(operand).is_none(),
            Self::BeginsWith(one, prefix) => match (value(one), value(prefix)) {
                (Some(Value::S(text)), Some(Value::S(prefix))) => text.starts_with(&**prefix),
                (Some(Value::B(bytes)), Some(Value::B(prefix))) => bytes.starts_with(prefix),
                _ => false,
            },
        }
    }
}

impl Update {
    /// # Errors
    /// Names what the stand-in does not understand.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let tokens = tokens(text, Language::Expression)?;
        let mut parser = Parser::new(&tokens);
        let mut update = UpdateMeaning::default();
        while !parser.reader.is_at_end() {
            if parser.reader.keyword("SET") {
                loop {
                    let name = parser.attribute()?;
                    parser.reader.expect("=")?;
                    let assigned = parser.assigned()?;
                    update.sets.push((name, assigned));
                    if !parser.reader.symbol(",") {
                        break;
                    }
                }
            } else if parser.reader.keyword("REMOVE") {
                loop {
                    update.removes.push(parser.attribute()?);
                    if !parser.reader.symbol(",") {
                        break;
                    }
                }
            } else {
                return Err(parser.reader.unexpected("SET or REMOVE"));
            }
        }
        if update.sets.is_empty() && update.removes.is_empty() {
            return Err("an update that does nothing".to_owned());
        }
        parser.finish(update)
    }

    /// The names of the attributes it changes.
    pub(crate) fn changed<'a>(&'a self, bindings: &'a Bindings<'a>) -> impl Iterator<Item = &'a str> {
        let sets = self.meaning.sets.iter().map(|(name, _)| name);
        sets.chain(&self.meaning.removes).map(|written| bindings.name(written))
    }

    /// Changes an item; everything is computed from the item as it was.
    ///
    /// # Errors
    /// When it takes a value from an attribute that is not there.
    pub(crate) fn apply(
        &self,
        item: &mut Item,
        bindings: Bindings<'_>,
        mut intern: impl FnMut(&str) -> Rc<str>,
    ) -> Result<(), String> {
        let mut values = Vec::with_capacity(self.meaning.sets.len());
        for (written, assigned) in &self.meaning.sets {
            let value = match assigned {
                Assigned::Operand(operand) => bindings.value(operand, Some(item)),
                Assigned::IfNotExists(operand, other) => {
                    let there = bindings.value(operand, Some(item));
                    there.or_else(|| bindings.value(other, Some(item)))
                }
            };
            let missing = "The provided expression refers to an attribute that does not exist in the item";
            values.push((intern(bindings.name(written)), value.ok_or(missing)?.clone()));
        }
        for (name, value) in values {
            item.set(name, value);
        }
        for written in &self.meaning.removes {
            item.remove(bindings.name(written));
        }
        Ok(())
    }
}

struct Parser<'a> {
    reader: Reader<'a>,
    names: Vec<String>,
    values: Vec<String>,
}

impl<'a> Parser<'a> {
    fn new(tokens: &'a [Token]) -> Self {
        Self {
            reader: Reader::new(tokens),
            names: Vec::new(),
            values: Vec::new(),
        }
    }

    fn finish<T>(self, meaning: T) -> Result<Parsed<T>, String> {
        if self.reader.is_at_end() {
            Ok(Parsed {
                meaning,
                names: self.names,
                values: self.values,
            })
        } else {
            Err(self.reader.unexpected("the end"))
        }
    }

    fn any(&mut self) -> Result<Test, String> {
        let mut tests = vec![self.all()?];
        while self.reader.keyword("OR") {
            tests.push(self.all()?);
        }
        Ok(one_or(tests, Test::Any))
    }

    fn all(&mut self) -> Result<Test, String> {
        let mut tests = vec![self.one()?];
        while self.reader.keyword("AND") {
            tests.push(self.one()?);
        }
        Ok(one_or(tests, Test::All))
    }

    fn one(&mut self) -> Result<Test, String> {
        if self.reader.keyword("NOT") {
            return Ok(Test::Not(Box::new(self.one()?)));
        }
        if self.reader.symbol("(") {
            let test = self.any()?;
            self.reader.expect(")")?;
            return Ok(test);
        }
        for (function, make) in [
            ("attribute_exists", Test::Exists as fn(Operand) -> Test),
            ("attribute_not_exists", Test::NotExists),
        ] {
            if self.reader.keyword(function) {
                self.reader.expect("(")?;
                let attribute = self.attribute()?;
                self.reader.expect(")")?;
                return Ok(make(Operand::Attribute(attribute)));
            }
        }
        if self.reader.keyword("begins_with") {
            let (one, two) = self.pair()?;
            return Ok(Test::BeginsWith(one, two));
        }
        let one = self.operand()?;
        if let Some(comparison) = Comparison::read(&mut self.reader) {
            return Ok(Test::Compare(one, comparison, self.operand()?));
        }
        if self.reader.keyword("IN") {
            self.reader.expect("(")?;
            let mut list = vec![self.operand()?];
            while self.reader.symbol(",") {
                list.push(self.operand()?);
            }
            self.reader.expect(")")?;
            return Ok(Test::In(one, list));
        }
        if self.reader.keyword("BETWEEN") {
            let low = self.operand()?;
            if !self.reader.keyword("AND") {
                return Err(self.reader.unexpected("AND"));
            }
            return Ok(Test::Between(one, low, self.operand()?));
        }
        Err(self.reader.unexpected("a comparison, IN or BETWEEN"))
    }

    fn pair(&mut self) -> Result<(Operand, Operand), String> {
        self.reader.expect("(")?;
        let one = self.operand()?;
        self.reader.expect(",")?;
        let two = self.operand()?;
        self.reader.expect(")")?;
        Ok((one, two))
    }

    fn assigned(&mut self) -> Result<Assigned, String> {
        if self.reader.keyword("if_not_exists") {
            let (one, two) = self.pair()?;
            return Ok(Assigned::IfNotExists(one, two));
        }
        Ok(Assigned::Operand(self.operand()?))
    }

    fn attribute(&mut self) -> Result<String, String> {
        let name = match self.reader.peek() {
            Some(Token::Name(name)) => {
                self.names.push(name.clone());
                name.clone()
            }
            Some(Token::Word(word)) => word.clone(),
            _ => return Err(self.reader.unexpected("an attribute")),
        };
        self.reader.next();
        // A function that is not known, or a part of a document.
        if matches!(self.reader.peek(), Some(Token::Symbol("(" | "." | "["))) {
            return Err(self.reader.unexpected(&format!("a whole attribute, after {name}")));
        }
        Ok(name)
    }

    fn operand(&mut self) -> Result<Operand, String> {
        if let Some(Token::Placeholder(value)) = self.reader.peek() {
            self.reader.next();
            self.values.push(value.clone());
            return Ok(Operand::Placeholder(value.clone()));
        }
        self.attribute().map(Operand::Attribute)
    }
}

fn one_or(mut tests: Vec<Test>, make: fn(Vec<Test>) -> Test) -> Test {
    match tests.len() {
        1 => tests.remove(0),
        _ => make(tests),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(json: &str) -> Map<'_> {
        serde_json::from_str(json).unwrap()
    }

    fn item(json: &str) -> Item {
        let mut item = Item::default();
        for (name, value) in map(json).0 {
            item.set(name.as_ref().into(), value);
        }
        item
    }

    fn check(expression: &str, of: Option<&str>) -> bool {
        let names = serde_json::from_str(r##"{"#pk":"pk","#s":"status","#u":"lease_until","#none":"none"}"##).unwrap();
        let values = map(
            r#"{":done":{"S":"done"},":null":{"NULL":true},":false":{"BOOL":false},":5":{"N":"5"},":50":{"N":"5e1"},
                ":9":{"S":"9"},":d":{"S":"do"}}"#,
        );
        let bindings = Bindings {
            names: &names,
            values: &values,
        };
        Condition::parse(expression)
            .unwrap()
            .holds(of.map(item).as_ref(), bindings)
    }

    #[test]
    fn conditions_hold_as_dynamodb_reads_them() {
        let done = Some(r#"{"pk":{"S":"k"},"status":{"S":"done"},"lease_until":{"N":"50"},"flag":{"NULL":true}}"#);
        for (expression, of_item, of_none) in [
            ("attribute_not_exists(#pk)", false, true),
            ("attribute_exists(pk)", true, false),
            ("#s = :done", true, false),
            ("#s <> :done", false, true),
            (
                "#u = :50 AND #u > :5 AND NOT #u < :5 AND #u >= :50 AND #u <= :50",
                true,
                false,
            ),
            ("#u < :9", false, false),
            ("NOT #u < :9", true, true),
            ("#u BETWEEN :5 AND :50 AND begins_with(#s, :d)", true, false),
            ("(attribute_not_exists(flag) OR flag IN (:null, :false))", true, true),
            ("(attribute_not_exists(#s) OR #s IN (:null, :false))", false, true),
            ("#none = :null", false, false),
            (
                "attribute_not_exists(#pk) OR #s = :d OR (#u = :50 AND attribute_exists(#s) AND #s = :done)",
                true,
                true,
            ),
            ("#s = :d AND #s = :done OR #u = :50", true, false),
            ("#s = :d AND (#s = :done OR #u = :50)", false, false),
        ] {
            assert_eq!(
                (check(expression, done), check(expression, None)),
                (of_item, of_none),
                "{expression}"
            );
        }
    }

    #[test]
    fn what_is_not_understood_is_named() {
        for (expression, named) in [
            ("contains(#s, :d)", "contains"),
            ("size(#s) > :5", "size"),
            ("#s.#u = :5", "whole attribute"),
            ("#s = :5 extra", "extra"),
            ("#s", "a comparison"),
            ("", "an attribute"),
            ("(#s = :5", "`)`"),
        ] {
            let error = Condition::parse(expression).unwrap_err();
            assert!(error.contains(named), "{expression}: {error}");
        }
        for (expression, named) in [
            ("ADD #n :5", "ADD"),
            ("SET #n = #n + :5", "+"),
            ("SET #n = list_append(#n, :5)", "list_append"),
            ("SET", "an attribute"),
            ("", "nothing"),
        ] {
            let error = Update::parse(expression).unwrap_err();
            assert!(error.contains(named), "{expression}: {error}");
        }
    }

    #[test]
    fn updates_set_and_remove_by_the_item_as_it_was() {
        let update =
            Update::parse("SET a = :x, #b = a, c = if_not_exists(c, :x), d = if_not_exists(d, :x) REMOVE e, f");
        let update = update.unwrap();
        let names = serde_json::from_str(r##"{"#b":"b"}"##).unwrap();
        let values = map(r#"{":x":{"S":"x"}}"#);
        let bindings = Bindings {
            names: &names,
            values: &values,
        };
        assert!(bindings.check(None, Some(&update)).is_ok());
        let mut changed = item(r#"{"a":{"S":"old"},"c":{"N":"1"},"e":{"NULL":true}}"#);
        update.apply(&mut changed, bindings, |name| name.into()).unwrap();
        let wanted = item(r#"{"a":{"S":"x"},"c":{"N":"1"},"b":{"S":"old"},"d":{"S":"x"}}"#);
        assert_eq!(changed, wanted);
        assert_eq!(
            update.changed(&bindings).collect::<Vec<_>>(),
            ["a", "b", "c", "d", "e", "f"]
        );
        let missing = Update::parse("SET a = nowhere").unwrap();
        assert!(missing.apply(&mut changed, bindings, |name| name.into()).is_err());
    }

    #[test]
    fn placeholders_must_be_given_and_used() {
        let condition = Condition::parse("#a = :a").unwrap();
        let check = |names: &str, values: &str| {
            let (names, values): (Names<'_>, Map<'_>) = (
                serde_json::from_str(names).unwrap(),
                serde_json::from_str(values).unwrap(),
            );
            Bindings {
                names: &names,
                values: &values,
            }
            .check(Some(&condition), None)
            .err()
            .unwrap_or_default()
        };
        assert_eq!(check(r##"{"#a":"a"}"##, r#"{":a":{"S":""}}"#), "");
        assert!(check("{}", r#"{":a":{"S":""}}"#).ends_with("attribute name: #a"));
        assert!(check(r##"{"#a":"a"}"##, "{}").ends_with("attribute value: :a"));
        assert!(check(r##"{"#a":"a","#b":"b"}"##, r#"{":a":{"S":""}}"#).ends_with("keys: {#b}"));
        assert!(check(r##"{"#a":"a"}"##, r#"{":a":{"S":""},":b":{"S":""}}"#).ends_with("keys: {:b}"));
    }
}
