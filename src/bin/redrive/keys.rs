//! Where the workers' keys are in their messages: a dead letter that has no envelope is known by the same.

use clap::{ArgMatches, Args, Command, FromArgMatches};
use redrive::key::KeySource;
use redrive::queue::Queue as _;

use crate::connection::{Aws, DeadLetters};
use crate::failure::Failure;
use crate::run::{KeyFrom, Place, WorkerFlags};

/// The flags, by their names in the worker's settings, and what they say here.
const FLAGS: [(&str, &str); 3] = [
    (
        "key-attribute",
        "The message attribute that holds the workers' key, for letters without an envelope",
    ),
    (
        "key-pointer",
        "Where the workers' key is in a JSON body, such as /order/id, for letters without an envelope",
    ),
    (
        "key-from-deduplication-id",
        "The workers' key is the FIFO deduplication id, for letters without an envelope",
    ),
];

/// Where keys come from for letters without an envelope: what the workers are set to, by the same flags and variables.
#[derive(Clone, Debug, Default)]
pub(crate) struct KeyFlags(WorkerFlags);

impl FromArgMatches for KeyFlags {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let mut flags = Self::default();
        flags.update_from_arg_matches(matches)?;
        Ok(flags)
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        self.0.take(matches, FLAGS.iter().map(|(flag, _)| *flag));
        Ok(())
    }
}

impl Args for KeyFlags {
    fn augment_args(command: Command) -> Command {
        FLAGS.iter().fold(command, |command, (flag, help)| {
            command.args(WorkerFlags::argument(flag, "Keys", help))
        })
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl KeyFlags {
    /// Where the keys of these dead letters come from.
    pub(crate) async fn source(&self, aws: &Aws, dead: &DeadLetters) -> Result<KeySource, Failure> {
        Ok(match self.from(&|name| std::env::var(name).ok())? {
            KeyFrom::Attribute => KeySource::Attribute,
            KeyFrom::Place(place) => KeySource::Function(std::sync::Arc::new(place.key())),
            // Whether the group is part of it goes by the queue that the workers receive from.
            KeyFrom::DeduplicationId => KeySource::DeduplicationId {
                by_group: match (&dead.named_source, dead.sources.as_slice()) {
                    (Some(source), _) => source.attributes().deduplication_by_group,
                    (None, [source, ..]) => aws.queue(source).await?.attributes().deduplication_by_group,
                    (None, []) => dead.queue.attributes().deduplication_by_group,
                },
            },
        })
    }

    /// What a job must be run again with, so that no message is sent under another key; nothing where it is the default.
    pub(crate) fn told(&self) -> Result<Option<String>, Failure> {
        Ok(match self.from(&|name| std::env::var(name).ok())? {
            KeyFrom::Attribute => None,
            KeyFrom::Place(Place::Attribute(name)) => Some(format!("--key-attribute {name}")),
            KeyFrom::Place(Place::Pointer(pointer)) => Some(format!("--key-pointer {pointer}")),
            KeyFrom::DeduplicationId => Some("--key-from-deduplication-id".to_owned()),
        })
    }

    fn from(&self, environment: &dyn Fn(&str) -> Option<String>) -> Result<KeyFrom, Failure> {
        self.0.key_from(environment)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        keys: KeyFlags,
    }

    fn from(line: &[&str], set: &[(&str, &str)]) -> Result<KeyFrom, Failure> {
        let keys = Line::try_parse_from([&["redrive"], line].concat()).unwrap().keys;
        keys.from(&|name| {
            let found = set.iter().find(|(known, _)| *known == name)?;
            Some(found.1.to_owned())
        })
    }

    #[test]
    fn flags_and_variables_say_it_as_they_do_to_a_worker() {
        let shown = |line: &[&str], set: &[(&str, &str)]| format!("{:?}", from(line, set).unwrap());
        assert_eq!(shown(&[], &[]), "Attribute");
        assert_eq!(
            shown(&["--key-pointer", "/order/id"], &[]),
            r#"Place(Pointer("/order/id"))"#
        );
        let attribute = [("REDRIVE_KEY_ATTRIBUTE", "order")];
        assert_eq!(shown(&[], &attribute), r#"Place(Attribute("order"))"#);
        assert_eq!(
            shown(&["--key-from-deduplication-id"], &attribute),
            "DeduplicationId",
            "a flag wins over the variable of another"
        );
        let off = [
            ("REDRIVE_KEY_FROM_DEDUPLICATION_ID", "false"),
            ("REDRIVE_KEY_POINTER", " "),
        ];
        assert_eq!(shown(&[], &off), "Attribute");
    }

    #[test]
    fn inv12_what_contradicts_itself_is_refused() {
        for (line, set) in [
            (&["--key-attribute", "a", "--key-pointer", "/b"][..], &[][..]),
            (&["--key-attribute", "a", "--key-from-deduplication-id"], &[]),
            (&["--key-pointer", "order.id"], &[]),
            (&[], &[("REDRIVE_KEY_ATTRIBUTE", "a"), ("REDRIVE_KEY_POINTER", "/b")]),
        ] {
            assert!(from(line, set).is_err(), "{line:?} {set:?}");
        }
    }
}
