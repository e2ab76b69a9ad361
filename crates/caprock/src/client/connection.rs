//! Connections to the API that end when the other side is gone without a word, as behind a load balancer that was replaced.
//!
//! A watch only listens, so nothing else would tell that nobody speaks any more until its own end after five minutes.

use std::time::Duration;

use http::{Request, Response};
use hyper_util::client::legacy;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use kube::client::{Body, ClientBuilder, ConfigExt};
use tower::util::BoxService;
use tower::{BoxError, ServiceBuilder, ServiceExt};

/// How long a connection may be silent until the other side is asked whether it is still there, how long until it is asked
/// again, and how often. In all as long as `kubectl` and other clients in Go wait.
const SILENCE: Duration = Duration::from_secs(30);
const ASKED_AGAIN: Duration = Duration::from_secs(5);
const ASKED: u32 = 3;
/// What was sent may be without confirmation for as long.
const UNCONFIRMED: Duration = Duration::from_secs(45);
/// Until there is a connection.
const CONNECT: Duration = Duration::from_secs(30);

type Service = BoxService<Request<Body>, Response<hyper::body::Incoming>, BoxError>;

/// What `ClientBuilder::try_from` makes, but for repeated requests and log lines, on connections of ours.
///
/// # Errors
/// When the configuration has certificates, credentials or headers that cannot be used, or asks for a proxy.
pub(super) fn builder(config: kube::Config) -> kube::Result<ClientBuilder<Service>> {
    if let Some(proxy) = config.proxy_url {
        return Err(kube::Error::ProxyProtocolUnsupported {
            proxy_url: Box::new(proxy),
        });
    }
    let connector = config.rustls_https_connector_with_connector(connector())?;
    let service = ServiceBuilder::new()
        .layer(config.base_uri_layer())
        .option_layer(config.auth_layer()?)
        .layer(config.extra_headers_layer()?)
        .map_err(BoxError::from)
        .service(legacy::Client::builder(TokioExecutor::new()).build(connector));
    Ok(ClientBuilder::new(
        service.boxed(),
        config.default_namespace,
    ))
}

fn connector() -> HttpConnector {
    let mut connector = HttpConnector::new();
    // TLS is laid over it.
    connector.enforce_http(false);
    connector.set_connect_timeout(Some(CONNECT));
    connector.set_keepalive(Some(SILENCE));
    connector.set_keepalive_interval(Some(ASKED_AGAIN));
    connector.set_keepalive_retries(Some(ASKED));
    connector.set_tcp_user_timeout(Some(UNCONFIRMED));
    connector
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use rustix::net::sockopt;
    use tokio::net::TcpListener;
    use tower::Service as _;

    use super::*;

    #[tokio::test]
    async fn the_kernel_asks_whether_the_other_side_is_there() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let uri = format!("http://{}", listener.local_addr().unwrap());
        let connected = connector().call(uri.parse().unwrap()).await.unwrap();
        let socket = connected.inner();
        assert!(sockopt::socket_keepalive(socket).unwrap());
        assert_eq!(sockopt::tcp_keepidle(socket).unwrap(), SILENCE);
        assert_eq!(sockopt::tcp_keepintvl(socket).unwrap(), ASKED_AGAIN);
        assert_eq!(sockopt::tcp_keepcnt(socket).unwrap(), ASKED);
        let timeout = sockopt::tcp_user_timeout(socket).unwrap();
        assert_eq!(u128::from(timeout), UNCONFIRMED.as_millis());
    }
}
