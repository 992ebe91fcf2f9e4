//! What was set by flags and variables, and by which of them.

use std::collections::BTreeMap;
use std::time::Duration;

use clap::builder::PossibleValuesParser;
use clap::{Arg, ArgMatches, Args, Command, FromArgMatches};

use super::table::{self, RIVALS, SETTINGS, Setting, Takes};
use super::text::{KeyFrom, Place};
use crate::failure::Failure;
use crate::values;

/// The longest that one message may take.
const LONGEST: Duration = Duration::from_secs(6 * 24 * 60 * 60);

/// Every setting of a worker, as far as flags give it.
#[derive(Clone, Debug, Default)]
pub(crate) struct WorkerFlags {
    /// By flag, as the variable would say it.
    given: BTreeMap<&'static str, String>,
    no_inbox: bool,
}

impl FromArgMatches for WorkerFlags {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let mut flags = Self::default();
        flags.update_from_arg_matches(matches)?;
        Ok(flags)
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        self.take(matches, SETTINGS.iter().map(|setting| setting.flag));
        self.no_inbox |= matches.get_flag("no-inbox");
        Ok(())
    }
}

impl Args for WorkerFlags {
    fn augment_args(command: Command) -> Command {
        let command = SETTINGS.iter().fold(command, |command, setting| {
            command.arg(argument(setting, setting.heading, setting.help))
        });
        let no_inbox = Arg::new("no-inbox")
            .long("no-inbox")
            .help_heading("The inbox")
            .help("Work without an inbox: messages are processed at least once, and may be processed twice")
            .action(clap::ArgAction::SetTrue)
            .conflicts_with("table");
        command.arg(no_inbox)
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

fn argument(setting: &'static Setting, heading: &'static str, help: &str) -> Arg {
    let help = match setting.variable {
        "" => help.to_owned(),
        variable => format!("{help} [{variable}]"),
    };
    let arg = Arg::new(setting.flag)
        .long(setting.flag)
        .help_heading(heading)
        .help(help);
    match setting.takes {
        Takes::Whole => arg.value_name("N").value_parser(whole),
        Takes::Number => arg.value_name("N").value_parser(number),
        Takes::Rate => arg.value_name("N/s").value_parser(rate),
        Takes::Span => arg.value_name("DURATION").value_parser(span),
        Takes::Text(name) => arg.value_name(name).value_parser(text),
        Takes::Consumer => arg.value_name("NAME").value_parser(values::consumer),
        Takes::OneOf(values) => arg
            .value_name("HOW")
            .value_parser(PossibleValuesParser::new(values))
            .hide_possible_values(false),
        Takes::Switch => arg
            .value_name("BOOL")
            .num_args(0..=1)
            .require_equals(true)
            .default_missing_value("true")
            .value_parser(PossibleValuesParser::new(["true", "false"]))
            .hide_possible_values(true),
    }
}

fn whole(text: &str) -> Result<String, String> {
    match text.parse::<u64>() {
        Ok(number) => Ok(number.to_string()),
        Err(_) => Err("give a whole number".to_owned()),
    }
}

fn number(text: &str) -> Result<String, String> {
    match text.parse::<f64>() {
        Ok(number) if number.is_finite() && number >= 0.0 => Ok(text.to_owned()),
        _ => Err("give a number such as 50 or 0.5".to_owned()),
    }
}

/// A rate, as the library reads it from a variable.
fn rate(text: &str) -> Result<String, String> {
    values::rate(text).map(|rate| rate.to_string())
}

/// A duration, as the library reads it from a variable.
fn span(text: &str) -> Result<String, String> {
    values::duration(text).map(|span| format!("{}ms", span.as_millis()))
}

fn text(text: &str) -> Result<String, String> {
    if text.trim().is_empty() {
        return Err("it must not be empty".to_owned());
    }
    Ok(text.to_owned())
}

/// Flags and variables together: a flag wins over its variable.
pub(super) struct Settings<'a> {
    flags: &'a WorkerFlags,
    environment: &'a dyn Fn(&str) -> Option<String>,
}

impl WorkerFlags {
    /// The argument of one setting, for a command that is no worker and must know how workers are set.
    pub(crate) fn argument(flag: &str, heading: &'static str, help: &str) -> Option<Arg> {
        let setting = SETTINGS.iter().find(|setting| setting.flag == flag)?;
        Some(argument(setting, heading, help))
    }

    /// Takes what was given for these flags.
    pub(crate) fn take(&mut self, matches: &ArgMatches, flags: impl Iterator<Item = &'static str>) {
        for flag in flags {
            if let Some(value) = matches.get_one::<String>(flag) {
                self.given.insert(flag, value.clone());
            }
        }
    }

    /// Where keys come from, by these flags over this environment.
    pub(crate) fn key_from(&self, environment: &dyn Fn(&str) -> Option<String>) -> Result<KeyFrom, Failure> {
        self.over(environment).key_from()
    }

    /// The flags over this environment.
    pub(super) fn over<'a>(&'a self, environment: &'a dyn Fn(&str) -> Option<String>) -> Settings<'a> {
        Settings {
            flags: self,
            environment,
        }
    }

    pub(super) fn until_empty(&self) -> bool {
        self.given.get("until-empty").is_some_and(|value| value == "true")
    }

    fn by_flag(&self, variable: &str) -> Option<&String> {
        let setting = SETTINGS.iter().find(|setting| setting.variable == variable)?;
        self.given.get(setting.flag)
    }
}

impl Settings<'_> {
    /// What the variable of this name comes to; empty is not set.
    pub(super) fn get(&self, variable: &str) -> Option<String> {
        if let Some(value) = self.flags.by_flag(variable) {
            return Some(value.clone());
        }
        if variable.is_empty() || self.is_hidden(variable) {
            return None;
        }
        let value = (self.environment)(variable).filter(|value| !value.trim().is_empty())?;
        let is_rate = SETTINGS
            .iter()
            .any(|setting| setting.variable == variable && setting.takes == Takes::Rate);
        // What is no rate is refused by whoever asks for the number.
        Some(if is_rate { rate(&value).unwrap_or(value) } else { value })
    }

    /// Whether a flag takes this variable out of the way.
    fn is_hidden(&self, variable: &str) -> bool {
        let given = |name: &str| self.flags.by_flag(name).is_some();
        let no_breaker = self.flags.by_flag(table::BREAKER).is_some_and(|value| value == "false");
        if no_breaker && variable.starts_with(table::BREAKER) {
            return true;
        }
        if self.flags.no_inbox && variable == table::SHADOW {
            return true;
        }
        RIVALS
            .iter()
            .any(|rivals| rivals.contains(&variable) && rivals.iter().any(|&rival| rival != variable && given(rival)))
    }

    /// Where keys come from.
    pub(super) fn key_from(&self) -> Result<KeyFrom, Failure> {
        let place = self.place(table::KEY_ATTRIBUTE, table::KEY_POINTER)?;
        let by_deduplication = self.get(table::KEY_DEDUPLICATION).is_some_and(|on| on == "true");
        match (place, by_deduplication) {
            (None, false) => Ok(KeyFrom::Attribute),
            (None, true) => Ok(KeyFrom::DeduplicationId),
            (Some(place), false) => Ok(KeyFrom::Place(place)),
            (Some(_), true) => Err(Failure::usage(format_args!(
                "{} says where keys come from, and so does another setting of the key; give one of them",
                self.name_of(table::KEY_DEDUPLICATION)
            ))),
        }
    }

    /// What an attribute or a pointer names; not both.
    pub(super) fn place(&self, attribute: &str, pointer: &str) -> Result<Option<Place>, Failure> {
        match (self.get(attribute), self.get(pointer)) {
            (None, None) => Ok(None),
            (Some(name), None) => Ok(Some(Place::Attribute(name))),
            (None, Some(found)) => Place::pointer(&self.name_of(pointer), found).map(Some),
            (Some(_), Some(_)) => Err(Failure::usage(format_args!(
                "{} and {} name two places for one thing; give one of them",
                self.name_of(attribute),
                self.name_of(pointer)
            ))),
        }
    }

    /// The inbox table; `None` for work without an inbox.
    pub(super) fn inbox(&self) -> Result<Option<String>, Failure> {
        let table = self.get(table::TABLE);
        if self.flags.no_inbox {
            if self.get(table::SHADOW).is_some_and(|on| on == "true") {
                return Err(Failure::usage("--shadow: there is no inbox that could record")
                    .remedy("give --table instead of --no-inbox"));
            }
            return Ok(None);
        }
        if table.is_none() {
            return Err(Failure::usage(
                "no inbox table is given, so nothing would keep a message from being processed twice",
            )
            .remedy(
                "give --table (or REDRIVE_INBOX_TABLE); `redrive init` makes one. --no-inbox works without, at least once",
            ));
        }
        Ok(table)
    }

    /// How long one message may take: as set, else `default`.
    pub(super) fn timeout(&self, default: Duration) -> Result<Duration, Failure> {
        let Some(value) = self.get(table::TIMEOUT) else {
            return Ok(default);
        };
        let span = values::duration(&value).map_err(|why| self.wrong(table::TIMEOUT, &value, &why))?;
        if span.is_zero() || span > LONGEST {
            let shown = values::shown(span);
            return Err(self.wrong(table::TIMEOUT, &shown, "it must be from 1ms to 6d"));
        }
        Ok(span)
    }

    /// A whole number that the library does not read.
    pub(super) fn whole(&self, variable: &str) -> Result<Option<u64>, Failure> {
        self.parsed(variable, "give a whole number")
    }

    /// A number that the library does not read.
    pub(super) fn number(&self, variable: &str) -> Result<Option<f64>, Failure> {
        self.parsed(variable, "give a number such as 50 or 0.5")
    }

    fn parsed<T: std::str::FromStr>(&self, variable: &str, what: &str) -> Result<Option<T>, Failure> {
        let Some(value) = self.get(variable) else {
            return Ok(None);
        };
        value
            .trim()
            .parse()
            .map(Some)
            .map_err(|_| self.wrong(variable, &value, what))
    }

    fn wrong(&self, variable: &str, value: &str, what: &str) -> Failure {
        Failure::usage(format_args!("{}: {what}", self.with_value(variable, value)))
    }

    /// What set it: the flag where it was given, else the variable; the flag again where neither was.
    pub(super) fn name_of(&self, variable: &str) -> String {
        let flag = SETTINGS.iter().find(|setting| setting.variable == variable);
        match flag {
            Some(setting) if self.flags.given.contains_key(setting.flag) || self.get(variable).is_none() => {
                format!("--{}", setting.flag)
            }
            _ => variable.to_owned(),
        }
    }

    /// What set it, with its value, as it was written: `--burst 5`, `REDRIVE_BURST=5`.
    pub(super) fn with_value(&self, variable: &str, value: &str) -> String {
        let name = self.name_of(variable);
        let between = if name.starts_with('-') { ' ' } else { '=' };
        format!("{name}{between}`{}`", crate::ui::safe(value))
    }

    /// The library's name of a setting as the one that set it, if it is one of ours: what was given, else the flag.
    pub(super) fn name_of_setting(&self, name: &str) -> Option<String> {
        let mut named = SETTINGS.iter().filter(|setting| setting.name == name).peekable();
        let first = **named.peek()?;
        let given = named.find(|setting| self.get(setting.variable).is_some());
        Some(match given {
            Some(setting) => self.name_of(setting.variable),
            None => format!("--{}", first.flag),
        })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]
mod tests {
    use std::collections::BTreeSet;

    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        worker: WorkerFlags,
    }

    fn flags(line: &[&str]) -> WorkerFlags {
        Line::parse_from([&["redrive"], line].concat()).worker
    }

    fn environment<'a>(set: &'a [(&'a str, &'a str)]) -> impl Fn(&str) -> Option<String> + 'a {
        |name| {
            let found = set.iter().find(|(known, _)| *known == name)?;
            Some(found.1.to_owned())
        }
    }

    #[test]
    fn no_two_settings_share_a_flag_or_a_variable() {
        let flags: BTreeSet<&str> = SETTINGS.iter().map(|setting| setting.flag).collect();
        let variables: BTreeSet<&str> = SETTINGS.iter().map(|setting| setting.variable).collect();
        assert_eq!((flags.len(), variables.len()), (SETTINGS.len(), SETTINGS.len()));
        use clap::CommandFactory as _;
        Line::command().debug_assert();
    }

    #[test]
    fn a_flag_wins_over_its_variable_and_an_empty_variable_is_not_set() {
        let flags = flags(&[
            "--concurrency",
            "4",
            "--backoff",
            "1m 30s",
            "--shadow",
            "--heartbeat=false",
        ]);
        let set = environment(&[
            ("REDRIVE_CONCURRENCY", "64"),
            ("REDRIVE_RATE", "0.5"),
            ("REDRIVE_CONSUMER", " "),
        ]);
        let settings = flags.over(&set);
        assert_eq!(settings.get("REDRIVE_CONCURRENCY").as_deref(), Some("4"));
        assert_eq!(settings.get("REDRIVE_BACKOFF").as_deref(), Some("90000ms"));
        assert_eq!(settings.get("REDRIVE_SHADOW").as_deref(), Some("true"));
        assert_eq!(settings.get("REDRIVE_HEARTBEAT").as_deref(), Some("false"));
        assert_eq!(settings.get("REDRIVE_RATE").as_deref(), Some("0.5"));
        assert_eq!(settings.get("REDRIVE_CONSUMER"), None);
        assert_eq!(settings.name_of("REDRIVE_CONCURRENCY"), "--concurrency");
        assert_eq!(settings.name_of("REDRIVE_RATE"), "REDRIVE_RATE");
        assert_eq!(
            settings.name_of_setting("max_attempts").as_deref(),
            Some("--max-attempts")
        );
    }

    #[test]
    fn a_rate_is_written_as_in_other_commands() {
        let flags = flags(&["--rate", "50/s", "--key-attribute", "order"]);
        let set = environment(&[("REDRIVE_RATE", "7"), ("REDRIVE_TENANT_RATE", "0.5 /s")]);
        let settings = flags.over(&set);
        assert_eq!(settings.get("REDRIVE_RATE").as_deref(), Some("50"));
        assert_eq!(settings.number("REDRIVE_TENANT_RATE").unwrap(), Some(0.5));
        let wrong = environment(&[("REDRIVE_TENANT_RATE", "50/m")]);
        assert!(flags.over(&wrong).number("REDRIVE_TENANT_RATE").is_err());
    }

    #[test]
    fn inv12_times_outside_what_works_are_refused_with_what_does() {
        let parsed = |line: &str| crate::Arguments::try_parse_from(line.split(' '));
        assert!(parsed("redrive exec orders --grace 0s -- x").is_ok());
        for (line, says) in [
            ("redrive exec orders --grace 2h -- x", "from 0s to 1h"),
            ("redrive exec orders --grace soon -- x", "such as 500ms"),
            ("redrive exec orders --linger soon -- x", "such as 500ms"),
            ("redrive forward orders --to u --connect-timeout 0s", "from 1ms to 1h"),
        ] {
            let error = parsed(line).unwrap_err().to_string();
            assert!(error.contains(says), "{line}: {error}");
        }
    }

    #[test]
    fn a_flag_takes_the_variables_that_contradict_it_out_of_the_way() {
        let set = environment(&[
            ("REDRIVE_KEY_ATTRIBUTE", "order"),
            ("REDRIVE_BREAKER_FAILURES", "3"),
            ("REDRIVE_DEAD_LETTERS", "keep"),
            ("REDRIVE_SHADOW", "true"),
        ]);
        let flags = flags(&[
            "--key-pointer",
            "/id",
            "--breaker=false",
            "--no-inbox",
            "--dead-letter-queue",
            "dead",
        ]);
        let settings = flags.over(&set);
        for hidden in [
            "REDRIVE_KEY_ATTRIBUTE",
            "REDRIVE_BREAKER_FAILURES",
            "REDRIVE_DEAD_LETTERS",
            "REDRIVE_SHADOW",
        ] {
            assert_eq!(settings.get(hidden), None, "{hidden}");
        }
        assert_eq!(settings.inbox().unwrap(), None);
    }

    #[test]
    fn inv12_wrong_values_are_refused_with_their_flag() {
        for line in [
            &["--concurrency", "many"][..],
            &["--rate=-1"],
            &["--backoff", "5"],
            &["--dead-letters", "burn"],
            &["--heartbeat=perhaps"],
            &["--table", "t", "--no-inbox"],
            &["--consumer", ""],
            &["--consumer", "a#b"],
            &["--rate", "50/m"],
            &["--tenant-rate", "0"],
        ] {
            let error = Line::try_parse_from([&["redrive"], line].concat())
                .unwrap_err()
                .to_string();
            assert!(error.contains(line[0].split('=').next().unwrap()), "{error}");
        }
        let nothing = environment(&[]);
        assert!(
            flags(&[])
                .over(&nothing)
                .inbox()
                .unwrap_err()
                .to_string()
                .contains("inbox table")
        );
        let wrong = environment(&[("REDRIVE_HANDLER_TIMEOUT", "soon")]);
        let error = flags(&[]).over(&wrong).timeout(LONGEST).unwrap_err().to_string();
        assert!(
            error.contains("REDRIVE_HANDLER_TIMEOUT") && error.contains("soon"),
            "{error}"
        );
    }
}
