//! A server in front of a real one that denies some actions and may tell another time.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use redrive::clock::Clock;
use serde_json::json;

/// The gate. It lets through what it does not deny, and ends with the process.
pub(crate) struct Gate {
    address: SocketAddr,
}

struct Rules {
    upstream: String,
    denied: Vec<String>,
    /// By how many seconds answers are dated later.
    shift_s: i64,
}

impl Gate {
    /// In front of `upstream` (`http://host:port`). Actions are named as IAM does; those of PartiQL statements are denied by
    /// statement, as DynamoDB does.
    pub(crate) fn start(upstream: &str, denied: &[&str], shift_s: i64) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a port is free");
        let address = listener.local_addr().expect("it has an address");
        let rules = Arc::new(Rules {
            upstream: upstream.trim_start_matches("http://").trim_end_matches('/').to_owned(),
            denied: denied.iter().map(|action| (*action).to_owned()).collect(),
            shift_s,
        });
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let rules = rules.clone();
                // A connection that breaks is the client's business.
                std::thread::spawn(move || serve(stream, &rules).ok());
            }
        });
        Self { address }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }
}

fn serve(mut client: TcpStream, rules: &Rules) -> io::Result<()> {
    let (head, body) = read(&client)?;
    let target = header(&head, "x-amz-target").unwrap_or_default();
    let operation = target.rsplit('.').next().unwrap_or_default();
    let denied = |action: &str| rules.denied.iter().any(|known| known == action);
    let statement = String::from_utf8_lossy(&body).into_owned();
    let answer = match operation {
        "BatchExecuteStatement" if statement.contains("INSERT INTO") && denied("PartiQLInsert") => Some((
            200,
            json!({"Responses": [{"Error": {"Code": "AccessDenied", "Message": "no identity-based policy allows it"}}]}),
        )),
        _ if denied(operation.trim_end_matches("Batch")) => Some((
            400,
            json!({"__type": "com.amazon.coral.service#AccessDeniedException", "message": "no identity-based policy allows it"}),
        )),
        _ => None,
    };
    let response = match answer {
        Some((status, body)) => {
            let body = body.to_string();
            let date =
                httpdate::fmt_http_date(std::time::UNIX_EPOCH + Duration::from_millis(Clock::system().epoch_ms()));
            format!(
                "HTTP/1.1 {status} scripted\r\ndate: {date}\r\ncontent-length: {}\r\n\r\n{body}",
                body.len()
            )
            .into_bytes()
        }
        None => pass_on(&head, &body, rules)?,
    };
    client.write_all(&close_after(&response, rules.shift_s))?;
    client.flush()
}

/// A request's head, with its line ends, and its body.
fn read(stream: &TcpStream) -> io::Result<(String, Vec<u8>)> {
    let mut reader = BufReader::new(stream);
    let mut head = String::new();
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line)? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        if line == "\r\n" {
            break;
        }
        head.push_str(&line);
    }
    let length = header(&head, "content-length").and_then(|length| length.parse().ok());
    let mut body = vec![0; length.unwrap_or(0)];
    reader.read_exact(&mut body)?;
    Ok((head, body))
}

fn header(head: &str, name: &str) -> Option<String> {
    head.lines().find_map(|line| {
        let (known, value) = line.split_once(':')?;
        known.eq_ignore_ascii_case(name).then(|| value.trim().to_owned())
    })
}

fn pass_on(head: &str, body: &[u8], rules: &Rules) -> io::Result<Vec<u8>> {
    let mut upstream = TcpStream::connect(&rules.upstream)?;
    upstream.set_read_timeout(Some(Duration::from_secs(30)))?;
    let mut request: String = head
        .split_inclusive("\r\n")
        .filter(|line| !line.to_ascii_lowercase().starts_with("connection:"))
        .collect();
    request.push_str("connection: close\r\n\r\n");
    upstream.write_all(request.as_bytes())?;
    upstream.write_all(body)?;
    let mut response = Vec::new();
    upstream.read_to_end(&mut response)?;
    Ok(response)
}

/// The response with its date moved, as the last one of its connection.
fn close_after(response: &[u8], shift_s: i64) -> Vec<u8> {
    let end = response
        .windows(4)
        .position(|four| four == b"\r\n\r\n")
        .expect("it has a head");
    let head = String::from_utf8_lossy(&response[..end]);
    let mut shown = String::new();
    for line in head.split("\r\n") {
        let name = line.split(':').next().unwrap_or_default().to_ascii_lowercase();
        match (name.as_str(), line.split_once(':')) {
            ("connection" | "keep-alive", _) => {}
            ("date", Some((_, date))) => {
                let date = httpdate::parse_http_date(date.trim()).expect("a date");
                let shift = Duration::from_secs(shift_s.unsigned_abs());
                let date = if shift_s < 0 { date - shift } else { date + shift };
                shown.push_str(&format!("date: {}\r\n", httpdate::fmt_http_date(date)));
            }
            _ => shown.push_str(&format!("{line}\r\n")),
        }
    }
    shown.push_str("connection: close\r\n\r\n");
    let mut bytes = shown.into_bytes();
    bytes.extend_from_slice(&response[end + 4..]);
    bytes
}
