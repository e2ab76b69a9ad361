//! Who may talk to the servers of one data directory.
//!
//! `tokens.json` holds names, groups and the SHA-256 of each bearer token; the token itself is only in the kubeconfig
//! that was written for it. Commands add to the file while the server runs, and the server picks it up. A node makes
//! its token itself and tells only the hash, so a request that was cut off can be repeated.

use std::collections::BTreeMap;

use anyhow::Context;
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use camino::Utf8Path;
use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::files;

/// The group that may do everything, as in every Kubernetes.
pub(crate) const ADMINS: &str = "system:masters";
/// The group of node agents.
pub(crate) const NODES: &str = "system:nodes";
/// What the names of node agents begin with; the Node's name follows.
pub(crate) const NODE_PREFIX: &str = "system:node:";
/// How long the token that a node renewed is still good for: requests under way were made with it.
const OVERLAP: SignedDuration = SignedDuration::from_mins(10);

/// A bearer token's owner, as the server remembers it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Owner {
    pub(crate) name: String,
    pub(crate) groups: Vec<String>,
    /// SHA-256 of the token, lower-case hexadecimal.
    pub(crate) sha256: String,
    /// When it ends; never when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) expires: Option<Timestamp>,
    /// The pool that the node joined, when it came with a join token.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) pool: Option<String>,
    /// The labels that make its Node a member of that pool: what the Node may have when it registers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) labels: Option<Labels>,
}

/// Labels of a Node.
pub(crate) type Labels = BTreeMap<String, String>;

impl Owner {
    fn is_valid(&self, now: Timestamp) -> bool {
        self.expires.is_none_or(|end| end > now)
    }

    /// Name of the Node whose agent this is.
    pub(crate) fn node(&self) -> Option<&str> {
        self.name.strip_prefix(NODE_PREFIX)
    }
}

/// Who asks for a node's credential, and so how it came by it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Asker<'a> {
    /// The node itself, with the token of this hash.
    Renewal { sha256: &'a str },
    /// A machine with a join token that any node may use.
    Join { pool: &'a str, labels: &'a Labels },
    /// A machine with a join token for this node alone: what the node had before ends.
    Replacement { pool: &'a str, labels: &'a Labels },
}

/// 256 random bits as text.
pub(crate) fn secret() -> anyhow::Result<String> {
    random::<32>()
}

/// A few random letters that tell things apart.
pub(crate) fn short_id() -> anyhow::Result<String> {
    let mut bytes = [0u8; 4];
    fill(&mut bytes)?;
    Ok(hex(&bytes))
}

fn random<const N: usize>() -> anyhow::Result<String> {
    let mut bytes = [0u8; N];
    fill(&mut bytes)?;
    Ok(URL_SAFE_NO_PAD.encode(bytes))
}

fn fill(bytes: &mut [u8]) -> anyhow::Result<()> {
    getrandom::fill(bytes)
        .map_err(|error| anyhow::anyhow!("no random numbers from the system: {error}"))
}

/// What is kept of a token.
pub(crate) fn hash(token: &str) -> String {
    hex(&Sha256::digest(token.as_bytes()))
}

/// Keeps two processes that change credentials at the same time from losing a change.
pub(crate) fn lock(data_dir: &Utf8Path) -> anyhow::Result<std::fs::File> {
    let path = data_dir.join("tokens.lock");
    let lock =
        std::fs::File::create(&path).with_context(|| format!("failed to create `{path}`"))?;
    lock.lock()
        .with_context(|| format!("failed to lock `{path}`"))?;
    Ok(lock)
}

/// The owners of tokens that have not ended, in the order they were added.
pub(crate) fn owners(data_dir: &Utf8Path, now: Timestamp) -> anyhow::Result<Vec<Owner>> {
    let path = data_dir.join("tokens.json");
    let Some(text) = files::read_if_present(&path)? else {
        return Ok(Vec::new());
    };
    let mut owners: Vec<Owner> = serde_json::from_str(&text)
        .with_context(|| format!("`{path}` is not a list of token owners"))?;
    owners.retain(|owner| owner.is_valid(now));
    Ok(owners)
}

/// The owner of this token, unless it ended or was taken back.
pub(crate) fn find(
    data_dir: &Utf8Path,
    token: &str,
    now: Timestamp,
) -> anyhow::Result<Option<Owner>> {
    let sha256 = hash(token);
    let owners = owners(data_dir, now)?;
    Ok(owners.into_iter().find(|owner| owner.sha256 == sha256))
}

/// Makes a token for `name`, replacing what it had, and returns it in clear.
pub(crate) fn mint(
    data_dir: &Utf8Path,
    name: &str,
    group: &str,
    expires: Option<Timestamp>,
    now: Timestamp,
) -> anyhow::Result<String> {
    let _lock = lock(data_dir)?;
    let token = secret()?;
    let mut owners = owners(data_dir, now)?;
    owners.retain(|owner| owner.name != name);
    owners.push(Owner {
        name: name.to_owned(),
        groups: vec![group.to_owned()],
        sha256: hash(&token),
        expires,
        pool: None,
        labels: None,
    });
    write(data_dir, &owners)?;
    Ok(token)
}

/// Lets a node in with the token of this hash, for `life`. None when somebody who only came with a join token asks for
/// the name of a node that has a credential. Asking twice is asking once.
pub(crate) fn admit(
    data_dir: &Utf8Path,
    node: &str,
    sha256: &str,
    asker: Asker<'_>,
    life: SignedDuration,
    now: Timestamp,
) -> anyhow::Result<Option<Owner>> {
    let _lock = lock(data_dir)?;
    let name = format!("{NODE_PREFIX}{node}");
    let mut owners = owners(data_dir, now)?;
    let known = owners.iter().find(|owner| owner.sha256 == sha256).cloned();
    if let Some(known) = known {
        return Ok((known.name == name).then_some(known));
    }
    let had = owners
        .iter()
        .rev()
        .find(|owner| owner.name == name)
        .cloned();
    let (pool, labels) = match asker {
        Asker::Join { .. } if had.is_some() => return Ok(None),
        Asker::Join { pool, labels } | Asker::Replacement { pool, labels } => {
            (Some(pool.to_owned()), Some(labels.clone()))
        }
        Asker::Renewal { .. } => had.map_or((None, None), |owner| (owner.pool, owner.labels)),
    };
    let soon = now.checked_add(OVERLAP)?;
    owners.retain_mut(|owner| match asker {
        _ if owner.name != name => true,
        Asker::Renewal { sha256 } if owner.sha256 == sha256 => {
            owner.expires = Some(owner.expires.map_or(soon, |end| end.min(soon)));
            true
        }
        _ => false,
    });
    let owner = Owner {
        name,
        groups: vec![NODES.to_owned()],
        sha256: sha256.to_owned(),
        expires: Some(now.checked_add(life)?),
        pool,
        labels,
    };
    owners.push(owner.clone());
    write(data_dir, &owners)?;
    Ok(Some(owner))
}

/// Takes every token of a node back. Returns whether it had any.
pub(crate) fn revoke(data_dir: &Utf8Path, node: &str, now: Timestamp) -> anyhow::Result<bool> {
    let _lock = lock(data_dir)?;
    let mut owners = owners(data_dir, now)?;
    let before = owners.len();
    owners.retain(|owner| owner.node() != Some(node));
    if owners.len() == before {
        return Ok(false);
    }
    write(data_dir, &owners)?;
    Ok(true)
}

fn write(data_dir: &Utf8Path, owners: &[Owner]) -> anyhow::Result<()> {
    files::write_private(
        &data_dir.join("tokens.json"),
        &serde_json::to_string_pretty(owners)?,
    )
}

/// The administrator's token: the same at every start, so that copied kubeconfigs go on working.
pub(crate) fn admin(data_dir: &Utf8Path, now: Timestamp) -> anyhow::Result<String> {
    let path = data_dir.join("admin-token");
    if let Some(token) = files::read_if_present(&path)?
        && find(data_dir, &token, now)?.is_some()
    {
        return Ok(token);
    }
    let token = mint(data_dir, "admin", ADMINS, None, now)?;
    files::write_private(&path, &token)?;
    Ok(token)
}

/// What a kubeconfig's user proves itself with.
#[derive(Clone, Copy)]
pub(crate) enum Secret<'a> {
    Token(&'a str),
    /// Both PEM.
    Certificate {
        chain: &'a str,
        key: &'a str,
    },
}

/// A kubeconfig with one cluster, one user and one context.
pub(crate) fn kubeconfig(server: &str, ca_pem: &str, user: &str, secret: Secret<'_>) -> String {
    let proof = match secret {
        Secret::Token(token) => serde_json::json!({"token": token}),
        Secret::Certificate { chain, key } => serde_json::json!({
            "client-certificate-data": STANDARD.encode(chain),
            "client-key-data": STANDARD.encode(key),
        }),
    };
    let config = serde_json::json!({
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "caprock",
        "clusters": [{"name": "caprock", "cluster": {
            "server": server,
            "certificate-authority-data": STANDARD.encode(ca_pem),
        }}],
        "users": [{"name": user, "user": proof}],
        "contexts": [{"name": "caprock", "context": {"cluster": "caprock", "user": user}}],
    });
    // JSON is YAML, and every reader of kubeconfigs takes it.
    format!("{config:#}\n")
}

/// Lower-case hexadecimal.
fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The 32 bytes of a SHA-256 in hexadecimal.
pub(crate) fn unhex(text: &str) -> anyhow::Result<[u8; 32]> {
    let mut bytes = [0u8; 32];
    anyhow::ensure!(
        text.len() == 64 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')),
        "not a SHA-256 in lower-case hexadecimal"
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

    fn labels() -> Labels {
        Labels::from([("node-role.kubernetes.io/worker".to_owned(), String::new())])
    }

    fn dir() -> tempfile::TempDir {
        tempfile::tempdir().unwrap()
    }

    fn at(minutes: i64) -> Timestamp {
        Timestamp::from_second(1_700_000_000 + 60 * minutes).unwrap()
    }

    const LIFE: SignedDuration = SignedDuration::from_hours(1);

    #[test]
    fn only_the_hash_of_a_token_is_kept() {
        let dir = dir();
        let path = Utf8Path::from_path(dir.path()).unwrap();
        let token = mint(path, "admin", ADMINS, None, at(0)).unwrap();
        let kept = std::fs::read_to_string(path.join("tokens.json")).unwrap();
        assert!(!kept.contains(&token));
        let owners = owners(path, at(0)).unwrap();
        assert_eq!(
            unhex(&owners[0].sha256).unwrap(),
            <[u8; 32]>::from(Sha256::digest(token.as_bytes()))
        );
    }

    #[test]
    fn minting_again_replaces_the_old_token() {
        let dir = dir();
        let path = Utf8Path::from_path(dir.path()).unwrap();
        for name in ["admin", "system:node:worker-1", "admin"] {
            mint(path, name, ADMINS, None, at(0)).unwrap();
        }
        let names: Vec<_> = owners(path, at(0))
            .unwrap()
            .into_iter()
            .map(|o| o.name)
            .collect();
        assert_eq!(names, ["system:node:worker-1", "admin"]);
    }

    #[test]
    fn the_administrator_keeps_the_token_over_a_restart() {
        let dir = dir();
        let path = Utf8Path::from_path(dir.path()).unwrap();
        assert_eq!(admin(path, at(0)).unwrap(), admin(path, at(1)).unwrap());
        std::fs::remove_file(path.join("tokens.json")).unwrap();
        let renewed = admin(path, at(2)).unwrap();
        assert_eq!(renewed, admin(path, at(3)).unwrap());
        assert_eq!(owners(path, at(3)).unwrap().len(), 1);
    }

    #[test]
    fn a_join_token_gives_a_name_once() {
        let dir = dir();
        let path = Utf8Path::from_path(dir.path()).unwrap();
        let (mine, other) = (hash("mine"), hash("other"));
        let labels = labels();
        let join = Asker::Join {
            pool: "worker",
            labels: &labels,
        };
        let ask = |node: &str, sha256: &str, asker, now| {
            admit(path, node, sha256, asker, LIFE, now).unwrap()
        };
        let first = ask("n1", &mine, join, at(0)).unwrap();
        assert_eq!(first.expires, Some(at(60)));
        // The answer was lost: the same question has the same answer.
        assert_eq!(ask("n1", &mine, join, at(5)), Some(first));
        // Somebody else cannot become that node, nor that node another with the same token.
        assert_eq!(ask("n1", &other, join, at(5)), None);
        assert_eq!(ask("n2", &mine, join, at(5)), None);
        // A token for this node alone takes its place.
        let replacement = Asker::Replacement {
            pool: "infra",
            labels: &Labels::new(),
        };
        assert!(ask("n1", &other, replacement, at(5)).is_some());
        assert_eq!(find(path, "mine", at(5)).unwrap(), None);
        let owner = find(path, "other", at(5)).unwrap().unwrap();
        assert_eq!(
            (owner.node(), owner.pool.as_deref()),
            (Some("n1"), Some("infra"))
        );
        // Once it has ended, the name is free.
        assert!(ask("n1", &mine, join, at(65)).is_some());
    }

    #[test]
    fn a_renewed_token_ends_soon_and_a_revoked_one_at_once() {
        let dir = dir();
        let path = Utf8Path::from_path(dir.path()).unwrap();
        let (old, new) = (hash("old"), hash("new"));
        let labels = labels();
        let join = Asker::Join {
            pool: "worker",
            labels: &labels,
        };
        admit(path, "n1", &old, join, LIFE, at(0)).unwrap();
        let renewal = Asker::Renewal { sha256: &old };
        let owner = admit(path, "n1", &new, renewal, LIFE, at(40))
            .unwrap()
            .unwrap();
        assert_eq!(owner.expires, Some(at(100)));
        assert_eq!(owner.pool.as_deref(), Some("worker"));
        assert_eq!(owner.labels, Some(labels.clone()));
        assert!(find(path, "old", at(49)).unwrap().is_some());
        assert!(find(path, "old", at(50)).unwrap().is_none());
        assert!(find(path, "new", at(99)).unwrap().is_some());
        assert!(revoke(path, "n1", at(50)).unwrap());
        assert!(find(path, "new", at(50)).unwrap().is_none());
        assert!(!revoke(path, "n1", at(50)).unwrap());
    }
}
