//! No secret is seen of the tool: credentials, the secret that signs, the values of secret headers.

use redrive::message::Outgoing;
use redrive::queue::Queue as _;

use crate::endpoint::{Answer, Endpoint};
use crate::tool::{Ran, Tool};
use crate::world::World;

const ACCESS: &str = "5ecret-access-key-5ecret";
const TOKEN: &str = "5ecret-session-token-5ecret";
const SIGNS: &str = "5ecret-that-signs-5ecret";
const HEADER: &str = "5ecret-of-a-header-5ecret";

fn unseen(ran: &Ran) {
    for said in [&ran.stdout, &ran.stderr] {
        for secret in [ACCESS, TOKEN, SIGNS, HEADER] {
            assert!(!said.contains(&secret[..14]), "{said}");
        }
    }
}

fn run(tool: &Tool, arguments: &[&str]) -> Ran {
    let child = tool
        .command(arguments)
        .env("AWS_SECRET_ACCESS_KEY", ACCESS)
        .env("AWS_SESSION_TOKEN", TOKEN)
        .env("HOOK_SECRET", SIGNS)
        .env("API_AUTH", HEADER)
        .env("RUST_LOG", "redrive=trace")
        .spawn()
        .expect("the tool starts");
    Ran::of(child)
}

#[tokio::test]
async fn forward_and_doctor_show_no_secret_with_everything_logged() {
    let Some(world) = World::open() else { return };
    let orders = world.queue("orders").await;
    for body in ["good", "bad"] {
        orders.send(vec![Outgoing::new(body)]).await.unwrap();
    }
    let endpoint = Endpoint::start(|asked| Answer::status(if asked.body == "bad" { 422 } else { 200 }));
    let tool = world.tool();
    let ran = run(
        &tool,
        &[
            "forward",
            "orders",
            "--to",
            &endpoint.url(),
            "--no-inbox",
            "--until-empty",
            "--long-poll",
            "1s",
            "--sign-secret-env",
            "HOOK_SECRET",
            "--header-env",
            "Authorization=API_AUTH",
        ],
    );
    assert_eq!(ran.code, 3, "it has a dead letter to show: {}", ran.stderr);
    // They were there: what was posted bore them.
    let asked = endpoint.asked();
    assert_eq!(asked.len(), 2);
    assert_eq!(asked[0].headers["authorization"], HEADER);
    assert!(ran.stderr.contains("answered"), "it did log: {}", ran.stderr);
    unseen(&ran);
    unseen(&run(&tool, &["doctor", "orders", "--json"]));
    unseen(&run(&tool, &["dlq", "ls", "orders"]));
    unseen(&run(&tool, &["dlq", "ls", "no-such-queue"]));
}

#[test]
fn plain_http_to_another_host_is_refused_by_every_command_with_the_way_out() {
    let tool = Tool::alone();
    for arguments in [
        &[
            "--endpoint-url",
            "http://localstack.invalid:4566",
            "dlq",
            "ls",
            "orders",
        ][..],
        &["--endpoint-url", "http://localstack.invalid:4566", "queue", "ls"],
        &[
            "--endpoint-url",
            "http://localstack.invalid:4566",
            "inbox",
            "ls",
            "--table",
            "inbox-table",
        ],
    ] {
        let ran = run(&tool, arguments);
        assert_eq!(ran.code, 1, "{arguments:?}: {}", ran.stderr);
        assert!(
            ran.stderr.contains("REDRIVE_ALLOW_HTTP=1"),
            "{arguments:?}: {}",
            ran.stderr
        );
        assert!(
            ran.stderr.contains("localstack.invalid"),
            "{arguments:?}: {}",
            ran.stderr
        );
        unseen(&ran);
    }
    let to = ["forward", "orders", "--to", "http://shop.invalid/", "--no-inbox"];
    let ran = run(&tool, &to);
    assert_eq!(ran.code, 2, "{}", ran.stderr);
    assert!(ran.stderr.contains("REDRIVE_ALLOW_HTTP=1"), "{}", ran.stderr);
}
