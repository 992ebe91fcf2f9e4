//! What a queue was asked for by: its name, its URL or its ARN.

use super::super::QueueError;

/// The longest name SQS allows, with `.fifo`.
const MAX_NAME: usize = 80;

const FORMS: &str = "give a queue's name (letters, digits, `-` and `_`, to 80 characters, `.fifo` at the end of a FIFO \
                     queue's), its URL (`https://…`) or its ARN (`arn:aws:sqs:region:account:name`)";

/// A queue as it was asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Target {
    Name(String),
    Url {
        url: String,
        name: String,
        region: Option<String>,
    },
    Arn(Arn),
}

/// The parts of a queue's ARN.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Arn {
    pub(super) region: String,
    pub(super) account: String,
    pub(super) name: String,
}

impl Target {
    pub(super) fn parse(given: &str) -> Result<Self, QueueError> {
        if given.starts_with("arn:") {
            return Arn::parse(given).map(Self::Arn);
        }
        if let Some((scheme, rest)) = given.split_once("://") {
            return Self::parse_url(given, scheme, rest);
        }
        match name_problem(given) {
            None => Ok(Self::Name(given.to_owned())),
            Some(problem) => Err(invalid("queue name", given, format!("{problem}; {FORMS}"))),
        }
    }

    fn parse_url(given: &str, scheme: &str, rest: &str) -> Result<Self, QueueError> {
        if !matches!(scheme, "http" | "https") {
            return Err(invalid(
                "queue URL",
                given,
                "it must start with `https://` or `http://`".to_owned(),
            ));
        }
        let rest = rest.trim_end_matches('/');
        let (host, path) = rest.split_once('/').unwrap_or((rest, ""));
        let segments: Vec<&str> = path.split('/').collect();
        let name = segments.last().copied().unwrap_or("");
        if segments.len() < 2 || name_problem(name).is_some() {
            return Err(invalid(
                "queue URL",
                given,
                "its path must end in an account and a queue name, as in \
                 `https://sqs.eu-west-1.amazonaws.com/123456789012/orders`"
                    .to_owned(),
            ));
        }
        Ok(Self::Url {
            url: given.trim_end_matches('/').to_owned(),
            name: name.to_owned(),
            region: region_of_host(host),
        })
    }

    pub(super) fn name(&self) -> &str {
        match self {
            Self::Name(name) | Self::Url { name, .. } => name,
            Self::Arn(arn) => &arn.name,
        }
    }

    /// SQS serves a queue in its own region only, and answers elsewhere as if the queue did not exist.
    pub(super) fn check_region(&self, given: &str, configured: &str) -> Result<(), QueueError> {
        let (what, region) = match self {
            Self::Url {
                region: Some(region), ..
            } => ("queue URL", region),
            Self::Arn(arn) => ("queue ARN", &arn.region),
            Self::Name(_) | Self::Url { region: None, .. } => return Ok(()),
        };
        if region == configured {
            return Ok(());
        }
        Err(invalid(
            what,
            given,
            format!(
                "the queue is in region {region}, but the AWS configuration is for {configured}; load the configuration \
                 for {region} (AWS_REGION), or give a queue of {configured}"
            ),
        ))
    }
}

impl Arn {
    pub(super) fn parse(given: &str) -> Result<Self, QueueError> {
        let parts: Vec<&str> = given.split(':').collect();
        match parts[..] {
            ["arn", partition, "sqs", region, account, name]
                if !partition.is_empty()
                    && !region.is_empty()
                    && !account.is_empty()
                    && account.bytes().all(|byte| byte.is_ascii_digit())
                    && name_problem(name).is_none() =>
            {
                Ok(Self {
                    region: region.to_owned(),
                    account: account.to_owned(),
                    name: name.to_owned(),
                })
            }
            ["arn", _, service, ..] if service != "sqs" => Err(invalid(
                "queue ARN",
                given,
                format!("it names a resource of `{service}`, not an SQS queue"),
            )),
            _ => Err(invalid(
                "queue ARN",
                given,
                "a queue's ARN has six parts, as in `arn:aws:sqs:eu-west-1:123456789012:orders`".to_owned(),
            )),
        }
    }
}

fn invalid(what: &'static str, value: &str, why: String) -> QueueError {
    QueueError::Invalid {
        what,
        value: value.to_owned(),
        why,
    }
}

fn name_problem(name: &str) -> Option<String> {
    let stem = name.strip_suffix(".fifo").unwrap_or(name);
    if stem.is_empty() {
        return Some("it is empty".to_owned());
    }
    if name.len() > MAX_NAME {
        return Some(format!(
            "it has {} characters of at most {MAX_NAME}",
            name.chars().count()
        ));
    }
    stem.chars()
        .find(|c| !(c.is_ascii_alphanumeric() || matches!(c, '-' | '_')))
        .map(|c| format!("{c:?} is not allowed in it"))
}

/// The region that the host of a queue URL names, for the hosts of AWS: `sqs.<region>.amazonaws.com`, the older
/// `<region>.queue.amazonaws.com`, and those of FIPS, dual stack and VPC endpoints. Emulators that imitate them too.
fn region_of_host(host: &str) -> Option<String> {
    let host = host.split(':').next().unwrap_or(host);
    let labels: Vec<&str> = host.split('.').collect();
    if host == "queue.amazonaws.com" {
        return Some("us-east-1".to_owned());
    }
    let at = labels
        .iter()
        .position(|label| matches!(*label, "sqs" | "sqs-fips" | "queue"))?;
    let candidate = if labels[at] == "queue" {
        at.checked_sub(1).map(|before| labels[before])
    } else {
        labels.get(at + 1).copied()
    };
    candidate
        .filter(|label| looks_like_region(label))
        .map(ToOwned::to_owned)
}

fn looks_like_region(label: &str) -> bool {
    let parts: Vec<&str> = label.split('-').collect();
    let (Some(number), true) = (parts.last(), parts.len() >= 3) else {
        return false;
    };
    !number.is_empty()
        && number.bytes().all(|byte| byte.is_ascii_digit())
        && parts[..parts.len() - 1]
            .iter()
            .all(|part| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_lowercase()))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn a_queue_is_asked_for_by_name_url_or_arn() {
        for (given, name) in [
            ("orders", "orders"),
            ("orders-2_x.fifo", "orders-2_x.fifo"),
            ("https://sqs.eu-west-1.amazonaws.com/123456789012/orders", "orders"),
            ("http://localhost:4566/000000000000/orders/", "orders"),
            ("http://localhost:4566/queue/us-east-1/000000000000/orders", "orders"),
            ("arn:aws-cn:sqs:cn-north-1:123456789012:orders.fifo", "orders.fifo"),
        ] {
            assert_eq!(Target::parse(given).unwrap().name(), name, "{given}");
        }
        let Target::Url { url, .. } = Target::parse("http://localhost:4566/000000000000/orders/").unwrap() else {
            panic!("not a URL");
        };
        assert_eq!(url, "http://localhost:4566/000000000000/orders");
    }

    #[test]
    fn what_cannot_be_a_queue_is_named_with_the_reason() {
        for (given, says) in [
            ("", "it is empty"),
            (".fifo", "it is empty"),
            (" orders", "' ' is not allowed"),
            ("orders.fif", "'.' is not allowed"),
            ("localhost:4566/000000000000/orders", "its URL"),
            (&"x".repeat(81), "81 characters of at most 80"),
            ("ftp://host/1/orders", "https://"),
            (
                "https://sqs.eu-west-1.amazonaws.com/",
                "must end in an account and a queue name",
            ),
            ("https://host/orders", "must end in an account and a queue name"),
            ("arn:aws:sns:eu-west-1:123456789012:orders", "a resource of `sns`"),
            ("arn:aws:sqs:eu-west-1:orders", "six parts"),
            ("arn:aws:sqs::123456789012:orders", "six parts"),
        ] {
            let error = Target::parse(given).unwrap_err().to_string();
            assert!(error.contains(says) && error.contains(given), "{given}: {error}");
        }
    }

    #[test]
    fn the_region_of_a_url_is_read_from_the_hosts_of_aws() {
        for (host, region) in [
            ("sqs.eu-west-1.amazonaws.com", Some("eu-west-1")),
            ("sqs.cn-north-1.amazonaws.com.cn", Some("cn-north-1")),
            ("sqs-fips.us-gov-west-1.amazonaws.com", Some("us-gov-west-1")),
            ("eu-central-1.queue.amazonaws.com", Some("eu-central-1")),
            ("queue.amazonaws.com", Some("us-east-1")),
            ("sqs.eu-west-1.api.aws", Some("eu-west-1")),
            ("vpce-0a1b-2c3d.sqs.eu-west-1.vpce.amazonaws.com", Some("eu-west-1")),
            ("sqs.us-east-1.localhost.localstack.cloud:4566", Some("us-east-1")),
            ("localhost:4566", None),
            ("queue:9324", None),
            ("sqs.internal", None),
        ] {
            assert_eq!(region_of_host(host).as_deref(), region, "{host}");
        }
    }

    #[test]
    fn a_queue_of_another_region_is_refused_before_any_call() {
        for given in [
            "arn:aws:sqs:eu-west-1:123456789012:orders",
            "https://sqs.eu-west-1.amazonaws.com/123456789012/orders",
        ] {
            let target = Target::parse(given).unwrap();
            assert!(target.check_region(given, "eu-west-1").is_ok());
            let error = target.check_region(given, "us-east-1").unwrap_err().to_string();
            for part in ["eu-west-1", "us-east-1", "AWS_REGION", given] {
                assert!(error.contains(part), "{error}");
            }
        }
        let anywhere = Target::parse("http://localhost:4566/000000000000/orders").unwrap();
        assert!(anywhere.check_region("", "us-east-1").is_ok());
    }
}
