//! Tells the service manager what the agent does and that it is alive: the protocol of sd_notify(3). Where no service
//! manager listens, nothing is told.
//!
//! A step may take long without being hung: a pull an hour, a verification two minutes. So the loop promises, before
//! whatever it does, how soon it will be back; as long as the promise is kept the watchdog is fed.

use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Longest text that `systemctl status` is given, in bytes.
const MAX_STATUS_BYTES: usize = 300;

/// The service manager's ear.
#[derive(Debug, Clone, Default)]
pub(crate) struct Notifier {
    socket: Option<Arc<UnixDatagram>>,
    /// How often the watchdog is to be fed; none when there is none.
    every: Option<Duration>,
    /// Until when the loop will have made its next promise.
    promised: Arc<Mutex<Option<Instant>>>,
}

impl Notifier {
    /// The service manager that the environment names: `NOTIFY_SOCKET`, `WATCHDOG_USEC` and `WATCHDOG_PID`.
    ///
    /// # Errors
    /// When the socket that is named cannot be used.
    pub(crate) fn new(variable: impl Fn(&str) -> Option<String>) -> io::Result<Self> {
        let Some(path) = variable("NOTIFY_SOCKET") else {
            return Ok(Self::default());
        };
        let address = match path.strip_prefix('@') {
            Some(name) => SocketAddr::from_abstract_name(name)?,
            None => SocketAddr::from_pathname(&path)?,
        };
        let socket = UnixDatagram::unbound()?;
        socket.connect_addr(&address)?;
        let ours = variable("WATCHDOG_PID").is_none_or(|pid| pid == std::process::id().to_string());
        let limit = variable("WATCHDOG_USEC").and_then(|usec| usec.parse().ok());
        Ok(Self {
            socket: Some(Arc::new(socket)),
            // Half of the limit is what the protocol recommends; a third leaves room on a busy machine.
            every: limit
                .filter(|_| ours)
                .map(|usec| Duration::from_micros(usec) / 3),
            promised: Arc::default(),
        })
    }

    /// Whether there is a service manager, who would start the agent again.
    pub(crate) fn is_heard(&self) -> bool {
        self.socket.is_some()
    }

    /// Says that the agent is at work.
    pub(crate) fn ready(&self) {
        self.say("READY=1");
    }

    /// Says that the agent ends in good order.
    pub(crate) fn stopping(&self) {
        self.say("STOPPING=1");
    }

    /// Says in one line what the agent does: `systemctl status` shows it.
    pub(crate) fn status(&self, text: &str) {
        let text = text.replace(['\n', '\r'], " ");
        let end = text.floor_char_boundary(MAX_STATUS_BYTES);
        self.say(&format!("STATUS={}", &text[..end]));
    }

    /// Promises that the loop is back within a time.
    pub(crate) fn promise(&self, within: Duration) {
        *self.promised.lock().unwrap_or_else(PoisonError::into_inner) =
            Some(Instant::now() + within);
    }

    /// Feeds the watchdog as long as promises are kept. Never ends.
    pub(crate) async fn feed<T>(self) -> T {
        let Some(every) = self.every else {
            return std::future::pending().await;
        };
        loop {
            self.feed_once(Instant::now());
            tokio::time::sleep(every).await;
        }
    }

    fn feed_once(&self, now: Instant) {
        match self.late(now) {
            Some(late) => tracing::error!(
                ?late,
                "a step does not end; the service manager will start the agent again"
            ),
            None => self.say("WATCHDOG=1"),
        }
    }

    /// For how long a promise has been broken, when one is.
    pub(crate) fn late(&self, now: Instant) -> Option<Duration> {
        let promised = *self.promised.lock().unwrap_or_else(PoisonError::into_inner);
        promised?
            .lt(&now)
            .then(|| now.duration_since(promised.unwrap_or(now)))
    }

    fn say(&self, text: &str) {
        let Some(socket) = &self.socket else {
            return;
        };
        if let Err(error) = socket.send(text.as_bytes()) {
            tracing::warn!(%error, text, "cannot tell the service manager");
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    /// A service manager that listens, and a notifier that knows of it.
    fn listened(usec: Option<&str>) -> (UnixDatagram, Notifier, tempfile::TempDir) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("notify");
        let ear = UnixDatagram::bind(&path).unwrap();
        ear.set_nonblocking(true).unwrap();
        let notifier = Notifier::new(|name| match name {
            "NOTIFY_SOCKET" => Some(path.to_str().unwrap().to_owned()),
            "WATCHDOG_USEC" => usec.map(str::to_owned),
            _ => None,
        });
        (ear, notifier.unwrap(), dir)
    }

    fn heard(ear: &UnixDatagram) -> Option<String> {
        let mut text = [0; 1024];
        let length = ear.recv(&mut text).ok()?;
        Some(String::from_utf8_lossy(&text[..length]).into_owned())
    }

    #[test]
    fn states_are_told() {
        let (ear, notifier, _dir) = listened(None);
        notifier.ready();
        assert_eq!(heard(&ear).unwrap(), "READY=1");
        notifier.status("pulls\nan image");
        assert_eq!(heard(&ear).unwrap(), "STATUS=pulls an image");
        notifier.status(&"ü".repeat(MAX_STATUS_BYTES));
        assert_eq!(
            heard(&ear).unwrap().len(),
            "STATUS=".len() + MAX_STATUS_BYTES
        );
        notifier.stopping();
        assert_eq!(heard(&ear).unwrap(), "STOPPING=1");
    }

    #[test]
    fn a_broken_promise_starves_the_watchdog() {
        let (ear, notifier, _dir) = listened(Some("3000000"));
        assert_eq!(notifier.every, Some(Duration::from_secs(1)));
        let now = Instant::now();
        notifier.feed_once(now);
        assert_eq!(heard(&ear).unwrap(), "WATCHDOG=1");
        notifier.promise(Duration::from_secs(60));
        notifier.feed_once(now);
        assert_eq!(heard(&ear).unwrap(), "WATCHDOG=1");
        notifier.feed_once(now + Duration::from_secs(3600));
        assert_eq!(heard(&ear), None);
    }

    #[test]
    fn without_a_service_manager_nothing_is_told() {
        let notifier = Notifier::new(|_| None).unwrap();
        notifier.ready();
        assert!(notifier.every.is_none());
    }

    #[test]
    fn the_watchdog_of_another_process_is_none_of_ours() {
        let (_ear, notifier, dir) = listened(Some("1"));
        assert!(notifier.every.is_some());
        let path = dir.path().join("notify");
        let other = Notifier::new(|name| match name {
            "NOTIFY_SOCKET" => Some(path.to_str().unwrap().to_owned()),
            "WATCHDOG_USEC" => Some("1".to_owned()),
            "WATCHDOG_PID" => Some("1".to_owned()),
            _ => None,
        });
        assert!(other.unwrap().every.is_none());
    }
}
