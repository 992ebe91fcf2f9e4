//! `redrive health`, and the endpoint and the metrics of `redrive forward`.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Command, Stdio};
use std::time::Duration;

use serde_json::Value;

use crate::endpoint::{Answer, Endpoint};
use crate::running::Running;
use crate::tool::{Ran, Tool};
use crate::world::World;

/// An endpoint that gives this answer to one client, whatever it says.
fn answers(answer: &'static [u8]) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let at = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let _ = stream.read(&mut [0; 1024]);
        let _ = stream.write_all(answer);
    });
    at
}

/// In an environment with nothing in it but this, and in a folder that cannot be written.
fn bare(arguments: &[&str], variables: &[(&str, &str)]) -> Ran {
    let mut command = Command::new(env!("CARGO_BIN_EXE_redrive"));
    command.args(arguments).env_clear().envs(variables.iter().copied());
    command
        .current_dir("/proc")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    Ran::of(command.spawn().expect("the tool starts"))
}

fn url(at: SocketAddr) -> String {
    format!("http://{at}/livez")
}

#[test]
fn it_needs_no_environment_and_says_by_its_exit_code_whether_a_worker_is_healthy() {
    let at = answers(b"HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\nalive\n").to_string();
    let ran = bare(&["health"], &[("REDRIVE_HEALTH", &at)]);
    assert_eq!((ran.code, ran.stdout.as_str(), ran.stderr.as_str()), (0, "", ""));
    let at =
        answers(b"HTTP/1.1 503 Service Unavailable\r\n\r\norders: it is stalled\nmails: it has ended\n").to_string();
    let ran = bare(&["health"], &[("REDRIVE_HEALTH", &at)]);
    assert_eq!((ran.code, ran.stdout.as_str()), (1, ""));
    assert_eq!(ran.stderr.lines().count(), 1, "{}", ran.stderr);
    let said = format!("http://{at}/livez says 503: orders: it is stalled; mails: it has ended");
    assert!(ran.stderr.contains(&said), "{}", ran.stderr);
    let json = bare(
        &["health", "--json", "--url", &url(answers(b"HTTP/1.1 200 OK\r\n\r\n"))],
        &[],
    );
    let json: Value = serde_json::from_str(&json.stdout).unwrap();
    assert_eq!(json["healthy"], true);
}

#[test]
fn what_does_not_answer_is_not_healthy_and_the_reason_fits_a_line() {
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let free = {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        listener.local_addr().unwrap()
    };
    let forging = answers(b"HTTP/1.1 500 No\r\n\r\n\x1b[2Jerror: forged\n");
    for (url, why) in [
        (url(silent.local_addr().unwrap()), "does not answer within 300ms"),
        (url(free), "cannot be asked: Connection refused"),
        (url(answers(b"SSH-2.0-OpenSSH\r\n")), "says nothing that is HTTP"),
        (url(answers(b"")), "says nothing that is HTTP"),
        (url(forging), "says 500: \\u{1b}[2Jerror: forged"),
    ] {
        let ran = bare(&["health", "--url", &url, "--timeout", "300ms"], &[]);
        assert_eq!((ran.code, ran.stderr.lines().count()), (1, 1), "{url}: {}", ran.stderr);
        assert!(ran.stderr.contains(why), "{}", ran.stderr);
    }
    for wrong in [
        &["health", "--url", "https://localhost/"][..],
        &["health", "--url", "x", "--ready"],
        &["health", "--timeout", "0s"],
    ] {
        assert_eq!(bare(wrong, &[]).code, 2, "{wrong:?}");
    }
    assert_eq!(bare(&["health"], &[("REDRIVE_HEALTH", "8080")]).code, 2);
}

/// A port that nothing listens at, most probably until a test does.
fn free() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

fn get(at: SocketAddr, path: &str) -> String {
    let mut stream = TcpStream::connect(at).expect("it listens");
    stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    write!(stream, "GET {path} HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

#[tokio::test]
async fn a_worker_of_the_tool_answers_and_writes_metrics_for_cloudwatch_beside_its_work() {
    let Some(world) = World::open() else { return };
    world.queue("orders").await;
    let inbox = world.inbox().await;
    let endpoint = Endpoint::start(|_| Answer::status(200));
    let at = free();
    let (at_text, ready) = (at.to_string(), format!("http://{at}/readyz"));
    let to = endpoint.url();
    let line = [
        "forward",
        "orders",
        "--to",
        &to,
        "--table",
        inbox.table_name(),
        "--long-poll",
        "1s",
    ];
    let line = [&line[..], &["--health", &at_text, "--emf", "shop/workers"]].concat();
    let worker = Running::start(&world.tool(), &line, &[("REDRIVE_SERVICE", "orders-worker")]);
    worker.wait_for("health endpoint");
    while bare(&["health", "--url", &ready], &[]).code != 0 {
        std::thread::sleep(Duration::from_millis(20));
    }
    assert_eq!(bare(&["health", "--ready"], &[("REDRIVE_HEALTH", &at_text)]).code, 0);
    let page = get(at, "/metrics");
    assert!(page.contains("\nredrive_concurrency{"), "{page}");
    let status = get(at, "/status");
    for secret in [world.account(), "http", "X-Amz", inbox.table_name()] {
        assert!(
            !status.split("\r\n\r\n").nth(1).unwrap().contains(secret),
            "{secret}: {status}"
        );
    }
    worker.signal("TERM");
    let ran = worker.end();
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    // Lines of metrics, and the summary.
    let (summary, lines): (Vec<&str>, Vec<&str>) = ran.stdout.lines().partition(|line| !line.starts_with('{'));
    assert_eq!(summary.len(), 1, "{}", ran.stdout);
    assert!(!lines.is_empty());
    for line in lines {
        let line: Value = serde_json::from_str(line).unwrap();
        assert_eq!(line["service"], "orders-worker");
        assert_eq!(line["_aws"]["CloudWatchMetrics"][0]["Namespace"], "shop/workers");
    }
}

#[test]
fn a_wrong_address_and_a_wrong_namespace_are_refused_by_their_flag_or_variable() {
    let line = ["forward", "orders", "--to", "http://localhost/", "--no-inbox"];
    let flag = Tool::alone().run(&[&line[..], &["--health", "8080"]].concat());
    assert_eq!(flag.code, 2);
    assert!(
        flag.stderr.contains("--health `8080`: give an IP address and a port"),
        "{}",
        flag.stderr
    );
    let flag = Tool::alone().run(&[&line[..], &["--emf", "AWS/SQS"]].concat());
    assert_eq!(flag.code, 2);
    assert!(
        flag.stderr.contains("--emf `AWS/SQS`: namespaces that begin with AWS/"),
        "{}",
        flag.stderr
    );
    let mut command = Tool::alone().command(&line);
    let ran = Ran::of(command.env("REDRIVE_HEALTH", "here").spawn().unwrap());
    assert_eq!(ran.code, 2);
    assert!(
        ran.stderr.contains("REDRIVE_HEALTH=`here`: give an IP"),
        "{}",
        ran.stderr
    );
}
