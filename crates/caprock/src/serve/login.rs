//! Who may use a registry of ours: one login that pushes, for builders, and one that only pulls, for nodes.

use std::collections::BTreeMap;

use anyhow::Context;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use camino::Utf8Path;
use oci::{Access, Permission};
use serde::{Deserialize, Serialize};

use super::{credentials, files};

/// The logins of a registry.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Logins {
    /// For builders and for people.
    pub(crate) builder: Login,
    /// For nodes.
    pub(crate) node: Login,
}

/// User name and password.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Login {
    user: String,
    password: String,
}

impl Logins {
    /// New logins whose names no others have.
    pub(crate) fn mint() -> anyhow::Result<Self> {
        let id = credentials::short_id()?;
        Ok(Logins {
            builder: Login::mint(&format!("caprock-{id}"))?,
            node: Login::mint(&format!("node-{id}"))?,
        })
    }

    /// The logins of a data directory, made on the first start. `host` may be another one than at the last start.
    pub(crate) fn load_or_create(data_dir: &Utf8Path, host: &str) -> anyhow::Result<Self> {
        let load = |file: &str, user: &str| Login::load_or_create(&data_dir.join(file), user, host);
        Ok(Logins {
            builder: load("registry-auth.json", "caprock")?,
            node: load("registry-node-auth.json", "node")?,
        })
    }

    /// Adds what each may do in the registry.
    pub(crate) fn admit(&self, access: Access) -> Access {
        let Logins { builder, node } = self;
        access
            .user(&builder.user, &builder.password, Permission::Push)
            .user(&node.user, &node.password, Permission::Pull)
    }
}

impl Login {
    fn mint(user: &str) -> anyhow::Result<Self> {
        Ok(Login {
            user: user.to_owned(),
            password: credentials::secret()?,
        })
    }

    /// Kept as a docker configuration, which `--authfile` takes.
    fn load_or_create(path: &Utf8Path, user: &str, host: &str) -> anyhow::Result<Self> {
        let login = match files::read_if_present(path)? {
            Some(text) => Self::parse(&text).with_context(|| {
                format!("`{path}` is not the registry's login; remove it to make a new one")
            })?,
            None => Login::mint(user)?,
        };
        files::write_private(path, &login.docker_config(host))?;
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
        Ok(Login {
            user: user.to_owned(),
            password: password.to_owned(),
        })
    }

    /// The login as a docker configuration for one host.
    fn docker_config(&self, host: &str) -> String {
        serde_json::json!({"auths": {host: self.entry()}}).to_string()
    }

    /// The login as the entry of one host in a docker configuration.
    pub(crate) fn entry(&self) -> serde_json::Value {
        let auth = STANDARD.encode(format!("{}:{}", self.user, self.password));
        serde_json::json!({"auth": auth})
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn the_logins_survive_a_restart_on_another_port() {
        let dir = tempfile::tempdir().unwrap();
        let path = Utf8Path::from_path(dir.path()).unwrap();
        let first = Logins::load_or_create(path, "127.0.0.1:5000").unwrap();
        let second = Logins::load_or_create(path, "127.0.0.1:5001").unwrap();
        assert!(first == second);
        assert!(first.builder != first.node);
        let text = std::fs::read_to_string(path.join("registry-auth.json")).unwrap();
        assert!(text.contains("127.0.0.1:5001") && !text.contains(":5000"));
    }

    #[test]
    fn nodes_only_pull() {
        let dir = tempfile::tempdir().unwrap();
        let path = Utf8Path::from_path(dir.path()).unwrap();
        let logins = Logins::load_or_create(path, "r").unwrap();
        assert_eq!(
            format!("{:?}", logins.admit(Access::nobody())),
            "Access{\"caprock\": Push, \"node\": Pull}"
        );
    }
}
