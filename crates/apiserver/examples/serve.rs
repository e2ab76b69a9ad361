//! Serves the API of a directory of CRDs on a loopback port, and writes a kubeconfig for it.
//!
//! `cargo run -p apiserver --example serve -- DATA_DIR [CRD.yaml…]`

#![allow(clippy::print_stdout)]

use std::error::Error;
use std::path::PathBuf;
use std::sync::Arc;

use apiserver::{ApiServer, Config, Token};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use tokio::net::TcpListener;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    tracing_subscriber::fmt().init();
    let mut arguments = std::env::args_os().skip(1);
    let data_dir = PathBuf::from(arguments.next().ok_or("expected a data directory")?);
    let mut config = Config::new(&data_dir);
    for file in arguments {
        let text = std::fs::read_to_string(file)?;
        config.crds.push(serde_saphyr::from_str(&text)?);
    }
    // Anybody who can read the kubeconfig may do anything: this is an example.
    let token = "example";
    config.tokens = vec![Token::new("admin", &["system:masters"], token)];
    let server = ApiServer::open(config)?;

    let names = ["localhost".to_owned(), "127.0.0.1".to_owned()];
    let certified = rcgen::generate_simple_self_signed(names)?;
    let key = rustls::pki_types::PrivateKeyDer::try_from(certified.signing_key.serialize_der())?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut tls = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(vec![certified.cert.der().clone()], key)?;
    tls.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];

    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let kubeconfig = serde_json::json!({
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "example",
        "clusters": [{"name": "example", "cluster": {
            "server": format!("https://{}", listener.local_addr()?),
            "certificate-authority-data": STANDARD.encode(certified.cert.pem()),
        }}],
        "users": [{"name": "example", "user": {"token": token}}],
        "contexts": [{"name": "example", "context": {"cluster": "example", "user": "example"}}],
    });
    let path = data_dir.join("kubeconfig");
    std::fs::write(&path, kubeconfig.to_string())?;
    println!("KUBECONFIG={}", path.display());
    let interrupt = async {
        if let Err(error) = tokio::signal::ctrl_c().await {
            tracing::error!(%error, "cannot listen for signals");
        }
    };
    server.serve(listener, Arc::new(tls), interrupt).await?;
    Ok(())
}
