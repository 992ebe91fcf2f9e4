//! How fast the stand-in is: drains it over a few connections as fast as they can, with a client that does as little as can
//! be, and tells what a message costs it. `cargo run --release --example rate [BODY_BYTES [LATENCY_MS [FIFO_GROUPS]]]`

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use redrive_stand_in::{Setup, StandIn};

const CONNECTIONS: usize = 16;
const WINDOW: Duration = Duration::from_secs(3);

fn main() -> io::Result<()> {
    let given: Vec<f64> = std::env::args().skip(1).filter_map(|text| text.parse().ok()).collect();
    let given = |at: usize, default: f64| given.get(at).copied().unwrap_or(default);
    let setup = Setup {
        body_bytes: given(0, 200.0) as usize,
        latency_ms: given(1, 0.0),
        fifo_groups: given(2, 0.0) as u64,
        ..Setup::default()
    };
    let stand_in = StandIn::start()?;
    stand_in.setup(setup.clone())?;
    stand_in.open();
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let clients: Vec<_> = (0..CONNECTIONS)
            .map(|_| scope.spawn(|| drain(&stand_in, &setup, &done)))
            .collect();
        std::thread::sleep(Duration::from_millis(500));
        let (before, from) = (stand_in.counts(), Instant::now());
        std::thread::sleep(WINDOW);
        let (after, took) = (stand_in.counts(), from.elapsed().as_secs_f64());
        done.store(true, Ordering::Relaxed);
        let messages = (after.deleted - before.deleted) as f64;
        let busy = (after.cpu_us - before.cpu_us) as f64;
        println!(
            "{:.0} messages/s; {:.2} µs of CPU a message, so {:.0} messages/s of a whole core; busy {:.0} %",
            messages / took,
            busy / messages,
            messages / busy * 1e6,
            busy / took / 1e4,
        );
        let mut took: Vec<Duration> = Vec::new();
        for client in clients {
            took.extend(client.join().unwrap_or_else(|_| Ok(Vec::new()))?);
        }
        took.sort_unstable();
        if let (Some(first), Some(middle), Some(late)) =
            (took.first(), took.get(took.len() / 2), took.get(took.len() * 99 / 100))
        {
            println!("a call took {first:?} at least, {middle:?} in the middle, {late:?} at the 99th of 100");
        }
        Ok(())
    })
}

/// Receives and deletes until it is done; how long each call took.
fn drain(stand_in: &StandIn, setup: &Setup, done: &AtomicBool) -> io::Result<Vec<Duration>> {
    let queue = stand_in.queue_url(if setup.fifo_groups > 0 { "bench.fifo" } else { "bench" });
    let address = stand_in.endpoint().trim_start_matches("http://");
    let mut stream = TcpStream::connect(address)?;
    stream.set_nodelay(true)?;
    let receive = format!(
        "{{\"QueueUrl\":\"{queue}\",\"MaxNumberOfMessages\":10,\"WaitTimeSeconds\":1,\
         \"MessageSystemAttributeNames\":[\"ApproximateReceiveCount\",\"SentTimestamp\",\"MessageGroupId\"]}}"
    );
    let (mut took, mut answer) = (Vec::new(), Vec::new());
    while !done.load(Ordering::Relaxed) {
        took.push(call(&mut stream, "ReceiveMessage", &receive, &mut answer)?);
        let text = String::from_utf8_lossy(&answer);
        let handles = text
            .split("\"ReceiptHandle\":\"")
            .skip(1)
            .filter_map(|rest| rest.split('"').next());
        let entries: Vec<String> = handles
            .enumerate()
            .map(|(id, handle)| format!("{{\"Id\":\"{id}\",\"ReceiptHandle\":\"{handle}\"}}"))
            .collect();
        if !entries.is_empty() {
            let delete = format!("{{\"QueueUrl\":\"{queue}\",\"Entries\":[{}]}}", entries.join(","));
            took.push(call(&mut stream, "DeleteMessageBatch", &delete, &mut answer)?);
        }
    }
    Ok(took)
}

fn call(stream: &mut TcpStream, operation: &str, body: &str, answer: &mut Vec<u8>) -> io::Result<Duration> {
    let request = format!(
        "POST / HTTP/1.1\r\nhost: x\r\nx-amz-target: AmazonSQS.{operation}\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    let from = Instant::now();
    stream.write_all(request.as_bytes())?;
    answer.clear();
    let mut piece = vec![0; 256 * 1024];
    let mut whole = usize::MAX;
    while answer.len() < whole {
        let read = stream.read(&mut piece)?;
        if read == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        answer.extend_from_slice(&piece[..read]);
        if whole == usize::MAX
            && let Some(end) = answer.windows(4).position(|window| window == b"\r\n\r\n")
        {
            let head = String::from_utf8_lossy(&answer[..end]).to_ascii_lowercase();
            let length = head
                .split("content-length: ")
                .nth(1)
                .and_then(|rest| rest.split("\r\n").next());
            whole = end + 4 + length.and_then(|length| length.parse::<usize>().ok()).unwrap_or(0);
        }
    }
    Ok(from.elapsed())
}
