//! What the README and the pages under `docs/` say of names: variables, settings, commands, links. Their examples are
//! doctests, in `src/docs.rs`.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use redrive::Reason;
use redrive::dlq::{Displaced, Envelope};

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: impl AsRef<Path>) -> String {
    let path = root().join(path);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The README and the pages, by their paths from the root.
fn pages() -> BTreeMap<String, String> {
    let docs = fs::read_dir(root().join("docs")).unwrap();
    let mut names: Vec<String> = docs
        .map(|entry| format!("docs/{}", entry.unwrap().file_name().to_string_lossy()))
        .filter(|name| name.ends_with(".md"))
        .collect();
    names.extend(["README.md", "CONTRIBUTING.md", "CHANGELOG.md"].map(str::to_owned));
    names
        .into_iter()
        .map(|name| {
            let text = read(&name);
            (name, text)
        })
        .collect()
}

fn sources(under: &str) -> Vec<String> {
    fn walk(folder: &Path, found: &mut Vec<String>) {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                if path.file_name().is_some_and(|name| name != ".run") {
                    walk(&path, found);
                }
            } else if let Ok(text) = fs::read_to_string(&path) {
                found.push(text);
            }
        }
    }
    let mut found = Vec::new();
    walk(&root().join(under), &mut found);
    found
}

/// Names such as `REDRIVE_RATE` in a text.
fn variables(text: &str) -> BTreeSet<String> {
    let part = |c: char| c.is_ascii_uppercase() || c == '_';
    text.match_indices("REDRIVE_")
        .filter(|(at, _)| !text[..*at].ends_with(part))
        .map(|(at, _)| {
            let end = text[at..].find(|c| !part(c)).map_or(text.len(), |length| at + length);
            text[at..end].to_owned()
        })
        .filter(|name| !name.ends_with('_'))
        .collect()
}

/// What stands in backticks in the first cells of a page's tables.
fn first_cells(page: &str) -> BTreeSet<String> {
    page.lines()
        .filter_map(|line| line.strip_prefix("| ")?.split(" |").next())
        .flat_map(|cell| {
            cell.split('`')
                .skip(1)
                .step_by(2)
                .map(str::to_owned)
                .collect::<Vec<_>>()
        })
        .collect()
}

fn fenced<'a>(page: &'a str, language: &str) -> Vec<&'a str> {
    let open = format!("```{language}\n");
    page.split(open.as_str())
        .skip(1)
        .map(|rest| rest.split("```").next().unwrap())
        .collect()
}

#[test]
fn every_variable_of_the_code_stands_in_the_settings_and_no_other() {
    let settings = variables(&read("docs/settings.md"));
    let code: BTreeSet<String> = ["src", "localstack", "tests/support"]
        .into_iter()
        .flat_map(sources)
        .flat_map(|text| variables(&text))
        .collect();
    assert_eq!(settings, code);
    for (name, page) in pages() {
        let unknown: Vec<_> = variables(&page).difference(&code).cloned().collect();
        assert!(unknown.is_empty(), "{name} tells of {unknown:?}");
    }
}

#[test]
fn every_setting_of_the_builder_stands_in_the_settings_and_no_other() {
    let builder = read("src/worker/builder.rs");
    let methods: BTreeSet<String> = builder
        .lines()
        .filter_map(|line| line.trim_start().strip_prefix("pub fn "))
        .filter_map(|rest| rest.split(['(', '<']).next().map(str::to_owned))
        .filter(|name| name != "build")
        .collect();
    assert!(methods.len() > 30, "the builder is elsewhere: {methods:?}");
    let told: BTreeSet<String> = first_cells(&read("docs/settings.md"))
        .iter()
        .filter_map(|cell| cell.strip_prefix('.')?.split('(').next().map(str::to_owned))
        .collect();
    assert_eq!(told, methods);
}

#[test]
fn every_page_is_tested_and_found_from_the_readme() {
    let tested = read("src/docs.rs");
    let reachable = read("README.md");
    for name in pages().keys().filter(|name| name.starts_with("docs/")) {
        assert!(
            tested.contains(&format!("\"../{name}\"")),
            "{name} is not in src/docs.rs"
        );
        assert!(
            reachable.contains(&format!("({name}")),
            "{name} is not linked in the README"
        );
    }
}

#[test]
fn every_link_leads_somewhere() {
    let pages = pages();
    for (name, page) in &pages {
        for link in page.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            if link.starts_with("https://") {
                continue;
            }
            let (file, anchor) = link
                .split_once('#')
                .map_or((link, None), |(file, anchor)| (file, Some(anchor)));
            let folder = Path::new(name).parent().unwrap();
            let target = if file.is_empty() {
                PathBuf::from(name)
            } else {
                folder.join(file)
            };
            assert!(root().join(&target).exists(), "{name} links to {link}");
            if let Some(anchor) = anchor {
                let target = pages
                    .get(target.to_str().unwrap())
                    .unwrap_or_else(|| panic!("{name} links to {link}"));
                let found = target
                    .lines()
                    .filter(|line| line.starts_with('#'))
                    .any(|line| slug(line) == anchor);
                assert!(found, "{name} links to {link}");
            }
        }
    }
}

/// A heading's anchor, as GitHub makes it.
fn slug(heading: &str) -> String {
    let kept = |c: &char| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_');
    let text = heading.trim_start_matches('#').trim().to_lowercase();
    text.chars()
        .filter(kept)
        .map(|c| if c == ' ' { '-' } else { c })
        .collect()
}

/// What a reader is told to type is what the checks of the project run.
#[test]
fn every_command_is_one_that_is_run_by_the_checks() {
    let run = [
        "cargo run --example quickstart",
        "cargo test --all-features",
        "cargo run --example orders -- examples/data/orders.jsonl",
        "cargo install --path . --features cli",
        "localstack/up",
        "localstack/down",
        "eval \"$(localstack/env)\"",
    ];
    // What needs an AWS account or a Docker engine. infra/check plans what `terraform` applies, .ci/image does what `docker build`
    // would.
    let elsewhere = [
        "export AWS_REGION=eu-west-1",
        "export REGISTRY=$(aws sts get-caller-identity --query Account --output text).dkr.ecr.$AWS_REGION.amazonaws.com",
        "export REDRIVE_INBOX_TABLE=orders-inbox",
        "docker build --platform linux/amd64 --tag $REGISTRY/orders:1 .",
        "eval \"$(aws configure export-credentials --format env)\"",
        "alias redrive=\"docker run -it --rm --env AWS_REGION --env AWS_ACCESS_KEY_ID --env AWS_SECRET_ACCESS_KEY --env AWS_SESSION_TOKEN $REGISTRY/orders:1\"",
        "docker push $REGISTRY/orders:1",
        "docker compose --file localstack/compose.yaml up --build",
        "docker compose --file localstack/compose.yaml down",
    ];
    for (name, page) in pages() {
        for line in fenced(&page, "sh").into_iter().flat_map(str::lines) {
            // What the tool is told is understood: a unit test of its own says so, and tests run every command of it.
            let ours = line.starts_with("redrive ") || line.starts_with("cargo redrive ");
            let of_aws = line.starts_with("aws ") && !line.contains("redrive ");
            let listed = run.contains(&line) || elsewhere.contains(&line);
            assert!(ours || of_aws || listed || of_terraform(line), "{name}: {line}");
        }
    }
    let readme = read("README.md");
    for command in ["cargo run --example quickstart", "cargo test --all-features"] {
        assert!(
            readme.lines().any(|line| line == command),
            "{command} does not stand alone on a line"
        );
    }
}

/// Whether this is a command of Terraform on a folder of this repository, with variables that are declared there.
fn of_terraform(line: &str) -> bool {
    let Some((folder, rest)) = line
        .strip_prefix("terraform -chdir=")
        .and_then(|rest| rest.split_once(' '))
    else {
        return false;
    };
    let declared = read(format!("{folder}/variables.tf"));
    let given = rest.split("-var ").skip(1);
    ["init", "apply ", "destroy "].iter().any(|verb| rest.starts_with(verb))
        && given
            .filter_map(|given| given.trim_start_matches('\'').split('=').next())
            .all(|name| declared.contains(&format!("variable \"{name}\" {{")))
}

/// The alarms of the worker module, by their names without the service's.
fn alarms() -> Vec<String> {
    let found: Vec<String> = read("infra/modules/worker/alarms.tf")
        .lines()
        .filter_map(|line| line.trim().strip_suffix(" = {").map(str::to_owned))
        .filter(|name| name.contains('-'))
        .collect();
    assert!(found.len() > 8, "the alarms are elsewhere: {found:?}");
    found
}

#[test]
fn every_alarm_has_a_runbook_that_says_what_it_means_where_to_look_and_what_to_do() {
    let page = read("docs/runbooks.md");
    for alarm in alarms() {
        let (_, rest) = page
            .split_once(&format!("\n## {alarm}\n"))
            .unwrap_or_else(|| panic!("{alarm} has no runbook"));
        let runbook = rest.split_once("\n## ").map_or(rest, |(runbook, _)| runbook);
        for part in ["**Means:**", "**Look:**", "**Do:**"] {
            assert!(runbook.contains(part), "{alarm} lacks {part}");
        }
    }
}

/// What the pages on deploying set in code, a name of small letters with a `_`, is a variable or an output of Terraform; or else
/// a metric, or a reason or kind of another page.
#[test]
fn every_variable_of_terraform_that_the_pages_name_is_declared() {
    let declared: String = [
        "modules/queue",
        "modules/inbox",
        "modules/worker",
        "modules/operator",
        "examples/complete",
    ]
    .into_iter()
    .flat_map(sources_of_terraform)
    .collect();
    let metrics = read("docs/metrics.md").replace('.', "_");
    let reasons = first_cells(&read("docs/dead-letters.md"));
    let mut named = 0;
    for page in ["docs/deploy.md", "docs/runbooks.md"] {
        for code in read(page).lines().flat_map(|line| line.split('`').skip(1).step_by(2)) {
            let word = code.split(' ').next().unwrap_or(code);
            let may_be_one = word.contains('_') && word.chars().all(|c| c.is_ascii_lowercase() || c == '_');
            if !may_be_one || metrics.contains(word) || reasons.contains(word) || word.starts_with("shadow_") {
                continue;
            }
            let is_declared = ["variable", "output"].map(|kind| declared.contains(&format!("{kind} \"{word}\"")));
            assert!(is_declared.contains(&true), "{page} names `{word}`");
            named += 1;
        }
    }
    assert!(named > 30, "{named}");
}

fn sources_of_terraform(folder: &str) -> Vec<String> {
    let files = fs::read_dir(root().join("infra").join(folder)).unwrap();
    let files = files.map(|entry| entry.unwrap().path());
    files
        .filter(|path| path.extension().is_some_and(|extension| extension == "tf"))
        .map(|path| fs::read_to_string(path).unwrap())
        .collect()
}

#[test]
fn every_reason_is_explained() {
    let told = first_cells(&read("docs/dead-letters.md"));
    for reason in [
        Reason::Rejected,
        Reason::AttemptsExhausted,
        Reason::FingerprintMismatch,
        Reason::WorkerDied,
        Reason::Unroutable,
        Reason::Malformed,
        Reason::Expiring,
    ] {
        assert!(told.contains(reason.as_str()), "{reason}");
    }
    assert!(told.contains(redrive::dlq::MOVED_BY_SQS));
}

#[test]
fn every_field_of_the_envelope_is_explained() {
    let told = first_cells(&read("docs/dead-letters.md"));
    let mut envelope = Envelope::default();
    envelope.reason = "rejected".into();
    envelope.error = "no".into();
    envelope.source = "arn".into();
    envelope.trace = Some("trace".into());
    envelope.replays = 1;
    envelope.displaced = Some(Displaced::default());
    let json = serde_json::to_value(envelope).unwrap();
    for field in json.as_object().unwrap().keys() {
        assert!(told.contains(field), "{field}");
    }
}

#[test]
fn every_attribute_of_the_record_is_explained() {
    let told = first_cells(&read("docs/inbox.md"));
    let convert = read("src/inbox/dynamodb/convert.rs");
    let attributes: Vec<&str> = convert
        .lines()
        .filter(|line| line.contains(") const ") && line.contains(": &str = \""))
        .filter_map(|line| line.split('"').nth(1))
        .collect();
    assert!(attributes.len() > 10, "the attributes are elsewhere: {attributes:?}");
    for attribute in attributes {
        assert!(told.contains(attribute), "{attribute}");
    }
}

/// Whether a test of this name is in `tests/<suite>.rs` or `tests/<suite>/`, in the library (`lib`), in the tool (`tool`), or
/// is a fuzz target (`fuzz`).
fn has_test(suite: &str, name: &str) -> bool {
    if suite == "fuzz" {
        return root().join(format!("fuzz/fuzz_targets/{name}.rs")).exists();
    }
    let under = match suite {
        "lib" => "src".to_owned(),
        "tool" => "src/bin".to_owned(),
        _ => format!("tests/{suite}"),
    };
    let mut texts = Vec::new();
    if root().join(&under).exists() {
        texts = sources(&under);
    }
    if let Ok(text) = fs::read_to_string(root().join(format!("{under}.rs"))) {
        // The cases that both engines pass stand beside all suites.
        if text.contains("_conformance!") {
            texts.extend(sources("tests/support"));
        }
        texts.push(text);
    }
    let function = format!("fn {name}(");
    let trial = format!("\"{name}\"");
    texts
        .iter()
        .any(|text| text.contains(&function) || text.contains(&trial))
}

/// Each fault that the page on reliability lists is one that a test makes happen.
#[test]
fn every_fault_of_the_list_names_tests_that_exist() {
    let page = read("docs/reliability.md");
    let (_, faults) = page.split_once("## The faults").expect("a list of faults");
    let (faults, _) = faults.split_once("\n## ").unwrap_or((faults, ""));
    let rows: Vec<&str> = faults
        .lines()
        .filter(|line| line.starts_with("| ") && !line.starts_with("| fault") && !line.starts_with("|---"))
        .collect();
    assert!(rows.len() > 40, "{} rows", rows.len());
    let mut wrong = Vec::new();
    for row in rows {
        let last = row.trim_end().trim_end_matches('|').rsplit(" | ").next().unwrap();
        let names: Vec<&str> = last.split('`').skip(1).step_by(2).collect();
        if names.is_empty() {
            wrong.push(format!("no test: {row}"));
        }
        for name in names {
            let found = name.split_once(": ").is_some_and(|(suite, name)| has_test(suite, name));
            if !found {
                wrong.push(format!("no such test: {name}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
