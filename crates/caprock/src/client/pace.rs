//! How many requests are under way at once: as many as the server answers gladly.
//!
//! A client that sends so many a second, as others do, is too slow for a server that is idle and too fast for one that is
//! not. This one goes by what it hears: while requests are answered, more may be under way at once; an answer that the
//! server has too much to do (429) halves that, and everybody who uses the client waits for as long as the server asks.
//! The request is then made again, since it was not served. So the server's priority and fairness sets the rate, whatever
//! it gives our user.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use futures::future::BoxFuture;
use http::{Request, Response, StatusCode, header};
use kube::client::Body;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;
use tower::{Layer, Service, ServiceExt};

/// Requests under way at first, and at most.
const FIRST: usize = 64;
const MOST: usize = 512;
/// How often one request is made.
const TRIES: u32 = 10;
/// How long to wait when the server does not say, and at most when it does.
const PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// The pace of all requests of a client.
#[derive(Debug, Clone)]
pub(crate) struct Pace(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    places: Arc<Semaphore>,
    window: Mutex<Window>,
}

#[derive(Debug)]
struct Window {
    /// Requests that may be under way.
    size: usize,
    /// Places to be taken away when they become free.
    debt: usize,
    /// Requests that were answered while all places were taken, since the window last grew.
    answered: usize,
    paused_until: Option<Instant>,
}

impl Default for Pace {
    fn default() -> Self {
        Self::starting_at(FIRST)
    }
}

impl Pace {
    fn starting_at(size: usize) -> Self {
        Pace(Arc::new(Inner {
            places: Arc::new(Semaphore::new(size)),
            window: Mutex::new(Window {
                size,
                debt: 0,
                answered: 0,
                paused_until: None,
            }),
        }))
    }

    async fn place(&self) -> OwnedSemaphorePermit {
        loop {
            let place = self.0.places.clone().acquire_owned().await;
            let place = place.expect("the semaphore is never closed");
            let paused = self.lock().paused_until;
            match paused.filter(|until| *until > Instant::now()) {
                None => return place,
                Some(until) => {
                    // Who waits for nothing but the time keeps nobody's place.
                    self.free(place);
                    tokio::time::sleep_until(until).await;
                }
            }
        }
    }

    /// A request was served.
    fn served(&self, place: OwnedSemaphorePermit) {
        let mut window = self.lock();
        if self.0.places.available_permits() == 0 {
            window.answered += 1;
        }
        if window.answered >= window.size && window.size < MOST {
            window.answered = 0;
            window.size += 1;
            match window.debt {
                0 => self.0.places.add_permits(1),
                _ => window.debt -= 1,
            }
        }
        drop(window);
        self.free(place);
    }

    /// A request was refused: everybody slows down, once for all requests that are refused together.
    fn refused(&self, place: OwnedSemaphorePermit, pause: Duration) {
        let mut window = self.lock();
        let now = Instant::now();
        if window.paused_until.is_none_or(|until| until <= now) {
            let fewer = window.size / 2;
            window.size -= fewer;
            window.debt += fewer - self.0.places.forget_permits(fewer);
            window.answered = 0;
            window.paused_until = Some(now + pause);
            tracing::debug!(
                at_once = window.size,
                ?pause,
                "the API server is busy; slowing down"
            );
        }
        drop(window);
        self.free(place);
    }

    fn free(&self, place: OwnedSemaphorePermit) {
        let mut window = self.lock();
        if window.debt > 0 {
            window.debt -= 1;
            place.forget();
        }
    }

    fn lock(&self) -> MutexGuard<'_, Window> {
        self.0.window.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<S> Layer<S> for Pace {
    type Service = Paced<S>;

    fn layer(&self, inner: S) -> Paced<S> {
        Paced {
            inner,
            pace: self.clone(),
        }
    }
}

/// A service whose requests keep the pace.
#[derive(Debug, Clone)]
pub(crate) struct Paced<S> {
    inner: S,
    pace: Pace,
}

impl<S, B> Service<Request<Body>> for Paced<S>
where
    S: Service<Request<Body>, Response = Response<B>> + Clone + Send + 'static,
    S::Future: Send,
    S::Error: Send,
    B: Send,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = BoxFuture<'static, Result<S::Response, S::Error>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let (inner, pace) = (self.inner.clone(), self.pace.clone());
        Box::pin(async move {
            let mut request = request;
            for _ in 1..TRIES {
                let again = copy(&request);
                let place = pace.place().await;
                let is_eviction = request.uri().path().ends_with("/eviction");
                // A place is held until the answer begins: a watch may go on for hours.
                let answer = inner.clone().oneshot(request).await;
                let heard = match &answer {
                    Ok(answer) if !is_eviction => Heard::of(answer),
                    Ok(_) | Err(_) => Heard::Answer,
                };
                match heard {
                    Heard::Answer => pace.served(place),
                    Heard::Busy(pause) => pace.refused(place, pause),
                    Heard::Later(_) => pace.free(place),
                }
                match (heard, again) {
                    (Heard::Busy(_), Some(again)) => request = again,
                    (Heard::Later(pause), Some(again)) => {
                        tokio::time::sleep(pause).await;
                        request = again;
                    }
                    (_, _) => return answer,
                }
            }
            let place = pace.place().await;
            let answer = inner.oneshot(request).await;
            pace.free(place);
            answer
        })
    }
}

/// What an answer says of the server. A 429 to an eviction is a disruption budget's, and says nothing.
#[derive(Debug, Clone, Copy)]
enum Heard {
    /// It serves.
    Answer,
    /// It has too much to do, and is to be left alone for so long.
    Busy(Duration),
    /// It cannot serve this request now, and wants to be asked again after so long.
    Later(Duration),
}

impl Heard {
    fn of<B>(answer: &Response<B>) -> Self {
        let asked = answer.headers().get(header::RETRY_AFTER);
        let asked = asked
            .and_then(|value| value.to_str().ok()?.parse().ok())
            .map(|seconds| Duration::from_secs(seconds).min(LONGEST_PAUSE));
        match (answer.status(), asked) {
            (StatusCode::TOO_MANY_REQUESTS, asked) => Heard::Busy(asked.unwrap_or(PAUSE)),
            (StatusCode::SERVICE_UNAVAILABLE, Some(pause)) => Heard::Later(pause),
            (_, _) => Heard::Answer,
        }
    }
}

/// The request once more; none when its body is a stream.
fn copy(request: &Request<Body>) -> Option<Request<Body>> {
    let mut copy = Request::new(request.body().try_clone()?);
    *copy.method_mut() = request.method().clone();
    *copy.uri_mut() = request.uri().clone();
    *copy.version_mut() = request.version();
    *copy.headers_mut() = request.headers().clone();
    *copy.extensions_mut() = request.extensions().clone();
    Some(copy)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::convert::Infallible;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use futures::future::join_all;
    use k8s_openapi::api::core::v1::ConfigMap;
    use kube::api::{ListParams, PostParams};
    use kube::{Api, Client};
    use serde_json::json;

    use super::*;

    /// Serves so many at once, each for 10 ms, and refuses others.
    #[derive(Debug, Clone, Default)]
    struct Busy {
        under_way: Arc<AtomicUsize>,
        refused: Arc<AtomicUsize>,
        served: Arc<AtomicUsize>,
    }

    impl Busy {
        async fn answer(self, at_once: usize) -> Result<Response<()>, Infallible> {
            let mut answer = Response::new(());
            if self.under_way.fetch_add(1, Ordering::SeqCst) >= at_once {
                self.refused.fetch_add(1, Ordering::SeqCst);
                *answer.status_mut() = StatusCode::TOO_MANY_REQUESTS;
                let after = header::HeaderValue::from_static("1");
                answer.headers_mut().insert(header::RETRY_AFTER, after);
            } else {
                tokio::time::sleep(Duration::from_millis(10)).await;
                self.served.fetch_add(1, Ordering::SeqCst);
            }
            self.under_way.fetch_sub(1, Ordering::SeqCst);
            Ok(answer)
        }
    }

    async fn ask(pace: &Pace, server: &Busy, at_once: usize, requests: usize, path: &str) {
        let server = server.clone();
        let service = tower::service_fn(move |_: Request<Body>| server.clone().answer(at_once));
        let paced = pace.layer(service);
        let asked = (0..requests).map(|_| {
            let mut request = Request::new(Body::empty());
            *request.uri_mut() = path.parse().unwrap();
            paced.clone().oneshot(request)
        });
        join_all(asked).await;
    }

    #[tokio::test]
    async fn requests_slow_down_and_are_all_served() {
        let (pace, server, began) = (Pace::default(), Busy::default(), Instant::now());
        ask(&pace, &server, 10, 120, "/api").await;
        assert_eq!(server.served.load(Ordering::SeqCst), 120);
        // 64, 32 and 16 at once are too many, and each time all wait for a second.
        assert!(began.elapsed() >= Duration::from_secs(3));
        assert!(pace.lock().size < 16);
    }

    #[tokio::test]
    async fn requests_speed_up_while_they_are_answered() {
        let (pace, server) = (Pace::default(), Busy::default());
        ask(&pace, &server, usize::MAX, 20_000, "/api").await;
        assert!(pace.lock().size > 2 * FIRST);
        assert_eq!(pace.0.places.available_permits(), pace.lock().size);
    }

    #[tokio::test]
    async fn a_budget_that_refuses_an_eviction_slows_nobody_down() {
        let (pace, server) = (Pace::default(), Busy::default());
        ask(&pace, &server, 0, 1, "/api/v1/namespaces/a/pods/b/eviction").await;
        assert_eq!(server.refused.load(Ordering::SeqCst), 1);
        let window = pace.lock();
        assert_eq!((window.size, window.paused_until), (FIRST, None));
    }

    /// The embedded server lets 64 requests of a user in and 512 wait.
    #[tokio::test(flavor = "multi_thread")]
    async fn a_fair_server_sets_the_pace() {
        const TOKEN: &str = "a token that only tests know";
        let dir = tempfile::tempdir().unwrap();
        let mut config = apiserver::Config::new(dir.path());
        config.tokens = vec![apiserver::Token::new("admin", &["system:masters"], TOKEN)];
        let server = apiserver::ApiServer::open(config).unwrap();
        let pace = Pace::starting_at(5000);
        let client = Client::new(pace.layer(server.router_as(TOKEN)), "default");
        let maps: Api<ConfigMap> = Api::default_namespaced(client);
        let map = |number: usize| {
            let map = json!({"metadata": {"name": format!("m-{number}")}});
            serde_json::from_value(map).unwrap()
        };
        let post = PostParams::default();
        let made = (0..2000).map(|number| {
            let (map, maps, post): (ConfigMap, _, _) = (map(number), &maps, &post);
            async move { maps.create(post, &map).await }
        });
        let made: Result<Vec<_>, _> = join_all(made).await.into_iter().collect();
        made.unwrap();
        let listed = maps.list(&ListParams::default()).await.unwrap();
        assert_eq!(listed.items.len(), 2000);
        assert!(pace.lock().size < 5000, "it was refused, and slowed down");
    }
}
