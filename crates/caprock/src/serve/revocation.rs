//! Ends watches whose token was taken back: a request is checked when it comes, but a watch stays.

use std::collections::HashSet;
use std::sync::Arc;

use apiserver::Token;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::Response;
use futures::StreamExt as _;
use sha2::{Digest as _, Sha256};
use tokio::sync::watch;

/// Hashes of the tokens that are let in now.
#[derive(Clone)]
pub(crate) struct Admitted(Arc<watch::Sender<HashSet<[u8; 32]>>>);

impl Admitted {
    pub(crate) fn new(tokens: &[Token]) -> Self {
        Admitted(Arc::new(watch::Sender::new(hashes(tokens))))
    }

    /// Ends what was opened with any other token.
    pub(crate) fn set(&self, tokens: &[Token]) {
        self.0.send_replace(hashes(tokens));
    }
}

fn hashes(tokens: &[Token]) -> HashSet<[u8; 32]> {
    tokens.iter().map(|token| token.sha256).collect()
}

/// Lets an answer end when the token of its request is let in no more. Tokens of other kinds end by themselves.
pub(crate) async fn end_with_token(
    State(Admitted(admitted)): State<Admitted>,
    request: Request,
    next: Next,
) -> Response {
    let hash = request
        .headers()
        .get(axum::http::header::AUTHORIZATION)
        .and_then(|value| value.to_str().ok()?.split_once(' '))
        .map(|(_, token)| <[u8; 32]>::from(Sha256::digest(token.trim().as_bytes())))
        .filter(|_| is_watch(&request));
    let response = next.run(request).await;
    let Some(hash) = hash.filter(|hash| admitted.borrow().contains(hash)) else {
        return response;
    };
    let mut changes = admitted.subscribe();
    response.map(|body| {
        let revoked = async move {
            // An error means that the server is gone, and the watch with it.
            let _ended = changes.wait_for(|now| !now.contains(&hash)).await;
        };
        Body::from_stream(body.into_data_stream().take_until(revoked))
    })
}

fn is_watch(request: &Request) -> bool {
    let query = request.uri().query().unwrap_or_default();
    query
        .split('&')
        .any(|pair| matches!(pair, "watch" | "watch=true" | "watch=1"))
}
