//! A plan to be read.

use std::fmt;

use super::Plan;

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = if self.fifo { "FIFO" } else { "standard" };
        writeln!(
            f,
            "{kind} queue, visibility {:?}, {} attempts, trouble for {:?}, reorder {}, short {}",
            self.visibility, self.max_attempts, self.trouble, self.reorder, self.short_receives
        )?;
        writeln!(
            f,
            "inbox {:?}, dead letters {:?}, rejects block {}",
            self.inbox, self.letters, self.rejects_block
        )?;
        writeln!(f, "{:?}", self.faults)?;
        for worker in &self.workers {
            writeln!(f, "worker {}: {worker:?}", worker.name)?;
        }
        for producer in &self.producers {
            writeln!(f, "producer {}: {producer:?}", producer.name)?;
        }
        for operator in &self.operators {
            writeln!(f, "{operator:?}")?;
        }
        for planted in &self.planted {
            writeln!(f, "k{} has a record: {:?}", planted.key, planted.kind)?;
        }
        for (at, accident) in &self.accidents {
            writeln!(f, "at {at:?}: {accident:?}")?;
        }
        for (from, until) in &self.downstream_outages {
            writeln!(f, "downstream down from {from:?} until {until:?}")?;
        }
        for message in &self.messages {
            let key = message
                .key
                .map_or_else(|| "its own".to_owned(), |key| format!("k{key}"));
            write!(
                f,
                "planned {} at {:?} by {}: key {key}, payload {}",
                message.number, message.at, message.producer, message.payload
            )?;
            if self.fifo {
                write!(f, ", group {}", message.group)?;
            }
            if let Some(delay) = message.delay {
                write!(f, ", delayed {delay:?}")?;
            }
            writeln!(f, ", {:?}", message.character)?;
        }
        Ok(())
    }
}
