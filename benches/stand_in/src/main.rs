//! `stand-in [--port N]`: serves until it is terminated, and says where on its first line.

use std::io::{self, Write};
use std::process::ExitCode;

use tokio::signal::unix::{SignalKind, signal};

fn main() -> ExitCode {
    let served = port().and_then(|port| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        tokio::task::LocalSet::new().block_on(&runtime, serve(port))
    });
    match served {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Nobody reads it if the standard error is closed.
            let _ = writeln!(io::stderr(), "stand-in: {error}");
            ExitCode::FAILURE
        }
    }
}

fn port() -> io::Result<u16> {
    let usage = || io::Error::new(io::ErrorKind::InvalidInput, "usage: stand-in [--port N]");
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [] => Ok(0),
        ["--port", port] => port.parse().map_err(|_| usage()),
        _ => Err(usage()),
    }
}

async fn serve(port: u16) -> io::Result<()> {
    let listener = redrive_stand_in::listen(port)?;
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let mut out = io::stdout();
    writeln!(out, "listening on {}", redrive_stand_in::endpoint(&listener)?)?;
    out.flush()?;
    let stop = async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    };
    redrive_stand_in::serve(listener, stop).await
}
