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
pub(crate) mod pki;
pub(crate) mod presented;
mod provision;
mod revocation;
mod rules;

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU32;
use std::time::Duration;

use anyhow::Context;
use camino::{Utf8Path, Utf8PathBuf};
use jiff::Timestamp;
use oci::{Access, Registry};
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::cli;
use crate::exit::{Failure, refused};
use crate::ownership::Standby;
use crate::telemetry::Telemetry;
use certificates::{Certificates, Publisher};
use credentials::Secret;
use login::Logins;
use provision::Provisioning;
use revocation::Admitted;

/// How long the parts may take to stop after SIGTERM before the process ends without them.
const STOP_DEADLINE: Duration = Duration::from_secs(20);

/// Runs until SIGTERM or Ctrl-C, or until a part fails.
pub(crate) async fn run(args: cli::Serve) -> Result<(), Failure> {
    let stop = CancellationToken::new();
    let mut shown = Telemetry::new();
    let data_dir = prepare(&args.data_dir)?;
    let lock = lock(&data_dir)?;
    // A leftover kubeconfig would say "ready" before this process is.
    remove_if_present(&data_dir.join("kubeconfig"))?;

    let now = Timestamp::now();
    let api_socket = listen(args.listen, "--listen").await?;
    let registry_socket = listen(args.registry_listen, "--registry-listen").await?;
    let (api_address, registry_address) = (api_socket.local_addr()?, registry_socket.local_addr()?);
    let hosts = addresses(&[api_address, registry_address]);
    let certificates =
        Certificates::open(data_dir.clone(), hosts, args.client_ca_file.as_deref(), now)?;
    shown.certificate("serving", certificates.ends());
    let tls = certificates.api_config();
    let registry_host = reachable(registry_address).to_string();
    let logins = Logins::load_or_create(&data_dir, &registry_host)?;
    let token = credentials::admin(&data_dir, now)?;

    let mut parts = JoinSet::new();
    let registry = Registry::open(
        data_dir.join("registry").as_std_path(),
        logins.admit(Access::nobody()),
    )
    .context("failed to open the registry")?;
    parts.spawn(collect_garbage(registry.clone(), stop.clone()));
    let registry = apiserver::serve_tls(
        registry_socket,
        certificates.registry_config(),
        registry.router(),
        stop.clone().cancelled_owned(),
        STOP_DEADLINE,
    );
    parts.spawn(async move { registry.await.context("the registry failed") });

    let mut config = rules::config(&data_dir, now)?;
    config.audit_log = args.audit_log.map(Into::into);
    let admitted = Admitted::new(&config.tokens);
    let api =
        apiserver::ApiServer::open(config).context("failed to open the API server's store")?;
    parts.spawn(reload_tokens(
        api.clone(),
        admitted.clone(),
        data_dir.clone(),
        stop.clone(),
    ));
    let server = format!("https://{}", reachable(api_address));
    let kubeconfig = credentials::kubeconfig(
        &server,
        &certificates.bundle(),
        "admin",
        Secret::Token(&token),
    );
    let client = crate::client::client_trusting(
        &kubeconfig,
        &data_dir.join("pki/ca.crt"),
        &shown.requests(),
    )
    .await?;
    let provisioning = Provisioning {
        data_dir: data_dir.clone(),
        api: api.clone(),
        admitted: admitted.clone(),
        client: client.clone(),
        server: server.clone(),
        node_life: args.node_credential_life,
    };
    let watched = axum::middleware::from_fn_with_state(admitted, revocation::end_with_token);
    let router = provisioning.routes().merge(api.router().layer(watched));
    let stopped = stop.clone();
    let served = api.clone();
    parts.spawn(async move {
        served
            .serve_within(router, api_socket, tls, stopped.cancelled_owned())
            .await
            .context("the API server failed")
    });

    bootstrap::write(
        &client,
        &bootstrap::Facts {
            registry_host: &registry_host,
            ca: &certificates.bundle(),
            logins: &logins,
            base_image: args.base_image.as_deref(),
        },
    )
    .await
    .context("failed to write the first objects")?;

    let publisher = Publisher {
        client: client.clone(),
        registry_host: registry_host.clone(),
        server: server.clone(),
        admin_token: token,
    };
    let builder = controllers::BuilderOptions {
        cache_dir: args.build_cache.unwrap_or_else(|| data_dir.join("builder")),
        // One data directory has one builder: a restart takes its own claims up at once.
        identity: "serve".to_owned(),
        // The machine has other things to do, too.
        parallel_builds: NonZeroU32::MIN,
    };
    let telemetry = controllers::Telemetry::default();
    // Nobody else acts on this server.
    shown.controllers(&telemetry, &Standby::default());
    let (of_api, store) = (api.clone(), api.clone());
    shown.text(move || of_api.metrics());
    shown.ready("store", move || store.failure());
    let shown = shown.listen(args.monitoring.metrics_listen).await?;
    let with = |part| !args.without.contains(&part);
    let options = controllers::Options {
        client,
        builder: with(cli::Part::Builder).then_some(builder),
        controllers: with(cli::Part::Controllers).then_some(controllers::Controllers::Alone),
        telemetry,
    };
    let stopped = stop.clone();
    parts.spawn(async move {
        let running = controllers::run(options, stopped);
        shown.during(running).await.context("a controller failed")
    });

    files::write_private(&data_dir.join("kubeconfig"), &kubeconfig)?;
    parts.spawn(certificates.keep(publisher, stop.clone()));
    tracing::info!(api = %server, registry = %registry_host, kubeconfig = %data_dir.join("kubeconfig"), "ready");

    let ended = wait(&mut parts, &stop).await;
    drop(lock);
    ended.map_err(Failure::from)
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

/// Waits for a signal or for a part that ends, then stops the others.
async fn wait(
    parts: &mut JoinSet<anyhow::Result<()>>,
    stop: &CancellationToken,
) -> anyhow::Result<()> {
    let first = tokio::select! {
        signal = crate::host::stop_signal() => {
            tracing::info!("stopping on {}", signal?);
            Ok(())
        }
        ended = parts.join_next() => match ended {
            Some(Ok(Ok(()))) => Err(anyhow::anyhow!("a part of the server ended by itself")),
            Some(Ok(Err(error))) => Err(error),
            Some(Err(error)) => Err(anyhow::Error::new(error).context("a part of the server panicked")),
            None => Ok(()),
        },
    };
    stop.cancel();
    let drained = tokio::time::timeout(STOP_DEADLINE, async {
        let mut result = Ok(());
        while let Some(ended) = parts.join_next().await {
            result = result.and(
                ended
                    .context("a part of the server panicked")
                    .and_then(|r| r),
            );
        }
        result
    })
    .await;
    let rest = match drained {
        Ok(result) => result,
        Err(_) => {
            tracing::warn!("some parts did not stop in {} s", STOP_DEADLINE.as_secs());
            Ok(())
        }
    };
    first.and(rest)
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
