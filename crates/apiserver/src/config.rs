//! What the owner of a server decides: where data lives, who may do what, which kinds exist.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

use serde_json::Value;
use sha2::{Digest, Sha256};

/// Everything a server is made from.
#[derive(Debug, Clone)]
pub struct Config {
    /// Directory of the store; created if missing. One process at a time.
    pub data_dir: PathBuf,
    /// Who may come in.
    pub tokens: Vec<Token>,
    /// What groups other than `system:masters` may do.
    pub rules: Vec<Rule>,
    /// What groups may not change of objects that they may write.
    pub restrictions: Vec<Restriction>,
    /// CustomResourceDefinitions (`apiextensions.k8s.io/v1`) that are created or updated at start.
    pub crds: Vec<Value>,
    /// Namespaces that are created at start and cannot be deleted.
    pub namespaces: Vec<String>,
    /// What `/version` answers.
    pub version: Version,
    /// Shapes of kinds from CRDs that need code to be converted.
    pub conversions: Vec<Conversion>,
    /// File to which every authenticated request is appended as an `audit.k8s.io/v1` event, without bodies.
    pub audit_log: Option<PathBuf>,
}

/// Between one version of a kind and the version that is stored. Both ways are total, and lose nothing.
#[derive(Debug, Clone)]
pub struct Conversion {
    /// Name of the CRD, `plural.group`.
    pub crd: String,
    /// The version, such as `v1alpha1`.
    pub version: String,
    /// From that version to the stored one; whole objects that passed the version's schema.
    pub to_storage: fn(Value) -> Value,
    /// From the stored version to that one.
    pub from_storage: fn(Value) -> Value,
}

impl Config {
    /// A server with the usual namespaces, no kinds beyond the built-in ones, and nobody allowed in.
    pub fn new(data_dir: impl Into<PathBuf>) -> Self {
        Self {
            data_dir: data_dir.into(),
            tokens: Vec::new(),
            rules: Vec::new(),
            restrictions: Vec::new(),
            crds: Vec::new(),
            namespaces: ["default", "kube-system", "kube-public", "kube-node-lease"]
                .map(String::from)
                .to_vec(),
            version: Version::default(),
            conversions: Vec::new(),
            audit_log: None,
        }
    }
}

/// The Kubernetes version the server presents itself as.
#[derive(Debug, Clone)]
pub struct Version {
    /// `1`.
    pub major: String,
    /// `35`.
    pub minor: String,
    /// `v1.35.0+product`.
    pub git_version: String,
}

impl Default for Version {
    fn default() -> Self {
        Self {
            major: "1".into(),
            minor: "35".into(),
            git_version: concat!("v1.35.0+", env!("CARGO_PKG_VERSION")).into(),
        }
    }
}

/// What is known of a user besides name and groups, as Kubernetes has it.
pub type Extra = BTreeMap<String, Vec<String>>;

/// A bearer token, known only by its hash.
#[derive(Clone)]
pub struct Token {
    /// The user's name, such as `admin` or `system:node:worker-1`.
    pub name: String,
    /// The user's groups. `system:authenticated` is added to every user.
    pub groups: Vec<String>,
    /// What else is known of the user, for [`Restriction`]s and reviews.
    pub extra: Extra,
    /// SHA-256 of the token.
    pub sha256: [u8; 32],
}

impl Token {
    /// Hashes `secret`, which should have at least 128 bits of entropy: the hash is not salted.
    pub fn new(name: impl Into<String>, groups: &[&str], secret: &str) -> Self {
        Self {
            name: name.into(),
            groups: groups.iter().map(|group| (*group).to_owned()).collect(),
            extra: Extra::new(),
            sha256: Sha256::digest(secret.as_bytes()).into(),
        }
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Token")
            .field("name", &self.name)
            .field("groups", &self.groups)
            .finish_non_exhaustive()
    }
}

/// Allows a group some verbs on some objects. Rules only add up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    /// The group, such as `system:nodes`.
    pub group: String,
    /// `get`, `list`, `watch`, `create`, `update`, `patch`, `delete`, `deletecollection`, or `*`.
    pub verbs: Vec<String>,
    /// API groups; empty string is core, `*` is any.
    pub api_groups: Vec<String>,
    /// Plural names, subresources as `nodes/status`; `*` is any including subresources.
    pub resources: Vec<String>,
    /// Which objects.
    pub names: Names,
    /// Only in this namespace; `None`: in any, and cluster-scoped objects.
    pub namespace: Option<String>,
}

/// Which objects a [`Rule`] covers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Names {
    /// All.
    Any,
    /// Only those whose name is the user's name without `system:node:`. Lists and watches must select
    /// that name with `fieldSelector=metadata.name=…`.
    OwnName,
}

/// Keeps a group from some changes of objects that its rules let it write. What rules cannot say: they know the object,
/// and not what becomes of it.
#[derive(Debug, Clone)]
pub struct Restriction {
    /// The group, such as `system:nodes`.
    pub group: String,
    /// API group of the kind; empty string is core.
    pub api_group: String,
    /// Plural name of the kind.
    pub resource: String,
    /// Says what is wrong with going from an object to another one. The former is absent when it is created.
    pub check: fn(&Extra, Option<&Value>, &Value) -> Result<(), String>,
}
