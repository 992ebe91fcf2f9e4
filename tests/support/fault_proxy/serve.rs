//! One connection: request after request, each passed on, or not, as the rules have it.

use std::io;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpStream;

use super::Shared;
use super::fault::{Effect, Fault, part_of, partly_failed, redated};
use super::http::{Answer, Request};

/// How long the other end may take to notice that a connection was closed in good order.
const GOODBYE: Duration = Duration::from_secs(1);

/// What follows an answer.
enum Then {
    Next,
    /// The connection is reset.
    Reset,
    /// It is closed in good order.
    Close,
    /// Nothing, for as long as the client stays.
    Silence,
}

/// Serves the connection with this number until it ends, is frozen, or a fault breaks it.
pub(super) async fn serve(stream: TcpStream, number: u64, shared: &Shared) -> io::Result<()> {
    // However this ends, but for a close in good order, the other end sees a reset.
    stream.set_zero_linger()?;
    stream.set_nodelay(true)?;
    let mut client = BufReader::new(stream);
    let mut frozen = shared.frozen.subscribe();
    let exchange = async {
        let mut upstream = Upstream {
            address: &shared.upstream,
            kept: None,
        };
        while let Some(request) = Request::read(&mut client).await? {
            let fault = shared.fate(&request);
            match one(&request, fault.as_ref(), &mut client, &mut upstream).await? {
                Then::Next => {}
                Then::Reset => return Ok(()),
                Then::Close => break,
                // What the client sends on meanwhile is not looked at.
                Then::Silence => while client.read(&mut [0; 1024]).await? > 0 {},
            }
        }
        client.shutdown().await?;
        // Its other half: only then is nothing of what was sent cut off by a reset.
        let goodbye = async {
            while client.read(&mut [0; 1024]).await? > 0 {}
            io::Result::Ok(())
        };
        tokio::time::timeout(GOODBYE, goodbye).await.unwrap_or(Ok(()))
    };
    tokio::select! {
        biased;
        _ = frozen.wait_for(|until| number <= *until) => {}
        ended = exchange => return ended,
    }
    // The connection stays as it is; it goes with the server.
    std::future::pending::<()>().await;
    drop(client);
    Ok(())
}

async fn one(
    request: &Request,
    fault: Option<&Fault>,
    client: &mut BufReader<TcpStream>,
    upstream: &mut Upstream<'_>,
) -> io::Result<Then> {
    let Some(fault) = fault else {
        let answer = upstream.ask(request).await?;
        send(client, &answer).await?;
        return Ok(Then::Next);
    };
    match fault {
        Fault::Reset(effect) => {
            upstream.ask_if(*effect, request).await?;
            Ok(Then::Reset)
        }
        Fault::Close(effect) => {
            upstream.ask_if(*effect, request).await?;
            Ok(Then::Close)
        }
        Fault::Stall(effect) => {
            upstream.ask_if(*effect, request).await?;
            Ok(Then::Silence)
        }
        Fault::Answered(effect, reply) => {
            upstream.ask_if(*effect, request).await?;
            send(client, &reply.answer(request)).await?;
            Ok(Then::Next)
        }
        Fault::StallInBody | Fault::Truncated => {
            let answer = upstream.ask(request).await?;
            // Even an empty body is announced longer than it is.
            let length = answer.body.len().max(2);
            client.write_all(answer.head(length).as_bytes()).await?;
            client.write_all(&answer.body[..answer.body.len() / 2]).await?;
            client.flush().await?;
            Ok(match fault {
                Fault::Truncated => Then::Close,
                _ => Then::Silence,
            })
        }
        Fault::TruncatedHead => {
            let answer = upstream.ask(request).await?;
            let head = answer.head(answer.body.len());
            client.write_all(&head.as_bytes()[..head.len() / 2]).await?;
            client.flush().await?;
            Ok(Then::Close)
        }
        Fault::Trickle(gap) => {
            let answer = upstream.ask(request).await?;
            let mut bytes = answer.head(answer.body.len()).into_bytes();
            bytes.extend_from_slice(&answer.body);
            for piece in bytes.chunks(bytes.len().div_ceil(8).max(1)) {
                client.write_all(piece).await?;
                client.flush().await?;
                tokio::time::sleep(*gap).await;
            }
            Ok(Then::Next)
        }
        Fault::Late(by) => {
            let answer = upstream.ask(request).await?;
            tokio::time::sleep(*by).await;
            send(client, &answer).await?;
            Ok(Then::Next)
        }
        Fault::DateMoved(_) | Fault::NoDate | Fault::BadDate => {
            let answer = upstream.ask(request).await?;
            send(client, &redated(answer, fault)).await?;
            Ok(Then::Next)
        }
        Fault::Entries(..) | Fault::AllEntries(..) | Fault::EntriesMissing => {
            let answer = match part_of(request, fault) {
                None => upstream.ask(request).await?,
                Some((part, failed)) => {
                    let given = match super::fault::count_of(&part) {
                        0 => None,
                        _ => Some(upstream.ask(&part).await?),
                    };
                    partly_failed(request, fault, &failed, given)
                }
            };
            send(client, &answer).await?;
            Ok(Then::Next)
        }
    }
}

async fn send(client: &mut BufReader<TcpStream>, answer: &Answer) -> io::Result<()> {
    let mut bytes = answer.head(answer.body.len()).into_bytes();
    bytes.extend_from_slice(&answer.body);
    client.write_all(&bytes).await?;
    client.flush().await
}

/// The connection to the server behind the proxy.
struct Upstream<'a> {
    address: &'a str,
    kept: Option<BufReader<TcpStream>>,
}

impl Upstream<'_> {
    /// The server's answer. Where there is none, the error ends the client's connection too.
    async fn ask(&mut self, request: &Request) -> io::Result<Answer> {
        // A server that has closed an idle connection has said so by now.
        let kept = self.kept.take().filter(|kept| {
            let idle = kept.get_ref().try_read(&mut [0; 1]);
            kept.buffer().is_empty() && matches!(idle, Err(error) if error.kind() == io::ErrorKind::WouldBlock)
        });
        let mut server = match kept {
            Some(server) => server,
            None => {
                let stream = TcpStream::connect(self.address).await?;
                stream.set_nodelay(true)?;
                BufReader::new(stream)
            }
        };
        server.write_all(&request.to_bytes()).await?;
        let answer = Answer::read(&mut server).await?;
        self.kept = (!answer.is_last).then_some(server);
        Ok(answer)
    }

    async fn ask_if(&mut self, effect: Effect, request: &Request) -> io::Result<()> {
        if effect == Effect::Done {
            self.ask(request).await?;
        }
        Ok(())
    }
}
