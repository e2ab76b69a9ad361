//! The way from one part to the API server, which fails when a test says so.

use std::io;
use std::sync::{Arc, Mutex};

use apiserver::ApiServer;
use axum::body::Body;
use futures::{Stream, StreamExt, stream};
use http::{Method, Request, Response, StatusCode};
use kube::Client;
use serde_json::json;
use tokio::sync::watch;
use tower::ServiceExt;

/// The server, which may be away.
pub(super) type Server = Arc<Mutex<Option<ApiServer>>>;

pub(super) const TOKEN: &str = "a token that only tests know";

/// What the network does between the two.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum Way {
    #[default]
    Open,
    /// Connections are refused, and those that are open are cut.
    Cut,
    /// Half open: nothing arrives, and nobody says so.
    Silent,
    /// Half open the other way: requests arrive and take effect, answers never come back.
    Deaf,
    /// Requests are answered, but watches tell nothing new.
    Stale,
}

/// The way of one part.
#[derive(Debug, Clone, Default)]
pub(super) struct Link {
    way: Arc<watch::Sender<Way>>,
    trouble: Arc<Mutex<Option<Trouble>>>,
}

impl Link {
    pub(super) fn set(&self, way: Way) {
        self.way.send_replace(way);
    }

    /// From now on about one request of `one_of` goes wrong, in an order that the seed decides.
    pub(super) fn trouble(&self, seed: u64, one_of: u64) {
        *self.trouble.lock().unwrap() = Some(Trouble {
            state: seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1,
            one_of,
            met: 0,
        });
    }

    /// Ends the trouble. Returns how often it was met.
    pub(super) fn calm(&self) -> u64 {
        self.trouble.lock().unwrap().take().map_or(0, |t| t.met)
    }

    /// A client that goes this way.
    pub(super) fn client(&self, server: &Server) -> Client {
        let (link, server) = (self.clone(), server.clone());
        let service = tower::service_fn(move |request: Request<kube::client::Body>| {
            link.clone().carry(server.clone(), request)
        });
        Client::new(service, "default")
    }

    async fn carry(
        self,
        server: Server,
        request: Request<kube::client::Body>,
    ) -> io::Result<Response<Body>> {
        let mut way = self.way.subscribe();
        let at_first = *way.borrow_and_update();
        match at_first {
            Way::Cut => return Err(refused()),
            Way::Silent => {
                changed(&mut way).await;
                return Err(reset());
            }
            Way::Open | Way::Deaf | Way::Stale => {}
        }
        let is_watch = request
            .uri()
            .query()
            .is_some_and(|query| query.contains("watch=true"));
        let fault = self.fault(request.method(), is_watch);
        if let Some(Fault::Answer(code)) = fault {
            return Ok(failure(code));
        }
        let router = match server.lock().unwrap().as_ref() {
            Some(server) => server.router_as(TOKEN),
            None => return Err(refused()),
        };
        let response = router
            .oneshot(request)
            .await
            .unwrap_or_else(|never| match never {});
        if at_first == Way::Deaf {
            changed(&mut way).await;
            return Err(reset());
        }
        let frames = match fault {
            Some(Fault::LoseAnswer) => return Err(reset()),
            Some(Fault::CutAfter(frames)) => frames,
            Some(Fault::Answer(_)) | None => usize::MAX,
        };
        Ok(response.map(|body| {
            let data = body
                .into_data_stream()
                .map(|frame| frame.map_err(io::Error::other))
                .take(frames)
                .chain(stream::iter((frames != usize::MAX).then(|| Err(reset()))));
            Body::from_stream(over(data, way, is_watch))
        }))
    }

    fn fault(&self, method: &Method, is_watch: bool) -> Option<Fault> {
        self.trouble
            .lock()
            .unwrap()
            .as_mut()?
            .next(method, is_watch)
    }
}

/// A body on its way.
fn over<S>(data: S, way: watch::Receiver<Way>, is_watch: bool) -> impl Stream<Item = S::Item>
where
    S: Stream<Item = io::Result<axum::body::Bytes>> + Unpin,
{
    stream::unfold(Some((data, way, false)), move |state| async move {
        let (mut data, mut way, mut was_silent) = state?;
        loop {
            let now = *way.borrow_and_update();
            match now {
                Way::Cut => return Some((Err(reset()), None)),
                Way::Silent | Way::Deaf => {
                    was_silent = true;
                    changed(&mut way).await;
                }
                Way::Stale if is_watch => {
                    was_silent = true;
                    changed(&mut way).await;
                }
                Way::Open | Way::Stale if was_silent => return Some((Err(reset()), None)),
                Way::Open | Way::Stale => tokio::select! {
                    frame = data.next() => return frame.map(|frame| (frame, Some((data, way, was_silent)))),
                    () = changed(&mut way) => {}
                },
            }
        }
    })
}

async fn changed(way: &mut watch::Receiver<Way>) {
    if way.changed().await.is_err() {
        std::future::pending::<()>().await;
    }
}

fn refused() -> io::Error {
    io::Error::new(io::ErrorKind::ConnectionRefused, "connection refused")
}

fn reset() -> io::Error {
    io::Error::new(io::ErrorKind::ConnectionReset, "connection reset by peer")
}

/// An answer that the server did not give.
fn failure(code: StatusCode) -> Response<Body> {
    let status = json!({
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
        "message": format!("made up by a test: {code}"), "reason": "Test", "code": code.as_u16(),
        "details": {"retryAfterSeconds": 1},
    });
    Response::builder()
        .status(code)
        .header(http::header::CONTENT_TYPE, "application/json")
        .header(http::header::RETRY_AFTER, "1")
        .body(Body::from(status.to_string()))
        .unwrap()
}

#[derive(Debug, Clone, Copy)]
enum Fault {
    /// In place of the server's, which hears nothing.
    Answer(StatusCode),
    /// After the server has done what was asked.
    LoseAnswer,
    /// After so many frames of the body.
    CutAfter(usize),
}

/// Faults in an order that the seed decides.
#[derive(Debug)]
struct Trouble {
    state: u64,
    one_of: u64,
    met: u64,
}

impl Trouble {
    fn next(&mut self, method: &Method, is_watch: bool) -> Option<Fault> {
        if !self.random().is_multiple_of(self.one_of) {
            return None;
        }
        self.met += 1;
        let writes = [
            Fault::Answer(StatusCode::INTERNAL_SERVER_ERROR),
            Fault::Answer(StatusCode::TOO_MANY_REQUESTS),
            Fault::Answer(StatusCode::CONFLICT),
            Fault::LoseAnswer,
        ];
        let reads = [
            Fault::Answer(StatusCode::INTERNAL_SERVER_ERROR),
            Fault::Answer(StatusCode::TOO_MANY_REQUESTS),
            Fault::LoseAnswer,
        ];
        let watches = [
            Fault::Answer(StatusCode::INTERNAL_SERVER_ERROR),
            Fault::Answer(StatusCode::TOO_MANY_REQUESTS),
            Fault::Answer(StatusCode::GONE),
            Fault::CutAfter(3),
        ];
        let any: &[Fault] = match (is_watch, method == Method::GET) {
            (true, _) => &watches,
            (false, true) => &reads,
            (false, false) => &writes,
        };
        let which = usize::try_from(self.random()).unwrap() % any.len();
        Some(any[which])
    }

    /// The `xorshift64*` generator.
    fn random(&mut self) -> u64 {
        self.state ^= self.state >> 12;
        self.state ^= self.state << 25;
        self.state ^= self.state >> 27;
        self.state.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 16
    }
}
