//! The part of DynamoDB.

pub(crate) mod expression;
pub(crate) mod lexer;
pub(crate) mod partiql;
pub(crate) mod protocol;
pub(crate) mod statements;
pub(crate) mod table;
pub(crate) mod value;

use std::collections::HashMap;
use std::rc::Rc;

use expression::{Condition, Update};
use partiql::Statement;
use table::Table;
use value::{Item, Value};

use crate::world::Failure;

/// How many parsed texts of a kind are kept.
const CACHED: usize = 1_000;

/// All tables, and the expressions that were parsed.
pub(crate) struct Database {
    tables: [Table; 2],
    conditions: Cache<Condition>,
    updates: Cache<Update>,
    statements: Cache<Statement>,
}

impl Database {
    /// The two tables, the inbox's with so many records of messages that were handled before.
    pub(crate) fn new(inbox_items: u64) -> Self {
        let mut inbox = Table::new("bench-inbox", "pk", "expires_at");
        for number in 0..inbox_items {
            let key = format!("bench#before-{number:012x}");
            let record = earlier(&mut inbox, &key, number);
            // No record of these is too large.
            let _ = inbox.write(&key, true, Some(record));
        }
        Self {
            tables: [inbox, Table::new("powertools", "id", "expiration")],
            conditions: Cache::new(Condition::parse),
            updates: Cache::new(Update::parse),
            statements: Cache::new(Statement::parse),
        }
    }

    fn names(&self) -> impl Iterator<Item = &'static str> {
        self.tables.iter().map(|table| table.name)
    }

    fn table(&mut self, name: &str) -> Result<&mut Table, Failure> {
        self.tables
            .iter_mut()
            .find(|table| table.name == name)
            .ok_or_else(|| Failure::new("ResourceNotFoundException", format!("There is no table {name}.")))
    }
}

/// A record of the inbox as a handled message leaves it.
fn earlier(table: &mut Table, key: &str, number: u64) -> Item {
    let mut item = Item::with_room(12);
    let values = [
        ("pk", Value::text(key)),
        ("status", Value::text("completed")),
        ("claim_id", Value::text(&format!("before-{number:016x}"))),
        (
            "message_id",
            Value::text(&format!("00000000-0000-4000-8001-{number:012x}")),
        ),
        ("started", Value::Null),
        ("checkpoint", Value::Null),
        ("result", Value::Null),
    ];
    for (name, value) in values {
        item.set(table.intern(name), value);
    }
    for (name, number) in [
        ("fencing_token", "1700000000000"),
        ("lease_until", "1700000030000"),
        ("checkpoint_serial", "0"),
        ("first_seen", "1700000000000"),
        ("expires_at", "253402300799"),
    ] {
        item.set(table.intern(name), Value::N(number.into()));
    }
    item
}

/// Texts with what they were parsed to.
struct Cache<T> {
    parse: fn(&str) -> Result<T, String>,
    known: HashMap<String, Rc<T>>,
}

impl<T> Cache<T> {
    fn new(parse: fn(&str) -> Result<T, String>) -> Self {
        Self {
            parse,
            known: HashMap::new(),
        }
    }

    fn get(&mut self, text: &str) -> Result<Rc<T>, Failure> {
        if let Some(known) = self.known.get(text) {
            return Ok(Rc::clone(known));
        }
        let parsed = (self.parse)(text)
            .map_err(|error| invalid(format!("The stand-in does not understand `{text}`: {error}")))?;
        if self.known.len() >= CACHED {
            self.known.clear();
        }
        let parsed = Rc::new(parsed);
        self.known.insert(text.to_owned(), Rc::clone(&parsed));
        Ok(parsed)
    }
}

fn invalid(message: impl Into<String>) -> Failure {
    Failure::new("ValidationException", message)
}
