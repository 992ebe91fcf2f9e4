//! The command line and the environment.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

pub(crate) const USAGE: &str = "usage: orders FILE|-           send the orders, work until the queue is empty, drain
       orders produce FILE|-   send only
       orders work             work only, until SIGTERM or ctrl-c, then drain
FILE holds one {\"key\": …, \"type\": …, \"body\": …} per line; - is the standard input";

/// What names an AWS environment, by the conventions of the AWS SDKs. Credentials alone do not: without a region or an
/// endpoint there is nothing to call.
const AWS_VARIABLES: [&str; 6] = [
    "AWS_REGION",
    "AWS_DEFAULT_REGION",
    "AWS_PROFILE",
    "AWS_ENDPOINT_URL",
    "AWS_ENDPOINT_URL_SQS",
    "AWS_ENDPOINT_URL_DYNAMODB",
];

/// What is to be done.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Command {
    ProduceAndWork(Input),
    Produce(Input),
    Work,
    Help,
}

/// Where orders come from.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Input {
    Stdin,
    File(PathBuf),
}

impl fmt::Display for Input {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Stdin => f.write_str("the standard input"),
            Self::File(path) => path.display().fmt(f),
        }
    }
}

pub(crate) fn command(arguments: impl Iterator<Item = String>) -> Result<Command, String> {
    let arguments: Vec<String> = arguments.collect();
    let input = |given: &str| match given {
        "-" => Ok(Input::Stdin),
        option if option.starts_with('-') => Err(format!("there is no option `{option}`")),
        path => Ok(Input::File(path.into())),
    };
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments[..] {
        [] => Err("it is not said what to do".to_owned()),
        ["-h" | "--help"] => Ok(Command::Help),
        ["work"] => Ok(Command::Work),
        ["produce"] => Err("`produce` wants a file, or `-` for the standard input".to_owned()),
        ["produce", given] => Ok(Command::Produce(input(given)?)),
        [given] => Ok(Command::ProduceAndWork(input(given)?)),
        [.., extra] => Err(format!("`{extra}` is one argument too many")),
    }
}

/// Which backends the worker runs on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Backend {
    Aws,
    Embedded,
}

impl fmt::Display for Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Aws => f.write_str("on SQS and DynamoDB"),
            Self::Embedded => write!(
                f,
                "on the embedded backends, as none of {} is set",
                AWS_VARIABLES.join(", ")
            ),
        }
    }
}

/// What the environment says.
#[derive(Debug)]
pub(crate) struct Settings {
    pub(crate) backend: Backend,
    pub(crate) queue: String,
    pub(crate) table: String,
    pub(crate) ledger: Option<PathBuf>,
    pub(crate) gateway_takes: Duration,
}

impl Settings {
    /// Reads the variables by `get`; an empty one is none.
    pub(crate) fn read(get: impl Fn(&str) -> Option<String>) -> Result<Self, String> {
        let get = |name: &str| get(name).filter(|value| !value.trim().is_empty());
        let backend = if AWS_VARIABLES.iter().any(|name| get(name).is_some()) {
            Backend::Aws
        } else {
            Backend::Embedded
        };
        let gateway_ms = match get("ORDERS_GATEWAY_MS") {
            None => 5,
            Some(given) => given
                .parse()
                .map_err(|_| format!("ORDERS_GATEWAY_MS=`{given}`: give a whole number of milliseconds"))?,
        };
        Ok(Self {
            backend,
            queue: get("ORDERS_QUEUE").unwrap_or_else(|| "orders".to_owned()),
            table: get("ORDERS_TABLE").unwrap_or_else(|| "redrive-inbox".to_owned()),
            ledger: get("ORDERS_LEDGER").map(PathBuf::from),
            gateway_takes: Duration::from_millis(gateway_ms),
        })
    }
}
