#![allow(clippy::unwrap_used)]
use super::*;
use axum::body::Body;
use axum::http::Request;
use http_body_util::BodyExt;
use tower::ServiceExt;

async fn ask(telemetry: Telemetry, path: &str, accept: &str) -> (u16, String, String) {
    let request = Request::get(path)
        .header(header::ACCEPT, accept)
        .body(Body::empty())
        .unwrap();
    let answer = router(Arc::new(telemetry)).oneshot(request).await.unwrap();
    let status = answer.status().as_u16();
    let kind = answer.headers()[header::CONTENT_TYPE].to_str().unwrap();
    let kind = kind.to_owned();
    let body = answer.into_body().collect().await.unwrap().to_bytes();
    (status, kind, String::from_utf8(body.to_vec()).unwrap())
}

#[tokio::test]
async fn metrics_come_in_the_form_that_is_asked_for() {
    let mut telemetry = Telemetry::new();
    telemetry.text(|| "# TYPE more gauge\nmore 1\n# EOF\n".to_owned());
    let (code, kind, text) = ask(telemetry, "/metrics", "application/openmetrics-text").await;
    assert_eq!(
        (code, kind.starts_with("application/openmetrics")),
        (200, true)
    );
    assert!(text.ends_with("more 1\n# EOF\n"), "{text}");
    assert_eq!(text.matches("# EOF").count(), 1);
    assert!(
        text.contains("# TYPE process_cpu_seconds counter\n"),
        "{text}"
    );

    let (_, kind, text) = ask(Telemetry::new(), "/metrics", "*/*").await;
    assert!(kind.starts_with("text/plain; version=0.0.4"), "{kind}");
    assert!(
        text.contains("# TYPE process_cpu_seconds_total counter\n"),
        "{text}"
    );
    assert!(text.contains("caprock_build_info{version="), "{text}");
}

#[tokio::test]
async fn checks_say_what_is_wrong() {
    let telemetry = || {
        let mut telemetry = Telemetry::new();
        telemetry.alive("loops", || None);
        telemetry.ready("loops", || None);
        telemetry.ready("certificate", || Some("there is none yet".to_owned()));
        telemetry
    };
    let (code, _, text) = ask(telemetry(), "/healthz", "*/*").await;
    assert_eq!((code, text.as_str()), (200, "ok"));
    let (code, _, text) = ask(telemetry(), "/healthz?verbose", "*/*").await;
    assert_eq!(
        (code, text.as_str()),
        (200, "[+]loops ok\nhealthz check passed\n")
    );
    let (code, _, text) = ask(telemetry(), "/readyz", "*/*").await;
    let expected = "[+]loops ok\n[-]certificate failed: there is none yet\nreadyz check failed\n";
    assert_eq!((code, text.as_str()), (503, expected));
}

#[tokio::test]
async fn requests_to_the_api_are_counted_by_their_answers() {
    let telemetry = Telemetry::new();
    let service = tower::service_fn(|request: Request<kube::client::Body>| async move {
        match request.uri().path() {
            "/version" => Err(std::io::Error::other("connection refused")),
            _ => Ok(axum::http::Response::builder()
                .status(429)
                .body(Body::empty())
                .unwrap()),
        }
    });
    let client = kube::client::ClientBuilder::new(service, "default")
        .with_layer(&telemetry.requests())
        .build();
    let pods: kube::Api<k8s_openapi::api::core::v1::Pod> =
        kube::Api::default_namespaced(client.clone());
    pods.get("a").await.unwrap_err();
    client.apiserver_version().await.unwrap_err();
    let text = telemetry.metrics(Format::Prometheus);
    for line in [
        "rest_client_requests_total{code=\"429\",method=\"GET\"} 1\n",
        "rest_client_requests_total{code=\"<error>\",method=\"GET\"} 1\n",
        "rest_client_request_duration_seconds_count{verb=\"GET\"} 2\n",
    ] {
        assert!(text.contains(line), "{text}");
    }
}
