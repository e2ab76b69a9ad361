//! Keeps the servers' certificate valid, and carries a replacement of the authority through.

use std::net::IpAddr;
use std::sync::{Arc, RwLock};
use std::time::Duration;

use anyhow::Context;
use camino::{Utf8Path, Utf8PathBuf};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::Node;
use kube::api::{Api, ListParams};
use kube::{Client, ResourceExt};
use model::keys;
use rustls::server::{ClientHello, NoServerSessionStorage, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use tokio_util::sync::CancellationToken;

use super::clients::Clients;
use super::credentials::Secret;
use super::pki::{Authority, SERVER_NAMES, SERVING_LIFE, Serving};
use super::{bootstrap, credentials, files};

/// How often it is looked whether anything is due.
const TICK: Duration = Duration::from_secs(1);
const LOCK: &str = "no code panics while it holds the lock of the certificate";

/// The certificate that the servers show, which changes while they run.
#[derive(Debug)]
pub(crate) struct Shown(RwLock<Arc<CertifiedKey>>);

impl ResolvesServerCert for Shown {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.0.read().expect(LOCK).clone())
    }
}

impl Shown {
    pub(crate) fn new(serving: Serving) -> anyhow::Result<Self> {
        Ok(Shown(RwLock::new(certified(serving)?)))
    }

    /// A server configuration that always shows the present certificate and asks for none.
    pub(crate) fn server_config(self: &Arc<Self>) -> Arc<rustls::ServerConfig> {
        let mut config = rustls::ServerConfig::builder()
            .with_no_client_auth()
            .with_cert_resolver(self.clone());
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Arc::new(config)
    }

    pub(crate) fn show(&self, serving: Serving) -> anyhow::Result<()> {
        *self.0.write().expect(LOCK) = certified(serving)?;
        Ok(())
    }
}

fn certified(serving: Serving) -> anyhow::Result<Arc<CertifiedKey>> {
    let key = rustls::crypto::ring::sign::any_supported_type(&serving.key)
        .context("the server's key cannot sign")?;
    Ok(Arc::new(CertifiedKey::new(serving.chain, key)))
}

/// The servers' certificate and the authority behind it.
pub(crate) struct Certificates {
    pub(crate) data_dir: Utf8PathBuf,
    addresses: Vec<IpAddr>,
    authority: Authority,
    shown: Arc<Shown>,
    clients: Arc<Clients>,
    /// When the certificate that is shown was made.
    made: Timestamp,
}

/// What follows from another bundle.
pub(crate) struct Publisher {
    pub(crate) client: Client,
    pub(crate) registry_host: String,
    pub(crate) server: String,
    pub(crate) admin_token: String,
}

impl Certificates {
    /// Loads or makes the authority of a data directory, and a certificate for these addresses. Clients may have
    /// certificates of that authority, and of those in `client_ca`.
    pub(crate) fn open(
        data_dir: Utf8PathBuf,
        addresses: Vec<IpAddr>,
        client_ca: Option<&Utf8Path>,
        now: Timestamp,
    ) -> anyhow::Result<Self> {
        let authority = Authority::load_or_create(&data_dir, now)?;
        let shown = Shown::new(authority.serving(SERVER_NAMES, &addresses, now)?)?;
        let clients = Clients::new(&authority.bundle(), client_ca)?;
        Ok(Certificates {
            data_dir,
            addresses,
            authority,
            shown: Arc::new(shown),
            clients: Arc::new(clients),
            made: now,
        })
    }

    /// What clients are to trust, PEM.
    pub(crate) fn bundle(&self) -> String {
        self.authority.bundle()
    }

    /// The registry's configuration: it always shows the present certificate. Its clients have passwords.
    pub(crate) fn registry_config(&self) -> Arc<rustls::ServerConfig> {
        self.shown.server_config()
    }

    /// The API's configuration: the same certificate, and clients may show theirs.
    pub(crate) fn api_config(&self) -> Arc<rustls::ServerConfig> {
        let mut config = rustls::ServerConfig::builder()
            .with_client_cert_verifier(self.clients.clone())
            .with_cert_resolver(self.shown.clone());
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        // A resumed session would keep a certificate in force whose authority is trusted no more.
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        Arc::new(config)
    }

    /// Renews and replaces until `stop`. A failure is logged and tried again.
    pub(crate) async fn keep(
        mut self,
        publisher: Publisher,
        stop: CancellationToken,
    ) -> anyhow::Result<()> {
        let mut told = self.bundle();
        while stop
            .run_until_cancelled(tokio::time::sleep(TICK))
            .await
            .is_some()
        {
            if let Err(error) = self.turn(&publisher, &mut told, Timestamp::now()).await {
                tracing::warn!("certificates stay as they are: {error:#}");
            }
        }
        Ok(())
    }

    async fn turn(
        &mut self,
        publisher: &Publisher,
        told: &mut String,
        now: Timestamp,
    ) -> anyhow::Result<()> {
        // A command may have started a replacement.
        let mut authority =
            Authority::load(&self.data_dir)?.context("`pki/authority.json` is gone")?;
        let followed = match authority.progress() {
            Some(_) => publisher.followed(&authority.fingerprint()).await?,
            None => true,
        };
        if let Some(next) = Authority::advance(&self.data_dir, followed, now)? {
            authority = next;
        }
        if !authority.signs_like(&self.authority) || is_due(self.made, now) {
            self.shown
                .show(authority.serving(SERVER_NAMES, &self.addresses, now)?)?;
            self.made = now;
            tracing::info!("the servers show a new certificate");
        }
        self.authority = authority;
        let bundle = self.bundle();
        if *told != bundle {
            self.clients.trust(&bundle)?;
            publisher.publish(&self.data_dir, &bundle).await?;
            *told = bundle;
        }
        Ok(())
    }
}

impl Publisher {
    /// Whether every node whose agent says what it trusts trusts this bundle.
    async fn followed(&self, fingerprint: &str) -> anyhow::Result<bool> {
        let nodes = Api::<Node>::all(self.client.clone())
            .list_metadata(&ListParams::default())
            .await
            .context("failed to list the nodes")?;
        Ok(nodes.items.iter().all(|node| {
            node.annotations()
                .get(keys::TRUSTED_API_CA)
                .is_none_or(|trusted| trusted == fingerprint)
        }))
    }

    async fn publish(&self, data_dir: &Utf8PathBuf, bundle: &str) -> anyhow::Result<()> {
        bootstrap::trust(&self.client, &self.registry_host, bundle).await?;
        let token = Secret::Token(&self.admin_token);
        let kubeconfig = credentials::kubeconfig(&self.server, bundle, "admin", token);
        files::write_private(&data_dir.join("kubeconfig"), &kubeconfig)?;
        tracing::info!("clients are told which authorities to trust from now on");
        Ok(())
    }
}

/// A certificate is renewed when a third of its life is left.
pub(crate) fn is_due(made: Timestamp, now: Timestamp) -> bool {
    let age = now.duration_since(made);
    age < SignedDuration::ZERO || age >= SERVING_LIFE * 2 / 3
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_certificate_is_renewed_with_a_third_of_its_life_left() {
        let made = Timestamp::from_second(1_700_000_000).unwrap();
        let day = |days: i64| {
            made.checked_add(SignedDuration::from_hours(24 * days))
                .unwrap()
        };
        for (days, due) in [(0, false), (59, false), (60, true), (90, true), (-1, true)] {
            assert_eq!(is_due(made, day(days)), due, "{days}");
        }
    }
}
