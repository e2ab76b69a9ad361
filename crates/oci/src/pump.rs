//! Moves a stream of bytes from async code into a blocking writer, with bounded memory: while one batch is
//! written (and hashed) on a thread for blocking work, the next is gathered.

use std::io::{self, Write};

use bytes::Bytes;
use futures::{Stream, StreamExt as _};
use tokio::task::JoinHandle;

/// Bytes gathered before they are written.
const BATCH: usize = 1 << 20;

/// Why not everything was moved.
#[derive(Debug)]
pub(crate) enum PumpError<E> {
    /// The stream failed.
    Source(E),
    /// The writer failed.
    Sink(io::Error),
    /// The stream has more bytes than were allowed; none past the limit was written.
    TooLong,
}

/// Moves `stream` into `writer`, at most `limit` bytes, and gives the writer back. `observe` is told how many bytes
/// were written so far.
///
/// When the future is dropped the writer is dropped too, though perhaps a little later, on another thread.
pub(crate) async fn pump<S, E, W>(
    stream: S,
    writer: W,
    limit: u64,
    observe: impl Fn(u64),
) -> (W, Result<(), PumpError<E>>)
where
    S: Stream<Item = Result<Bytes, E>>,
    W: Write + Send + 'static,
{
    let mut stream = std::pin::pin!(stream);
    let mut sink = Sink {
        state: State::Idle(writer),
        written: 0,
    };
    let mut batch: Vec<Bytes> = Vec::new();
    let (mut gathered, mut accepted) = (0, 0u64);
    let mut result = Ok(());
    while let Some(chunk) = stream.next().await {
        let chunk = match chunk {
            Ok(chunk) => chunk,
            Err(error) => {
                result = Err(PumpError::Source(error));
                break;
            }
        };
        accepted += chunk.len() as u64;
        if accepted > limit {
            result = Err(PumpError::TooLong);
            break;
        }
        gathered += chunk.len();
        batch.push(chunk);
        if gathered >= BATCH {
            if let Err(error) = sink.start(std::mem::take(&mut batch), gathered).await {
                return (sink.finish().await.0, Err(PumpError::Sink(error)));
            }
            gathered = 0;
            observe(sink.written);
        }
    }
    // What arrived before a cut is kept: the transfer continues after it.
    if let Err(error) = sink.start(batch, gathered).await {
        result = result.and(Err(PumpError::Sink(error)));
    }
    let written = sink.written;
    let (writer, finished) = sink.finish().await;
    match finished {
        Ok(()) => observe(written + gathered as u64),
        Err(error) => result = result.and(Err(PumpError::Sink(error))),
    }
    (writer, result)
}

/// A writer that is either at hand or at work.
struct Sink<W> {
    state: State<W>,
    /// Bytes known to be written.
    written: u64,
}

enum State<W> {
    Idle(W),
    Busy(JoinHandle<(W, io::Result<()>)>, usize),
    /// Only while changing from one to the other.
    Taken,
}

impl<W: Write + Send + 'static> Sink<W> {
    /// Waits for the batch before, then starts to write this one.
    async fn start(&mut self, batch: Vec<Bytes>, length: usize) -> io::Result<()> {
        let (writer, result) = self.settle().await;
        if let Err(error) = result {
            self.state = State::Idle(writer);
            return Err(error);
        }
        let work = move || {
            let mut writer = writer;
            let result = batch.iter().try_for_each(|chunk| writer.write_all(chunk));
            (writer, result)
        };
        self.state = State::Busy(tokio::task::spawn_blocking(work), length);
        Ok(())
    }

    async fn settle(&mut self) -> (W, io::Result<()>) {
        match std::mem::replace(&mut self.state, State::Taken) {
            State::Idle(writer) => (writer, Ok(())),
            State::Busy(work, length) => {
                let (writer, result) = joined(work).await;
                if result.is_ok() {
                    self.written += length as u64;
                }
                (writer, result)
            }
            State::Taken => unreachable!("every change of state puts the next one in place"),
        }
    }

    async fn finish(mut self) -> (W, io::Result<()>) {
        self.settle().await
    }
}

/// Runs blocking work on a thread for it.
pub(crate) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    joined(tokio::task::spawn_blocking(work)).await
}

async fn joined<T>(work: JoinHandle<T>) -> T {
    match work.await {
        Ok(value) => value,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            // The runtime is shutting down, and this task with it.
            Err(_) => std::future::pending().await,
        },
    }
}
