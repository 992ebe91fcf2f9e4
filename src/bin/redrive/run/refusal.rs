//! The library's refusals in the words of the command line: it names settings by their builder's methods.

use redrive::worker::BuildError;

use super::settings::Settings;
use super::table::SETTINGS;
use crate::failure::Failure;

/// Why the worker cannot be built, with the flags or variables that are at fault.
pub(super) fn refusal(error: &BuildError, settings: &Settings<'_>) -> Failure {
    match error {
        BuildError::NoDeadLetterQueue { queue, detail, .. } => Failure::new(format_args!(
            "queue `{queue}` has no redrive policy whose dead-letter queue can be opened{detail}, so nothing says where \
             messages go that are given up"
        ))
        .remedy(
            "set one on the queue (`redrive init` does), or give --dead-letter-queue, or choose --dead-letters policy, keep \
             or discard",
        ),
        BuildError::Setting { setting, why, .. } => {
            let name = settings.name_of_setting(setting).unwrap_or_else(|| (*setting).to_owned());
            Failure::usage(format_args!("{name}: {}", in_flags(why)))
        }
        BuildError::Variable { variable, value, why } => {
            let both = variable.split(", ").zip(value.split(", "));
            let named: Vec<String> = both
                .map(|(variable, value)| settings.with_value(variable, value))
                .collect();
            // The library says once more which value it is, by a name of its own.
            let why = why.split_once("; set it to ").map_or_else(
                || in_flags(why),
                |(_, allowed)| format!("it must be {allowed}"),
            );
            Failure::usage(format_args!("{}: {why}", named.join(", ")))
        }
        BuildError::Flow { source, .. } => {
            let text = source.to_string();
            let name = text.split(' ').next().unwrap_or_default();
            match settings.name_of_setting(name) {
                Some(flag) => Failure::usage(text.replacen(name, &flag, 1)),
                None => Failure::usage(text),
            }
        }
        other => Failure::usage(other),
    }
}

/// `text` with variables named as what set them, and the builder's methods as flags.
fn in_flags(text: &str) -> String {
    let mut text = text.replace("set `.inbox(…)`", "give --table");
    // The longest first, so that no name is taken for another's beginning.
    let mut named: Vec<_> = SETTINGS.iter().filter(|setting| !setting.variable.is_empty()).collect();
    named.sort_by_key(|setting| std::cmp::Reverse(setting.variable.len()));
    for setting in named {
        text = text.replace(setting.variable, &format!("--{}", setting.flag));
    }
    text
}
