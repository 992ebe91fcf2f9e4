//! A collector of OpenTelemetry's protocol over HTTP.

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

/// A request's head in lower case, and its body.
pub(crate) type Request = (String, Vec<u8>);

/// A collector that keeps what it is sent, and answers as a real one.
pub(crate) fn collector() -> (String, Arc<Mutex<Vec<Request>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let requests: Arc<Mutex<Vec<Request>>> = Arc::default();
    let kept = Arc::clone(&requests);
    std::thread::spawn(move || {
        for connection in listener.incoming().map_while(Result::ok) {
            let kept = Arc::clone(&kept);
            std::thread::spawn(move || serve(connection, &kept));
        }
    });
    (url, requests)
}

fn serve(mut connection: TcpStream, kept: &Mutex<Vec<Request>>) {
    let mut buffer = Vec::new();
    let mut piece = [0; 65_536];
    while let Ok(read @ 1..) = connection.read(&mut piece) {
        buffer.extend_from_slice(&piece[..read]);
        let Some(end) = buffer.windows(4).position(|four| four == b"\r\n\r\n") else {
            continue;
        };
        let head = String::from_utf8_lossy(&buffer[..end]).to_lowercase();
        let length = head.split_once("content-length: ").unwrap().1;
        let length: usize = length.lines().next().unwrap().trim().parse().unwrap();
        if buffer.len() < end + 4 + length {
            continue;
        }
        let body = buffer.drain(..end + 4 + length).skip(end + 4).collect();
        kept.lock().unwrap().push((head, body));
        let answer = "HTTP/1.1 200 OK\r\ncontent-type: application/x-protobuf\r\ncontent-length: 0\r\n\r\n";
        connection.write_all(answer.as_bytes()).unwrap();
    }
}

/// How often `part` is in `bytes`.
pub(crate) fn times(bytes: &[u8], part: impl AsRef<[u8]>) -> usize {
    let part = part.as_ref();
    bytes.windows(part.len()).filter(|window| *window == part).count()
}
