//! A stand-in for SQS and DynamoDB, in memory and with a set latency, that counts what it is asked. For measuring only: it
//! checks no signature, knows no account, and forgets everything.
//!
//! It answers on one thread. A call takes effect in the moment it arrives, and is answered the set latency later.

mod answer;
mod control;
mod counts;
mod dynamodb;
mod http;
mod setup;
mod sqs;
mod timers;
mod world;

use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::Instant;

use tokio::sync::{mpsc as tokio_mpsc, oneshot};

pub use counts::{Calls, Counts, DynamoCalls, SqsCalls};
pub use setup::Setup;

use http::Shared;
use world::World;

type Command = Box<dyn FnOnce(&mut World) + Send>;

/// A stand-in that answers on a thread of its own until it is dropped.
///
/// ```
/// use redrive_stand_in::{Setup, StandIn};
///
/// let stand_in = StandIn::start()?;
/// stand_in.setup(Setup { messages: Some(1_000), ..Setup::default() })?;
/// stand_in.open();
/// assert_eq!(stand_in.counts().left, Some(1_000));
/// # std::io::Result::Ok(())
/// ```
#[derive(Debug)]
pub struct StandIn {
    endpoint: String,
    commands: tokio_mpsc::UnboundedSender<Command>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<io::Result<()>>>,
}

impl StandIn {
    /// Starts one at a free port of this host, set up with the defaults and closed.
    ///
    /// # Errors
    /// When no port can be listened on, or no thread be started.
    pub fn start() -> io::Result<Self> {
        let listener = listen(0)?;
        let endpoint = endpoint(&listener)?;
        let (commands, received) = tokio_mpsc::unbounded_channel();
        let (stop, stopped) = oneshot::channel();
        let thread = std::thread::Builder::new()
            .name("stand-in".to_owned())
            .spawn(move || run(listener, received, stopped))?;
        Ok(Self {
            endpoint,
            commands,
            stop: Some(stop),
            thread: Some(thread),
        })
    }

    /// Where it is: `http://127.0.0.1:` and its port.
    #[must_use]
    pub fn endpoint(&self) -> &str {
        &self.endpoint
    }

    /// The URL of its queue of this name: `bench` or `bench.fifo`, `bench-dlq` or `bench-dlq.fifo`.
    #[must_use]
    pub fn queue_url(&self, name: &str) -> String {
        format!("{}/000000000000/{name}", self.endpoint)
    }

    /// Forgets everything, and starts closed with these settings.
    ///
    /// # Errors
    /// [`InvalidInput`](io::ErrorKind::InvalidInput) of a setting out of its bounds.
    pub fn setup(&self, setup: Setup) -> io::Result<()> {
        if let Some(problem) = setup.problem() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, problem));
        }
        self.ask(move |world| world.set_up(setup));
        Ok(())
    }

    /// Lets the messages appear.
    pub fn open(&self) {
        self.ask(|world| world.open(Instant::now()));
    }

    /// Lets no more messages appear.
    pub fn close(&self) {
        self.ask(|world| world.close(Instant::now()));
    }

    /// What was counted since the setup.
    #[must_use]
    pub fn counts(&self) -> Counts {
        self.ask(|world| world.counts(Instant::now())).unwrap_or_default()
    }

    /// Does something on its thread, and waits until it is done; nothing if the thread has ended.
    fn ask<T: Send + 'static>(&self, ask: impl FnOnce(&mut World) -> T + Send + 'static) -> Option<T> {
        let (answer, answered) = mpsc::channel();
        let command: Command = Box::new(move |world| {
            // Whoever asked may be gone.
            let _ = answer.send(ask(world));
        });
        self.commands.send(command).ok()?;
        answered.recv().ok()
    }
}

impl Drop for StandIn {
    fn drop(&mut self) {
        if let Some(stop) = self.stop.take() {
            // It may have ended by itself.
            let _ = stop.send(());
        }
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Listens on this port of the host, or on any for 0.
///
/// # Errors
/// When it cannot be listened on.
pub fn listen(port: u16) -> io::Result<TcpListener> {
    let listener = TcpListener::bind(SocketAddr::from((Ipv4Addr::LOCALHOST, port)))?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

/// Where something that listens can be found.
///
/// # Errors
/// When the system does not tell.
pub fn endpoint(listener: &TcpListener) -> io::Result<String> {
    Ok(format!("http://{}", listener.local_addr()?))
}

/// Serves on this thread until `stop` is ready. Must run within a `LocalSet` of a current-thread runtime.
///
/// # Errors
/// When connections cannot be taken any more.
pub async fn serve(listener: TcpListener, stop: impl Future<Output = ()>) -> io::Result<()> {
    let shared = Shared::new(endpoint(&listener)?)?;
    let listener = tokio::net::TcpListener::from_std(listener)?;
    tokio::select! {
        served = http::serve(shared, listener) => served,
        () = stop => Ok(()),
    }
}

fn run(
    listener: TcpListener,
    mut commands: tokio_mpsc::UnboundedReceiver<Command>,
    stopped: oneshot::Receiver<()>,
) -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    tokio::task::LocalSet::new().block_on(&runtime, async {
        let shared = Shared::new(endpoint(&listener)?)?;
        let listener = tokio::net::TcpListener::from_std(listener)?;
        let obey = async {
            while let Some(command) = commands.recv().await {
                command(&mut shared.world.borrow_mut());
            }
        };
        tokio::select! {
            served = http::serve(shared.clone(), listener) => served,
            () = obey => Ok(()),
            _ = stopped => Ok(()),
        }
    })
}
