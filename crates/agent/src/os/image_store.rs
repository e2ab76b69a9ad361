//! The images that bootc and rpm-ostree keep in the ostree repository: one ref for each image, with the manifest's
//! digest in its commit. Both tools bring the `ostree container` command along, which fills it without touching any
//! deployment, and find there what they deploy.

use model::render::split_kernel_arguments;
use oci::{Client, Digest, Reference};

use super::access::Verified;
use super::sysroot::Sysroot;
use super::tools::Tools;
use super::{
    Deployment, Deployments, KernelArguments, OsError, Progress, ProgressSink, Role, access,
};
use crate::command::{Command, CommandError};

/// Refs of images.
const IMAGES: &str = "ostree/container/image";
/// How a digest is written in such a ref, which has letters and digits as they are and of the rest only some.
const DIGEST_IN_REF: &str = "sha256_3A_";
/// Commit metadata: the manifest's digest.
pub(super) const DIGEST_KEY: &str = "ostree.manifest-digest";

/// An image of the store.
struct Stored {
    /// Its ref.
    name: String,
    /// Its manifest's.
    image: Digest,
    /// The digest that it was asked for by: of a list, perhaps.
    named: Option<Digest>,
}

impl Stored {
    fn is_of(&self, image: &Digest) -> bool {
        self.image == *image || self.named.as_ref() == Some(image)
    }
}

/// The digest in the ref of an image that was asked for by digest.
fn named_in(name: &str) -> Option<Digest> {
    let (_, hex) = name.rsplit_once(DIGEST_IN_REF)?;
    Digest::from_hex(hex).ok()
}

/// The store of one host.
#[derive(Debug)]
pub(super) struct ImageStore {
    pub(super) sysroot: Sysroot,
    pub(super) tools: Tools,
}

impl ImageStore {
    fn ostree(&self, verbs: &[&str]) -> Command {
        let repo = format!("--repo={}", self.sysroot.repo());
        let command = self.tools.command("ostree");
        command.args(verbs.iter().copied()).arg(repo)
    }

    /// Whether the image is there.
    pub(super) fn has(&self, image: &Digest) -> Result<bool, OsError> {
        Ok(self.images()?.iter().any(|found| found.is_of(image)))
    }

    /// Brings an image there by its digest.
    pub(super) fn pull(
        &self,
        image: &str,
        client: &Client,
        progress: ProgressSink<'_>,
    ) -> Result<Digest, OsError> {
        let reference = access::reference(image)?;
        let digest = reference.digest().ok_or_else(|| OsError::Image {
            image: image.to_owned(),
            problem: "it is not named by its digest".to_owned(),
        })?;
        let verified = access::check(&self.sysroot.0, &reference)?;
        if self.has(&digest)? {
            return Ok(digest);
        }
        access::grant(&self.sysroot.0, client, &reference)?;
        self.sysroot.make_writable()?;
        // The tool tells its progress to people alone.
        progress(Progress::default());
        let repo = self.sysroot.repo();
        self.tools
            .command("ostree")
            .args(["container", "image", "pull", "--quiet"])
            .arg(repo.as_str())
            .arg(verified.image_reference(&reference))
            .run()
            .map_err(|error| OsError::Pull {
                image: image.to_owned(),
                source: error.into(),
            })?;
        match self.has(&digest)? {
            true => Ok(digest),
            false => Err(OsError::Unexpected(format!(
                "no image `{digest}` after `ostree container image pull` succeeded"
            ))),
        }
    }

    /// Removes images that neither a deployment nor `keep` needs, and their layers.
    pub(super) fn cleanup(
        &self,
        deployments: &Deployments,
        keep: &[Digest],
    ) -> Result<(), OsError> {
        let is_deployed = |found: &Stored| deployments.0.iter().any(|d| d.is_of(&found.image));
        let stale: Vec<String> = self
            .images()?
            .into_iter()
            .filter(|found| !is_deployed(found) && !keep.iter().any(|keep| found.is_of(keep)))
            .map(|found| found.name)
            .collect();
        if stale.is_empty() {
            return Ok(());
        }
        self.sysroot.make_writable()?;
        tracing::info!(
            images = stale.len(),
            "removing images that no deployment needs"
        );
        for name in stale {
            self.ostree(&["refs"]).arg("--delete").arg(name).run()?;
        }
        self.ostree(&["container", "image", "prune-layers"]).run()?;
        self.tools
            .command("ostree")
            .args(["admin", "cleanup"])
            .arg(format!("--sysroot={}", self.sysroot.0))
            .run()?;
        Ok(())
    }

    /// Stages the booted image again, with other kernel arguments: for a configuration that takes a reboot by itself.
    pub(super) fn stage_booted(
        &self,
        booted: &Deployment,
        deployments: &Deployments,
        arguments: &KernelArguments,
    ) -> Result<(), OsError> {
        let present = self.sysroot.kernel_arguments(deployments)?;
        let add = arguments.add.iter().filter(|a| !present.contains(a));
        let remove = arguments.remove.iter().filter(|a| present.contains(a));
        // Keeps what the tools know of where the image came from.
        let root = self.sysroot.root_of(booted);
        self.tools
            .command("ostree")
            .args(["admin", "deploy", "--stage", "--no-prune"])
            .arg(format!("--sysroot={}", self.sysroot.0))
            .arg(format!("--os={}", booted.os))
            .arg(format!("--origin-file={root}.origin"))
            .args(add.map(|argument| format!("--karg-append={argument}")))
            .args(remove.map(|argument| format!("--karg-delete={argument}")))
            .arg(&booted.id.checksum)
            .run()?;
        Ok(())
    }

    /// Changes the kernel arguments of the deployment that is next, where they are not as wanted already.
    pub(super) fn change_arguments(&self, arguments: &KernelArguments) -> Result<(), OsError> {
        let printed = self.tools.command("rpm-ostree").arg("kargs").run()?;
        let present = split_kernel_arguments(&printed);
        let is_there = |argument: &&String| present.contains(argument);
        let add: Vec<&String> = arguments.add.iter().filter(|a| !is_there(a)).collect();
        let remove: Vec<&String> = arguments.remove.iter().filter(is_there).collect();
        if add.is_empty() && remove.is_empty() {
            return Ok(());
        }
        self.tools
            .command("rpm-ostree")
            .arg("kargs")
            .args(add.iter().map(|a| format!("--append-if-missing={a}")))
            .args(remove.iter().map(|a| format!("--delete-if-present={a}")))
            .run()?;
        Ok(())
    }

    /// Where an image that is not booted comes from, by digest, when the host's policy lets it pass.
    pub(super) fn origin(
        &self,
        image: &Digest,
        pull_spec: Option<&str>,
    ) -> Result<(Reference, Verified), OsError> {
        let spec = pull_spec.ok_or_else(|| OsError::Image {
            image: image.to_string(),
            problem: "it is not booted, and nothing says where it comes from".to_owned(),
        })?;
        let reference = access::reference(spec)?.with_digest(*image);
        let verified = access::check(&self.sysroot.0, &reference)?;
        Ok((reference, verified))
    }

    fn images(&self) -> Result<Vec<Stored>, OsError> {
        let names = self.ostree(&["refs"]).args(["--list", IMAGES]).run()?;
        let mut found = Vec::new();
        for name in names.lines() {
            if let Some(image) = self.digest(name)? {
                found.push(Stored {
                    name: name.to_owned(),
                    image,
                    named: named_in(name),
                });
            }
        }
        Ok(found)
    }

    fn digest(&self, revision: &str) -> Result<Option<Digest>, CommandError> {
        let (status, printed, _) = self
            .ostree(&["show"])
            .arg(format!("--print-metadata-key={DIGEST_KEY}"))
            .arg(revision)
            .output()?;
        let text = printed.trim().trim_matches('\'');
        Ok(text.parse().ok().filter(|_| status.success()))
    }
}

/// The deployment that a tool was to stage.
pub(super) fn staged_of(deployments: Deployments, image: &Digest) -> Result<Deployment, OsError> {
    let next = deployments
        .0
        .into_iter()
        .next()
        .filter(|d| matches!(d.role, Role::Staged | Role::Pending) && d.is_of(image));
    next.ok_or_else(|| {
        OsError::Unexpected(format!(
            "no deployment of `{image}` to be next, after it was staged"
        ))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ref_tells_by_what_digest_an_image_was_asked_for() {
        let hex = "ab".repeat(32);
        let name = format!("{IMAGES}/docker_3A__2F__2Fquay.io/example/os_40_sha256_3A_{hex}");
        assert_eq!(named_in(&name), Digest::from_hex(&hex).ok());
        let tag = format!("{IMAGES}/docker_3A__2F__2Fquay.io/example/os_3A_stable");
        assert_eq!(named_in(&tag), None);
    }
}
