//! Garbage collection: what no manifest needs is removed, once it is old enough that nobody is about to need it.

use std::collections::BTreeSet;
use std::time::{Duration, SystemTime};

use super::{Registry, RegistryError, required};
use crate::digest::Digest;
use crate::manifest::digest_of;

/// What a collection removed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Collected {
    /// Blobs taken out of a repository that no manifest of it names.
    pub unlinked: usize,
    /// Blobs removed.
    pub blobs: usize,
    /// Their bytes.
    pub bytes: u64,
}

impl Registry {
    /// Removes blobs that no manifest of any repository needs. Manifests stay, tagged or not, as nodes name images by
    /// digest: who does not need one any more deletes it.
    ///
    /// A blob that came, or that a client asked for, within `grace` stays: its manifest may be on the way. Nothing is
    /// written to the registry meanwhile. A manifest that cannot be read ends the collection before anything is
    /// removed. Blocks.
    pub fn collect_garbage(&self, grace: Duration) -> Result<Collected, RegistryError> {
        let _alone = self.inner.gate.alone();
        let before = SystemTime::now()
            .checked_sub(grace)
            .unwrap_or(SystemTime::UNIX_EPOCH);
        let layout = &self.inner.layout;
        let mut collected = Collected::default();
        let mut needed: BTreeSet<Digest> = BTreeSet::new();
        let mut unlink = Vec::new();
        for repository in layout.repositories()? {
            let mut here = BTreeSet::new();
            for (digest, media_type) in layout.manifests(&repository)? {
                let document = self.document(&digest, &media_type)?;
                here.insert(digest);
                for descriptor in required(&document) {
                    here.insert(digest_of(descriptor)?);
                }
            }
            for (digest, linked) in layout.blobs(&repository)? {
                match here.contains(&digest) || linked > before {
                    true => drop(here.insert(digest)),
                    false => unlink.push((repository.clone(), digest)),
                }
            }
            needed.append(&mut here);
        }
        for (repository, digest) in unlink {
            layout.unlink_blob(&repository, &digest)?;
            collected.unlinked += 1;
        }
        for blob in self.inner.blobs.list()? {
            if !needed.contains(&blob.digest) && blob.modified <= before {
                self.inner.blobs.remove(&blob.digest)?;
                collected.blobs += 1;
                collected.bytes += blob.size;
            }
        }
        Ok(collected)
    }
}
