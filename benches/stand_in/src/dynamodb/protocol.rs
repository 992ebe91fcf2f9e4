//! Calls of DynamoDB in its JSON protocol.

use std::borrow::Cow;
use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::json;

use super::expression::Bindings;
use super::statements::{self, Ran};
use super::table::{Written, read_units};
use super::value::{Item, Map, Names, Text, Value, quoted};
use super::{Database, invalid};
use crate::answer::Answer;
use crate::counts::DynamoCalls;
use crate::world::{Failure, World};

/// What the types of errors begin with.
const NAMESPACE: &str = "com.amazonaws.dynamodb.v20120810";

/// The most statements of a batch.
const MOST_STATEMENTS: usize = 25;

/// What is said of a condition that does not hold.
const CONDITION_FAILED: &str = "The conditional request failed";

/// What is said of an item that is there already.
const DUPLICATE: &str = "Duplicate primary key exists in table";

/// The operations there are.
pub(crate) const OPERATIONS: [&str; 9] = [
    "PutItem",
    "UpdateItem",
    "DeleteItem",
    "GetItem",
    "BatchExecuteStatement",
    "ExecuteStatement",
    "DescribeTable",
    "DescribeTimeToLive",
    "ListTables",
];

/// A call of one item.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
struct ItemRequest<'a> {
    #[serde(borrow)]
    table_name: Cow<'a, str>,
    #[serde(borrow, default)]
    item: Option<Map<'a>>,
    #[serde(borrow, default)]
    key: Option<Map<'a>>,
    #[serde(borrow, default)]
    condition_expression: Option<Text<'a>>,
    #[serde(borrow, default)]
    update_expression: Option<Text<'a>>,
    #[serde(borrow, default)]
    expression_attribute_names: Option<Names<'a>>,
    #[serde(borrow, default)]
    expression_attribute_values: Option<Map<'a>>,
    #[serde(borrow, default)]
    return_values: Option<Text<'a>>,
    #[serde(borrow, default)]
    return_values_on_condition_check_failure: Option<Text<'a>>,
    #[serde(borrow, default)]
    return_consumed_capacity: Option<Text<'a>>,
    consistent_read: Option<bool>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
struct StatementRequest<'a> {
    #[serde(borrow)]
    statement: Cow<'a, str>,
    #[serde(default)]
    parameters: Vec<Value>,
    #[serde(borrow, default)]
    return_values_on_condition_check_failure: Option<Text<'a>>,
    #[serde(borrow, default)]
    return_consumed_capacity: Option<Text<'a>>,
    #[serde(default, rename = "ConsistentRead")]
    _consistent_read: Option<bool>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
struct BatchRequest<'a> {
    #[serde(borrow)]
    statements: Vec<StatementRequest<'a>>,
    #[serde(borrow, default)]
    return_consumed_capacity: Option<Text<'a>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct TableRequest {
    table_name: String,
}

/// A call that failed, with the item that its condition failed on, where that is asked for.
struct Failed {
    failure: Failure,
    item: Option<Item>,
}

impl From<Failure> for Failed {
    fn from(failure: Failure) -> Self {
        Self { failure, item: None }
    }
}

/// Makes a call, at the moment it arrives.
pub(crate) fn call(world: &mut World, operation: &'static str, body: &[u8]) -> Answer {
    let counts = world.calls.dynamodb.entry(operation).or_default();
    counts.calls += 1;
    let database = &mut world.database;
    let answered = match operation {
        "PutItem" | "UpdateItem" | "DeleteItem" => write(database, counts, operation, body),
        "GetItem" => get(database, counts, body),
        "BatchExecuteStatement" => batch(database, counts, body),
        "ExecuteStatement" => execute(database, counts, body),
        "DescribeTable" => describe(database, body),
        "DescribeTimeToLive" => describe_ttl(database, body),
        _ => Ok(json!({ "TableNames": database.names().collect::<Vec<_>>() })
            .to_string()
            .into()),
    };
    match answered {
        Ok(json) => Answer::ok(json),
        Err(Failed { failure, item: None }) => failure.answer(NAMESPACE),
        Err(Failed {
            failure,
            item: Some(item),
        }) => {
            let mut out = Vec::with_capacity(1_024);
            out.extend_from_slice(b"{\"__type\":");
            quoted(&mut out, &format!("{NAMESPACE}#{}", failure.code));
            out.extend_from_slice(b",\"message\":");
            quoted(&mut out, &failure.message);
            out.extend_from_slice(b",\"Item\":");
            item.write(&mut out);
            out.push(b'}');
            Answer {
                status: 400,
                ..Answer::ok(out)
            }
        }
    }
}

fn read<'a, T: Deserialize<'a>>(body: &'a [u8]) -> Result<T, Failure> {
    serde_json::from_slice(body)
        .map_err(|error| invalid(format!("The stand-in does not understand the request: {error}")))
}

fn is(option: Option<&Text<'_>>, value: &str) -> bool {
    option.is_some_and(|option| option.0 == value)
}

/// Whether the consumed capacity is asked for.
fn capacity_wanted(option: Option<&Text<'_>>) -> bool {
    option.is_some_and(|option| option.0 != "NONE")
}

fn write(
    database: &mut Database,
    counts: &mut DynamoCalls,
    operation: &'static str,
    body: &[u8],
) -> Result<Vec<u8>, Failed> {
    let request: ItemRequest<'_> = read(body)?;
    counts.entries += 1;
    let condition = request.condition_expression.as_ref();
    let condition = condition.map(|text| database.conditions.get(&text.0)).transpose()?;
    let update = request
        .update_expression
        .as_ref()
        .map(|text| database.updates.get(&text.0))
        .transpose()?;
    let names = request.expression_attribute_names.unwrap_or_default();
    let values = request.expression_attribute_values.unwrap_or_default();
    let bindings = Bindings {
        names: &names,
        values: &values,
    };
    bindings
        .check(condition.as_deref(), update.as_deref())
        .map_err(invalid)?;

    let table = database.table(&request.table_name)?;
    let (subject, other) = match operation {
        "PutItem" => (request.item, request.key),
        _ => (request.key, request.item),
    };
    let subject = subject
        .filter(|_| other.is_none())
        .ok_or_else(|| invalid("an item for a put, a key for other writes"))?;
    if operation != "PutItem" && subject.0.len() != 1 {
        return Err(invalid("The provided key element does not match the schema").into());
    }
    if (operation == "UpdateItem") != update.is_some() {
        return Err(invalid("an update expression for an update, and for nothing else").into());
    }
    let key = table.key_of(subject.get(table.key)).map_err(invalid)?.to_owned();
    let holds = condition.is_none_or(|condition| condition.holds(table.get(&key), bindings));
    let new = match (operation, update) {
        ("DeleteItem", _) => None,
        (_, Some(update)) => {
            if update.changed(&bindings).any(|name| name == table.key) {
                return Err(invalid(format!(
                    "Cannot update attribute {}. This attribute is part of the key",
                    table.key
                ))
                .into());
            }
            let mut item = table.get(&key).cloned().unwrap_or_default();
            if item.get(table.key).is_none() {
                item.set(table.intern(table.key), Value::text(&key));
            }
            let applied = update.apply(&mut item, bindings, |name| table.intern(name));
            if holds {
                applied.map_err(invalid)?;
            }
            Some(item)
        }
        _ => {
            let mut item = Item::with_room(subject.0.len());
            for (name, value) in subject.0 {
                item.set(table.intern(&name), value);
            }
            Some(item)
        }
    };
    let returned = match request.return_values.as_ref().map(|text| &*text.0) {
        None | Some("NONE") => None,
        Some("ALL_OLD") => Some(true),
        Some("ALL_NEW") if operation == "UpdateItem" => Some(false),
        Some(other) => return Err(invalid(format!("The stand-in returns no values of {other}")).into()),
    };
    let new_returned = new.clone().filter(|_| returned == Some(false));
    let Written { done, units, old } = table.write(&key, holds, new).map_err(invalid)?;
    let name = table.name;
    counts.write_units += units;
    if !done {
        counts.failed_conditions += 1;
        let told = is(request.return_values_on_condition_check_failure.as_ref(), "ALL_OLD");
        return Err(Failed {
            failure: Failure::new("ConditionalCheckFailedException", CONDITION_FAILED),
            item: old.filter(|_| told),
        });
    }
    let mut out = vec![b'{'];
    if let Some(attributes) = new_returned.or_else(|| old.filter(|_| returned == Some(true))) {
        out.extend_from_slice(b"\"Attributes\":");
        attributes.write(&mut out);
    }
    if capacity_wanted(request.return_consumed_capacity.as_ref()) {
        comma(&mut out);
        out.extend_from_slice(format!("\"ConsumedCapacity\":{}", capacity(name, units)).as_bytes());
    }
    out.push(b'}');
    Ok(out)
}

fn comma(out: &mut Vec<u8>) {
    if out.last() != Some(&b'{') {
        out.push(b',');
    }
}

fn capacity(table: &str, units: f64) -> serde_json::Value {
    json!({ "TableName": table, "CapacityUnits": units })
}

fn get(database: &mut Database, counts: &mut DynamoCalls, body: &[u8]) -> Result<Vec<u8>, Failed> {
    let request: ItemRequest<'_> = read(body)?;
    counts.entries += 1;
    if request.item.is_some() || request.condition_expression.is_some() || request.update_expression.is_some() {
        return Err(invalid("a get has a key alone").into());
    }
    let table = database.table(&request.table_name)?;
    let key = request.key.unwrap_or_default();
    if key.0.len() != 1 {
        return Err(invalid("The provided key element does not match the schema").into());
    }
    let item = table.get(table.key_of(key.get(table.key)).map_err(invalid)?);
    let units = read_units(item.map_or(0, Item::size), request.consistent_read.unwrap_or(false));
    counts.read_units += units;
    let mut out = vec![b'{'];
    if let Some(item) = item {
        out.extend_from_slice(b"\"Item\":");
        item.write(&mut out);
    }
    if capacity_wanted(request.return_consumed_capacity.as_ref()) {
        comma(&mut out);
        out.extend_from_slice(format!("\"ConsumedCapacity\":{}", capacity(table.name, units)).as_bytes());
    }
    out.push(b'}');
    Ok(out)
}

/// Counts a statement that was run.
fn count(counts: &mut DynamoCalls, ran: &Result<Ran, Failure>) {
    counts.entries += 1;
    if let Ok(ran) = ran {
        counts.write_units += ran.written.units;
        counts.failed_conditions += u64::from(!ran.written.done);
    }
}

fn batch(database: &mut Database, counts: &mut DynamoCalls, body: &[u8]) -> Result<Vec<u8>, Failed> {
    let request: BatchRequest<'_> = read(body)?;
    if !(1..=MOST_STATEMENTS).contains(&request.statements.len()) {
        let number = request.statements.len();
        return Err(invalid(format!("{number} statements; a batch has 1 to {MOST_STATEMENTS}")).into());
    }
    let mut out = b"{\"Responses\":[".to_vec();
    let mut consumed: BTreeMap<&str, f64> = BTreeMap::new();
    for (at, statement) in request.statements.into_iter().enumerate() {
        if at > 0 {
            out.push(b',');
        }
        let ran = statements::run(database, &statement.statement, &statement.parameters);
        count(counts, &ran);
        let (code, message, item) = match ran {
            Ok(Ran { table, written, insert }) => {
                *consumed.entry(table).or_default() += written.units;
                if written.done {
                    out.extend_from_slice(format!("{{\"TableName\":\"{table}\"}}").as_bytes());
                    continue;
                }
                let told = is(statement.return_values_on_condition_check_failure.as_ref(), "ALL_OLD");
                match insert {
                    true => ("DuplicateItem", DUPLICATE.to_owned(), None),
                    false => (
                        "ConditionalCheckFailed",
                        CONDITION_FAILED.to_owned(),
                        written.old.filter(|_| told),
                    ),
                }
            }
            Err(failure) => match failure.code {
                "ResourceNotFoundException" => ("ResourceNotFound", failure.message, None),
                _ => ("ValidationError", failure.message, None),
            },
        };
        out.extend_from_slice(format!("{{\"Error\":{{\"Code\":\"{code}\",\"Message\":").as_bytes());
        quoted(&mut out, &message);
        if let Some(item) = item {
            out.extend_from_slice(b",\"Item\":");
            item.write(&mut out);
        }
        out.extend_from_slice(b"}}");
    }
    out.push(b']');
    if capacity_wanted(request.return_consumed_capacity.as_ref()) {
        let consumed: Vec<_> = consumed
            .into_iter()
            .map(|(table, units)| capacity(table, units))
            .collect();
        out.extend_from_slice(format!(",\"ConsumedCapacity\":{}", serde_json::Value::from(consumed)).as_bytes());
    }
    out.push(b'}');
    Ok(out)
}

fn execute(database: &mut Database, counts: &mut DynamoCalls, body: &[u8]) -> Result<Vec<u8>, Failed> {
    let request: StatementRequest<'_> = read(body)?;
    let ran = statements::run(database, &request.statement, &request.parameters);
    count(counts, &ran);
    let Ran { table, written, insert } = ran?;
    if !written.done && insert {
        return Err(Failure::new("DuplicateItemException", DUPLICATE).into());
    }
    if !written.done {
        let told = is(request.return_values_on_condition_check_failure.as_ref(), "ALL_OLD");
        return Err(Failed {
            failure: Failure::new("ConditionalCheckFailedException", CONDITION_FAILED),
            item: written.old.filter(|_| told),
        });
    }
    let mut answer = json!({ "Items": [] });
    if capacity_wanted(request.return_consumed_capacity.as_ref()) {
        answer["ConsumedCapacity"] = capacity(table, written.units);
    }
    Ok(answer.to_string().into())
}

fn describe(database: &mut Database, body: &[u8]) -> Result<Vec<u8>, Failed> {
    let request: TableRequest = read(body)?;
    let table = database.table(&request.table_name)?;
    let answer = json!({ "Table": {
        "TableName": table.name,
        "TableStatus": "ACTIVE",
        "TableArn": format!("arn:aws:dynamodb:us-east-1:000000000000:table/{}", table.name),
        "TableId": "00000000-0000-4000-8000-000000000000",
        "CreationDateTime": 1_700_000_000.0,
        "ItemCount": table.len(),
        "TableSizeBytes": 0,
        "AttributeDefinitions": [{ "AttributeName": table.key, "AttributeType": "S" }],
        "KeySchema": [{ "AttributeName": table.key, "KeyType": "HASH" }],
        "BillingModeSummary": { "BillingMode": "PAY_PER_REQUEST" },
        "DeletionProtectionEnabled": false,
    } });
    Ok(answer.to_string().into())
}

fn describe_ttl(database: &mut Database, body: &[u8]) -> Result<Vec<u8>, Failed> {
    let request: TableRequest = read(body)?;
    let table = database.table(&request.table_name)?;
    let answer = json!({ "TimeToLiveDescription": {
        "TimeToLiveStatus": "ENABLED",
        "AttributeName": table.expiry,
    } });
    Ok(answer.to_string().into())
}
