//! PartiQL statements, run.

use std::rc::Rc;

use super::expression::Comparison;
use super::partiql::{Clause, Kind, Statement, Term};
use super::table::Written;
use super::value::{Item, Value};
use super::{Database, invalid};
use crate::world::Failure;

/// A statement that was run: on which table, and what became of its write.
#[derive(Debug, PartialEq)]
pub(crate) struct Ran {
    pub(crate) table: &'static str,
    pub(crate) written: Written,
    /// Whether it was an `INSERT`, which fails as a duplicate.
    pub(crate) insert: bool,
}

/// Runs a statement.
///
/// # Errors
/// Of a statement that cannot be run at all; one whose condition fails was run.
pub(crate) fn run(database: &mut Database, text: &str, parameters: &[Value]) -> Result<Ran, Failure> {
    let statement: Rc<Statement> = database.statements.get(text)?;
    if statement.parameters != parameters.len() {
        let (wants, has) = (statement.parameters, parameters.len());
        return Err(invalid(format!(
            "Number of parameters in request and statement don't match: {has} for {wants}"
        )));
    }
    let table = database.table(&statement.table)?;
    let value = |term: &Term| {
        term.value(parameters)
            .cloned()
            .ok_or_else(|| invalid("a parameter is missing"))
    };
    let written = match &statement.kind {
        Kind::Insert(fields) => {
            let mut item = Item::with_room(fields.len());
            for (name, term) in fields {
                item.set(table.intern(name), value(term)?);
            }
            let key = table.key_of(item.get(table.key)).map_err(invalid)?.to_owned();
            let absent = table.get(&key).is_none();
            table.write(&key, absent, Some(item))
        }
        Kind::Update {
            sets,
            removes,
            conditions,
        } => {
            let (key, rest) = split(table.key, conditions, parameters)?;
            let key = table.key_of(Some(key)).map_err(invalid)?;
            let changed = sets.iter().map(|(name, _)| name).chain(removes);
            if let Some(name) = changed.into_iter().find(|name| *name == table.key) {
                return Err(invalid(format!(
                    "Cannot update attribute {name}. This attribute is part of the key"
                )));
            }
            let old = table.get(key);
            let holds = old.is_some_and(|old| all_hold(old, &rest, parameters));
            let mut new = old.cloned();
            if let Some(new) = &mut new {
                for (name, term) in sets {
                    new.set(table.intern(name), value(term)?);
                }
                for name in removes {
                    new.remove(name);
                }
            }
            table.write(key, holds, new)
        }
        Kind::Delete(conditions) => {
            let (key, rest) = split(table.key, conditions, parameters)?;
            let key = table.key_of(Some(key)).map_err(invalid)?;
            // To delete what is not there is done, unless something is asked of it.
            let holds = table
                .get(key)
                .map_or(rest.is_empty(), |old| all_hold(old, &rest, parameters));
            table.write(key, holds, None)
        }
    };
    Ok(Ran {
        table: table.name,
        written: written.map_err(invalid)?,
        insert: matches!(statement.kind, Kind::Insert(_)),
    })
}

/// The key that a statement is about, and its other conditions.
fn split<'a>(
    key: &str,
    conditions: &'a [Clause],
    parameters: &'a [Value],
) -> Result<(&'a Value, Vec<&'a Clause>), Failure> {
    let is_key = |(name, comparison, _): &&Clause| name == key && *comparison == Comparison::Equal;
    let of_key = conditions
        .iter()
        .find(is_key)
        .and_then(|(_, _, term)| term.value(parameters));
    let missing = || invalid("Where clause does not contain a mandatory equality on all key attributes");
    Ok((
        of_key.ok_or_else(missing)?,
        conditions.iter().filter(|clause| !is_key(clause)).collect(),
    ))
}

fn all_hold(item: &Item, conditions: &[&Clause], parameters: &[Value]) -> bool {
    conditions.iter().all(
        |(name, comparison, term)| match (item.get(name), term.value(parameters)) {
            (Some(one), Some(two)) => comparison.holds(one, two),
            // What is missing compares with nothing, not even as another.
            _ => false,
        },
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn values(json: &str) -> Vec<Value> {
        serde_json::from_str(json).unwrap()
    }

    fn done(database: &mut Database, text: &str, parameters: &str) -> bool {
        run(database, text, &values(parameters)).unwrap().written.done
    }

    #[test]
    fn an_insert_is_done_once_and_updates_and_deletes_on_their_conditions() {
        let mut database = Database::new(0);
        let insert = r#"INSERT INTO "bench-inbox" VALUE {'pk':?,'claim':?,'n':?}"#;
        assert!(done(&mut database, insert, r#"[{"S":"k"},{"S":"c1"},{"N":"1"}]"#));
        assert!(!done(&mut database, insert, r#"[{"S":"k"},{"S":"c2"},{"N":"2"}]"#));
        let update = r#"UPDATE "bench-inbox" SET "n"=? SET "r"=? WHERE "pk"=? AND "claim"=? AND "n"<?"#;
        let with =
            |claim: &str, n: u32| format!(r#"[{{"N":"{n}"}},{{"S":"r"}},{{"S":"k"}},{{"S":"{claim}"}},{{"N":"{n}"}}]"#);
        assert!(!done(&mut database, update, &with("c2", 5)));
        assert!(!done(&mut database, update, &with("c1", 1)));
        assert!(done(&mut database, update, &with("c1", 10)));
        assert!(!done(&mut database, update, &with("c1", 9)));
        let missing = r#"UPDATE "bench-inbox" SET "n"=? WHERE "pk"=? AND "none"<>?"#;
        assert!(!done(&mut database, missing, r#"[{"N":"1"},{"S":"k"},{"N":"1"}]"#));
        let absent = r#"UPDATE "bench-inbox" SET "n"=? WHERE "pk"=?"#;
        assert!(!done(&mut database, absent, r#"[{"N":"1"},{"S":"other"}]"#));
        let delete = r#"DELETE FROM "bench-inbox" WHERE "pk"=? AND "n"=?"#;
        assert!(!done(&mut database, delete, r#"[{"S":"k"},{"N":"9"}]"#));
        assert!(done(&mut database, delete, r#"[{"S":"k"},{"N":"10.0"}]"#));
        assert_eq!(database.table("bench-inbox").unwrap().len(), 0);
    }

    #[test]
    fn a_statement_that_cannot_be_run_changes_nothing_and_is_told() {
        let mut database = Database::new(3);
        for (text, parameters, code, named) in [
            (
                r#"INSERT INTO "bench-inbox" VALUE {'pk':?}"#,
                r#"[{"N":"0"}]"#,
                "ValidationException",
                "pk",
            ),
            (
                r#"INSERT INTO "bench-inbox" VALUE {'pk':?}"#,
                "[]",
                "ValidationException",
                "parameters",
            ),
            (
                r#"INSERT INTO "none" VALUE {'pk':?}"#,
                r#"[{"S":"0"}]"#,
                "ResourceNotFoundException",
                "none",
            ),
            (
                r#"UPDATE "bench-inbox" SET n=1 WHERE n=2"#,
                "[]",
                "ValidationException",
                "key",
            ),
            (
                r#"UPDATE "bench-inbox" SET n=1 WHERE pk>'a'"#,
                "[]",
                "ValidationException",
                "key",
            ),
            (
                r#"UPDATE "bench-inbox" SET pk='b' WHERE pk='a'"#,
                "[]",
                "ValidationException",
                "pk",
            ),
            (
                r#"SELECT "n" FROM "bench-inbox""#,
                "[]",
                "ValidationException",
                "SELECT",
            ),
        ] {
            let failure = run(&mut database, text, &values(parameters)).unwrap_err();
            assert_eq!(failure.code, code, "{text}");
            assert!(failure.message.contains(named), "{text}: {}", failure.message);
        }
        assert_eq!(database.table("bench-inbox").unwrap().len(), 3);
    }
}
