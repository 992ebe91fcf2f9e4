//! The standard variables, as far as their values must be right before anything is exported.
//!
//! The exporter takes what it cannot read for what is usual, without a word: what a deployment asks for and cannot have is an
//! error here.

use super::OtelError;
use crate::telemetry::shown;

const ENDPOINT: &str = "OTEL_EXPORTER_OTLP_ENDPOINT";
const TRACES_ENDPOINT: &str = "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT";

/// Spans that wait to be exported, by the specification.
const USUAL_QUEUE: usize = 2_048;

/// As long as anything here may take.
const A_DAY_MS: u64 = 24 * 60 * 60 * 1_000;

const SAMPLERS: [&str; 6] = [
    "always_on",
    "always_off",
    "traceidratio",
    "parentbased_always_on",
    "parentbased_always_off",
    "parentbased_traceidratio",
];

/// What is asked for.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Variables {
    /// Where to: scheme, host and port.
    pub(super) place: String,
    /// How many spans may wait.
    pub(super) queue: usize,
}

impl Variables {
    /// `None` where no export is asked for.
    pub(super) fn read(raw: impl Fn(&str) -> Option<String>) -> Result<Option<Self>, OtelError> {
        let get = |name: &'static str| {
            let value = raw(name).map(|value| value.trim().to_owned());
            value.filter(|value| !value.is_empty()).map(|value| (name, value))
        };
        if get("OTEL_SDK_DISABLED").is_some_and(|(_, value)| value.eq_ignore_ascii_case("true")) {
            return Ok(None);
        }
        match get("OTEL_TRACES_EXPORTER") {
            Some((_, value)) if value == "none" => return Ok(None),
            Some((_, value)) if value == "otlp" => {}
            Some((name, value)) => return Err(wrong(name, &value, "give otlp or none: there is no other exporter")),
            None => {}
        }
        let Some((name, endpoint)) = get(TRACES_ENDPOINT).or_else(|| get(ENDPOINT)) else {
            return Ok(None);
        };
        let Some(place) = place(&endpoint) else {
            let why = "give the URL of a collector's OTLP/HTTP receiver, such as http://localhost:4318";
            return Err(OtelError::Variable {
                name,
                // It may hold a password.
                value: (!endpoint.contains('@')).then(|| shown(&endpoint)),
                why,
            });
        };
        let protocol = get("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL").or_else(|| get("OTEL_EXPORTER_OTLP_PROTOCOL"));
        if let Some((name, value)) = protocol.filter(|(_, value)| value != "http/protobuf") {
            let why = "give http/protobuf, the only one there is here, and a receiver that speaks it: port 4318 where 4317 takes grpc";
            return Err(wrong(name, &value, why));
        }
        let compression =
            get("OTEL_EXPORTER_OTLP_TRACES_COMPRESSION").or_else(|| get("OTEL_EXPORTER_OTLP_COMPRESSION"));
        if let Some((name, value)) = compression.filter(|(_, value)| value != "none") {
            return Err(wrong(
                name,
                &value,
                "give none, or leave it out: traces are sent as they are",
            ));
        }
        if let Some((name, value)) = get("OTEL_TRACES_SAMPLER") {
            if !SAMPLERS.contains(&value.as_str()) {
                let why = "give always_on, always_off, traceidratio, parentbased_always_on, parentbased_always_off or \
                           parentbased_traceidratio";
                return Err(wrong(name, &value, why));
            }
            let share = get("OTEL_TRACES_SAMPLER_ARG").filter(|_| value.ends_with("traceidratio"));
            if let Some((name, share)) = share
                && !share.parse::<f64>().is_ok_and(|share| (0.0..=1.0).contains(&share))
            {
                return Err(wrong(name, &share, "give the share of traces to keep, from 0 to 1"));
            }
        }
        let queue = match get("OTEL_BSP_MAX_QUEUE_SIZE") {
            None => USUAL_QUEUE,
            Some((name, value)) => match value.parse() {
                Ok(queue @ 1..=1_000_000) => queue,
                _ => return Err(wrong(name, &value, "give how many spans may wait, from 1 to 1000000")),
            },
        };
        // The exporter reads these by itself, as they stand: space around them is no number to it.
        let as_it_stands = |name: &'static str| get(name).and_then(|_| Some((name, raw(name)?)));
        let timeout =
            as_it_stands("OTEL_EXPORTER_OTLP_TRACES_TIMEOUT").or_else(|| as_it_stands("OTEL_EXPORTER_OTLP_TIMEOUT"));
        if let Some((name, value)) = timeout.filter(|(_, value)| !is_from_1_to(value, A_DAY_MS)) {
            return Err(wrong(
                name,
                &value,
                "give the milliseconds an export may take, from 1 to 86400000",
            ));
        }
        let delay = as_it_stands("OTEL_BSP_SCHEDULE_DELAY");
        if let Some((name, value)) = delay.filter(|(_, value)| !is_from_1_to(value, A_DAY_MS)) {
            return Err(wrong(
                name,
                &value,
                "give the milliseconds between exports, from 1 to 86400000",
            ));
        }
        let batch = as_it_stands("OTEL_BSP_MAX_EXPORT_BATCH_SIZE");
        if let Some((name, value)) = batch.filter(|(_, value)| !is_from_1_to(value, 1_000_000)) {
            return Err(wrong(name, &value, "give how many spans go at once, from 1 to 1000000"));
        }
        let headers = get("OTEL_EXPORTER_OTLP_TRACES_HEADERS").or_else(|| get("OTEL_EXPORTER_OTLP_HEADERS"));
        if let Some((name, _)) = headers.filter(|(_, value)| !pairs(value).all(is_header)) {
            let why = "give headers as name=value, with commas between them, and %20 for a space";
            // They hold secrets.
            return Err(OtelError::Variable { name, value: None, why });
        }
        if let Some((name, value)) = get("OTEL_RESOURCE_ATTRIBUTES").filter(|(_, value)| !pairs(value).all(is_pair)) {
            return Err(wrong(
                name,
                &value,
                "give attributes as name=value, with commas between them",
            ));
        }
        Ok(Some(Self { place, queue }))
    }
}

fn is_from_1_to(value: &str, most: u64) -> bool {
    value.parse::<u64>().is_ok_and(|value| (1..=most).contains(&value))
}

fn pairs(list: &str) -> impl Iterator<Item = &str> {
    list.split(',').map(str::trim).filter(|pair| !pair.is_empty())
}

fn is_pair(pair: &str) -> bool {
    pair.split_once('=').is_some_and(|(name, _)| !name.trim().is_empty())
}

/// A name that HTTP knows for one, and a value without control characters, encoded ones among them.
fn is_header(pair: &str) -> bool {
    let Some((name, value)) = pair.split_once('=') else {
        return false;
    };
    let (name, value) = (name.trim(), value.trim());
    let is_of_a_name = |c: char| c.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(c);
    let is_visible = |byte: u8| matches!(byte, b'\t' | b' '..=b'~');
    let encoded = value.split('%').skip(1).filter_map(|after| after.get(..2));
    !name.is_empty()
        && name.chars().all(is_of_a_name)
        && !value.is_empty()
        && value.bytes().all(is_visible)
        && encoded
            .filter_map(|digits| u8::from_str_radix(digits, 16).ok())
            .all(is_visible)
}

fn wrong(name: &'static str, value: &str, why: &'static str) -> OtelError {
    OtelError::Variable {
        name,
        value: Some(shown(value)),
        why,
    }
}

/// Scheme, host and port of a URL of HTTP, and nothing that may be secret.
fn place(url: &str) -> Option<String> {
    let (scheme, rest) = url.split_once("://")?;
    let scheme = scheme.to_ascii_lowercase();
    if !matches!(scheme.as_str(), "http" | "https") {
        return None;
    }
    let authority = rest.split(['/', '?', '#']).next()?;
    let host = authority.rsplit('@').next()?;
    let named = host.rsplit_once(':').map_or(host, |(name, _)| name);
    let is_legal = |c: char| c.is_ascii_alphanumeric() || "-._~:[]%".contains(c);
    (!named.is_empty() && host.chars().all(is_legal)).then(|| format!("{scheme}://{host}"))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    fn read(variables: &[(&str, &str)]) -> Result<Option<Variables>, OtelError> {
        Variables::read(|name| {
            let set = variables.iter().find(|(set, _)| *set == name);
            set.map(|(_, value)| (*value).to_owned())
        })
    }

    const LOCAL: (&str, &str) = (ENDPOINT, "http://localhost:4318");

    #[test]
    fn nothing_is_exported_unless_an_endpoint_is_set() {
        assert_eq!(read(&[]).unwrap(), None);
        assert_eq!(read(&[(ENDPOINT, " ")]).unwrap(), None);
        assert_eq!(read(&[LOCAL, ("OTEL_SDK_DISABLED", "true")]).unwrap(), None);
        assert_eq!(read(&[LOCAL, ("OTEL_TRACES_EXPORTER", "none")]).unwrap(), None);
        let found = read(&[LOCAL, ("OTEL_BSP_MAX_QUEUE_SIZE", "7")]).unwrap().unwrap();
        assert_eq!((found.place.as_str(), found.queue), ("http://localhost:4318", 7));
    }

    #[test]
    fn an_endpoint_is_told_of_without_its_secrets() {
        let secret = "HTTPS://user:hunter2@collector.example:4318/v1/traces?api-key=hunter2";
        let found = read(&[LOCAL, (TRACES_ENDPOINT, secret)]).unwrap().unwrap();
        assert_eq!(found.place, "https://collector.example:4318");
        let error = read(&[(ENDPOINT, "ftp://user:hunter2@collector.example")]).unwrap_err();
        assert!(!error.to_string().contains("hunter2"), "{error}");
        assert!(error.to_string().starts_with(ENDPOINT));
    }

    #[test]
    fn a_value_that_cannot_be_used_is_named_with_what_can() {
        for (name, value, hint) in [
            (ENDPOINT, "localhost:4318", "http://localhost:4318"),
            (ENDPOINT, "http://", "http://localhost:4318"),
            (ENDPOINT, "http://a b", "http://localhost:4318"),
            ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc", "http/protobuf"),
            ("OTEL_EXPORTER_OTLP_COMPRESSION", "gzip", "none"),
            ("OTEL_TRACES_EXPORTER", "jaeger", "otlp"),
            ("OTEL_TRACES_SAMPLER", "sometimes", "traceidratio"),
            ("OTEL_BSP_MAX_QUEUE_SIZE", "many", "1 to 1000000"),
            ("OTEL_EXPORTER_OTLP_TIMEOUT", "10s", "1 to 86400000"),
            ("OTEL_EXPORTER_OTLP_TRACES_TIMEOUT", "0", "milliseconds"),
            ("OTEL_EXPORTER_OTLP_TIMEOUT", "18446744073709551615", "milliseconds"),
            ("OTEL_BSP_SCHEDULE_DELAY", "5.5", "1 to 86400000"),
            ("OTEL_BSP_SCHEDULE_DELAY", " 500", "milliseconds"),
            ("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "-1", "1 to 1000000"),
            ("OTEL_RESOURCE_ATTRIBUTES", "team", "name=value"),
        ] {
            let error = read(&[(name, value), LOCAL]).unwrap_err().to_string();
            assert!(error.starts_with(&format!("{name}=`{value}`")), "{error}");
            assert!(error.contains(hint), "{error}");
        }
        let sampler = ("OTEL_TRACES_SAMPLER", "parentbased_traceidratio");
        let error = read(&[LOCAL, sampler, ("OTEL_TRACES_SAMPLER_ARG", "10%")]).unwrap_err();
        assert!(error.to_string().contains("0 to 1"), "{error}");
        assert!(read(&[LOCAL, sampler, ("OTEL_TRACES_SAMPLER_ARG", "0.1")]).is_ok());
    }

    #[test]
    fn numbers_and_pairs_that_can_be_used_are() {
        for (name, value) in [
            ("OTEL_EXPORTER_OTLP_TIMEOUT", "10000"),
            ("OTEL_EXPORTER_OTLP_TRACES_TIMEOUT", "1"),
            ("OTEL_BSP_SCHEDULE_DELAY", "5000"),
            ("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "512"),
            ("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", " "),
            (
                "OTEL_RESOURCE_ATTRIBUTES",
                "team=shop, deployment.environment.name=prod,",
            ),
            (
                "OTEL_EXPORTER_OTLP_HEADERS",
                "authorization=Bearer%20abc==, x-team = shop",
            ),
        ] {
            assert!(read(&[LOCAL, (name, value)]).is_ok(), "{name}={value}");
        }
    }

    #[test]
    fn headers_that_would_not_be_sent_are_told_of_without_their_secrets() {
        for name in ["OTEL_EXPORTER_OTLP_HEADERS", "OTEL_EXPORTER_OTLP_TRACES_HEADERS"] {
            for value in [
                "hunter2",
                "api-key: hunter2",
                "a=1,hunter2",
                "api key=hunter2",
                "=hunter2",
                "hunter2=",
                "k=hunter2%0A",
                "k=hünter2,l=hunter2",
            ] {
                let error = read(&[LOCAL, (name, value)]).unwrap_err().to_string();
                assert!(
                    error.starts_with(&format!("{name}: give headers as name=value")),
                    "{error}"
                );
                assert!(!error.contains("hunter2"), "{error}");
            }
        }
    }
}
