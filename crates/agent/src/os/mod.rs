//! The host's operating system images, behind one trait: which deployments there are, how an image gets onto the
//! disk, how it becomes the next deployment. One file per backend.

pub mod ostree;

use std::fmt;
use std::str::FromStr;

use camino::Utf8PathBuf;
use oci::{Client, Digest};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use thiserror::Error;

use crate::command::CommandError;

/// One bootable root: the content's checksum and a number that tells deployments of equal content apart.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DeploymentId {
    /// Checksum of the deployed commit.
    pub checksum: String,
    /// Counts deployments of that commit.
    pub serial: u32,
}

impl fmt::Display for DeploymentId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.checksum, self.serial)
    }
}

impl FromStr for DeploymentId {
    type Err = OsError;

    fn from_str(text: &str) -> Result<Self, OsError> {
        text.rsplit_once('.')
            .filter(|(checksum, _)| {
                !checksum.is_empty() && checksum.bytes().all(|b| b.is_ascii_hexdigit())
            })
            .and_then(|(checksum, serial)| {
                Some(DeploymentId {
                    checksum: checksum.to_owned(),
                    serial: serial.parse().ok()?,
                })
            })
            .ok_or_else(|| OsError::Unexpected(format!("`{text}` where a deployment was expected")))
    }
}

impl Serialize for DeploymentId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for DeploymentId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?
            .parse()
            .map_err(serde::de::Error::custom)
    }
}

/// What a deployment is to the running system.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Running now.
    Booted,
    /// The next boot takes it.
    Pending,
    /// Will be made at shutdown, and then be the next.
    Staged,
    /// The one before: where a rollback goes.
    Rollback,
    /// Kept for another reason, as a pin.
    Other,
}

/// A deployment on this host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Deployment {
    /// Which one.
    pub id: DeploymentId,
    /// State root it belongs to.
    pub os: String,
    /// What it is to the running system.
    pub role: Role,
    /// Manifest digest of the image it was made from; absent when it was not made from one by us.
    pub image: Option<Digest>,
}

/// The deployments of a host, in boot order: the first is what the next boot takes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Deployments(pub Vec<Deployment>);

impl Deployments {
    /// The running one; none on a sysroot that is not the host's own.
    #[must_use]
    pub fn booted(&self) -> Option<&Deployment> {
        self.0.iter().find(|d| d.role == Role::Booted)
    }

    /// The one that the next boot takes, when that is another than the booted one.
    #[must_use]
    pub fn pending(&self) -> Option<&Deployment> {
        self.0
            .iter()
            .find(|d| matches!(d.role, Role::Pending | Role::Staged))
    }

    /// Where a rollback goes.
    #[must_use]
    pub fn rollback(&self) -> Option<&Deployment> {
        self.0.iter().find(|d| d.role == Role::Rollback)
    }

    /// Names of all of them.
    #[must_use]
    pub fn ids(&self) -> Vec<DeploymentId> {
        self.0.iter().map(|d| d.id.clone()).collect()
    }
}

/// Kernel arguments to take from and add to those of the booted deployment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct KernelArguments {
    /// Taken away where present.
    pub remove: Vec<String>,
    /// Added where absent.
    pub add: Vec<String>,
}

/// Why the operating system could not do what it was asked.
#[derive(Debug, Error)]
pub enum OsError {
    /// A tool failed.
    #[error(transparent)]
    Command(#[from] CommandError),
    /// The image could not be fetched or read.
    #[error("cannot pull `{image}`")]
    Pull {
        /// Pull spec.
        image: String,
        /// What the registry, or the disk, said.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The image cannot be a deployment.
    #[error("image `{image}` cannot be deployed: {problem}")]
    Image {
        /// Pull spec or digest.
        image: String,
        /// What is wrong with it.
        problem: String,
    },
    /// The tool printed, or the host holds, something that is not understood.
    #[error("cannot understand the host's deployments: found {0}")]
    Unexpected(String),
    /// A layer's content is invalid, or does not fit on the disk.
    #[error("cannot unpack layer `{digest}`")]
    Unpack {
        /// Digest of the compressed layer.
        digest: Digest,
        /// What was wrong.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A file of the sysroot could not be read or written.
    #[error("cannot {action} `{path}`")]
    Io {
        /// A verb.
        action: &'static str,
        /// The file.
        path: Utf8PathBuf,
        /// What the operating system said.
        #[source]
        source: std::io::Error,
    },
    /// Nothing to go back to.
    #[error("there is no previous deployment to roll back to")]
    NoRollback,
}

/// What the agent needs of an image-mode operating system. Calls block; each is idempotent, and one that was
/// killed half-way leaves nothing that the next call stumbles over.
pub trait Os: Send + Sync + fmt::Debug {
    /// Booted, pending and rollback deployment.
    ///
    /// # Errors
    /// When the host's tools cannot say.
    fn status(&self) -> Result<Deployments, OsError>;

    /// Whether the image is on the disk, ready to deploy.
    ///
    /// # Errors
    /// When the host's tools cannot say.
    fn has(&self, image: &Digest) -> Result<bool, OsError>;

    /// Brings an image onto the disk; nothing of the running system, and no deployment, changes. Returns its digest.
    ///
    /// # Errors
    /// When it cannot be fetched or is no deployable image.
    fn pull(&self, image: &str, client: &Client) -> Result<Digest, OsError>;

    /// Makes a deployment of an image that is on the disk, with the booted deployment's local changes to `/etc`
    /// merged in, and lets the next boot take it. Replaces a pending one.
    ///
    /// # Errors
    /// When the image is not there or the host's tools fail.
    fn deploy(&self, image: &Digest, arguments: &KernelArguments) -> Result<DeploymentId, OsError>;

    /// Arguments that the booted deployment's kernel is started with.
    ///
    /// # Errors
    /// When the boot loader's entries cannot be read.
    fn kernel_arguments(&self) -> Result<Vec<String>, OsError>;

    /// Where a deployment's root directory is.
    fn root_of(&self, deployment: &Deployment) -> Utf8PathBuf;

    /// Lets the next boot take the rollback deployment.
    ///
    /// # Errors
    /// When there is none.
    fn rollback(&self) -> Result<(), OsError>;

    /// Removes images and layers that neither a deployment nor `keep` refers to.
    ///
    /// # Errors
    /// When the host's tools fail.
    fn cleanup(&self, keep: &[Digest]) -> Result<(), OsError>;
}
