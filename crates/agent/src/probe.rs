//! Runs the probes of a RolloutPolicy. Each is bounded in time and in what it reads; the words of a probe that fails end
//! up in the node's reason, so a probe must not print secrets.

use std::fs::File;
use std::io::Read;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::unix::fs::OpenOptionsExt;
use std::time::Duration;

use bytes::Bytes;
use camino::Utf8Path;
use futures::future::join_all;
use http_body_util::Empty;
use hyper_util::rt::TokioIo;
use model::health::Check;

use crate::host::{Health, Host, HostError};
use crate::systemd::last_words;

/// How long the file system may take to answer: a path below an automount may wait for a server.
const FILE_PATIENCE: Duration = Duration::from_secs(10);
/// How much of a file is searched.
const SEARCHED: u64 = 1 << 20;

/// Runs all probes at once; the first, in their order, that does not pass is what the node waits for.
pub(crate) async fn run(host: &Host, probes: &[(String, Check)]) -> Health {
    let all = probes
        .iter()
        .map(async |(name, check)| match pass(host, check).await {
            Ok(Health::Well) => Health::Well,
            Ok(Health::Waiting(why)) => Health::Waiting(format!("probe `{name}`: {why}")),
            Ok(Health::Unwell(why)) => Health::Unwell(format!("probe `{name}`: {why}")),
            Err(error) => {
                Health::Waiting(format!("probe `{name}`: {}", crate::error::chain(&error)))
            }
        });
    let found = join_all(all).await;
    let severest = |wanted: fn(&Health) -> bool| found.iter().find(|health| wanted(health));
    severest(|health| matches!(health, Health::Unwell(_)))
        .or(severest(|health| matches!(health, Health::Waiting(_))))
        .cloned()
        .unwrap_or(Health::Well)
}

async fn pass(host: &Host, check: &Check) -> Result<Health, HostError> {
    match check {
        Check::Http {
            url,
            status,
            timeout,
        } => Ok(http(url, *status, *timeout).await),
        Check::Unit { .. } | Check::Command { .. } => {
            let (host, check) = (host.clone(), check.clone());
            blocking(move || by_systemd(&host, &check)).await
        }
        Check::File { .. } | Check::Mount { .. } => {
            let (host, check) = (host.clone(), check.clone());
            let looked = blocking(move || Ok(in_files(&host, &check)));
            match tokio::time::timeout(FILE_PATIENCE, looked).await {
                Ok(found) => found,
                Err(_) => Ok(Health::Waiting(format!(
                    "the file system did not answer within {} seconds",
                    FILE_PATIENCE.as_secs()
                ))),
            }
        }
    }
}

async fn blocking(
    look: impl FnOnce() -> Result<Health, HostError> + Send + 'static,
) -> Result<Health, HostError> {
    match tokio::task::spawn_blocking(look).await {
        Ok(found) => found,
        Err(error) => Ok(Health::Waiting(format!("it was cut short: {error}"))),
    }
}

fn by_systemd(host: &Host, check: &Check) -> Result<Health, HostError> {
    match check {
        Check::Unit { name } => {
            let state = host.systemd.unit(name)?;
            Ok(match state.active.as_str() {
                "active" | "reloading" | "refreshing" => Health::Well,
                "failed" => Health::Unwell(format!("unit `{name}` failed{}", last_words(name))),
                other => Health::Waiting(format!("unit `{name}` is {other}")),
            })
        }
        Check::Command {
            argv,
            exit_status,
            timeout,
        } => {
            let ended = host.systemd.command(argv, *timeout)?;
            if ended.status == Some(*exit_status) {
                return Ok(Health::Well);
            }
            let program = &argv[0];
            let words = match ended.said.is_empty() {
                true => String::new(),
                false => format!(": {}", ended.said),
            };
            Ok(Health::Waiting(match ended.status {
                Some(status) => {
                    format!("`{program}` ended with {status}, not {exit_status}{words}")
                }
                None => format!(
                    "`{program}` did not end within {} seconds{words}",
                    timeout.as_secs()
                ),
            }))
        }
        Check::File { .. } | Check::Mount { .. } | Check::Http { .. } => Ok(Health::Well),
    }
}

fn in_files(host: &Host, check: &Check) -> Health {
    let found = match check {
        Check::File { path, contains } => file(&below(host, path), contains.as_deref()),
        Check::Mount { path } => mounted(&below(host, path)),
        Check::Unit { .. } | Check::Command { .. } | Check::Http { .. } => return Health::Well,
    };
    match found {
        Ok(true) => Health::Well,
        Ok(false) => Health::Waiting(match check {
            Check::File { path, .. } => format!("`{path}` does not contain its text"),
            _ => format!("not true yet that {check}"),
        }),
        Err(error) => Health::Waiting(format!("not true yet that {check}: {error}")),
    }
}

fn below(host: &Host, path: &str) -> camino::Utf8PathBuf {
    host.root.join(path.trim_start_matches('/'))
}

fn file(path: &Utf8Path, contains: Option<&str>) -> std::io::Result<bool> {
    let Some(wanted) = contains else {
        return path.metadata().map(|_| true);
    };
    // A pipe at this place must not hold the probe up.
    let nonblocking = i32::try_from(rustix::fs::OFlags::NONBLOCK.bits()).unwrap_or_default();
    let file = File::options()
        .read(true)
        .custom_flags(nonblocking)
        .open(path)?;
    if !file.metadata()?.is_file() {
        return Err(std::io::Error::other("it is not a file"));
    }
    let mut bytes = Vec::new();
    file.take(SEARCHED).read_to_end(&mut bytes)?;
    Ok(bytes
        .windows(wanted.len())
        .any(|part| part == wanted.as_bytes()))
}

/// Whether something is mounted exactly there. The table is read, the path is not touched: that would make an automount
/// mount.
fn mounted(path: &Utf8Path) -> std::io::Result<bool> {
    let table = std::fs::read_to_string("/proc/self/mountinfo")?;
    Ok(is_mounted(&table, path.as_str()))
}

fn is_mounted(table: &str, path: &str) -> bool {
    let path = match path.trim_end_matches('/') {
        "" => "/",
        path => path,
    };
    // Blanks and backslashes of a path are octal there.
    let plain = |field: &str| {
        field
            .replace("\\040", " ")
            .replace("\\011", "\t")
            .replace("\\012", "\n")
            .replace("\\134", "\\")
    };
    table
        .lines()
        .filter_map(|line| line.split(' ').nth(4))
        .any(|point| plain(point) == path)
}

async fn http(url: &str, status: u16, timeout: Duration) -> Health {
    match tokio::time::timeout(timeout, answer(url)).await {
        Ok(Ok(found)) if found == status => Health::Well,
        Ok(Ok(found)) => Health::Waiting(format!("`{url}` answers {found}, not {status}")),
        Ok(Err(error)) => Health::Waiting(format!("`{url}` does not answer: {error}")),
        Err(_) => Health::Waiting(format!(
            "`{url}` did not answer within {} seconds",
            timeout.as_secs()
        )),
    }
}

/// The status that a server of this host answers with. Redirections are not followed and the body is not read.
async fn answer(url: &str) -> Result<u16, Box<dyn std::error::Error + Send + Sync>> {
    let uri: http::Uri = url.parse()?;
    let port = uri.port_u16().unwrap_or(80);
    let host = uri.host().unwrap_or_default();
    // Not by name: what `localhost` resolves to is somebody else's to say.
    let addresses: Vec<SocketAddr> = match host.trim_matches(['[', ']']).parse() {
        Ok(address) => vec![SocketAddr::new(address, port)],
        Err(_) => vec![
            (Ipv4Addr::LOCALHOST, port).into(),
            (Ipv6Addr::LOCALHOST, port).into(),
        ],
    };
    let stream = tokio::net::TcpStream::connect(&addresses[..]).await?;
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    let request = http::Request::get(uri.path_and_query().map_or("/", |path| path.as_str()))
        .header(http::header::HOST, host)
        .body(Empty::<Bytes>::new())?;
    tokio::select! {
        answered = sender.send_request(request) => Ok(answered?.status().as_u16()),
        ended = connection => Err(match ended {
            Ok(()) => "the connection ended before the answer".into(),
            Err(error) => error.into(),
        }),
    }
}

#[cfg(test)]
mod tests;
