//! A proxy that breaks a connection after so many bytes of the client's, as a network does.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

pub(crate) struct Proxy {
    pub(crate) address: SocketAddr,
    cuts: Arc<Mutex<Vec<u64>>>,
    /// Bytes that clients sent in all.
    pub(crate) sent: Arc<AtomicU64>,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Proxy {
    pub(crate) async fn to(server: SocketAddr) -> Proxy {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let cuts: Arc<Mutex<Vec<u64>>> = Arc::default();
        let sent: Arc<AtomicU64> = Arc::default();
        let (of_task, count) = (cuts.clone(), sent.clone());
        let task = tokio::spawn(async move {
            loop {
                let (client, _) = listener.accept().await.unwrap();
                let (cuts, sent) = (of_task.clone(), count.clone());
                tokio::spawn(async move {
                    let server = TcpStream::connect(server).await.unwrap();
                    pass(client, server, &cuts, &sent).await;
                });
            }
        });
        Proxy {
            address,
            cuts,
            sent,
            task,
        }
    }

    /// Connections are cut, one after the other, once they have carried more than so many bytes to the server.
    pub(crate) fn cut(&self, after: &[u64]) {
        let mut cuts = self.cuts.lock().unwrap();
        *cuts = after.iter().rev().copied().collect();
    }

    pub(crate) fn none_left(&self) -> bool {
        self.cuts.lock().unwrap().is_empty()
    }
}

async fn pass(client: TcpStream, server: TcpStream, cuts: &Mutex<Vec<u64>>, sent: &AtomicU64) {
    let (mut from_client, mut to_client) = client.into_split();
    let (mut from_server, mut to_server) = server.into_split();
    let up = async {
        let mut carried = 0;
        let mut buffer = vec![0; 16 << 10];
        while let Ok(length @ 1..) = from_client.read(&mut buffer).await {
            carried += length as u64;
            sent.fetch_add(length as u64, Ordering::Relaxed);
            let cut = {
                let mut cuts = cuts.lock().unwrap();
                let due = cuts.last().is_some_and(|after| carried > *after);
                due.then(|| cuts.pop())
            };
            if to_server.write_all(&buffer[..length]).await.is_err() || cut.is_some() {
                return;
            }
        }
    };
    let down = async {
        let _ = tokio::io::copy(&mut from_server, &mut to_client).await;
    };
    // Whichever ends first ends both.
    tokio::select! {
        () = up => {}
        () = down => {}
    }
}
