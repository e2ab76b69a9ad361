//! Join tokens: with one a machine that nobody knows yet becomes a node of one pool.
//!
//! `join-tokens.json` holds the SHA-256 of each. A token has an end, and can be taken back before; it opens nothing but
//! the config of its pool and a credential for a node that has none.

use anyhow::{Context, ensure};
use camino::Utf8Path;
use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

use super::credentials::{self, hash};
use super::files;

const FILE: &str = "join-tokens.json";
/// The longest life of a join token.
const LONGEST: SignedDuration = SignedDuration::from_hours(24 * 365);

/// A join token as the server remembers it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct JoinToken {
    /// What it is called in lists; the part of the token before the dot.
    pub(crate) id: String,
    /// The pool that its nodes join.
    pub(crate) pool: String,
    /// The one node it is for; that node may have a credential already, which is replaced.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) node: Option<String>,
    /// When it ends.
    pub(crate) expires: Timestamp,
    sha256: String,
}

/// The join tokens that have not ended.
pub(crate) fn list(data_dir: &Utf8Path, now: Timestamp) -> anyhow::Result<Vec<JoinToken>> {
    let path = data_dir.join(FILE);
    let Some(text) = files::read_if_present(&path)? else {
        return Ok(Vec::new());
    };
    let mut tokens: Vec<JoinToken> = serde_json::from_str(&text)
        .with_context(|| format!("`{path}` is not a list of join tokens"))?;
    tokens.retain(|token| token.expires > now);
    Ok(tokens)
}

/// Makes a join token and returns it in clear. Tokens that have ended are forgotten.
pub(crate) fn mint(
    data_dir: &Utf8Path,
    pool: &str,
    node: Option<&str>,
    life: SignedDuration,
    now: Timestamp,
) -> anyhow::Result<(String, JoinToken)> {
    ensure!(
        life > SignedDuration::ZERO && life <= LONGEST,
        "a join token lives longer than nothing and at most a year"
    );
    let _lock = credentials::lock(data_dir)?;
    let (id, secret) = (credentials::short_id()?, credentials::secret()?);
    let clear = format!("{id}.{secret}");
    let token = JoinToken {
        id,
        pool: pool.to_owned(),
        node: node.map(str::to_owned),
        expires: now.checked_add(life)?,
        sha256: hash(&clear),
    };
    let mut tokens = list(data_dir, now)?;
    tokens.push(token.clone());
    write(data_dir, &tokens)?;
    Ok((clear, token))
}

/// Takes a join token back. Returns whether there was one of this id.
pub(crate) fn revoke(data_dir: &Utf8Path, id: &str, now: Timestamp) -> anyhow::Result<bool> {
    let _lock = credentials::lock(data_dir)?;
    let mut tokens = list(data_dir, now)?;
    let before = tokens.len();
    tokens.retain(|token| token.id != id);
    if tokens.len() == before {
        return Ok(false);
    }
    write(data_dir, &tokens)?;
    Ok(true)
}

/// The join token of this text, unless it ended or was taken back.
pub(crate) fn find(
    data_dir: &Utf8Path,
    clear: &str,
    now: Timestamp,
) -> anyhow::Result<Option<JoinToken>> {
    let sha256 = hash(clear);
    let tokens = list(data_dir, now)?;
    // What is compared are hashes of secrets: the time it takes tells nothing of the secret.
    Ok(tokens.into_iter().find(|token| token.sha256 == sha256))
}

fn write(data_dir: &Utf8Path, tokens: &[JoinToken]) -> anyhow::Result<()> {
    files::write_private(&data_dir.join(FILE), &serde_json::to_string_pretty(tokens)?)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn hours(hours: i64) -> SignedDuration {
        SignedDuration::from_hours(hours)
    }

    #[test]
    fn a_join_token_ends_by_time_or_by_word() {
        let dir = tempfile::tempdir().unwrap();
        let path = Utf8Path::from_path(dir.path()).unwrap();
        let now = Timestamp::from_second(1_700_000_000).unwrap();
        let later = |hours_| now.checked_add(hours(hours_)).unwrap();
        let (clear, token) = mint(path, "worker", None, hours(2), now).unwrap();
        assert_eq!(find(path, &clear, later(1)).unwrap(), Some(token));
        assert_eq!(find(path, &clear, later(2)).unwrap(), None);
        assert_eq!(find(path, "other", now).unwrap(), None);

        let (clear, token) = mint(path, "worker", Some("n"), hours(2), now).unwrap();
        assert!(revoke(path, &token.id, now).unwrap());
        assert!(!revoke(path, &token.id, now).unwrap());
        assert_eq!(find(path, &clear, now).unwrap(), None);
    }

    #[test]
    fn only_hashes_are_kept_and_lives_are_bounded() {
        let dir = tempfile::tempdir().unwrap();
        let path = Utf8Path::from_path(dir.path()).unwrap();
        let now = Timestamp::from_second(1_700_000_000).unwrap();
        let (clear, _) = mint(path, "worker", None, hours(1), now).unwrap();
        let kept = std::fs::read_to_string(path.join(FILE)).unwrap();
        let (_, secret) = clear.split_once('.').unwrap();
        assert!(!kept.contains(secret));
        for life in [hours(0), hours(-1), hours(24 * 400)] {
            assert!(mint(path, "worker", None, life, now).is_err());
        }
    }
}
