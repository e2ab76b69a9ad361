//! Files of nodes whose content is in a Secret: how a MachineConfig refers to it, which values a node is given, and
//! what keeps one from being given.
//!
//! A value is shown nowhere: neither `Debug` nor a message has it. What tells two states of a value apart for people is
//! the version of the Secret.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::str::FromStr;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use k8s_openapi::api::core::v1::Secret;
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::Value as Json;

use crate::keys;

/// How the source of such a file begins, where others have `data:`.
pub const SCHEME: &str = "secret:";
/// Most bytes of one value.
pub const MAX_FILE_BYTES: usize = 128 * 1024;
/// Most bytes of all values of a node. Its Secret may have 1 MiB, with these in base64 and its credentials beside them.
pub const MAX_NODE_BYTES: usize = 256 * 1024;

/// Most values that a node tells the versions of: all of a node's annotations together have 256 KiB.
const MAX_TOLD: usize = 100;
/// The longest name of a Secret, and the longest key in one.
const MAX_NAME: usize = 253;

/// A key of a Secret in [`keys::NAMESPACE`], written `NAME/KEY`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SecretKey {
    /// Name of the Secret.
    pub name: String,
    /// The key in its `data`.
    pub key: String,
}

impl FromStr for SecretKey {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let expected = || {
            format!(
                "expected `{SCHEME}NAME/KEY`, a Secret in `{}` and a key in it, such as `{SCHEME}sssd-bind/bind.conf`",
                keys::NAMESPACE
            )
        };
        let (name, key) = text.split_once('/').ok_or_else(expected)?;
        let label = |label: &str| {
            let inside = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
            !label.is_empty()
                && label.bytes().all(inside)
                && !label.starts_with('-')
                && !label.ends_with('-')
        };
        if name.len() > MAX_NAME || !name.split('.').all(label) {
            return Err(format!("{}; no Secret can have this name", expected()));
        }
        let in_key = |b: u8| b.is_ascii_alphanumeric() || b"-_.".contains(&b);
        let dots = key == "." || key.starts_with("..");
        if key.is_empty() || key.len() > MAX_NAME || dots || !key.bytes().all(in_key) {
            return Err(format!("{}; no Secret can have this key", expected()));
        }
        Ok(SecretKey {
            name: name.to_owned(),
            key: key.to_owned(),
        })
    }
}

impl fmt::Display for SecretKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.name, self.key)
    }
}

impl Serialize for SecretKey {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for SecretKey {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(D::Error::custom)
    }
}

/// The value of a key, and the version of the Secret that it was read from.
#[derive(Clone, PartialEq, Eq)]
pub struct Value {
    /// The bytes of the file.
    pub bytes: Vec<u8>,
    /// `metadata.resourceVersion` of the Secret; empty where that is not known.
    pub version: String,
}

/// Without the bytes.
impl fmt::Debug for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Value")
            .field("version", &self.version)
            .finish_non_exhaustive()
    }
}

#[derive(Serialize, Deserialize)]
struct Stored {
    value: String,
    #[serde(default)]
    version: String,
}

impl Serialize for Value {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let stored = Stored {
            value: STANDARD.encode(&self.bytes),
            version: self.version.clone(),
        };
        stored.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Value {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let Stored { value, version } = Stored::deserialize(deserializer)?;
        let bytes = STANDARD
            .decode(value)
            .map_err(|_| D::Error::custom("expected base64"))?;
        Ok(Value { bytes, version })
    }
}

/// Values by where they come from. As JSON they are what a node's Secret has under [`keys::NODE_FILES_KEY`].
pub type Values = BTreeMap<SecretKey, Value>;

/// Which versions of Secrets values are of: what may be shown of them.
pub type SecretVersions = BTreeMap<SecretKey, String>;

/// What may be shown of values.
pub fn versions(values: &Values) -> SecretVersions {
    let each = values.iter();
    each.map(|(from, value)| (from.clone(), value.version.clone()))
        .collect()
}

/// Versions as an annotation of a Node has them: JSON by `NAME/KEY`, the first [`MAX_TOLD`]; none of none.
pub fn to_annotation(versions: &SecretVersions) -> Option<String> {
    let told: BTreeMap<_, _> = versions.iter().take(MAX_TOLD).collect();
    (!told.is_empty())
        .then(|| serde_json::to_string(&told).expect("names and versions become JSON"))
}

/// Reads such an annotation. One that somebody wrote over tells nothing.
pub fn from_annotation(text: Option<&str>) -> SecretVersions {
    let told = text.and_then(|text| serde_json::from_str(text).ok());
    told.unwrap_or_default()
}

/// A file of a MachineConfig that takes its content from a Secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SecretFile {
    /// Where the file is on the node.
    pub path: String,
    /// Where its content is.
    pub from: SecretKey,
}

/// The files of an Ignition config whose content is in a Secret, without reading any other. References that are no
/// references are left out: no config with one is rendered.
pub fn files(config: &Json) -> Vec<SecretFile> {
    let files = config["storage"]["files"].as_array();
    let found = files.into_iter().flatten().filter_map(|file| {
        let source = file["contents"]["source"].as_str()?;
        Some(SecretFile {
            path: file["path"].as_str()?.to_owned(),
            from: source.strip_prefix(SCHEME)?.parse().ok()?,
        })
    });
    found.collect()
}

/// A value that a node cannot be given, and why.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Missing {
    /// Where it should come from.
    pub from: SecretKey,
    /// What is wrong.
    pub why: Why,
}

/// What keeps a value from nodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Why {
    /// There is no such Secret.
    NoSecret,
    /// Nobody has said that nodes may have what it holds.
    NotForNodes,
    /// It has no such key.
    NoKey,
    /// The value is larger than [`MAX_FILE_BYTES`].
    TooLarge,
    /// With it, the node would have more than [`MAX_NODE_BYTES`].
    TooMuch,
}

impl fmt::Display for Missing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let SecretKey { name, key } = &self.from;
        let namespace = keys::NAMESPACE;
        write!(f, "key `{key}` of Secret `{namespace}/{name}`")?;
        let label = keys::NODE_FILES_LABEL;
        match self.why {
            Why::NoSecret => write!(
                f,
                ", which does not exist; create it, with the label `{label}: \"true\"`"
            ),
            Why::NotForNodes => write!(
                f,
                ", which is not for nodes; if they may have it, label it `{label}: \"true\"`"
            ),
            Why::NoKey => f.write_str(", which has no such key; add it, or name another one"),
            Why::TooLarge => write!(
                f,
                ", which is larger than {} KiB; make it smaller",
                MAX_FILE_BYTES / 1024
            ),
            Why::TooMuch => write!(
                f,
                ", with which the node's files from Secrets have more than {} KiB; take less from Secrets",
                MAX_NODE_BYTES / 1024
            ),
        }
    }
}

/// The values for these references, in their order as far as they fit, and what is missing. `secret` finds a Secret of
/// [`keys::NAMESPACE`] by its name.
pub fn choose<S: AsRef<Secret>>(
    wanted: &BTreeSet<SecretKey>,
    secret: impl Fn(&str) -> Option<S>,
) -> (Values, Vec<Missing>) {
    let (mut values, mut missing) = (Values::new(), Vec::new());
    let mut left = MAX_NODE_BYTES;
    for from in wanted {
        match value(from, secret(&from.name).as_ref().map(AsRef::as_ref), left) {
            Ok(value) => {
                left -= value.bytes.len();
                values.insert(from.clone(), value);
            }
            Err(why) => missing.push(Missing {
                from: from.clone(),
                why,
            }),
        }
    }
    (values, missing)
}

fn value(from: &SecretKey, secret: Option<&Secret>, left: usize) -> Result<Value, Why> {
    let secret = secret.ok_or(Why::NoSecret)?;
    let labels = secret.metadata.labels.as_ref();
    let label = labels.and_then(|labels| labels.get(keys::NODE_FILES_LABEL));
    if label.map(String::as_str) != Some("true") {
        return Err(Why::NotForNodes);
    }
    let bytes = secret.data.as_ref().and_then(|data| data.get(&from.key));
    let bytes = &bytes.ok_or(Why::NoKey)?.0;
    match bytes.len() {
        len if len > MAX_FILE_BYTES => Err(Why::TooLarge),
        len if len > left => Err(Why::TooMuch),
        _ => Ok(Value {
            bytes: bytes.clone(),
            version: secret.metadata.resource_version.clone().unwrap_or_default(),
        }),
    }
}

#[cfg(test)]
mod tests;
