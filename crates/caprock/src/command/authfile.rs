//! Credentials as the tools of a machine keep them: `auth.json` of podman and its kin, docker's `config.json`, and the
//! helper programs that these name (containers-auth.json(5)). Only files of this machine are read here: what a Secret
//! of the cluster holds can never start a program.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, anyhow};
use futures::FutureExt as _;
use futures::future::BoxFuture;
use oci::{Credentials, DockerConfig, Keychain, KeychainError, auth};
use serde::Deserialize;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::exit::{Failure, refused};

/// A helper may have to ask a service or a person, but not for ever.
const HELPER_WITHIN: Duration = Duration::from_secs(60);
/// Longest answer of a helper that is read.
const MAX_ANSWER: u64 = 64 << 10;
/// What docker calls its own registry when it asks a helper.
const DOCKER_HUB: &str = "https://index.docker.io/v1/";

/// What the files say.
#[derive(Debug, Default)]
pub(super) struct Found {
    pub(super) auth: DockerConfig,
    pub(super) keychain: Option<Arc<dyn Keychain>>,
}

/// Reads the file that was named, which must be there; without one, each of the usual places that is.
pub(super) fn read(named: Option<&Path>) -> Result<Found, Failure> {
    let variable = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
    let (paths, required) = match named {
        Some(path) => (vec![path.to_owned()], true),
        None => (usual(&variable), false),
    };
    let mut found = DockerConfig::default();
    let mut helpers = Helpers::default();
    for path in paths {
        let text = match std::fs::read(&path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound && !required => continue,
            text => {
                text.with_context(|| format!("failed to read the authfile `{}`", path.display()))?
            }
        };
        let not_one = |error: anyhow::Error| {
            refused(error.context(format!("`{}` is not an authfile", path.display())))
        };
        let auth = DockerConfig::parse(&text).map_err(|error| not_one(anyhow!(error)))?;
        helpers.add(&path, &text).map_err(not_one)?;
        // The first file that knows a registry is the one that counts.
        found = auth.merge(found);
    }
    let keychain: Option<Arc<dyn Keychain>> = match helpers.files.is_empty() {
        true => None,
        false => Some(Arc::new(helpers)),
    };
    Ok(Found {
        auth: found,
        keychain,
    })
}

/// Where tools keep credentials, the place that counts most first.
fn usual(variable: &dyn Fn(&str) -> Option<OsString>) -> Vec<PathBuf> {
    let home = variable("HOME").map(PathBuf::from);
    let in_home = |name: &str| home.as_ref().map(|home| home.join(name));
    let run = variable("XDG_RUNTIME_DIR")
        .map(PathBuf::from)
        .unwrap_or_else(|| {
            let user = rustix::process::getuid().as_raw();
            format!("/run/containers/{user}").into()
        });
    let config = variable("XDG_CONFIG_HOME").map(PathBuf::from);
    let docker = variable("DOCKER_CONFIG").map(PathBuf::from);
    let places = [
        Some(run.join("containers/auth.json")).filter(|_| variable("XDG_RUNTIME_DIR").is_some()),
        Some(run.join("auth.json")).filter(|_| variable("XDG_RUNTIME_DIR").is_none()),
        config
            .or(in_home(".config"))
            .map(|dir| dir.join("containers/auth.json")),
        docker
            .or(in_home(".docker"))
            .map(|dir| dir.join("config.json")),
        in_home(".dockercfg"),
    ];
    places.into_iter().flatten().collect()
}

/// The helpers that files name, in the order of the files.
#[derive(Debug, Default)]
struct Helpers {
    files: Vec<File>,
}

#[derive(Debug)]
struct File {
    path: PathBuf,
    /// By registry; an empty name stands for none.
    by_host: BTreeMap<String, String>,
    /// For every other registry.
    store: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Said {
    #[serde(default)]
    cred_helpers: BTreeMap<String, String>,
    creds_store: Option<String>,
}

impl Helpers {
    fn add(&mut self, path: &Path, text: &[u8]) -> Result<(), anyhow::Error> {
        let said: Said = serde_json::from_slice(text).map_err(|_| {
            anyhow!("expected `credHelpers` to be names by registry, and `credsStore` a name")
        })?;
        let checked = |name: String| match name.is_empty() || is_name(&name) {
            true => Ok(name),
            false => Err(anyhow!("`{name}` is not the name of a credential helper")),
        };
        let mut by_host = BTreeMap::new();
        for (key, name) in said.cred_helpers {
            let host = auth::place_of(&key).ok_or_else(|| {
                anyhow!("`credHelpers` has the key `{key}`, which is not a registry")
            })?;
            by_host.insert(host, checked(name)?);
        }
        let store = said.creds_store.map(checked).transpose()?;
        let store = store.filter(|name| !name.is_empty());
        if store.is_some() || !by_host.is_empty() {
            self.files.push(File {
                path: path.to_owned(),
                by_host,
                store,
            });
        }
        Ok(())
    }

    async fn ask(&self, host: &str) -> Result<Option<Credentials>, KeychainError> {
        for file in &self.files {
            let named = file.by_host.get(host).or(file.store.as_ref());
            let Some(name) = named.filter(|name| !name.is_empty()) else {
                continue;
            };
            let program = format!("docker-credential-{name}");
            let servers: &[&str] = match host {
                "docker.io" => &[DOCKER_HUB, "docker.io"],
                host => &[host],
            };
            for server in servers {
                let asked = tokio::time::timeout(HELPER_WITHIN, run(&program, server)).await;
                let answer = asked.unwrap_or_else(|_| {
                    let seconds = HELPER_WITHIN.as_secs();
                    Err(format!("did not answer within {seconds} seconds"))
                });
                let found = answer.map_err(|problem| {
                    let file = file.path.display();
                    KeychainError(format!("`{program}`, which `{file}` names, {problem}"))
                })?;
                if found.is_some() {
                    return Ok(found);
                }
            }
        }
        Ok(None)
    }
}

impl Keychain for Helpers {
    fn credentials<'a>(
        &'a self,
        host: &'a str,
    ) -> BoxFuture<'a, Result<Option<Credentials>, KeychainError>> {
        self.ask(host).boxed()
    }
}

/// A name becomes part of a program's: it must not lead elsewhere.
fn is_name(name: &str) -> bool {
    name.bytes()
        .all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte))
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Answer {
    username: String,
    secret: String,
}

/// Asks a helper by the protocol that docker defined: the server on standard input, JSON on standard output. The error
/// goes on after the helper's name, and quotes nothing that it printed.
async fn run(program: &str, server: &str) -> Result<Option<Credentials>, String> {
    let mut command = tokio::process::Command::new(program);
    command
        .arg("get")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .kill_on_drop(true);
    let mut child = command.spawn().map_err(|error| match error.kind() {
        std::io::ErrorKind::NotFound => {
            "is not installed; install it, or leave it out there".to_owned()
        }
        _ => format!("cannot be run: {error}"),
    })?;
    let failed = |error: std::io::Error| format!("cannot be spoken to: {error}");
    if let Some(mut input) = child.stdin.take() {
        match input.write_all(format!("{server}\n").as_bytes()).await {
            // It knew the answer before it was asked.
            Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => {}
            written => written.map_err(failed)?,
        }
    }
    let mut answer = Vec::new();
    if let Some(output) = child.stdout.take() {
        output
            .take(MAX_ANSWER + 1)
            .read_to_end(&mut answer)
            .await
            .map_err(failed)?;
    }
    if answer.len() as u64 > MAX_ANSWER {
        return Err(format!("answered with more than {MAX_ANSWER} bytes"));
    }
    let status = child.wait().await.map_err(failed)?;
    if !status.success() {
        // The words that docker's own helpers have for it, and the tools look for.
        let nothing = String::from_utf8_lossy(&answer).contains("credentials not found");
        return match nothing {
            true => Ok(None),
            false => Err(format!(
                "failed ({status}); `echo {server} | {program} get` shows why"
            )),
        };
    }
    let Answer { username, secret } = serde_json::from_slice(&answer)
        .map_err(|_| "answered something else than JSON with `Username` and `Secret`".to_owned())?;
    Ok(match (username.as_str(), secret.is_empty()) {
        (_, true) | ("", _) => None,
        ("<token>", false) => Some(Credentials::IdentityToken(secret)),
        (_, false) => Some(Credentials::Basic {
            username,
            password: secret,
        }),
    })
}

#[cfg(test)]
mod tests;
