//! Values as people write them on the command line: one way to read a time, a rate, a limit and a consumer's name, for every
//! command.

use std::ffi::OsString;
use std::time::Duration;

use clap::Command;
use redrive::flow::RateLimit;

use crate::failure::Failure;
use crate::ui::safe;

/// The variable that names the consumer, for workers and for those who look after them.
pub(crate) const CONSUMER: &str = "REDRIVE_CONSUMER";

/// The longest consumer's name that workers take, in bytes.
const LONGEST_CONSUMER: usize = 512;

/// A time, such as `30s`.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    humantime::parse_duration(text.trim()).map_err(|_| "give a time such as 500ms, 30s, 15m, 12h or 4d".to_owned())
}

/// Reads a time from `least` to `most`; what is outside is refused.
pub(crate) fn duration_within(
    least: Duration,
    most: Duration,
) -> impl Fn(&str) -> Result<Duration, String> + Clone + Send + Sync + 'static {
    move |text| {
        let given = duration(text)?;
        if (least..=most).contains(&given) {
            Ok(given)
        } else {
            Err(format!("it must be from {} to {}", shown(least), shown(most)))
        }
    }
}

/// A time as [`duration`] reads it: `0s`, `1m`.
pub(crate) fn shown(time: Duration) -> String {
    humantime::format_duration(time).to_string()
}

/// Messages a second, such as `50`, `50/s` or `0.5`.
pub(crate) fn rate(text: &str) -> Result<f64, String> {
    let text = text.trim();
    let number: f64 = text
        .strip_suffix("/s")
        .unwrap_or(text)
        .trim_end()
        .parse()
        .ok()
        .filter(|rate: &f64| *rate > 0.0 && rate.is_finite())
        .ok_or_else(|| "give messages a second, such as 50, 50/s or 0.5".to_owned())?;
    match RateLimit::per_second(number) {
        Ok(_) => Ok(number),
        Err(_) => Err("it must be from one a day (0.0000116) to 1000000 a second".to_owned()),
    }
}

/// As [`rate`], as what keeps to it.
pub(crate) fn rate_limit(text: &str) -> Result<RateLimit, String> {
    RateLimit::per_second(rate(text)?).map_err(|error| error.to_string())
}

/// At most so many, and at least one.
pub(crate) fn limit(text: &str) -> Result<u64, String> {
    match text.trim().parse() {
        Ok(0) => Err("it must be 1 or more".to_owned()),
        Ok(number) => Ok(number),
        Err(_) => Err("give a whole number, 1 or more".to_owned()),
    }
}

/// At most so many; 0 for all.
pub(crate) fn limit_or_all(text: &str) -> Result<usize, String> {
    text.trim()
        .parse()
        .map_err(|_| "give a whole number, 0 for all".to_owned())
}

/// The name that a worker's keys are kept under.
pub(crate) fn consumer(text: &str) -> Result<String, String> {
    if text.trim().is_empty() || text.contains('#') || text.len() > LONGEST_CONSUMER {
        return Err(format!(
            "a consumer's name is not empty, has no `#`, and is at most {LONGEST_CONSUMER} bytes long"
        ));
    }
    Ok(text.to_owned())
}

/// The consumer that the environment names.
pub(crate) fn consumer_of_variable() -> Result<Option<String>, Failure> {
    match std::env::var(CONSUMER) {
        Ok(name) if !name.trim().is_empty() => consumer(&name)
            .map(Some)
            .map_err(|why| Failure::usage(format_args!("{CONSUMER}=`{}`: {why}", safe(&name)))),
        _ => Ok(None),
    }
}

/// The command line with every variable that is set to nothing left out: empty is not set.
pub(crate) fn without_empty_variables(command: Command) -> Command {
    without(command, |name| std::env::var_os(name))
}

fn without(command: Command, variable: fn(&std::ffi::OsStr) -> Option<OsString>) -> Command {
    command
        .mut_args(|arg| {
            let value = arg.get_env().and_then(variable);
            if value.is_some_and(|value| value.to_string_lossy().trim().is_empty()) {
                arg.env(None::<&'static str>)
            } else {
                arg
            }
        })
        .mut_subcommands(|command| without(command, variable))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_as_people_write_them_and_what_is_outside_is_refused() {
        assert_eq!(duration("1m 30s"), Ok(Duration::from_secs(90)));
        for wrong in ["", "5", "soon", "-1s"] {
            assert!(duration(wrong).unwrap_err().contains("such as 500ms, 30s"), "{wrong}");
        }
        let short = duration_within(Duration::ZERO, Duration::from_secs(20));
        assert_eq!(short("0s"), Ok(Duration::ZERO));
        assert_eq!(short("20s"), Ok(Duration::from_secs(20)));
        assert_eq!(short("60s").unwrap_err(), "it must be from 0s to 20s");
        assert!(short("soon").unwrap_err().contains("such as"));
    }

    #[test]
    fn rates_are_read_as_people_write_them() {
        assert_eq!(
            (rate("50"), rate("50/s"), rate("0.5/s"), rate("2 /s")),
            (Ok(50.0), Ok(50.0), Ok(0.5), Ok(2.0))
        );
        for wrong in ["0", "-1", "fast", "inf", "NaN", "50/m", ""] {
            assert!(rate(wrong).unwrap_err().contains("50/s"), "{wrong}");
        }
        for wrong in ["1e9", "0.00001"] {
            assert!(rate(wrong).unwrap_err().contains("one a day"), "{wrong}");
        }
        assert_eq!(rate_limit("5/s"), Ok(RateLimit::per_second(5.0).unwrap()));
    }

    #[test]
    fn a_limit_of_none_is_refused_unless_it_means_all() {
        assert_eq!((limit("1"), limit_or_all("0")), (Ok(1), Ok(0)));
        for wrong in ["0", "-1", "many", ""] {
            assert!(limit(wrong).is_err(), "{wrong}");
        }
        assert!(limit_or_all("-1").is_err());
    }

    #[test]
    fn a_consumers_name_can_stand_before_a_key() {
        assert_eq!(consumer("orders"), Ok("orders".to_owned()));
        for wrong in ["", " ", "a#b", &"x".repeat(LONGEST_CONSUMER + 1)] {
            assert!(consumer(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_flag_means_the_same_in_every_command() {
        use clap::CommandFactory as _;
        fn walk(command: &Command, name: &str) {
            for arg in command.get_arguments() {
                let flag = arg.get_long().unwrap_or_default();
                let shown = format!("{name} --{flag}");
                match arg.get_short() {
                    Some('n') => assert_eq!(flag, "limit", "{shown}"),
                    short => assert!(flag != "limit" || short.is_some(), "{shown} has no -n"),
                }
            }
            for sub in command.get_subcommands() {
                walk(sub, &format!("{name} {}", sub.get_name()));
            }
        }
        walk(&crate::Arguments::command(), "redrive");
    }

    #[test]
    fn inv12_values_that_are_none_are_refused_before_anything_is_done() {
        use clap::Parser as _;
        let parsed = |line: &str| crate::Arguments::try_parse_from(line.split(' '));
        for line in [
            "redrive dlq import orders f --rate 50/s",
            "redrive queue send orders --jsonl --rate 0.5/s",
            "redrive dlq drop orders -n 5",
            "redrive inbox ls -n 0",
            "redrive queue peek orders -n 3",
            "redrive queue peek orders --count 3",
            "redrive queue send orders x --delay 0s",
        ] {
            assert!(parsed(line).is_ok(), "{line}: {}", parsed(line).unwrap_err());
        }
        for (line, says) in [
            ("redrive dlq import orders f --rate 50/m", "50/s"),
            ("redrive dlq drop orders --limit 0", "1 or more"),
            ("redrive queue peek orders --limit 0", "1 or more"),
            ("redrive queue peek orders --limit 1001", "from 1 to 1000"),
            ("redrive inbox ls --limit many", "0 for all"),
            ("redrive dlq ls orders --consumer a#b", "no `#`"),
            ("redrive inbox stats --consumer=", "not empty"),
            ("redrive queue send orders x --delay 16m", "from 0s to 15m"),
            ("redrive dlq watch orders --interval 0s", "from 1s to 1day"),
            ("redrive queue stats orders --watch 5", "before --watch"),
            ("redrive inbox ls --older-than 3", "12h or 4d"),
        ] {
            let error = parsed(line).unwrap_err().to_string();
            assert!(error.contains(says), "{line}: {error}");
        }
    }

    #[test]
    fn a_variable_that_is_set_to_nothing_is_not_set() {
        use clap::Arg;
        let variable = |name: &std::ffi::OsStr| match name.to_str()? {
            "SET" => Some(OsString::from("x")),
            "EMPTY" => Some(OsString::from(" ")),
            _ => None,
        };
        let inner = Command::new("inner")
            .arg(Arg::new("empty").long("empty").env("EMPTY"))
            .arg(Arg::new("set").long("set").env("SET"));
        let command = without(Command::new("outer").subcommand(inner), variable);
        let inner = command.find_subcommand("inner").unwrap();
        let left: Vec<_> = inner.get_arguments().filter_map(Arg::get_env).collect();
        assert_eq!(left, ["SET"]);
    }
}
