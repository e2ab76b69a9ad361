//! An SSH agent lent to a command: a socket of its own, whose connections go to the agent for as long as it runs.

use std::io;
use std::path::{Path, PathBuf};

use tokio::net::{UnixListener, UnixStream};
use tokio::runtime::Handle;
use tokio::task::JoinHandle;

/// A socket that leads to an agent until it is dropped.
#[derive(Debug)]
pub(super) struct Agent {
    accepting: JoinHandle<()>,
}

impl Agent {
    /// Listens at `place`, which must not exist, and forwards to the agent at `socket`.
    pub(super) fn forward(socket: &Path, place: &Path) -> io::Result<Agent> {
        // Fails here rather than in the command when there is no agent.
        drop(std::os::unix::net::UnixStream::connect(socket)?);
        let runtime = Handle::current();
        let listener = {
            let _entered = runtime.enter();
            UnixListener::bind(place)?
        };
        let accepting = runtime.spawn(accept(listener, socket.to_path_buf()));
        Ok(Agent { accepting })
    }
}

async fn accept(listener: UnixListener, socket: PathBuf) {
    let mut connections = tokio::task::JoinSet::new();
    while let Ok((mut inside, _)) = listener.accept().await {
        let socket = socket.clone();
        connections.spawn(async move {
            let mut agent = UnixStream::connect(&socket).await?;
            tokio::io::copy_bidirectional(&mut inside, &mut agent).await
        });
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        // Its connections are dropped with it.
        self.accepting.abort();
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::io::{Read as _, Write as _};
    use std::os::unix::net::{UnixListener as Listener, UnixStream as Stream};

    use super::*;

    #[tokio::test(flavor = "multi_thread")]
    async fn connections_lead_to_the_agent_until_it_is_dropped() {
        let dir = tempfile::tempdir().unwrap();
        let (socket, place) = (dir.path().join("agent"), dir.path().join("lent"));
        assert!(Agent::forward(&socket, &place).is_err(), "there is none");
        let listener = Listener::bind(&socket).unwrap();
        std::thread::spawn(move || {
            for connection in listener.incoming() {
                let mut connection = connection.unwrap();
                let mut asked = [0; 2];
                if connection.read_exact(&mut asked).is_ok() {
                    asked.reverse();
                    connection.write_all(&asked).unwrap();
                }
            }
        });
        let agent = Agent::forward(&socket, &place).unwrap();
        let ask = |mut stream: Stream| {
            let mut answer = [0; 2];
            stream.write_all(b"ab").unwrap();
            stream.read_exact(&mut answer).map(|()| answer)
        };
        assert_eq!(&ask(Stream::connect(&place).unwrap()).unwrap(), b"ba");
        drop(agent);
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(60);
        while Stream::connect(&place).is_ok() {
            assert!(std::time::Instant::now() < deadline, "it still listens");
            std::thread::yield_now();
        }
    }
}
