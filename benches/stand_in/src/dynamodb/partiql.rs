//! Statements of PartiQL: the `INSERT`, `UPDATE` and `DELETE` of one item.

use super::expression::Comparison;
use super::lexer::{Language, Reader, Token, tokens};
use super::value::Value;

/// What stands for a value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Term {
    /// The question mark of this position, from 0.
    Parameter(usize),
    Literal(Value),
}

impl Term {
    /// Its value. There is one where the number of parameters was checked.
    pub(crate) fn value<'a>(&'a self, parameters: &'a [Value]) -> Option<&'a Value> {
        match self {
            Self::Parameter(at) => parameters.get(*at),
            Self::Literal(value) => Some(value),
        }
    }
}

/// A condition of a statement, one of those that all must hold.
pub(crate) type Clause = (String, Comparison, Term);

/// A statement.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Statement {
    pub(crate) table: String,
    pub(crate) kind: Kind,
    /// How many question marks it has.
    pub(crate) parameters: usize,
}

/// What a statement does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Insert(Vec<(String, Term)>),
    Update {
        sets: Vec<(String, Term)>,
        removes: Vec<String>,
        conditions: Vec<Clause>,
    },
    Delete(Vec<Clause>),
}

impl Statement {
    /// # Errors
    /// Names what the stand-in does not understand.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let tokens = tokens(text, Language::PartiQl)?;
        let mut parser = Parser {
            reader: Reader::new(&tokens),
            parameters: 0,
        };
        let (table, kind) = parser.statement()?;
        if !parser.reader.is_at_end() {
            return Err(parser.reader.unexpected("the end"));
        }
        Ok(Self {
            table,
            kind,
            parameters: parser.parameters,
        })
    }
}

struct Parser<'a> {
    reader: Reader<'a>,
    parameters: usize,
}

impl Parser<'_> {
    fn statement(&mut self) -> Result<(String, Kind), String> {
        if self.reader.keyword("INSERT") {
            self.keyword("INTO")?;
            let table = self.name()?;
            self.keyword("VALUE")?;
            return Ok((table, Kind::Insert(self.fields()?)));
        }
        if self.reader.keyword("UPDATE") {
            let table = self.name()?;
            let (mut sets, mut removes) = (Vec::new(), Vec::new());
            loop {
                if self.reader.keyword("SET") {
                    loop {
                        let name = self.name()?;
                        self.reader.expect("=")?;
                        sets.push((name, self.term()?));
                        if !self.reader.symbol(",") {
                            break;
                        }
                    }
                } else if self.reader.keyword("REMOVE") {
                    removes.push(self.name()?);
                } else {
                    break;
                }
            }
            if sets.is_empty() && removes.is_empty() {
                return Err(self.reader.unexpected("SET or REMOVE"));
            }
            let conditions = self.conditions()?;
            return Ok((
                table,
                Kind::Update {
                    sets,
                    removes,
                    conditions,
                },
            ));
        }
        if self.reader.keyword("DELETE") {
            self.keyword("FROM")?;
            let table = self.name()?;
            return Ok((table, Kind::Delete(self.conditions()?)));
        }
        Err(self.reader.unexpected("INSERT, UPDATE or DELETE"))
    }

    fn fields(&mut self) -> Result<Vec<(String, Term)>, String> {
        self.reader.expect("{")?;
        let mut fields = Vec::new();
        loop {
            let Some(Token::Text(name)) = self.reader.peek() else {
                return Err(self.reader.unexpected("a name in single quotes"));
            };
            self.reader.next();
            self.reader.expect(":")?;
            fields.push((name.clone(), self.term()?));
            if !self.reader.symbol(",") {
                break;
            }
        }
        self.reader.expect("}")?;
        Ok(fields)
    }

    fn conditions(&mut self) -> Result<Vec<Clause>, String> {
        self.keyword("WHERE")?;
        let mut conditions = Vec::new();
        loop {
            let name = self.name()?;
            let Some(comparison) = Comparison::read(&mut self.reader) else {
                return Err(self.reader.unexpected("a comparison"));
            };
            conditions.push((name, comparison, self.term()?));
            if !self.reader.keyword("AND") {
                return Ok(conditions);
            }
        }
    }

    fn name(&mut self) -> Result<String, String> {
        match self.reader.peek() {
            Some(Token::Quoted(name) | Token::Word(name)) => {
                self.reader.next();
                Ok(name.clone())
            }
            _ => Err(self.reader.unexpected("a name")),
        }
    }

    fn term(&mut self) -> Result<Term, String> {
        if self.reader.symbol("?") {
            self.parameters += 1;
            return Ok(Term::Parameter(self.parameters - 1));
        }
        for (keyword, value) in [
            ("true", Value::Bool(true)),
            ("false", Value::Bool(false)),
            ("null", Value::Null),
        ] {
            if self.reader.keyword(keyword) {
                return Ok(Term::Literal(value));
            }
        }
        let sign = if self.reader.symbol("-") { "-" } else { "" };
        let value = match self.reader.peek() {
            Some(Token::Text(text)) if sign.is_empty() => Value::text(text),
            Some(Token::Number(number)) => Value::N(format!("{sign}{number}").into()),
            _ => return Err(self.reader.unexpected("?, text or a number")),
        };
        self.reader.next();
        Ok(Term::Literal(value))
    }

    fn keyword(&mut self, keyword: &str) -> Result<(), String> {
        if self.reader.keyword(keyword) {
            Ok(())
        } else {
            Err(self.reader.unexpected(keyword))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statements_are_read_with_their_parameters_in_order() {
        let insert = Statement::parse(r#"INSERT INTO "my.inbox" VALUE {'pk':?,'n':-1.5,'x': ?}"#).unwrap();
        assert_eq!((insert.table.as_str(), insert.parameters), ("my.inbox", 2));
        let fields = vec![
            ("pk".to_owned(), Term::Parameter(0)),
            ("n".to_owned(), Term::Literal(Value::N("-1.5".into()))),
            ("x".to_owned(), Term::Parameter(1)),
        ];
        assert_eq!(insert.kind, Kind::Insert(fields));

        let update = r#"UPDATE "t" SET "a"=? SET b = 'x', c=null REMOVE "d" WHERE "pk"=? AND "a"<=? and "e"<>true"#;
        let update = Statement::parse(update).unwrap();
        let text = |text: &str| Term::Literal(Value::text(text));
        let Kind::Update {
            sets,
            removes,
            conditions,
        } = update.kind
        else {
            panic!("{:?}", update.kind)
        };
        assert_eq!(update.parameters, 3);
        let null = Term::Literal(Value::Null);
        assert_eq!(
            sets,
            [
                ("a".into(), Term::Parameter(0)),
                ("b".into(), text("x")),
                ("c".into(), null)
            ]
        );
        assert_eq!(removes, ["d"]);
        let yes = Term::Literal(Value::Bool(true));
        let wanted: [Clause; 3] = [
            ("pk".into(), Comparison::Equal, Term::Parameter(1)),
            ("a".into(), Comparison::LessOrEqual, Term::Parameter(2)),
            ("e".into(), Comparison::NotEqual, yes),
        ];
        assert_eq!(conditions, wanted);
        let delete = Statement::parse(r#"DELETE FROM "t" WHERE "pk"=?"#).unwrap();
        assert_eq!(
            delete.kind,
            Kind::Delete(vec![("pk".into(), Comparison::Equal, Term::Parameter(0))])
        );
    }

    #[test]
    fn what_is_not_understood_is_named() {
        for (statement, named) in [
            (r#"SELECT * FROM "t""#, "SELECT"),
            (r#"UPDATE "t" SET a=? WHERE pk=? OR b=?"#, "OR"),
            (r#"UPDATE "t" SET a=a+? WHERE pk=?"#, "\"a\""),
            (r#"UPDATE "t" WHERE pk=?"#, "SET or REMOVE"),
            (r#"UPDATE "t" SET a=?"#, "WHERE"),
            (r#"UPDATE "t" SET a=? WHERE attribute_exists(b)"#, "a comparison"),
            (r#"INSERT INTO "t" VALUE {"pk":?}"#, "single quotes"),
            (r#"DELETE FROM "t" WHERE pk=? RETURNING ALL OLD *"#, "RETURNING"),
        ] {
            let error = Statement::parse(statement).unwrap_err();
            assert!(error.contains(named), "{statement}: {error}");
        }
    }
}
