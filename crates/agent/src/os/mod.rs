//! The host's operating system images, behind one trait: which deployments there are, how an image gets onto the
//! disk, how it becomes the next deployment. One folder per backend; what they share is beside them.

mod access;
mod boot_entry;
pub mod bootc;
mod choice;
mod image_store;
pub mod ostree;
pub mod rpm_ostree;
mod sysroot;
mod tools;

pub use choice::{Backend, BackendName, choose};
pub(crate) use sysroot::Sysroot;
pub use tools::Tools;

use std::fmt;
use std::str::FromStr;

use camino::{Utf8Path, Utf8PathBuf};
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
    /// Will be made at shutdown, and then be the next. Until then it has no `/etc` that could be written to.
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
    /// The digest that the image was asked for by, where that is another: of the list that has an image for each
    /// architecture.
    pub named: Option<Digest>,
}

impl Deployment {
    /// Whether it was made from the image that a digest names: the manifest's own, or that of a list that it was chosen from.
    #[must_use]
    pub fn is_of(&self, image: &Digest) -> bool {
        self.image.as_ref() == Some(image) || self.named.as_ref() == Some(image)
    }
}

/// Digest of a pull spec that has one.
#[must_use]
pub fn digest_in(pull_spec: &str) -> Option<Digest> {
    pull_spec
        .rsplit_once('@')
        .and_then(|(_, digest)| digest.parse().ok())
}

/// By what digest an image was asked for, where that is not its manifest's.
fn named(reference: Option<&str>, image: Option<Digest>) -> Option<Digest> {
    let named = digest_in(reference?);
    named.filter(|_| named != image && image.is_some())
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

    /// Whether a deployment that is not running is what the next boot takes.
    #[must_use]
    pub fn is_next(&self, id: &DeploymentId) -> bool {
        let to_come = |d: &&Deployment| matches!(d.role, Role::Pending | Role::Staged);
        self.0.first().filter(to_come).is_some_and(|d| d.id == *id)
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

/// Packages on top of the image: what changes between two versions. What is there, or gone, already is left.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PackageChanges {
    /// Added.
    pub install: Vec<String>,
    /// No longer added.
    pub uninstall: Vec<String>,
    /// Taken out of the image, where it has them.
    pub remove: Vec<String>,
    /// The image's own again.
    pub reset: Vec<String>,
}

impl PackageChanges {
    /// Whether nothing is to change.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == PackageChanges::default()
    }

    /// On hosts that take images as they are: none can be asked for, and none were.
    pub(crate) fn refuse(&self) -> Result<(), OsError> {
        if self.install.is_empty() && self.remove.is_empty() {
            return Ok(());
        }
        Err(OsError::Unsupported(format!(
            "packages `{}` cannot be put on top of the image of this host, which rpm-ostree does not update; install \
             them in the MachineOSConfig's Containerfile",
            self.install.join("`, `")
        )))
    }
}

/// Commands around a soft reboot. They mount the next root where the first process looks for it, so they are run outside of
/// the agent's own mount namespace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SoftReboot {
    /// Lets a soft reboot start the next deployment; fails when that has another kernel or other kernel arguments.
    pub prepare: Vec<String>,
    /// Takes that back.
    pub reset: Vec<String>,
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
    /// The host's signature policy stands against the image.
    #[error("image `{image}` is not used: {problem}")]
    Policy {
        /// Pull spec.
        image: String,
        /// What the policy demands, and what to do.
        problem: String,
    },
    /// Somebody else's change of the deployments does not end.
    #[error(
        "the host is busy: {doing} did not end within {seconds} seconds; look at it with `{look}` on the node"
    )]
    Busy {
        /// What is going on.
        doing: String,
        /// How long it was waited for.
        seconds: u64,
        /// A command that shows it.
        look: &'static str,
    },
    /// The host cannot do what was asked.
    #[error("{0}")]
    Unsupported(String),
}

/// How much of an image is on the disk.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Progress {
    /// Bytes that need not be fetched any more.
    pub bytes: u64,
    /// Bytes of everything that was missing at the start.
    pub of: u64,
}

impl fmt::Display for Progress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mega = |bytes: u64| bytes as f64 / 1e6;
        write!(f, "{:.1} of {:.1} MB", mega(self.bytes), mega(self.of))
    }
}

/// Is told how a pull goes on, often.
pub type ProgressSink<'a> = &'a (dyn Fn(Progress) + Sync);

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
    /// When it cannot be fetched, is no deployable image, or the host's signature policy stands against it.
    fn pull(
        &self,
        image: &str,
        client: &Client,
        progress: ProgressSink<'_>,
    ) -> Result<Digest, OsError>;

    /// Makes a deployment of an image that is on the disk, with the booted deployment's local changes to `/etc`
    /// merged in, and lets the next boot take it. Replaces a pending one. The deployment's role tells whether its root
    /// can be written to now, or, when it is staged, at shutdown only.
    ///
    /// `pull_spec` is where the image was pulled from; absent for the image that is booted.
    ///
    /// # Errors
    /// When the image is not there or the host's tools fail.
    fn deploy(
        &self,
        image: &Digest,
        pull_spec: Option<&str>,
        arguments: &KernelArguments,
        packages: &PackageChanges,
    ) -> Result<Deployment, OsError>;

    /// Whether [`Os::deploy`] puts packages on top of images.
    fn adds_packages(&self) -> bool {
        false
    }

    /// Arguments that the booted deployment's kernel is started with.
    ///
    /// # Errors
    /// When the boot loader's entries cannot be read.
    fn kernel_arguments(&self) -> Result<Vec<String>, OsError>;

    /// Where a deployment's root directory is.
    fn root_of(&self, deployment: &Deployment) -> Utf8PathBuf;

    /// How the deployment that is next starts without a new kernel; while none is next, how one would that has the kernel
    /// which runs. None when it takes a reboot.
    ///
    /// # Errors
    /// When the host's tools cannot say.
    fn soft_reboot(&self) -> Result<Option<SoftReboot>, OsError>;

    /// Takes a deployment that never booted away, so that the next boot takes what it took before. Does nothing when it is
    /// not what the next boot takes.
    ///
    /// # Errors
    /// When the host's tools fail.
    fn discard(&self, deployment: &DeploymentId) -> Result<(), OsError>;

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

/// Where a deployment's root directory is in a sysroot.
pub(crate) fn deployment_root(sysroot: &Utf8Path, os: &str, id: &DeploymentId) -> Utf8PathBuf {
    let deployments = sysroot.join("ostree/deploy").join(os).join("deploy");
    deployments.join(id.to_string())
}

fn io_error(action: &'static str, path: &Utf8Path) -> impl FnOnce(std::io::Error) -> OsError {
    let path = path.to_owned();
    move |source| OsError::Io {
        action,
        path,
        source,
    }
}

/// Deployments in a few words each, for snapshots.
#[cfg(test)]
pub(crate) fn shown(deployments: &Deployments) -> String {
    let lines = deployments.0.iter().map(|d| {
        let image = d
            .image
            .map_or("no image".to_owned(), |image| image.hex()[..6].to_owned());
        let named = d.named.map(|named| format!(" of {}", &named.hex()[..6]));
        let named = named.unwrap_or_default();
        format!(
            "{} {}.{} {:?} {image}{named}\n",
            d.os,
            &d.id.checksum[..6],
            d.id.serial,
            d.role
        )
    });
    lines.collect()
}
