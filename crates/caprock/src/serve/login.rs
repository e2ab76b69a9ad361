//! Who may use the embedded registry: one login that pushes, for builders, and one that only pulls, for nodes.

use std::collections::BTreeMap;

use anyhow::Context;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use camino::Utf8Path;
use oci::{Access, Permission};
use serde::Deserialize;

use super::{credentials, files};

/// The logins of a data directory.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Logins {
    /// For builders and for people; kept in `registry-auth.json`.
    pub(crate) builder: Login,
    /// For nodes; kept in `registry-node-auth.json`.
    pub(crate) node: Login,
}

/// User name and password.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Login {
    user: String,
    password: String,
}

impl Logins {
    /// The logins, made on the first start. `host` may be another one than at the last start.
    pub(crate) fn load_or_create(data_dir: &Utf8Path, host: &str) -> anyhow::Result<Self> {
        let load = |file: &str, user: &str| Login::load_or_create(&data_dir.join(file), user, host);
        Ok(Logins {
            builder: load("registry-auth.json", "caprock")?,
            node: load("registry-node-auth.json", "node")?,
        })
    }

    /// What each may do in the registry.
    pub(crate) fn access(&self) -> Access {
        let Logins { builder, node } = self;
        Access::nobody()
            .user(&builder.user, &builder.password, Permission::Push)
            .user(&node.user, &node.password, Permission::Pull)
    }
}

impl Login {
    /// Kept as a docker configuration, which `--authfile` takes.
    fn load_or_create(path: &Utf8Path, user: &str, host: &str) -> anyhow::Result<Self> {
        let login = match files::read_if_present(path)? {
            Some(text) => Self::parse(&text).with_context(|| {
                format!("`{path}` is not the registry's login; remove it to make a new one")
            })?,
            None => Login {
                user: user.to_owned(),
                password: credentials::secret()?,
            },
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
    pub(crate) fn docker_config(&self, host: &str) -> String {
        let auth = STANDARD.encode(format!("{}:{}", self.user, self.password));
        serde_json::json!({"auths": {host: {"auth": auth}}}).to_string()
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
            format!("{:?}", logins.access()),
            "Access{\"caprock\": Push, \"node\": Pull}"
        );
    }
}
