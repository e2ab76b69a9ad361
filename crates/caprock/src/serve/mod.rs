//! `caprock serve`: API server, registry, controllers and builder in one process, with one data directory.
//!
//! The parts are wired here and nowhere else. Controllers and builder talk to the API over its socket, like any client.

mod bootstrap;
pub(crate) mod credentials;
pub(crate) mod files;
pub(crate) mod pki;
mod rules;

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use anyhow::Context;
use camino::{Utf8Path, Utf8PathBuf};
use oci::{Access, Permission, Registry};
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::cli;
use crate::exit::{Failure, refused};
use credentials::RegistryLogin;

/// How long the parts may take to stop after SIGTERM before the process ends without them.
const STOP_DEADLINE: Duration = Duration::from_secs(20);

/// Runs until SIGTERM or Ctrl-C, or until a part fails.
pub(crate) async fn run(args: cli::Serve) -> Result<(), Failure> {
    let stop = CancellationToken::new();
    let data_dir = prepare(&args.data_dir)?;
    let lock = lock(&data_dir)?;
    // A leftover kubeconfig would say "ready" before this process is.
    remove_if_present(&data_dir.join("kubeconfig"))?;

    let authority = pki::Authority::load_or_create(&data_dir.join("pki"))?;
    let api_socket = listen(args.listen, "--listen").await?;
    let registry_socket = listen(args.registry_listen, "--registry-listen").await?;
    let (api_address, registry_address) = (api_socket.local_addr()?, registry_socket.local_addr()?);
    let tls = authority.server_config(&addresses(&[api_address, registry_address]))?;
    let registry_host = reachable(registry_address).to_string();
    let login = RegistryLogin::load_or_create(&data_dir, &registry_host)?;
    let token = credentials::admin(&data_dir)?;

    let mut parts = JoinSet::new();
    let registry = Registry::open(
        data_dir.join("registry").as_std_path(),
        Access::nobody().user(&login.user, &login.password, Permission::Push),
    )
    .context("failed to open the registry")?;
    let registry = apiserver::serve_tls(
        registry_socket,
        tls.clone(),
        registry.router(),
        stop.clone().cancelled_owned(),
        STOP_DEADLINE,
    );
    parts.spawn(async move { registry.await.context("the registry failed") });

    let mut config = rules::config(&data_dir)?;
    config.audit_log = args.audit_log.map(Into::into);
    let api =
        apiserver::ApiServer::open(config).context("failed to open the API server's store")?;
    parts.spawn(reload_tokens(api.clone(), data_dir.clone(), stop.clone()));
    let stopped = stop.clone();
    parts.spawn(async move {
        api.serve(api_socket, tls, stopped.cancelled_owned())
            .await
            .context("the API server failed")
    });

    let server = format!("https://{}", reachable(api_address));
    let kubeconfig = credentials::kubeconfig(&server, authority.certificate(), "admin", &token);
    let client = crate::client::client_from_text(&kubeconfig).await?;
    bootstrap::write(
        &client,
        &bootstrap::Facts {
            registry_host: &registry_host,
            registry_ca: authority.certificate(),
            login: &login,
            base_image: args.base_image.as_deref(),
        },
    )
    .await
    .context("failed to write the first objects")?;

    let builder = controllers::BuilderOptions {
        cache_dir: args.build_cache.unwrap_or_else(|| data_dir.join("builder")),
        // One data directory has one builder: a restart takes its own claims up at once.
        identity: "serve".to_owned(),
    };
    let stopped = stop.clone();
    parts.spawn(async move {
        controllers::run(
            controllers::Options {
                client,
                builder: Some(builder),
                controllers: true,
            },
            stopped,
        )
        .await
        .context("a controller failed")
    });

    files::write_private(&data_dir.join("kubeconfig"), &kubeconfig)?;
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

async fn listen(address: SocketAddr, flag: &str) -> Result<TcpListener, Failure> {
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

/// Tells the running server about tokens that `caprock node kubeconfig` adds to the data directory.
async fn reload_tokens(
    api: apiserver::ApiServer,
    data_dir: Utf8PathBuf,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    let path = data_dir.join("tokens.json");
    let changed = |path: &Utf8Path| {
        std::fs::metadata(path)
            .and_then(|meta| meta.modified())
            .ok()
    };
    let mut seen = None;
    while stop
        .run_until_cancelled(tokio::time::sleep(Duration::from_millis(500)))
        .await
        .is_some()
    {
        let now = changed(&path);
        if now != seen {
            match rules::tokens(&data_dir) {
                Ok(tokens) => {
                    api.set_tokens(tokens);
                    seen = now;
                }
                Err(error) => tracing::warn!("the token owners stay as they are: {error:#}"),
            }
        }
    }
    Ok(())
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
    fn the_second_server_of_a_data_directory_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = prepare(Utf8Path::from_path(dir.path()).unwrap()).unwrap();
        let _first = lock(&path).unwrap();
        assert!(lock(&path).is_err());
    }
}
