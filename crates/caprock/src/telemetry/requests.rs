//! Counts the requests that a client makes of the Kubernetes API, under the names that Kubernetes' own clients use.

use std::task::{Context, Poll};
use std::time::Instant;

use axum::http::{Method, Request, Response};
use futures::future::BoxFuture;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;
use tower::{Layer, Service};

type Label = (&'static str, String);

/// Upper bounds in seconds, as client-go has them.
const BUCKETS: [f64; 12] = [
    0.005, 0.025, 0.1, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 15.0, 30.0, 60.0,
];

/// The counters; clones are the same ones. A layer for clients.
#[derive(Debug, Clone)]
pub(crate) struct Requests {
    answered: Family<[Label; 2], Counter>,
    durations: Family<[Label; 1], Histogram>,
}

impl Default for Requests {
    fn default() -> Self {
        let requests = Self {
            answered: Family::default(),
            durations: Family::new_with_constructor(|| Histogram::new(BUCKETS)),
        };
        // What has not happened yet is 0, not unknown.
        let labels = [("code", "200".to_owned()), ("method", "GET".to_owned())];
        drop(requests.answered.get_or_create(&labels));
        drop(
            requests
                .durations
                .get_or_create(&[("verb", "GET".to_owned())]),
        );
        requests
    }
}

impl Requests {
    pub(super) fn register(&self, registry: &mut Registry) {
        registry.register(
            "rest_client_requests",
            "Requests to the Kubernetes API by method and code of the answer, `<error>` when there was none",
            self.answered.clone(),
        );
        registry.register(
            "rest_client_request_duration_seconds",
            "Time to the head of the Kubernetes API's answer",
            self.durations.clone(),
        );
    }

    fn count(&self, method: &Method, code: String, begun: Instant) {
        let method = method.as_str().to_owned();
        self.durations
            .get_or_create(&[("verb", method.clone())])
            .observe(begun.elapsed().as_secs_f64());
        self.answered
            .get_or_create(&[("code", code), ("method", method)])
            .inc();
    }
}

impl<S> Layer<S> for Requests {
    type Service = Counted<S>;

    fn layer(&self, inner: S) -> Counted<S> {
        Counted {
            inner,
            requests: self.clone(),
        }
    }
}

/// A service whose requests are counted.
#[derive(Debug, Clone)]
pub(crate) struct Counted<S> {
    inner: S,
    requests: Requests,
}

impl<S, A, B> Service<Request<A>> for Counted<S>
where
    S: Service<Request<A>, Response = Response<B>>,
    S::Future: Send + 'static,
{
    type Response = Response<B>;
    type Error = S::Error;
    type Future = BoxFuture<'static, Result<Response<B>, S::Error>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<A>) -> Self::Future {
        let (requests, method) = (self.requests.clone(), request.method().clone());
        let (begun, answer) = (Instant::now(), self.inner.call(request));
        Box::pin(async move {
            let answer = answer.await;
            let code = match &answer {
                Ok(answer) => answer.status().as_u16().to_string(),
                Err(_) => "<error>".to_owned(),
            };
            requests.count(&method, code, begun);
            answer
        })
    }
}
