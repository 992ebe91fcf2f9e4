//! What the fuzz targets share: the bound on memory, messages made of anything, and the parts of the command-line tool that
//! read what somebody else wrote.

pub mod checks;
pub mod made;
pub mod memory;

// A program's modules are no library, so they are read in from its sources, in their places: their paths to each other hold.
pub(crate) use tool::{failure, record, run, ui};

#[path = "../../src/bin/redrive"]
#[allow(dead_code, unused_imports, reason = "a part of the tool, of which only what reads is used")]
pub(crate) mod tool {
    pub(crate) mod failure;
    pub(crate) mod record;
    pub(crate) mod ui;

    pub(crate) mod run {
        pub(crate) const OURS: &str = "REDRIVE_";
    }

    pub(crate) mod dlq {
        pub(crate) mod filter;

        use clap::{Args as _, FromArgMatches as _};
        use redrive::dlq::DeadLetter;

        /// Whether a filter, as the flag gives it, holds for `letter`.
        pub(crate) fn holds(filter: &str, letter: &DeadLetter, now_ms: u64) -> bool {
            let command = filter::Where::augment_args(clap::Command::new("fuzz"));
            let matches = command
                .try_get_matches_from(["fuzz", &format!("--where={filter}")])
                .unwrap_or_else(|error| panic!("{filter}: {error}"));
            let filters = filter::Where::from_arg_matches(&matches).expect("it was read once");
            assert!(!filters.is_everything());
            filters.matches(letter, now_ms)
        }

        pub(crate) mod replay {
            mod job;

            use std::path::Path;

            use redrive::dlq::Journal;

            use crate::failure::Failure;

            /// An open job file.
            pub(crate) struct Opened(job::JobFile);

            impl Opened {
                /// Opens the file for a job of these queues.
                pub(crate) fn of(path: &Path) -> Result<Self, Failure> {
                    let job = job::Job::new("new".into(), 1, "arn:dlq", vec!["arn:orders".into()], Vec::new());
                    job::JobFile::open(path, job).map(Self)
                }

                pub(crate) fn journal(&self) -> &impl Journal {
                    &self.0
                }

                pub(crate) fn id(&self) -> &str {
                    &self.0.job().id
                }

                pub(crate) fn is_resumed(&self) -> bool {
                    self.0.resumed
                }

                pub(crate) fn sent_before(&self) -> u64 {
                    self.0.sent_before
                }

                pub(crate) fn finish(&self) -> Result<(), Failure> {
                    self.0.finish(7)
                }
            }
        }
    }

    pub(crate) mod lines {
        pub(crate) mod ranges;
    }

    pub(crate) mod queue {
        pub(crate) mod send {
            mod message;

            use redrive::message::{Attribute, Outgoing};

            pub(crate) fn of_line(text: &str) -> Result<Outgoing, String> {
                message::of_line(text)
            }

            /// The attribute of a flag, unless it is in a file.
            pub(crate) fn named_attribute(text: &str) -> Result<(String, Option<Attribute>), String> {
                let (name, given) = message::named_attribute(text)?;
                Ok((
                    name,
                    match given {
                        message::Given::Here(attribute) => Some(attribute),
                        message::Given::InFile { .. } => None,
                    },
                ))
            }
        }
    }

    pub(crate) mod forward {
        mod answer;
        mod headers;

        use redrive::{Context, Failure};
        use reqwest::header::HeaderMap;

        pub(crate) fn headers(context: &Context) -> HeaderMap {
            headers::of_message(context)
        }

        /// What an answer with this body means; none where the message is done.
        pub(crate) fn answered(response: http::Response<Vec<u8>>, now_ms: u64) -> Option<Failure> {
            let body = response.body().clone();
            let answer = answer::Answer::of(&response.into(), now_ms, &[401]);
            (answer.verdict != answer::Verdict::Done).then(|| answer.failure(&body))
        }

        pub(crate) const EXCERPT_READ: usize = answer::EXCERPT_READ;
    }

    pub(crate) mod exec {
        mod environment;

        use std::collections::BTreeMap;
        use std::ffi::OsString;

        use redrive::Context;

        /// What the command is told in its environment.
        pub(crate) fn variables(context: &Context) -> BTreeMap<OsString, OsString> {
            let mut command = tokio::process::Command::new("true");
            environment::set(&mut command, context);
            let told = command.as_std().get_envs();
            told.filter_map(|(name, value)| Some((name.to_owned(), value?.to_owned())))
                .collect()
        }
    }
}
