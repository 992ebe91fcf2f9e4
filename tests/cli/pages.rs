//! The terminal sessions in `docs/`: each page's are run in order, in an account of its own, and must print what the page
//! shows. `UPDATE_PAGES=1` writes what they print into the pages instead.
//!
//! A page with ```` ```console ```` blocks names what it starts from in a comment, such as `<!-- world: orders -->`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use aws_sdk_dynamodb::types::AttributeValue;
use redrive::inbox::Inbox as _;
use redrive::message::Outgoing;
use regex_lite::Regex;

use crate::tool::tidy;
use crate::world::{Letter, World};

/// The inbox table as the pages call it.
const TABLE: &str = "redrive-inbox";

/// What pages are set in.
async fn set_up(world: &World, name: &str) {
    match name {
        // Nothing is there yet.
        "empty" => {}
        // A shop's orders: after a gateway's outage, and with two that can never succeed.
        "orders" => {
            let orders = world.queue("orders").await;
            let dead = world.open_queue("orders-dlq").await;
            world.inbox().await;
            world.plant(&dead, night(world)).await;
            world
                .send(&orders, [Outgoing::new(r#"{"order":2001,"amount":12}"#)])
                .await;
        }
        // An inbox that other workers use already: a claim whose worker died, one that is done, one that runs.
        "refunds" => {
            let now = world.inbox().await.time().lo;
            let minute = 60_000;
            claim(world, "refunds#r-1", "processing", now - 5 * minute, now).await;
            claim(world, "refunds#r-2", "completed", now - 9 * minute, now).await;
            claim(world, "refunds#r-3", "processing", now + 10 * minute, now).await;
        }
        other => panic!("there is no world `{other}`; it is made in {}", file!()),
    }
}

/// Plants a record that was first seen two hours ago.
async fn claim(world: &World, key: &str, status: &str, lease_until: u64, now: u64) {
    let text = |text: &str| AttributeValue::S(text.to_owned());
    let number = |number: u64| AttributeValue::N(number.to_string());
    let call = aws_sdk_dynamodb::Client::new(&world.dynamodb)
        .put_item()
        .table_name(world.table());
    let call = call
        .item("pk", text(key))
        .item("status", text(status))
        .item("claim_id", text("worker-7f3a-12"))
        .item("fencing_token", number(1_790_000_000_000))
        .item("lease_until", number(lease_until))
        .item("attempts", number(1))
        .item("last_error", text("gateway timed out after 3000 ms"))
        .item("message_id", text("5c0a2f6e-8f4e-4f0a-9a53-2d7c1b8e6a10"))
        .item("first_seen", number(now - 2 * 3_600_000))
        .item("expires_at", number(now / 1_000 + 35 * 86_400));
    call.send().await.expect("the record is stored");
}

/// The dead letters of a bad night.
fn night(world: &World) -> Vec<Letter> {
    let died = |order: u32, minutes: u64, reason: &str, error: &str, body: &str| {
        let mut letter = Letter::new(&format!("order-{order}"), reason, error, body).of_type("charge");
        if let Some(envelope) = &mut letter.envelope {
            envelope.dead_at_ms -= minutes * 60_000;
            envelope.message_id = format!("5b0c9e1d-42f7-4c08-9d3a-c0ffee00{order}");
            envelope.source = format!("arn:aws:sqs:us-east-1:{}:orders", world.account());
        }
        letter
    };
    let timeout = |order: u32, minutes: u64, amount: u32| {
        let error = format!("gateway 10.0.3.{}:8443 timed out after {} ms", order % 7, 3_000 + order);
        let body = format!(r#"{{"order":{order},"amount":{amount},"currency":"EUR"}}"#);
        died(order, minutes, "attempts_exhausted", &error, &body)
    };
    vec![
        timeout(1001, 52, 40),
        timeout(1002, 51, 250),
        timeout(1003, 47, 75),
        timeout(1004, 41, 12),
        died(
            1005,
            130,
            "malformed",
            "missing field `amount` at line 1 column 31",
            r#"{"order":1005,"currency":"EUR"}"#,
        ),
        died(
            1006,
            15,
            "card_declined",
            "card ending 4242 was declined",
            r#"{"order":1006,"amount":99,"currency":"EUR"}"#,
        ),
    ]
}

#[tokio::test]
async fn every_session_in_the_docs_prints_what_they_show() {
    let update = std::env::var_os("UPDATE_PAGES").is_some();
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs");
    let mut pages: Vec<PathBuf> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "md"))
        .collect();
    pages.sort();
    let mut wrong = String::new();
    for path in pages {
        let text = std::fs::read_to_string(&path).unwrap();
        if !text.contains("```console\n") {
            continue;
        }
        let name = text
            .split_once("<!-- world: ")
            .and_then(|(_, rest)| rest.split_once(" -->"))
            .unwrap_or_else(|| panic!("{} shows sessions and names no world", path.display()))
            .0;
        let Some(world) = World::open() else { return };
        set_up(&world, name).await;
        let played = tokio::task::spawn_blocking({
            let text = text.clone();
            move || play(&world, &text)
        });
        let played = played.await.unwrap();
        if update {
            std::fs::write(&path, &played).unwrap();
        } else if tidy_page(&played) != tidy_page(&text) {
            let (played, text) = (tidy_page(&played), tidy_page(&text));
            wrong.push_str(&format!("{}:\n", path.display()));
            for (is, said) in played
                .lines()
                .zip(text.lines())
                .filter(|(is, said)| is != said)
                .take(10)
            {
                wrong.push_str(&format!("  the page: {said}\n  in truth: {is}\n"));
            }
            if played.lines().count() != text.lines().count() {
                wrong.push_str("  and another number of lines\n");
            }
        }
    }
    assert!(
        wrong.is_empty(),
        "{wrong}UPDATE_PAGES=1 writes what is printed; read it then\n"
    );
}

/// The page with what its commands print now.
fn play(world: &World, page: &str) -> String {
    let folder = tempfile::tempdir().unwrap();
    let mut shown = Vec::new();
    let mut ids = Ids::default();
    let mut in_session = false;
    let mut lines = page.lines().peekable();
    while let Some(line) = lines.next() {
        shown.push(line.to_owned());
        if !in_session {
            in_session = line == "```console";
            continue;
        }
        if line == "```" {
            in_session = false;
            continue;
        }
        let Some(first) = line.strip_prefix("$ ") else {
            panic!("a session begins with a command: {line}");
        };
        let mut command = first.to_owned();
        while command.ends_with('\\') {
            let more = lines.next().expect("the command goes on");
            shown.push(more.to_owned());
            command = format!(
                "{}{}",
                command.trim_end_matches('\\'),
                more.trim_start().trim_start_matches("> ")
            );
        }
        let mut told = Vec::new();
        while lines
            .peek()
            .is_some_and(|next| *next != "```" && !next.starts_with("$ "))
        {
            told.extend(lines.next());
        }
        let command = with_table(&ids.in_this_run(&command), &world.table());
        let printed = run(world, folder.path(), &command).replace(&world.table(), TABLE);
        ids.learn(&told.join("\n"), &printed);
        let printed = for_readers(&ids.as_told(&printed));
        let told = told.join("\n");
        // What differs only as two runs differ stays as it is on the page.
        let same = tidy_page(&told).trim_end() == tidy_page(&printed).trim_end();
        let lines = if same { &told } else { &printed };
        shown.extend(lines.lines().map(str::to_owned));
    }
    shown.join("\n") + "\n"
}

/// Runs a line of a session in a shell, and returns what it prints, as a terminal would show it.
fn run(world: &World, folder: &Path, line: &str) -> String {
    let tool = world.tool().command::<&str>(&[]);
    let bin = Path::new(env!("CARGO_BIN_EXE_redrive")).parent().unwrap();
    let path = std::env::var("PATH").unwrap_or_default();
    let mut shell = Command::new("bash");
    shell.arg("-c").arg(format!("exec 2>&1\n{line}")).current_dir(folder);
    for (name, value) in tool.get_envs() {
        match value {
            Some(value) => shell.env(name, value),
            None => shell.env_remove(name),
        };
    }
    let output = shell
        .env("PATH", format!("{}:{path}", bin.display()))
        .stdin(Stdio::null())
        .output()
        .expect("bash runs");
    let mut text = String::from_utf8(output.stdout).expect("it prints text");
    // One of Code::Done and Code::Found; a page that shows an error shows its exit code with `; echo $?`.
    if !matches!(output.status.code(), Some(0 | 3)) {
        text.push_str(&format!("(it exits with {:?})\n", output.status.code()));
    }
    text
}

/// The message ids a page shows, and those of this run in their place, by the order in which they appear.
#[derive(Default)]
struct Ids {
    told: BTreeMap<String, String>,
}

impl Ids {
    fn learn(&mut self, told: &str, printed: &str) {
        let fresh = |text: &str, known: &dyn Fn(&str) -> bool| {
            let mut found: Vec<String> = Vec::new();
            for id in uuid().find_iter(text) {
                let id = id.as_str().to_owned();
                if !known(&id) && !found.contains(&id) {
                    found.push(id);
                }
            }
            found
        };
        let told = fresh(told, &|id| self.told.contains_key(id));
        let printed = fresh(printed, &|id| self.told.values().any(|known| known == id));
        self.told.extend(told.into_iter().zip(printed));
    }

    /// A command of the page, about this run's messages; ids may be cut short to eight characters or more.
    fn in_this_run(&self, command: &str) -> String {
        let prefix = Regex::new("\\b[0-9a-f]{8}(-[0-9a-f]{0,4}){0,3}(-[0-9a-f]{0,12})?").unwrap();
        let mut text = command.to_owned();
        for found in prefix.find_iter(command) {
            let short = found.as_str();
            if let Some((_, actual)) = self.told.iter().find(|(told, _)| told.starts_with(short)) {
                text = text.replace(short, &actual[..short.len()]);
            }
        }
        text
    }

    /// What was printed, with the page's ids where it has them: so that an update changes no more than it must.
    fn as_told(&self, printed: &str) -> String {
        // An id comes after its own beginning: so the long ones are replaced first.
        self.told
            .iter()
            .rev()
            .fold(printed.to_owned(), |text, (told, actual)| text.replace(actual, told))
    }
}

/// Ids, in full or their first eight characters.
fn uuid() -> Regex {
    Regex::new(r"\b[0-9a-f]{8}(-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12})?\b").unwrap()
}

/// A line of a session about this world's table, also where the line leaves the name out.
fn with_table(line: &str, table: &str) -> String {
    if line.contains(TABLE) {
        return line.replace(TABLE, table);
    }
    let taken = ["redrive inbox ", "redrive init "]
        .iter()
        .any(|command| line.starts_with(command));
    if taken {
        format!("REDRIVE_INBOX_TABLE={table} {line}")
    } else {
        line.to_owned()
    }
}

/// What was printed with the endpoint and the account that readers expect.
fn for_readers(printed: &str) -> String {
    let mut text = printed.to_owned();
    for (pattern, with) in [
        (
            r"http://(127\.0\.0\.1|localhost|[a-z0-9.-]*localstack\.cloud)(:\d+)?",
            "https://sqs.us-east-1.amazonaws.com",
        ),
        (r"\b\d{12}\b", "123456789012"),
    ] {
        text = Regex::new(pattern).unwrap().replace_all(&text, with).into_owned();
    }
    text
}

fn tidy_page(page: &str) -> String {
    tidy(&page.replace("https://sqs.us-east-1.amazonaws.com", "http://localhost"))
}
