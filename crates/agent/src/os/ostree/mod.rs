//! The `ostree` backend: drives the `ostree` tool and our own registry client, so that it works on any ostree host.

mod import;
mod repo;
mod source;
mod status;

use std::fs::File;

use camino::{Utf8Path, Utf8PathBuf};
use oci::manifest::digest_of;
use oci::{BlobStore, Client, Digest};
use tokio::runtime::Handle;

use super::image_store::DIGEST_KEY;
use super::sysroot::Sysroot;
use super::{
    Deployment, DeploymentId, Deployments, KernelArguments, Os, OsError, PackageChanges, Progress,
    ProgressSink, SoftReboot, Tools, access, boot_entry, io_error, named,
};
use crate::command::Command;
use import::{Import, LAYER_REF, LAYERS_KEY, Layer, chain_ids, image_ref, layer_ref};
use repo::Repo;
use status::IMAGE_REF;

pub use source::Source;

/// An ostree host, or a directory that holds a sysroot to prepare.
#[derive(Debug)]
pub struct Ostree {
    sysroot: Sysroot,
    /// Name of the state root; found out when it is not given.
    stateroot: Option<String>,
    repo: Repo,
    blobs: Utf8PathBuf,
    runtime: Handle,
}

impl Ostree {
    /// Opens a sysroot: `/` is the running host's. Blobs pass through `state_dir`.
    #[must_use]
    pub fn new(
        sysroot: &Utf8Path,
        stateroot: Option<String>,
        state_dir: &Utf8Path,
        runtime: Handle,
    ) -> Self {
        Self {
            sysroot: Sysroot(sysroot.to_owned()),
            stateroot,
            repo: Repo::new(sysroot.join("ostree/repo")),
            blobs: state_dir.join("blobs"),
            runtime,
        }
    }

    /// Makes an empty directory a sysroot with one state root; does nothing where both exist.
    ///
    /// # Errors
    /// When the directory cannot be made or the tool fails.
    pub fn initialise(&self) -> Result<(), OsError> {
        let sysroot = &self.sysroot.0;
        std::fs::create_dir_all(sysroot).map_err(io_error("make", sysroot))?;
        if !sysroot.join("ostree/repo/config").exists() {
            Command::new("ostree")
                .args(["admin", "init-fs", "--modern"])
                .arg(sysroot.as_str())
                .run()?;
            let config = format!("--repo={}", self.sysroot.repo());
            Command::new("ostree")
                .arg("config")
                .arg(config)
                .args(["set", "sysroot.bootloader", "none"])
                .run()?;
        }
        let name = self.stateroot.as_deref().unwrap_or("default");
        if !sysroot.join("ostree/deploy").join(name).is_dir() {
            self.admin("os-init").arg(name).run()?;
        }
        Ok(())
    }

    /// Imports an image, wherever it comes from.
    ///
    /// # Errors
    /// When it cannot be read, or is no deployable image.
    pub fn import(&self, source: &Source) -> Result<Digest, OsError> {
        self.import_telling(source, &|_| {})
    }

    fn import_telling(
        &self,
        source: &Source,
        progress: ProgressSink<'_>,
    ) -> Result<Digest, OsError> {
        let started = std::time::Instant::now();
        let wanted = self.runtime.block_on(source.digest())?;
        if self.has(&wanted)? {
            return Ok(wanted);
        }
        let pull_spec = source.pull_spec(wanted);
        let image = self.runtime.block_on(source.image(wanted))?;
        let layers = layers(&image, &pull_spec)?;
        self.sysroot.make_writable()?;
        let blobs = BlobStore::open(&self.blobs).map_err(|error| source.failed(error))?;
        let import = Import::new(&self.repo, self.sysroot.0.join("ostree/caprock-import"))?;
        let present = layers
            .iter()
            .rposition(|layer| self.repo.has_ref(&layer_ref(&layer.chain_id)));
        let first = present.map_or(0, |at| at + 1);
        let missing = &image.manifest.layers()[first..];
        let of = missing.iter().map(|layer| layer.size()).sum();
        let mut done = 0;
        for (at, layer) in layers.iter().enumerate().skip(first) {
            let descriptor = &image.manifest.layers()[at];
            let arrived = |bytes| {
                progress(Progress {
                    bytes: done + bytes,
                    of,
                });
            };
            tracing::info!(image = %pull_spec, layer = at + 1, of = layers.len(), bytes = descriptor.size(), "importing layer");
            self.runtime
                .block_on(source.fetch(descriptor, &blobs, &arrived))?;
            done += descriptor.size();
            let below = at.checked_sub(1).map(|at| &layers[at].chain_id);
            let open = || -> Result<File, OsError> {
                source
                    .open(&layer.digest, &blobs)
                    .map_err(|error| source.failed(error))
            };
            import.layer(layer, below, open)?;
            blobs
                .remove(&layer.digest)
                .map_err(|error| source.failed(error))?;
        }
        import.image(&wanted, &pull_spec, &layers)?;
        import.clear()?;
        tracing::info!(
            image = %pull_spec,
            imported = layers.len() - first,
            present = first,
            milliseconds = started.elapsed().as_millis(),
            "image is on the disk"
        );
        Ok(wanted)
    }

    /// Whether the running deployment was made by this backend.
    ///
    /// # Errors
    /// When the tool fails.
    pub(super) fn booted_is_ours(&self) -> Result<bool, OsError> {
        let found = status::parse(&self.admin("status").run()?)?;
        Ok(found.booted().is_some_and(|booted| booted.image.is_some()))
    }

    /// The image that bootc or rpm-ostree made a commit from.
    fn image_of_others(&self, checksum: &str) -> Result<Option<Digest>, OsError> {
        let told = self.repo.metadata(checksum, DIGEST_KEY)?;
        Ok(told.and_then(|digest| digest.parse().ok()))
    }

    fn admin(&self, verb: &str) -> Command {
        Command::new("ostree")
            .args(["admin", verb])
            .arg(format!("--sysroot={}", self.sysroot.0))
    }

    fn stateroot(&self, deployments: &Deployments) -> Result<String, OsError> {
        let of_deployment = || {
            deployments
                .booted()
                .or(deployments.0.first())
                .map(|d| d.os.clone())
        };
        if let Some(name) = self.stateroot.clone().or_else(of_deployment) {
            return Ok(name);
        }
        let dir = self.sysroot.0.join("ostree/deploy");
        let mut names = Vec::new();
        for entry in dir.read_dir_utf8().map_err(io_error("read", &dir))? {
            names.push(
                entry
                    .map_err(io_error("read", &dir))?
                    .file_name()
                    .to_owned(),
            );
        }
        match names.as_slice() {
            [name] => Ok(name.clone()),
            _ => Err(OsError::Unexpected(format!(
                "{} state roots in `{dir}` and no deployment",
                names.len()
            ))),
        }
    }
}

impl Os for Ostree {
    fn status(&self) -> Result<Deployments, OsError> {
        let mut found = status::parse(&self.admin("status").run()?)?;
        for deployment in &mut found.0 {
            if deployment.image.is_none() {
                deployment.image = self.image_of_others(&deployment.id.checksum)?;
                let reference = self.sysroot.reference_of(deployment)?;
                deployment.named = named(reference.as_deref(), deployment.image);
            }
        }
        Ok(found)
    }

    fn has(&self, image: &Digest) -> Result<bool, OsError> {
        Ok(self.repo.has_ref(&image_ref(image)))
    }

    fn pull(
        &self,
        image: &str,
        client: &Client,
        progress: ProgressSink<'_>,
    ) -> Result<Digest, OsError> {
        let reference = access::reference(image)?;
        access::check_unsigned(&self.sysroot.0, &reference)?;
        let source = Source::Registry {
            client: client.clone(),
            reference,
        };
        self.import_telling(&source, progress)
    }

    fn deploy(
        &self,
        image: &Digest,
        _: Option<&str>,
        arguments: &KernelArguments,
        packages: &PackageChanges,
    ) -> Result<Deployment, OsError> {
        packages.refuse()?;
        self.sysroot.make_writable()?;
        let before = self.status()?;
        let present = self.sysroot.kernel_arguments(&before)?;
        let add = arguments
            .add
            .iter()
            .filter(|argument| !present.contains(argument));
        let remove = arguments
            .remove
            .iter()
            .filter(|argument| present.contains(argument));
        self.admin("deploy")
            .arg(format!("--os={}", self.stateroot(&before)?))
            // Pruning reads the whole repository; it waits for `cleanup`, after the reboot.
            .arg("--no-prune")
            .args(add.map(|argument| format!("--karg-append={argument}")))
            .args(remove.map(|argument| format!("--karg-delete={argument}")))
            .arg(image_ref(image))
            .run()?;
        let before = before.ids();
        let mut found = self.status()?.0.into_iter();
        found.find(|d| !before.contains(&d.id)).ok_or_else(|| {
            OsError::Unexpected(
                "no new deployment after `ostree admin deploy` succeeded".to_owned(),
            )
        })
    }

    fn root_of(&self, deployment: &Deployment) -> Utf8PathBuf {
        self.sysroot.root_of(deployment)
    }

    fn kernel_arguments(&self) -> Result<Vec<String>, OsError> {
        self.sysroot.kernel_arguments(&self.status()?)
    }

    fn soft_reboot(&self) -> Result<Option<SoftReboot>, OsError> {
        Tools::default().soft_reboot()
    }

    fn discard(&self, deployment: &DeploymentId) -> Result<(), OsError> {
        if self.status()?.is_next(deployment) {
            self.sysroot.make_writable()?;
            self.admin("undeploy").arg("0").run()?;
        }
        Ok(())
    }

    fn rollback(&self) -> Result<(), OsError> {
        let deployments = self.status()?;
        // Done already: what was booted before this boot is the next.
        if deployments.booted().is_some() && deployments.pending().is_some() {
            return Ok(());
        }
        let at = deployments
            .rollback()
            .and_then(|rollback| deployments.0.iter().position(|d| d == rollback));
        self.sysroot.make_writable()?;
        boot_entry::make_first(&self.sysroot.0, at.ok_or(OsError::NoRollback)?)
    }

    fn cleanup(&self, keep: &[Digest]) -> Result<(), OsError> {
        let deployed = self.status()?.0.into_iter().filter_map(|d| d.image);
        let kept: Vec<String> = deployed
            .chain(keep.iter().copied())
            .map(|image| image_ref(&image))
            .collect();
        let mut layers: Vec<String> = Vec::new();
        let mut stale = 0;
        for name in self.repo.refs(IMAGE_REF)? {
            if kept.contains(&name) {
                let chain = self.repo.metadata(&name, LAYERS_KEY)?.unwrap_or_default();
                layers.extend(chain.split(' ').map(|hex| format!("{LAYER_REF}{hex}")));
            } else {
                self.repo.delete_ref(&name)?;
                stale += 1;
            }
        }
        for name in self.repo.refs(LAYER_REF)? {
            if !layers.contains(&name) {
                self.repo.delete_ref(&name)?;
                stale += 1;
            }
        }
        if stale > 0 {
            tracing::info!(refs = stale, "removing images that no deployment needs");
            self.admin("cleanup").run()?;
        }
        Ok(())
    }
}

fn layers(image: &oci::Image, pull_spec: &str) -> Result<Vec<Layer>, OsError> {
    let problem = |problem: String| OsError::Image {
        image: pull_spec.to_owned(),
        problem,
    };
    let diff_ids: Vec<Digest> = image
        .config
        .rootfs()
        .diff_ids()
        .iter()
        .map(|text| {
            text.parse()
                .map_err(|error: oci::DigestError| problem(error.to_string()))
        })
        .collect::<Result<_, _>>()?;
    let descriptors = image.manifest.layers();
    if diff_ids.len() != descriptors.len() {
        return Err(problem(format!(
            "its manifest has {} layers and its configuration {}",
            descriptors.len(),
            diff_ids.len()
        )));
    }
    let chain = chain_ids(&diff_ids);
    descriptors
        .iter()
        .zip(diff_ids.into_iter().zip(chain))
        .map(|(descriptor, (diff_id, chain_id))| {
            Ok(Layer {
                digest: digest_of(descriptor).map_err(|error| problem(error.to_string()))?,
                media_type: descriptor.media_type().to_string(),
                diff_id,
                chain_id,
            })
        })
        .collect()
}
