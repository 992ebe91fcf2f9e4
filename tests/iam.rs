//! What the roles of `infra/` may do and what the code does agree, in both directions: nothing that the code calls is missing,
//! and nothing is granted that it does not call. What the code calls is read from its sources; `iam/made.rs` then looks at what
//! a worker really asks of a server.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

#[cfg(feature = "aws")]
#[path = "support/aws.rs"]
mod aws;
#[cfg(feature = "aws")]
#[path = "support/fault_proxy.rs"]
mod fault_proxy;
#[cfg(feature = "aws")]
#[path = "iam/made.rs"]
mod made;
#[path = "iam/policy.rs"]
mod policy;
#[path = "iam/source.rs"]
mod source;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use policy::{Grants, Need, compare, granted, needs};
use source::{Function, files, functions, reached};

const SQS: &str = "src/queue/sqs";
const DYNAMODB: &str = "src/inbox/dynamodb";

/// What is done to which queue. The functions are those of `SqsQueue`, of `impl Queue for SqsQueue` where `Queue::` stands
/// before them.
type Entries = &'static [(&'static str, &'static [&'static str])];

/// What a worker does: it is built of traits, so that the functions of `Queue` are all that it can use once it is connected.
const WORKER_QUEUE: Entries = &[
    // Connecting opens the dead-letter queue along with the source.
    ("connect", &["source_queue", "dead_letter_queue"]),
    ("from_client", &["source_queue", "dead_letter_queue"]),
    ("Queue::describe", &["source_queue", "dead_letter_queue"]),
    ("Queue::receive", &["source_queue"]),
    ("Queue::delete", &["source_queue"]),
    ("Queue::change_visibility", &["source_queue"]),
    ("Queue::send", &["dead_letter_queue"]),
];

/// What the command line does, but for `forward` and `exec`, which run workers with the worker's role.
const OPERATOR_QUEUE: Entries = &[
    ("connect", &["source_queue", "dead_letter_queue"]),
    ("from_client", &["source_queue", "dead_letter_queue"]),
    ("Queue::describe", &["source_queue", "dead_letter_queue"]),
    // `queue peek` looks at a queue as `dlq ls` at a dead-letter queue: by receiving, and handing back.
    ("Queue::receive", &["source_queue", "dead_letter_queue"]),
    ("Queue::change_visibility", &["source_queue", "dead_letter_queue"]),
    // `dlq drop`, `dlq replay`.
    ("Queue::delete", &["dead_letter_queue"]),
    // `queue send`, `dlq replay`, `dlq import`; a replay that was edited wrongly goes back to the dead letters.
    ("Queue::send", &["source_queue", "dead_letter_queue"]),
    ("list", &["source_queue"]),
    ("describe_each", &["source_queue", "dead_letter_queue"]),
    // Whether a queue is one of dead letters is asked of whichever is named.
    ("sources", &["source_queue", "dead_letter_queue"]),
    ("purge", &["purge"]),
    ("start_move", &["dead_letter_queue"]),
    ("moves", &["dead_letter_queue"]),
    ("cancel_move", &["dead_letter_queue"]),
    ("set_up", &["set_up_queues"]),
    ("settings", &["source_queue", "dead_letter_queue"]),
    ("clock_skew", &["source_queue", "dead_letter_queue"]),
    // `doctor` tries what a worker needs and tells what is denied: it needs none of it itself.
    ("permissions", &[]),
];

const WORKER_INBOX: Entries = &[
    ("connect", &["inbox"]),
    ("from_client", &["inbox"]),
    ("Inbox::check", &["inbox"]),
    ("Inbox::claim", &["inbox"]),
    ("Inbox::get", &["inbox"]),
    ("Inbox::write", &["inbox"]),
];

const OPERATOR_INBOX: Entries = &[
    ("connect", &["inbox"]),
    ("from_client", &["inbox"]),
    ("Inbox::check", &["inbox"]),
    ("Inbox::get", &["inbox"]),
    // A worker's only.
    ("Inbox::claim", &[]),
    ("Inbox::write", &[]),
    ("look", &["inbox"]),
    ("free", &["inbox"]),
    ("forget", &["inbox"]),
    ("scan", &["inbox"]),
    ("facts", &["inbox"]),
    ("check_table", &["inbox"]),
    ("create_table", &["set_up_inbox"]),
    ("create_table_with", &["set_up_inbox"]),
    ("permissions", &[]),
];

/// Parts whose actions no call names, and what they are: the services use the key in the caller's name.
const BY_OTHERS: &[(&str, &[&str])] = &[
    // To read messages, and to send them.
    ("queues_key", &["kms:Decrypt", "kms:GenerateDataKey"]),
    // To read items, and to write them.
    ("inbox_key", &["kms:Decrypt", "kms:GenerateDataKey"]),
];

#[test]
fn the_worker_is_granted_what_it_calls_and_nothing_else() {
    let mut needed = Grants::new();
    add(&mut needed, SQS, "SqsQueue", "Queue", WORKER_QUEUE);
    add(&mut needed, DYNAMODB, "DynamoInbox", "Inbox", WORKER_INBOX);
    needed.insert("task_protection".to_owned(), task_protection());
    add_keys(&mut needed);
    compare("worker", &needed, &granted("worker", None));
}

#[test]
fn the_operator_is_granted_what_the_command_line_calls_and_nothing_else() {
    let mut needed = Grants::new();
    add(&mut needed, SQS, "SqsQueue", "Queue", OPERATOR_QUEUE);
    add(&mut needed, DYNAMODB, "DynamoInbox", "Inbox", OPERATOR_INBOX);
    // The command line's own calls, by no client of the library.
    let by_clients: Vec<_> = files("src/bin/redrive")
        .into_iter()
        .filter(|(_, text)| text.contains("aws_sdk_"))
        .collect();
    for function in functions(&by_clients) {
        for operation in &function.operations {
            need(&mut needed, operation, &function.file, &[]);
        }
    }
    // Setting up begins with looking, which the role may do anyhow, and naming its tables and queues anew grants it nothing more.
    for (part, of) in [("set_up_queues", "dead_letter_queue"), ("set_up_inbox", "inbox")] {
        let anyhow = needed[of].clone();
        needed.get_mut(part).unwrap().retain(|action| !anyhow.contains(action));
    }
    add_keys(&mut needed);
    compare("operator", &needed, &granted("operator", Some("operator")));
}

#[test]
fn the_read_only_role_looks_as_the_operator_does_and_changes_nothing() {
    let operator = granted("operator", Some("operator"));
    // To look at a message is to receive it and to make it visible again.
    let looks = |action: &str| {
        let (service, name) = action.split_once(':').unwrap();
        ["Get", "List", "Describe"].iter().any(|verb| name.starts_with(verb))
            || ["sqs:ReceiveMessage", "sqs:ChangeMessageVisibility", "dynamodb:Scan"].contains(&action)
            || (service == "kms" && name == "Decrypt")
    };
    let needed: Grants = operator
        .into_iter()
        .filter(|(part, _)| !["purge", "set_up_queues", "set_up_inbox"].contains(&part.as_str()))
        .map(|(part, actions)| (part, actions.into_iter().filter(|action| looks(action)).collect()))
        .map(|(part, actions): (String, BTreeSet<String>)| {
            // Sending encrypts, and it sends nothing.
            let kept = actions
                .into_iter()
                .filter(|action| action != "kms:GenerateDataKey")
                .collect();
            (part, kept)
        })
        .collect();
    compare("operator", &needed, &granted("operator", Some("read_only")));
}

#[test]
fn doctor_tries_every_action_that_the_worker_is_granted_on_queues_and_table() {
    let worker = granted("worker", None);
    let granted: BTreeSet<&String> = ["source_queue", "dead_letter_queue", "inbox"]
        .iter()
        .flat_map(|part| &worker[*part])
        .collect();
    let named = regex_lite::Regex::new(r#""((?:sqs|dynamodb):[A-Za-z]+)""#).unwrap();
    let probes = [files("src/queue/sqs/probe.rs"), files("src/inbox/dynamodb/probe.rs")].concat();
    let tried: BTreeSet<String> = probes
        .iter()
        .flat_map(|(_, text)| {
            named
                .captures_iter(text)
                .map(|found| found[1].to_owned())
                .collect::<Vec<_>>()
        })
        .collect();
    assert_eq!(tried.iter().collect::<BTreeSet<_>>(), granted);
}

#[test]
fn worker_and_producers_call_aws_by_the_traits_only() {
    for folder in [
        "src/worker",
        "src/producer.rs",
        "src/producer",
        "src/handler",
        "src/flow",
    ] {
        for (file, text) in files(folder) {
            let code: String = text
                .lines()
                .filter(|line| !line.trim_start().starts_with("//"))
                .collect();
            for name in ["aws_sdk_", "SqsQueue", "DynamoInbox"] {
                assert!(
                    !code.contains(name),
                    "{file} names `{name}`: what it calls there is not read by this test. Reach it by the traits, or name it here."
                );
            }
        }
    }
}

/// The AWS clients that the package depends on: each is looked at here, or is one whose calls need no grant.
#[test]
fn no_other_aws_service_is_called() {
    let manifest = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("Cargo.toml")).unwrap();
    let mut services: Vec<_> = manifest
        .lines()
        .filter_map(|line| line.strip_prefix("aws-sdk-"))
        .collect();
    services = services
        .iter()
        .filter_map(|line| line.split_whitespace().next())
        .collect();
    services.sort_unstable();
    services.dedup();
    assert_eq!(
        services,
        ["cloudwatch", "dynamodb", "sqs"],
        "a new AWS client: let tests/iam.rs read the sources that use it"
    );
    let calling: BTreeSet<String> = files("src")
        .into_iter()
        .filter(|(_, text)| text.contains("aws_sdk_"))
        .map(|(file, _)| file)
        .filter(|file| {
            ![SQS, DYNAMODB, "src/bin/redrive"]
                .iter()
                .any(|folder| file.starts_with(folder))
        })
        .collect();
    assert!(
        calling.is_empty(),
        "these files use an AWS client, and tests/iam.rs does not read them: {calling:?}"
    );
}

/// Adds what these entries need, on each of their parts. Fails for an entry that is not listed, or is gone.
fn add(needed: &mut Grants, folder: &str, of: &str, by: &str, entries: Entries) {
    let all = functions(&files(folder));
    let worker = format!("impl {by} for {of}");
    let (inherent, builder) = (format!("impl {of}"), format!("impl {of}Builder"));
    let mut found: BTreeMap<String, Vec<&Function>> = BTreeMap::new();
    for function in &all {
        if function.of == worker {
            found
                .entry(format!("{by}::{}", function.name))
                .or_default()
                .push(function);
        } else if function.public && (function.of == inherent || function.of == builder) {
            found.entry(function.name.clone()).or_default().push(function);
        }
    }
    for (name, parts) in entries {
        let roots = found
            .get(*name)
            .unwrap_or_else(|| panic!("{folder} has no {name} any more: take it out of tests/iam.rs"));
        for function in reached(&all, roots.iter().copied()) {
            for operation in &function.operations {
                need(needed, operation, &function.file, parts);
            }
        }
    }
    // What is not listed may call nothing, unless it is the operator's where the worker's are listed.
    let operators = if of == "SqsQueue" {
        OPERATOR_QUEUE
    } else {
        OPERATOR_INBOX
    };
    for (name, roots) in &found {
        let calls: Vec<_> = reached(&all, roots.iter().copied())
            .iter()
            .flat_map(|function| function.operations.iter().cloned())
            .collect();
        let listed = |entries: Entries| entries.iter().any(|(entry, _)| entry == name);
        let whose = if name.contains("::") {
            listed(entries)
        } else {
            listed(operators)
        };
        assert!(
            calls.is_empty() || whose,
            "{folder}: {name} calls {calls:?}. Add it to the tables of tests/iam.rs, with what it is done to."
        );
    }
}

fn need(needed: &mut Grants, operation: &str, file: &str, parts: &[&str]) {
    for need in needs(operation, file) {
        let mut add = |part: &str, action: &str| {
            needed.entry(part.to_owned()).or_default().insert(action.to_owned());
        };
        match need {
            Need::Action(action) => parts.iter().for_each(|part| add(part, action)),
            Need::OnSource(action) => add("source_queue", action),
            Need::NoResource(action) => add("no_resource", action),
        }
    }
}

fn add_keys(needed: &mut Grants) {
    for (part, actions) in BY_OTHERS {
        needed.insert((*part).to_owned(), actions.iter().map(ToString::to_string).collect());
    }
}

/// What the ECS agent does in the task's name for what is asked of it at its endpoint: `PUT` updates, `GET` tells.
fn task_protection() -> BTreeSet<String> {
    let mut needed = BTreeSet::new();
    for (_, text) in files("src/ecs") {
        if text.contains("/task-protection/v1/state") {
            for (method, action) in [
                ("Method::PUT", "ecs:UpdateTaskProtection"),
                ("Method::GET", "ecs:GetTaskProtection"),
            ] {
                if text.contains(method) {
                    needed.insert(action.to_owned());
                }
            }
        }
    }
    needed
}

/// What the emulator's run of the example (`infra/test/verify.py`) shows for its roles, here for all that the modules can make.
#[test]
fn no_policy_grants_on_everything_without_saying_why() {
    let mut seen = 0;
    for module in ["worker", "operator", "queue", "inbox"] {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("infra/modules").join(module);
        for entry in std::fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            if path.extension().is_none_or(|end| end != "tf") {
                continue;
            }
            let text = std::fs::read_to_string(&path).unwrap();
            let lines: Vec<&str> = text.lines().map(str::trim).collect();
            for (number, line) in lines.iter().enumerate() {
                let place = || format!("{}:{}: {line}", path.display(), number + 1);
                if line.starts_with("Principal") && line.contains("\"*\"") {
                    let effect = lines[..number].iter().rev().find(|line| line.starts_with("Effect"));
                    assert!(
                        effect.is_some_and(|effect| effect.ends_with("\"Deny\"")),
                        "{} is let in",
                        place()
                    );
                } else if line.to_ascii_lowercase().contains("resource")
                    && (line.contains("\"*\"") || line.contains("/*\""))
                {
                    // The statement's comment stands right before it, or before the resource.
                    let why = lines[number.saturating_sub(5)..number]
                        .iter()
                        .any(|line| line.starts_with('#') && line.contains("resource"));
                    assert!(
                        why,
                        "{}: name the resource, or say in a comment before it why there is none",
                        place()
                    );
                    seen += 1;
                }
            }
        }
    }
    assert!(seen > 0, "this test finds no policy any more: have the modules moved?");
}
