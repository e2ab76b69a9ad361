//! Keeps the servers' certificate valid, and carries a replacement of the authority through.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use camino::{Utf8Path, Utf8PathBuf};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Node;
use kube::api::{Api, ListParams};
use kube::{Client, ResourceExt};
use model::keys;
use rustls::server::NoServerSessionStorage;
use tokio_util::sync::CancellationToken;

use super::clients::Clients;
use super::credentials::Secret;
use super::pki::{Authority, SERVER_NAMES, Subject};
use super::presented::Presented;
use super::{bootstrap, credentials, files};

/// How often it is looked whether anything is due.
const TICK: Duration = Duration::from_secs(1);
/// The servers' certificate and the authority behind it.
pub(crate) struct Certificates {
    data_dir: Utf8PathBuf,
    subject: Subject,
    presented: Presented,
    clients: Arc<Clients>,
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
        let clients = Clients::new(&authority.bundle(), client_ca)?;
        let subject = Subject {
            names: SERVER_NAMES.iter().map(|name| (*name).to_owned()).collect(),
            addresses,
        };
        Ok(Certificates {
            data_dir,
            presented: Presented::new(authority, subject.clone(), now)?,
            subject,
            clients: Arc::new(clients),
        })
    }

    /// Says when the certificate that is shown ends, also later.
    pub(crate) fn ends(&self) -> impl Fn() -> Option<Timestamp> + use<> {
        self.presented.ends()
    }

    /// What clients are to trust, PEM.
    pub(crate) fn bundle(&self) -> String {
        self.presented.authority().bundle()
    }

    /// The registry's configuration: it always shows the present certificate. Its clients have passwords.
    pub(crate) fn registry_config(&self) -> Arc<rustls::ServerConfig> {
        self.presented.server_config()
    }

    /// The API's configuration: the same certificate, and clients may show theirs.
    pub(crate) fn api_config(&self) -> Arc<rustls::ServerConfig> {
        let mut config = rustls::ServerConfig::builder()
            .with_client_cert_verifier(self.clients.clone())
            .with_cert_resolver(self.presented.resolver());
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
        if self
            .presented
            .follow(authority, self.subject.clone(), now)?
        {
            tracing::info!("the servers show a new certificate");
        }
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
