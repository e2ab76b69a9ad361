//! `caprock serve`: API server, registry, controllers and builder in one process, with one data directory.
//!
//! The parts are wired here and nowhere else. Controllers and builder talk to the API over its socket, like any client.

mod bootstrap;
mod certificates;
mod clients;
pub(crate) mod credentials;
pub(crate) mod files;
pub(crate) mod join;
mod limit;
pub(crate) mod login;
mod parts;
pub(crate) mod pki;
pub(crate) mod presented;
mod provision;
mod revocation;
mod rules;

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use camino::{Utf8Path, Utf8PathBuf};
use jiff::Timestamp;
use oci::{Access, Registry};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::cli;
use crate::exit::{Failure, refused};
use crate::ownership::Standby;
use crate::telemetry::Telemetry;
use certificates::{Certificates, Publisher};
use credentials::Secret;
use login::Logins;
use parts::{Parts, STOP_DEADLINE};
use provision::Provisioning;
use revocation::Admitted;

/// Runs until SIGTERM or Ctrl-C, or until a part fails.
pub(crate) async fn run(args: cli::Serve) -> Result<(), Failure> {
    let mut shown = Telemetry::new();
    let data_dir = prepare(&args.data_dir)?;
    let lock = lock(&data_dir)?;
    // A leftover kubeconfig would say "ready" before this process is.
    let ready = data_dir.join("kubeconfig");
    remove_if_present(&ready)?;

    let now = Timestamp::now();
    let api_socket = listen(args.listen, "--listen").await?;
    let registry_socket = listen(args.registry_listen, "--registry-listen").await?;
    let (api_address, registry_address) = (api_socket.local_addr()?, registry_socket.local_addr()?);
    let hosts = addresses(&[api_address, registry_address]);
    let certificates =
        Certificates::open(data_dir.clone(), hosts, args.client_ca_file.as_deref(), now)?;
    shown.certificate("serving", certificates.ends());
    let server = format!("https://{}", reachable(api_address));
    let registry_host = reachable(registry_address).to_string();
    let logins = Logins::load_or_create(&data_dir, &registry_host)?;
    let admin_token = credentials::admin(&data_dir, now)?;

    let mut parts = Parts::default();
    let registry = Registry::open(
        data_dir.join("registry").as_std_path(),
        logins.admit(Access::nobody()),
    )
    .context("failed to open the registry")?;
    serve_registry(
        &mut parts,
        registry,
        registry_socket,
        certificates.registry_config(),
    );

    let mut config = rules::config(&data_dir, now)?;
    config.audit_log = args.audit_log.clone().map(Into::into);
    let admitted = Admitted::new(&config.tokens);
    let api =
        apiserver::ApiServer::open(config).context("failed to open the API server's store")?;
    let ca = certificates.bundle();
    let kubeconfig = credentials::kubeconfig(&server, &ca, "admin", Secret::Token(&admin_token));
    let trusted = data_dir.join("pki/ca.crt");
    let client = crate::client::client_trusting(&kubeconfig, &trusted, &shown.requests()).await?;
    let provisioning = Provisioning {
        data_dir: data_dir.clone(),
        api: api.clone(),
        admitted,
        client: client.clone(),
        server: server.clone(),
        node_life: args.node_credential_life,
    };
    serve_api(
        &mut parts,
        provisioning,
        api_socket,
        certificates.api_config(),
    );

    let facts = bootstrap::Facts {
        registry_host: &registry_host,
        ca: &ca,
        logins: &logins,
        base_image: args.base_image.as_deref(),
    };
    let written = bootstrap::write(&client, &facts).await;
    written.context("failed to write the first objects")?;

    let (of_api, store) = (api.clone(), api);
    shown.text(move || of_api.metrics());
    shown.ready("store", move || store.failure());
    start_controllers(&mut parts, &args, &data_dir, client.clone(), shown).await?;

    files::write_private(&ready, &kubeconfig)?;
    tracing::info!(api = %server, registry = %registry_host, kubeconfig = %ready, "ready");
    let publisher = Publisher {
        client,
        registry_host,
        server,
        admin_token,
    };
    parts.spawn(certificates.keep(publisher, parts.stop()));

    let ended = parts.wait().await;
    drop(lock);
    ended.map_err(Failure::from)
}

/// The registry, which removes what no image needs.
fn serve_registry(
    parts: &mut Parts,
    registry: Registry,
    socket: TcpListener,
    tls: Arc<rustls::ServerConfig>,
) {
    let stop = parts.stop();
    let router = registry.router();
    parts.spawn(collect_garbage(registry, stop.clone()));
    let served = apiserver::serve_tls(socket, tls, router, stop.cancelled_owned(), STOP_DEADLINE);
    parts.spawn(async move { served.await.context("the registry failed") });
}

/// The API with what nodes are given at their first boot. Who has a token is asked again all the time.
fn serve_api(
    parts: &mut Parts,
    provisioning: Provisioning,
    socket: TcpListener,
    tls: Arc<rustls::ServerConfig>,
) {
    let (api, admitted) = (provisioning.api.clone(), provisioning.admitted.clone());
    parts.spawn(reload_tokens(
        api.clone(),
        admitted.clone(),
        provisioning.data_dir.clone(),
        parts.stop(),
    ));
    let watched = axum::middleware::from_fn_with_state(admitted, revocation::end_with_token);
    let router = provisioning.routes().merge(api.router().layer(watched));
    let stopped = parts.stop().cancelled_owned();
    parts.spawn(async move {
        let served = api.serve_within(router, socket, tls, stopped);
        served.await.context("the API server failed")
    });
}

/// Controllers and builder, as far as they are not somebody else's, and what is shown of all parts.
async fn start_controllers(
    parts: &mut Parts,
    args: &cli::Serve,
    data_dir: &Utf8Path,
    client: kube::Client,
    mut shown: Telemetry,
) -> Result<(), Failure> {
    let with = |part| !args.without.contains(&part);
    let builder = with(cli::Part::Builder).then(|| controllers::BuilderOptions {
        cache_dir: args
            .build_cache
            .clone()
            .unwrap_or_else(|| data_dir.join("builder")),
        // One data directory has one builder: a restart takes its own claims up at once.
        identity: "serve".to_owned(),
        // The machine has other things to do, too.
        parallel_builds: NonZeroU32::MIN,
    });
    let telemetry = controllers::Telemetry::default();
    // Nobody else acts on this server.
    shown.controllers(&telemetry, &Standby::default());
    let shown = shown.listen(args.monitoring.metrics_listen).await?;
    let options = controllers::Options {
        client,
        builder,
        controllers: with(cli::Part::Controllers).then_some(controllers::Controllers::Alone),
        telemetry,
    };
    let running = controllers::run(options, parts.stop());
    parts.spawn(async move { shown.during(running).await.context("a controller failed") });
    Ok(())
}

/// Makes the data directory, closed to other users.
fn prepare(data_dir: &Utf8Path) -> anyhow::Result<Utf8PathBuf> {
    use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
    let make = || -> std::io::Result<Utf8PathBuf> {
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(data_dir)?;
        std::fs::set_permissions(data_dir, std::fs::Permissions::from_mode(0o700))?;
        data_dir.canonicalize_utf8()
    };
    make().with_context(|| format!("failed to prepare the data directory `{data_dir}`"))
}

/// Keeps a second server off the data directory; the lock ends with the process, however it ends.
fn lock(data_dir: &Utf8Path) -> Result<std::fs::File, Failure> {
    let path = data_dir.join("lock");
    let file =
        std::fs::File::create(&path).with_context(|| format!("failed to create `{path}`"))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(std::fs::TryLockError::WouldBlock) => Err(refused(anyhow::anyhow!(
            "another `caprock serve` uses the data directory `{data_dir}`"
        ))),
        Err(std::fs::TryLockError::Error(error)) => Err(error.into()),
    }
}

/// Removes a file that may be absent.
fn remove_if_present(path: &Utf8Path) -> anyhow::Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("failed to remove `{path}`"))
        }
        _ => Ok(()),
    }
}

pub(crate) async fn listen(address: SocketAddr, flag: &str) -> Result<TcpListener, Failure> {
    TcpListener::bind(address).await.map_err(|error| {
        let in_use = error.kind() == std::io::ErrorKind::AddrInUse;
        let failure =
            refused(anyhow::Error::new(error).context(format!("cannot listen on {address}")));
        if in_use {
            failure.hint(format!("choose another address with `{flag}`"))
        } else {
            failure
        }
    })
}

/// The address by which clients on this machine reach a socket.
fn reachable(address: SocketAddr) -> SocketAddr {
    match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => {
            SocketAddr::new(std::net::Ipv4Addr::LOCALHOST.into(), address.port())
        }
        IpAddr::V6(ip) if ip.is_unspecified() => {
            SocketAddr::new(std::net::Ipv6Addr::LOCALHOST.into(), address.port())
        }
        _ => address,
    }
}

/// The addresses that the servers' certificate is valid for.
fn addresses(sockets: &[SocketAddr]) -> Vec<IpAddr> {
    let loopback = [
        IpAddr::from(std::net::Ipv4Addr::LOCALHOST),
        IpAddr::from(std::net::Ipv6Addr::LOCALHOST),
    ];
    let known: BTreeSet<IpAddr> = sockets
        .iter()
        .map(|socket| reachable(*socket).ip())
        .chain(loopback)
        .collect();
    known.into_iter().collect()
}

/// Removes what no image of the registry needs, once in a while. Images themselves stay until they are deleted.
pub(crate) async fn collect_garbage(
    registry: Registry,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    const INTERVAL: Duration = Duration::from_secs(3600);
    // A push of a large image over a slow line may take hours.
    const GRACE: Duration = Duration::from_secs(24 * 3600);
    while stop
        .run_until_cancelled(tokio::time::sleep(INTERVAL))
        .await
        .is_some()
    {
        let registry = registry.clone();
        match tokio::task::spawn_blocking(move || registry.collect_garbage(GRACE)).await? {
            Ok(collected) if collected.blobs > 0 => {
                tracing::info!(
                    blobs = collected.blobs,
                    bytes = collected.bytes,
                    "removed blobs that no image needs from the registry"
                );
            }
            Ok(_) => {}
            Err(error) => tracing::warn!("the registry keeps what nobody needs: {error}"),
        }
    }
    Ok(())
}

/// Tells the running server about tokens that commands add to the data directory or take away, and that end.
async fn reload_tokens(
    api: apiserver::ApiServer,
    admitted: Admitted,
    data_dir: Utf8PathBuf,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    let mut seen: Option<Vec<[u8; 32]>> = None;
    let tick = Duration::from_millis(500);
    while stop
        .run_until_cancelled(tokio::time::sleep(tick))
        .await
        .is_some()
    {
        match rules::tokens(&data_dir, Timestamp::now()) {
            Ok(tokens) => {
                let now: Vec<_> = tokens.iter().map(|token| token.sha256).collect();
                if seen.as_ref() != Some(&now) {
                    admitted.set(&tokens);
                    api.set_tokens(tokens);
                    seen = Some(now);
                }
            }
            Err(error) => tracing::warn!("the token owners stay as they are: {error:#}"),
        }
    }
    Ok(())
}

/// DNS-1123 subdomain, as the API requires of Node names.
pub(crate) fn valid_node_name(name: &str) -> bool {
    let edge = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    name.len() <= 253
        && name.split('.').all(|label| {
            label.starts_with(edge)
                && label.ends_with(edge)
                && label.chars().all(|c| edge(c) || c == '-')
        })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn clients_reach_a_wildcard_socket_through_loopback() {
        assert_eq!(
            reachable("0.0.0.0:6443".parse().unwrap()).to_string(),
            "127.0.0.1:6443"
        );
        assert_eq!(
            reachable("[::]:6443".parse().unwrap()).to_string(),
            "[::1]:6443"
        );
        assert_eq!(
            reachable("192.0.2.7:1".parse().unwrap()).to_string(),
            "192.0.2.7:1"
        );
    }

    #[test]
    fn node_names_are_dns_names() {
        for good in ["worker-1", "a", "n1.example.com"] {
            assert!(valid_node_name(good), "{good}");
        }
        for bad in ["", "Worker", "-a", "a-", "a..b", "a/b", "../x"] {
            assert!(!valid_node_name(bad), "{bad}");
        }
    }

    #[test]
    fn the_second_server_of_a_data_directory_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = prepare(Utf8Path::from_path(dir.path()).unwrap()).unwrap();
        let _first = lock(&path).unwrap();
        assert!(lock(&path).is_err());
    }
}
