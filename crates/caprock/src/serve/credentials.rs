//! Who may talk to the servers of one data directory.
//!
//! `tokens.json` holds names, groups and the SHA-256 of each bearer token; the token itself is only in the kubeconfig
//! that was written for it. `caprock node kubeconfig` adds to the file while the server runs, and the server picks it up.

use std::collections::BTreeMap;

use anyhow::Context;
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use camino::Utf8Path;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::files;

/// The group that may do everything, as in every Kubernetes.
pub(crate) const ADMINS: &str = "system:masters";
/// The group of node agents.
pub(crate) const NODES: &str = "system:nodes";

/// A bearer token's owner, as the server remembers it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Owner {
    pub(crate) name: String,
    pub(crate) groups: Vec<String>,
    /// SHA-256 of the token, lower-case hexadecimal.
    pub(crate) sha256: String,
}

/// 256 random bits as text.
pub(crate) fn secret() -> anyhow::Result<String> {
    let mut bytes = [0u8; 32];
    getrandom::fill(&mut bytes)
        .map_err(|error| anyhow::anyhow!("no random numbers from the system: {error}"))?;
    Ok(URL_SAFE_NO_PAD.encode(bytes))
}

/// The known token owners, in the order they were added.
pub(crate) fn owners(data_dir: &Utf8Path) -> anyhow::Result<Vec<Owner>> {
    let path = data_dir.join("tokens.json");
    match files::read_if_present(&path)? {
        None => Ok(Vec::new()),
        Some(text) => serde_json::from_str(&text)
            .with_context(|| format!("`{path}` is not a list of token owners")),
    }
}

/// Makes a token for `name`, replacing what it had, and returns it in clear.
///
/// A lock keeps two commands that add tokens at the same time from losing one.
pub(crate) fn mint(data_dir: &Utf8Path, name: &str, group: &str) -> anyhow::Result<String> {
    let lock_path = data_dir.join("tokens.lock");
    let lock = std::fs::File::create(&lock_path)
        .with_context(|| format!("failed to create `{lock_path}`"))?;
    lock.lock()
        .with_context(|| format!("failed to lock `{lock_path}`"))?;
    let token = secret()?;
    let mut owners = owners(data_dir)?;
    owners.retain(|owner| owner.name != name);
    owners.push(Owner {
        name: name.to_owned(),
        groups: vec![group.to_owned()],
        sha256: hex(&Sha256::digest(token.as_bytes())),
    });
    files::write_private(
        &data_dir.join("tokens.json"),
        &serde_json::to_string_pretty(&owners)?,
    )?;
    Ok(token)
}

/// The administrator's token: the same at every start, so that copied kubeconfigs go on working.
pub(crate) fn admin(data_dir: &Utf8Path) -> anyhow::Result<String> {
    let path = data_dir.join("admin-token");
    if let Some(token) = files::read_if_present(&path)? {
        let sha256 = hex(&Sha256::digest(token.as_bytes()));
        if owners(data_dir)?.iter().any(|owner| owner.sha256 == sha256) {
            return Ok(token);
        }
    }
    let token = mint(data_dir, "admin", ADMINS)?;
    files::write_private(&path, &token)?;
    Ok(token)
}

/// A kubeconfig with one cluster, one user and one context.
pub(crate) fn kubeconfig(server: &str, ca_pem: &str, user: &str, token: &str) -> String {
    let config = serde_json::json!({
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "caprock",
        "clusters": [{"name": "caprock", "cluster": {
            "server": server,
            "certificate-authority-data": STANDARD.encode(ca_pem),
        }}],
        "users": [{"name": user, "user": {"token": token}}],
        "contexts": [{"name": "caprock", "context": {"cluster": "caprock", "user": user}}],
    });
    // JSON is YAML, and every reader of kubeconfigs takes it.
    format!("{config:#}\n")
}

/// User name and password of the embedded registry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct RegistryLogin {
    pub(crate) user: String,
    pub(crate) password: String,
}

impl RegistryLogin {
    /// The login of a data directory, made on the first start and kept as `registry-auth.json`,
    /// a docker configuration that `--authfile` takes.
    pub(crate) fn load_or_create(data_dir: &Utf8Path, host: &str) -> anyhow::Result<Self> {
        let path = data_dir.join("registry-auth.json");
        let login = match files::read_if_present(&path)? {
            Some(text) => Self::parse(&text).with_context(|| {
                format!("`{path}` is not the registry's login; remove it to make a new one")
            })?,
            None => RegistryLogin {
                user: "caprock".to_owned(),
                password: secret()?,
            },
        };
        // The host may be another one than at the last start.
        files::write_private(&path, &login.docker_config(host))?;
        Ok(login)
    }

    fn parse(text: &str) -> anyhow::Result<Self> {
        #[derive(Deserialize)]
        struct Auth {
            auth: String,
        }
        #[derive(Deserialize)]
        struct Config {
            auths: BTreeMap<String, Auth>,
        }
        let config: Config = serde_json::from_str(text).context("not a docker configuration")?;
        let entry = config.auths.into_values().next().context("no `auths`")?;
        let clear = String::from_utf8(STANDARD.decode(entry.auth)?)?;
        let (user, password) = clear.split_once(':').context("no `user:password`")?;
        Ok(RegistryLogin {
            user: user.to_owned(),
            password: password.to_owned(),
        })
    }

    /// The login as a docker configuration for one host.
    pub(crate) fn docker_config(&self, host: &str) -> String {
        let auth = STANDARD.encode(format!("{}:{}", self.user, self.password));
        serde_json::json!({"auths": {host: {"auth": auth}}}).to_string()
    }
}

/// Lower-case hexadecimal.
fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The 32 bytes of a SHA-256 in hexadecimal.
pub(crate) fn unhex(text: &str) -> anyhow::Result<[u8; 32]> {
    let mut bytes = [0u8; 32];
    anyhow::ensure!(
        text.len() == 64 && text.is_ascii(),
        "not a SHA-256 in hexadecimal"
    );
    for (byte, pair) in bytes.iter_mut().zip(text.as_bytes().chunks(2)) {
        *byte = u8::from_str_radix(std::str::from_utf8(pair)?, 16)?;
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn dir() -> tempfile::TempDir {
        tempfile::tempdir().unwrap()
    }

    #[test]
    fn only_the_hash_of_a_token_is_kept() {
        let dir = dir();
        let path = Utf8Path::from_path(dir.path()).unwrap();
        let token = mint(path, "admin", ADMINS).unwrap();
        let kept = std::fs::read_to_string(path.join("tokens.json")).unwrap();
        assert!(!kept.contains(&token));
        let owners = owners(path).unwrap();
        assert_eq!(
            unhex(&owners[0].sha256).unwrap(),
            <[u8; 32]>::from(Sha256::digest(token.as_bytes()))
        );
    }

    #[test]
    fn minting_again_replaces_the_old_token() {
        let dir = dir();
        let path = Utf8Path::from_path(dir.path()).unwrap();
        mint(path, "admin", ADMINS).unwrap();
        mint(path, "system:node:worker-1", NODES).unwrap();
        mint(path, "admin", ADMINS).unwrap();
        let names: Vec<_> = owners(path).unwrap().into_iter().map(|o| o.name).collect();
        assert_eq!(names, ["system:node:worker-1", "admin"]);
    }

    #[test]
    fn the_administrator_keeps_the_token_over_a_restart() {
        let dir = dir();
        let path = Utf8Path::from_path(dir.path()).unwrap();
        assert_eq!(admin(path).unwrap(), admin(path).unwrap());
        std::fs::remove_file(path.join("tokens.json")).unwrap();
        let renewed = admin(path).unwrap();
        assert_eq!(renewed, admin(path).unwrap());
        assert_eq!(owners(path).unwrap().len(), 1);
    }

    #[test]
    fn the_registry_login_survives_a_restart_on_another_port() {
        let dir = dir();
        let path = Utf8Path::from_path(dir.path()).unwrap();
        let first = RegistryLogin::load_or_create(path, "127.0.0.1:5000").unwrap();
        let second = RegistryLogin::load_or_create(path, "127.0.0.1:5001").unwrap();
        assert_eq!(first, second);
        let text = std::fs::read_to_string(path.join("registry-auth.json")).unwrap();
        assert!(text.contains("127.0.0.1:5001") && !text.contains(":5000"));
    }
}
