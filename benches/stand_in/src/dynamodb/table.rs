//! A table: items by their partition key, and what a write of one costs.

use std::collections::{HashMap, HashSet};
use std::rc::Rc;

use super::value::{Item, Value};

/// The most bytes of an item.
const LARGEST_ITEM: usize = 400 * 1024;

/// A table in memory, whose key is one text.
#[derive(Debug)]
pub(crate) struct Table {
    pub(crate) name: &'static str,
    pub(crate) key: &'static str,
    pub(crate) expiry: &'static str,
    items: HashMap<Box<str>, Item>,
    names: HashSet<Rc<str>>,
}

/// What became of a write.
#[derive(Debug, PartialEq)]
pub(crate) struct Written {
    /// Whether its condition held.
    pub(crate) done: bool,
    /// The write units it is billed: of the larger of the item as it was and as it becomes, or would have.
    pub(crate) units: f64,
    pub(crate) old: Option<Item>,
}

impl Table {
    pub(crate) fn new(name: &'static str, key: &'static str, expiry: &'static str) -> Self {
        Self {
            name,
            key,
            expiry,
            items: HashMap::new(),
            names: HashSet::new(),
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.items.len()
    }

    /// The one copy of an attribute's name.
    pub(crate) fn intern(&mut self, name: &str) -> Rc<str> {
        if let Some(known) = self.names.get(name) {
            return Rc::clone(known);
        }
        let name: Rc<str> = name.into();
        self.names.insert(Rc::clone(&name));
        name
    }

    pub(crate) fn get(&self, key: &str) -> Option<&Item> {
        self.items.get(key)
    }

    /// The key among an item's attributes, or in a key.
    ///
    /// # Errors
    /// When it is missing, empty or no text.
    pub(crate) fn key_of<'a>(&self, value: Option<&'a Value>) -> Result<&'a str, String> {
        match value {
            Some(Value::S(text)) if !text.is_empty() => Ok(text),
            Some(_) => Err(format!("The key {} must be a text that is not empty", self.key)),
            None => Err(format!("One of the required keys was not given a value: {}", self.key)),
        }
    }

    /// Puts `new` in the place of the item with this key, or removes that for none, if `condition` holds of it.
    ///
    /// # Errors
    /// When the item becomes too large.
    pub(crate) fn write(&mut self, key: &str, condition: bool, new: Option<Item>) -> Result<Written, String> {
        let size = |item: Option<&Item>| item.map_or(0, Item::size);
        let becomes = size(new.as_ref());
        if becomes > LARGEST_ITEM {
            return Err("Item size has exceeded the maximum allowed size".to_owned());
        }
        let old = self.items.get(key);
        let units = size(old).max(becomes).div_ceil(1024).max(1) as f64;
        let old = match (condition, new) {
            (false, _) => old.cloned(),
            (true, None) => self.items.remove(key),
            (true, Some(new)) => match self.items.get_mut(key) {
                Some(place) => Some(std::mem::replace(place, new)),
                None => self.items.insert(key.into(), new),
            },
        };
        Ok(Written {
            done: condition,
            units,
            old,
        })
    }
}

/// The read units of an item of so many bytes.
pub(crate) fn read_units(bytes: usize, consistent: bool) -> f64 {
    let units = bytes.div_ceil(4 * 1024).max(1) as f64;
    if consistent { units } else { units / 2.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn item(table: &mut Table, bytes: usize) -> Item {
        let mut item = Item::default();
        item.set(table.intern("pk"), Value::text("k"));
        item.set(table.intern("data"), Value::text(&"x".repeat(bytes - 7)));
        item
    }

    #[test]
    fn a_write_costs_a_unit_for_each_kib_of_the_larger_of_old_and_new_also_when_it_fails() {
        let mut table = Table::new("t", "pk", "ttl");
        let sized = |table: &mut Table, bytes| Some(item(table, bytes));
        let mut write = |condition, bytes: usize| {
            let new = if bytes == 0 { None } else { sized(&mut table, bytes) };
            table.write("k", condition, new).unwrap()
        };
        assert_eq!(write(true, 1_024).units, 1.0);
        assert_eq!(write(true, 1_025).units, 2.0);
        assert_eq!(write(true, 200).units, 2.0);
        let failed = write(false, 5_000);
        assert!(!failed.done && failed.units == 5.0);
        assert_eq!(failed.old.unwrap().size(), 200);
        assert_eq!(write(false, 0).units, 1.0);
        assert_eq!(write(true, 0).old.unwrap().size(), 200);
        let absent = write(false, 0);
        assert!(absent.old.is_none() && absent.units == 1.0);
        let large = item(&mut table, LARGEST_ITEM + 1);
        assert!(table.write("k", true, Some(large)).is_err());
    }

    #[test]
    fn reads_cost_by_4_kib_and_half_where_they_need_not_be_consistent() {
        assert_eq!(
            (read_units(0, true), read_units(4_096, true), read_units(4_097, true)),
            (1.0, 1.0, 2.0)
        );
        assert_eq!(read_units(4_097, false), 1.0);
    }
}
