//! What was there before the first config wrote: it comes back when no config wants the place any more.
//!
//! A path without an entry was never written by a config. The list is one file, replaced as a whole, and is on the disk
//! before anything that it speaks of is changed; contents are kept beside it, named by digest.

use std::collections::{BTreeMap, BTreeSet};

use camino::{Utf8Path, Utf8PathBuf};
use oci::Digest;
use serde::{Deserialize, Serialize};

use super::{PRIVATE, State, StateError, mine};
use crate::root::{Access, Attributes, Found};

/// What was at a path.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "was", rename_all = "lowercase")]
pub(crate) enum Original {
    /// Nothing.
    Nothing,
    /// What the image brings there, whichever image that is when it comes back.
    Image,
    /// A file.
    File {
        content: Digest,
        access: Access,
        attributes: Attributes,
    },
    /// A directory; what is in it was never ours.
    Directory {
        access: Access,
        attributes: Attributes,
    },
    /// A symbolic link.
    Link { target: String, uid: u32, gid: u32 },
}

/// By what a unit started.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Enablement {
    /// By the links that the image brings, none included.
    Image,
    /// By these, below `/etc/systemd/system`, with their targets.
    Links(BTreeMap<Utf8PathBuf, String>),
}

/// User `core` before the first config that set something for it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct CoreOriginal {
    /// Whether there was such a user.
    pub(crate) existed: bool,
    /// Its field in the shadow file, when there was one.
    pub(crate) password: Option<String>,
}

/// Everything that was taken over.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Originals {
    #[serde(default)]
    pub(crate) paths: BTreeMap<Utf8PathBuf, Original>,
    #[serde(default)]
    pub(crate) units: BTreeMap<String, Enablement>,
    #[serde(default)]
    pub(crate) core: Option<CoreOriginal>,
}

const LIST: &str = "/originals.json";
const CONTENTS: &str = "/originals";

impl State {
    /// Everything that was taken over.
    pub(crate) fn originals(&self) -> Result<Originals, StateError> {
        Ok(self.read(Utf8Path::new(LIST))?.unwrap_or_default())
    }

    /// Replaces the list. Contents that it does not name any more go.
    pub(crate) fn set_originals(&self, originals: &Originals) -> Result<(), StateError> {
        self.write(Utf8Path::new(LIST), originals)?;
        let named: BTreeSet<Utf8PathBuf> = originals
            .paths
            .values()
            .filter_map(|original| match original {
                Original::File { content, .. } => Some(content_path(content)),
                _ => None,
            })
            .collect();
        for path in self.list(CONTENTS)? {
            if !named.contains(&path) {
                self.root.remove(&path)?;
            }
        }
        Ok(())
    }

    /// Keeps the content of a file that the list is going to name.
    pub(crate) fn keep_content(&self, bytes: &[u8]) -> Result<Digest, StateError> {
        let digest = Digest::of(bytes);
        self.root
            .write(&content_path(&digest), bytes, mine(PRIVATE))?;
        Ok(digest)
    }

    /// Content that was kept; nothing when somebody removed it.
    pub(crate) fn content(&self, digest: &Digest) -> Result<Option<Vec<u8>>, StateError> {
        Ok(match self.root.find(&content_path(digest))? {
            Found::File { bytes, .. } => Some(bytes),
            _ => None,
        })
    }
}

fn content_path(digest: &Digest) -> Utf8PathBuf {
    Utf8Path::new(CONTENTS).join(digest.hex())
}
