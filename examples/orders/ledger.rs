//! The payment gateway's books: one JSON line per request that reached it and one per charge it made.
//!
//! The file stands for another company's service, which all workers call: whatever happens to a worker, it shows who was
//! charged, and how often that was asked for. Every entry is appended under a lock on the file, so processes take turns.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::path::Path;

use serde::{Deserialize, Serialize};

/// One line of the books.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Entry {
    pub(crate) entry: Kind,
    pub(crate) key: String,
    pub(crate) order: String,
    pub(crate) amount_cents: u64,
    /// The claim that the request was made under.
    pub(crate) fence: u64,
    /// The process that made it.
    pub(crate) pid: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Kind {
    Request,
    Charge,
}

/// What the books add up to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Books {
    pub(crate) requests: u64,
    pub(crate) charges: u64,
    pub(crate) cents: u64,
    /// Keys charged more than once: never, if keys do what they are for.
    pub(crate) double: u64,
}

/// What the books say to a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    Charged,
    ChargedBefore,
    /// The key was charged with another amount.
    KeyReused,
}

#[derive(Debug)]
pub(crate) struct Ledger {
    /// None for books in memory.
    file: Option<File>,
    /// How far the file was read.
    read: u64,
    charged: BTreeMap<String, u64>,
    books: Books,
}

impl Ledger {
    pub(crate) fn in_memory() -> Self {
        Self {
            file: None,
            read: 0,
            charged: BTreeMap::new(),
            books: Books::default(),
        }
    }

    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        let file = OpenOptions::new().read(true).append(true).create(true).open(path)?;
        let mut ledger = Self {
            file: Some(file),
            ..Self::in_memory()
        };
        ledger.locked(Self::catch_up)?;
        Ok(ledger)
    }

    /// Enters the request, and the charge unless its key was charged before.
    pub(crate) fn charge(&mut self, request: &Entry) -> io::Result<Answer> {
        self.locked(|ledger| {
            ledger.catch_up()?;
            ledger.append(request)?;
            match ledger.charged.get(&request.key) {
                Some(&cents) if cents == request.amount_cents => Ok(Answer::ChargedBefore),
                Some(_) => Ok(Answer::KeyReused),
                None => {
                    ledger.append(&Entry {
                        entry: Kind::Charge,
                        ..request.clone()
                    })?;
                    Ok(Answer::Charged)
                }
            }
        })
    }

    pub(crate) fn books(&mut self) -> io::Result<Books> {
        self.locked(Self::catch_up)?;
        Ok(self.books)
    }

    /// Does `what` while no other process may. The lock of a process that is killed goes with it.
    fn locked<T>(&mut self, what: impl FnOnce(&mut Self) -> io::Result<T>) -> io::Result<T> {
        if let Some(file) = &self.file {
            file.lock()?;
        }
        let done = what(self);
        if let Some(file) = &self.file {
            file.unlock()?;
        }
        done
    }

    /// Reads what other processes entered.
    fn catch_up(&mut self) -> io::Result<()> {
        let Some(file) = &mut self.file else { return Ok(()) };
        if file.metadata()?.len() == self.read {
            return Ok(());
        }
        let mut lines = String::new();
        file.seek(SeekFrom::Start(self.read))?;
        self.read += file.read_to_string(&mut lines)? as u64;
        for line in lines.lines() {
            self.enter(&serde_json::from_str(line)?);
        }
        Ok(())
    }

    fn append(&mut self, entry: &Entry) -> io::Result<()> {
        if let Some(file) = &mut self.file {
            let mut line = serde_json::to_vec(entry)?;
            line.push(b'\n');
            // One write, so that the line is there as a whole or not at all, whatever becomes of this process.
            file.write_all(&line)?;
            self.read += line.len() as u64;
        }
        self.enter(entry);
        Ok(())
    }

    fn enter(&mut self, entry: &Entry) {
        match entry.entry {
            Kind::Request => self.books.requests += 1,
            Kind::Charge => {
                self.books.charges += 1;
                self.books.cents += entry.amount_cents;
                if self.charged.insert(entry.key.clone(), entry.amount_cents).is_some() {
                    self.books.double += 1;
                }
            }
        }
    }
}
