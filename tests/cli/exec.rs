//! `redrive exec`.

use std::path::Path;

use redrive::DynamoInbox;
use redrive::inbox::Status;
use redrive::key::{Key, RecordKey};
use redrive::message::{Attribute, Outgoing};
use redrive::outcome::StoredResult;
use serde_json::{Value, json};

use crate::forward::{letters, record, take_over};
use crate::running::{Running, eventually};
use crate::world::World;

/// A worker that ends with its queue and loses no time on the way.
const BRISK: [&str; 9] = [
    "exec",
    "orders",
    "--until-empty",
    "--long-poll",
    "1s",
    "--backoff",
    "1ms",
    "--backoff-cap",
    "10ms",
];

fn line<'a>(inbox: &'a DynamoInbox, more: &[&'a str], script: &'a str) -> Vec<&'a str> {
    [
        &BRISK[..],
        &["--table", inbox.table_name()],
        more,
        &["--", "sh", "-c", script],
    ]
    .concat()
}

fn keyed(key: &str, body: impl Into<String>) -> Outgoing {
    Outgoing::new(body).attribute("Idempotency-Key", Attribute::string(key))
}

fn record_key(key: &str) -> RecordKey {
    RecordKey::new("orders", &Key::new(key))
}

fn json_of(result: &StoredResult) -> Value {
    match result {
        StoredResult::Json(bytes) => serde_json::from_slice(bytes).unwrap(),
        other => panic!("{other:?}"),
    }
}

/// Whether a process is there and no zombie.
fn is_alive(id: &str) -> bool {
    let Ok(status) = std::fs::read_to_string(format!("/proc/{}/status", id.trim())) else {
        return false;
    };
    !status
        .lines()
        .any(|line| line.starts_with("State:") && (line.contains('Z') || line.contains('X')))
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_default()
}

#[tokio::test]
async fn each_exit_code_decides_what_becomes_of_its_message() {
    let Some(world) = World::open() else { return };
    let orders = world.queue("orders").await;
    let inbox = world.inbox().await;
    let scripts = [
        ("done", "echo '{\"receipt\": 7}'; echo noise >&2"),
        ("text", "echo thanks"),
        ("quiet", "true"),
        ("dead", "echo 'no such card' >&2; exit 65"),
        ("later", "echo 'come back' >&2; exit 75"),
        ("failed", "exit 3"),
        ("signal", "kill -9 $$"),
    ];
    world
        .send(&orders, scripts.map(|(key, script)| keyed(key, script)))
        .await;
    // The body is the script: `sh` reads it from its standard input.
    let arguments = [
        &BRISK[..],
        &[
            "--table",
            inbox.table_name(),
            "--max-attempts",
            "2",
            "--breaker=false",
            "--json",
            "--",
            "sh",
        ],
    ];
    let ran = world.tool().run(&arguments.concat());
    ran.exits(3);
    let summary = ran.json();
    assert_eq!(summary["completed"], 3, "{summary}");
    assert_eq!(summary["failed_attempts"], 3, "{summary}");
    assert_eq!(
        summary["dead_lettered"],
        json!({"rejected": 1, "attempts_exhausted": 3})
    );
    assert_eq!(json_of(&record(&inbox, "done").await.result), json!({"receipt": 7}));
    assert_eq!(json_of(&record(&inbox, "text").await.result), json!("thanks"));
    assert_eq!(record(&inbox, "quiet").await.result, StoredResult::Nothing);
    let letters = letters(&world.open_queue("orders-dlq").await).await;
    let told = |key: &str| {
        (
            letters[key].reason.as_str(),
            letters[key].attempts,
            letters[key].error.as_str(),
        )
    };
    assert_eq!(told("dead"), ("rejected", 1, "exit code 65: no such card"));
    assert_eq!(told("later"), ("attempts_exhausted", 2, "exit code 75: come back"));
    assert_eq!(told("failed"), ("attempts_exhausted", 2, "exit code 3"));
    assert_eq!(told("signal"), ("attempts_exhausted", 2, "killed by signal 9"));
}

#[tokio::test]
async fn a_command_is_told_its_message_in_its_environment_and_nothing_of_the_workers() {
    let Some(world) = World::open() else { return };
    let orders = world.queue("orders").await;
    let inbox = world.inbox().await;
    let message = keyed("order-7", "the body")
        .attribute("content-type", Attribute::string("text/plain; a=\"$(reboot)\"\nX=1"))
        .attribute("raw", Attribute::binary(vec![0, 255]));
    world.send(&orders, [message]).await;
    let script = r#"printf '%s|%s|%s|%s|%s|%s|%s' "$REDRIVE_KEY" "$REDRIVE_QUEUE" "$REDRIVE_ATTEMPT" \
        "$REDRIVE_ATTR_CONTENT_TYPE" "$REDRIVE_ATTR_RAW_BASE64" "$REDRIVE_CONCURRENCY" "$(cat)""#;
    let running = Running::start(
        &world.tool(),
        &line(&inbox, &[], script),
        &[("REDRIVE_CONCURRENCY", "3")],
    );
    assert_eq!(running.end().exits(0), "1 message done\n");
    assert_eq!(
        json_of(&record(&inbox, "order-7").await.result),
        json!("order-7|orders|1|text/plain; a=\"$(reboot)\"\nX=1|AP8=||the body")
    );
}

#[tokio::test]
async fn a_hang_is_killed_with_its_children_even_if_it_ignores_sigterm_and_leaves_no_zombie() {
    let Some(world) = World::open() else { return };
    let orders = world.queue("orders").await;
    let inbox = world.inbox().await;
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let hang = |name: &str, trap: &str| {
        format!(
            "{trap}(sleep 1000 & echo $! > {}; wait) & echo $$ > {}; while :; do sleep 1; done",
            path(&format!("{name}.child")),
            path(name)
        )
    };
    let messages = [
        keyed("polite", hang("polite", "trap 'echo bye > /dev/null; exit 0' TERM; ")),
        keyed("deaf", hang("deaf", "trap '' TERM; ")),
    ];
    world.send(&orders, messages).await;
    let arguments = [
        &BRISK[..],
        &[
            "--table",
            inbox.table_name(),
            "--max-attempts",
            "1",
            "--breaker=false",
            "--timeout",
            "1s",
            "--grace",
            "500ms",
        ],
        &["--", "sh"],
    ];
    let tool = world.tool();
    let ran = tool.run(&arguments.concat());
    ran.exits(3);
    assert!(ran.stderr.contains("did not end when told to"), "{}", ran.stderr);
    let letters = letters(&world.open_queue("orders-dlq").await).await;
    for name in ["polite", "deaf"] {
        // An end that was asked for is no success, whatever the exit code.
        assert_eq!(letters[name].error, "timed out after 1000 ms", "{name}");
        for file in [path(name), path(&format!("{name}.child"))] {
            let id = read(Path::new(&file));
            assert!(!id.is_empty() && !is_alive(&id), "{file}: {id}");
        }
    }
    // The tool's own children, seen by the second of them, after the first was killed.
    let zombies = r#"if [ "$REDRIVE_KEY" = first ]; then kill -9 $$; fi
        grep -l "^PPid:.*\b$PPID\$" /proc/[0-9]*/status 2>/dev/null | xargs grep -h '^State' | grep -c Z || true"#;
    world.send(&orders, [keyed("first", "x")]).await;
    tool.run(&line(&inbox, &["--max-attempts", "1", "--breaker=false"], zombies))
        .exits(3);
    world.send(&orders, [keyed("second", "x")]).await;
    tool.run(&line(&inbox, &[], zombies)).exits(0);
    assert_eq!(json_of(&record(&inbox, "second").await.result), json!(0));
}

#[tokio::test]
async fn large_bodies_and_outputs_flow_and_a_command_may_ignore_its_input() {
    let Some(world) = World::open() else { return };
    let orders = world.queue("orders").await;
    let inbox = world.inbox().await;
    let body = "x".repeat(200_000);
    world
        .send(
            &orders,
            ["count", "echo", "deaf", "loud"].map(|key| keyed(key, body.clone())),
        )
        .await;
    let script = r#"case "$REDRIVE_KEY" in
        count) wc -c;;
        echo) cat;;
        deaf) exec <&-; echo done;;
        loud) cat >&2; echo last words >&2; cat /dev/zero | head -c 3000000; exit 65;;
    esac"#;
    let ran = world.tool().run(&line(&inbox, &[], script));
    ran.exits(3);
    assert_eq!(json_of(&record(&inbox, "count").await.result), json!(200_000));
    assert_eq!(record(&inbox, "echo").await.result, StoredResult::Omitted);
    assert_eq!(json_of(&record(&inbox, "deaf").await.result), json!("done"));
    let letters = letters(&world.open_queue("orders-dlq").await).await;
    let error = &letters["loud"].error;
    assert!(
        error.starts_with("exit code 65: xxx") && error.ends_with("last words"),
        "{error}"
    );
    let kept = world.send(&orders, [keyed("kept", body.clone())]);
    kept.await;
    world
        .tool()
        .run(&line(&inbox, &["--max-result", "262144"], "cat"))
        .exits(0);
    assert_eq!(json_of(&record(&inbox, "kept").await.result), json!(body));
}

#[tokio::test]
async fn inv08_ctrl_c_lets_the_command_finish_and_a_second_one_kills_it() {
    let Some(world) = World::open() else { return };
    let orders = world.queue("orders").await;
    let inbox = world.inbox().await;
    let folder = tempfile::tempdir().unwrap();
    let (pid, go) = (folder.path().join("pid"), folder.path().join("go"));
    let script = format!(
        "echo $$ > {}; until [ -e {} ]; do sleep 0.05; done; echo done",
        pid.display(),
        go.display()
    );
    let arguments = [
        "exec",
        "orders",
        "--table",
        inbox.table_name(),
        "--long-poll",
        "1s",
        "--",
        "sh",
        "-c",
        &script,
    ];
    world.send(&orders, [keyed("first", "x")]).await;
    let tool = world.tool();
    let running = Running::start(&tool, &arguments, &[]);
    eventually("the command runs", || !read(&pid).is_empty());
    running.signal("INT");
    running.wait_for("\"draining\"");
    assert!(is_alive(&read(&pid)));
    std::fs::write(&go, "").unwrap();
    assert_eq!(running.end().exits(0), "1 message done\n");
    assert_eq!(record(&inbox, "first").await.status, Status::Completed);

    std::fs::remove_file(&go).unwrap();
    std::fs::remove_file(&pid).unwrap();
    world.send(&orders, [keyed("second", "x")]).await;
    let running = Running::start(&tool, &arguments, &[]);
    eventually("the command runs", || !read(&pid).is_empty());
    running.signal("TERM");
    running.wait_for("\"draining\"");
    running.signal("TERM");
    running.end().exits(130);
    eventually("the command is killed", || !is_alive(&read(&pid)));
    assert_eq!(record(&inbox, "second").await.status, Status::Processing);
}

#[tokio::test]
async fn inv08_a_closed_terminal_ends_it_in_order_however_often_it_is_told_so() {
    let Some(world) = World::open() else { return };
    let orders = world.queue("orders").await;
    let inbox = world.inbox().await;
    let folder = tempfile::tempdir().unwrap();
    let (pid, go) = (folder.path().join("pid"), folder.path().join("go"));
    let script = format!(
        "echo $$ > {}; until [ -e {} ]; do sleep 0.05; done; echo done",
        pid.display(),
        go.display()
    );
    let arguments = [
        "exec",
        "orders",
        "--table",
        inbox.table_name(),
        "--long-poll",
        "1s",
        "--",
        "sh",
        "-c",
        &script,
    ];
    world.send(&orders, [keyed("first", "x")]).await;
    let tool = world.tool();
    let running = Running::start_heeding_hangups(&tool, &arguments);
    eventually("the command runs", || !read(&pid).is_empty());
    // The shell sends one, and the kernel another.
    running.signal("HUP");
    running.wait_for("\"draining\"");
    running.signal("HUP");
    assert!(is_alive(&read(&pid)));
    std::fs::write(&go, "").unwrap();
    assert_eq!(running.end().exits(0), "1 message done\n");
    assert_eq!(record(&inbox, "first").await.status, Status::Completed);

    std::fs::remove_file(&go).unwrap();
    std::fs::remove_file(&pid).unwrap();
    world.send(&orders, [keyed("second", "x")]).await;
    let running = Running::start(&tool, &arguments, &[]);
    eventually("the command runs", || !read(&pid).is_empty());
    running.signal("QUIT");
    running.wait_for("\"draining\"");
    running.signal("QUIT");
    running.end().exits(130);
    eventually("the command is killed", || !is_alive(&read(&pid)));
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn inv08_what_nohup_started_goes_on_without_its_terminal() {
    let Some(world) = World::open() else { return };
    let orders = world.queue("orders").await;
    let inbox = world.inbox().await;
    let arguments = [
        "exec",
        "orders",
        "--table",
        inbox.table_name(),
        "--long-poll",
        "1s",
        "--json",
        "--",
        "true",
    ];
    let running = Running::start_nohup(&world.tool(), &arguments);
    running.wait_for("\"working\"");
    running.signal("HUP");
    world.send(&orders, [keyed("late", "x")]).await;
    let is_done = async || matches!(redrive::inbox::Inbox::get(&inbox, &record_key("late")).await, Ok(Some(record)) if record.status == Status::Completed);
    let done = async { while !is_done().await {} };
    tokio::time::timeout(std::time::Duration::from_secs(60), done)
        .await
        .expect("it goes on");
    running.signal("TERM");
    assert_eq!(running.end().exits(0).lines().count(), 1);
}

#[tokio::test]
async fn a_key_that_no_variable_holds_stands_as_its_hash() {
    let Some(world) = World::open() else { return };
    let orders = world.queue("orders").await;
    let inbox = world.inbox().await;
    // The most that a variable is given, a byte more, and what none can hold.
    let keys = ["a".repeat(32 * 1024), "b".repeat(32 * 1024 + 1), "c\0".to_owned()];
    let body = |key: &String| Outgoing::new(json!({ "id": key }).to_string());
    world.send(&orders, keys.iter().map(body)).await;
    let ran = world.tool().run(&line(
        &inbox,
        &["--key-pointer", "/id"],
        r#"case "$REDRIVE_KEY" in a*) echo "${#REDRIVE_KEY}";; *) echo "$REDRIVE_KEY";; esac"#,
    ));
    ran.exits(0);
    let told = async |key: &str| {
        let record = redrive::inbox::Inbox::get(&inbox, &record_key(key))
            .await
            .unwrap()
            .unwrap();
        json_of(&record.result)
    };
    assert_eq!(told(&keys[0]).await, json!(32 * 1024));
    // What the inbox calls it.
    assert_eq!(told(&keys[1]).await, json!(record_key(&keys[1]).key()));
    let hash = told(&keys[2]).await;
    assert!(
        hash.as_str().unwrap().starts_with("sha256:") && hash.as_str().unwrap().len() == 71,
        "{hash}"
    );
}

#[tokio::test]
async fn inv08_the_drains_deadline_ends_the_command_and_gives_the_message_back_uncounted() {
    let Some(world) = World::open() else { return };
    let orders = world.queue("orders").await;
    let inbox = world.inbox().await;
    let folder = tempfile::tempdir().unwrap();
    let pid = folder.path().join("pid");
    let script = format!(
        "trap 'exit 0' TERM; echo $$ > {}; while :; do sleep 0.05; done",
        pid.display()
    );
    let arguments = [
        "exec",
        "orders",
        "--table",
        inbox.table_name(),
        "--long-poll",
        "1s",
        "--drain-deadline",
        "10s",
        "--",
        "sh",
        "-c",
        &script,
    ];
    world.send(&orders, [keyed("k", "x")]).await;
    let running = Running::start(&world.tool(), &arguments, &[]);
    eventually("the command runs", || !read(&pid).is_empty());
    running.signal("TERM");
    let ran = running.end();
    assert_eq!(
        ran.exits(0),
        "0 messages done, 1 failed without counting as an attempt, 1 given back\n"
    );
    assert!(!is_alive(&read(&pid)));
    let record = record(&inbox, "k").await;
    assert_eq!((record.status, record.attempts), (Status::Released, 0));
}

#[tokio::test]
async fn inv03_a_lost_lease_kills_the_command_and_its_children() {
    let Some(world) = World::open() else { return };
    let orders = world.queue("orders").await;
    let inbox = world.inbox().await;
    let folder = tempfile::tempdir().unwrap();
    let pids = folder.path().join("pids");
    let script = format!("trap '' TERM; sleep 1000 & echo $$ $! > {}; wait", pids.display());
    let arguments = [
        "exec",
        "orders",
        "--table",
        inbox.table_name(),
        "--long-poll",
        "1s",
        "--lease",
        "3s",
        "--",
        "sh",
        "-c",
        &script,
    ];
    world.send(&orders, [keyed("k", "x")]).await;
    let running = Running::start(&world.tool(), &arguments, &[]);
    eventually("the command runs", || read(&pids).contains(' '));
    let ids: Vec<String> = read(&pids).split_whitespace().map(str::to_owned).collect();
    take_over(&world, &inbox, "k").await;
    running.wait_for("lost: left to whoever has it now");
    eventually("all of it is killed", || ids.iter().all(|id| !is_alive(id)));
    running.signal("TERM");
    running.end().exits(0);
}

#[tokio::test]
async fn tenants_dead_letter_modes_and_keys_come_from_flags_and_variables() {
    let Some(world) = World::open() else { return };
    let orders = world.queue("orders").await;
    let inbox = world.inbox().await;
    let of = |tenant: &str, id: u32| Outgoing::new(json!({"tenant": tenant, "order": {"id": id}}).to_string());
    let messages = [of("a", 1), of("a", 2), of("a", 3), of("b", 4)];
    world.send(&orders, messages).await;
    let variables = [
        ("REDRIVE_KEY_POINTER", "/order/id"),
        ("REDRIVE_TENANT_POINTER", "/tenant"),
        ("REDRIVE_TENANT_RATE", "1"),
        ("REDRIVE_CONSUMER", "billing"),
        ("REDRIVE_DEAD_LETTERS", "keep"),
        ("REDRIVE_SHADOW", "no boolean"),
        ("REDRIVE_LOG_FORMAT", "json"),
    ];
    let script = r#"[ "$REDRIVE_KEY" != 2 ] || exit 65; date +%s.%N"#;
    let more = ["--dead-letters", "discard", "--shadow=false"];
    let running = Running::start(&world.tool(), &line(&inbox, &more, script), &variables);
    assert_eq!(running.end().exits(3), "3 messages done, 1 given up\n");
    assert!(letters(&world.open_queue("orders-dlq").await).await.is_empty());
    let ran_at = async |key: &str| {
        let key = RecordKey::new("billing", &Key::new(key));
        let record = redrive::inbox::Inbox::get(&inbox, &key).await.unwrap().unwrap();
        json_of(&record.result).as_f64().unwrap()
    };
    // Three of one tenant at one a second, the second of them given up.
    let apart = (ran_at("3").await - ran_at("1").await).abs();
    assert!(apart > 0.9, "{apart}");
    ran_at("4").await;
}

#[tokio::test]
async fn inv12_a_command_that_cannot_run_is_refused_before_a_message_is_taken() {
    let Some(world) = World::open() else { return };
    world.queue("orders").await;
    let tool = world.tool();
    let mut told = String::new();
    for command in ["no-such-command", "./no/such/file", "/etc/passwd", "/tmp"] {
        let ran = tool.run(&["exec", "orders", "--no-inbox", "--", command]);
        ran.exits(1);
        told.push_str(&format!("$ {command}\n{}", ran.stderr));
    }
    let ran = tool.run(&["exec", "orders", "--no-inbox"]);
    ran.exits(2);
    told.push_str(&format!("$ nothing\n{}", ran.stderr));
    insta::assert_snapshot!("exec_refusals", told);
}

#[tokio::test]
async fn it_begins_with_its_preflight_and_ends_with_what_it_did() {
    let Some(world) = World::open() else { return };
    world.queue("orders").await;
    let inbox = world.inbox().await;
    let more = ["--log-format", "text", "--max-attempts", "7"];
    let ran = world.tool().run(&line(&inbox, &more, "cat"));
    let shown = ran.shown();
    // The times of day and how long it took differ; so does the version, one day.
    let shown = regex_lite::Regex::new(r#"ran_ms=\d+|version="[0-9.]+""#)
        .unwrap()
        .replace_all(&shown, "<varies>");
    insta::assert_snapshot!("exec_text_log", shown);
}
