//! Reads what `rpm-ostree status --json` prints.

use oci::Digest;
use serde::Deserialize;

use super::super::{Deployment, DeploymentId, Deployments, OsError, Role, named};

/// What rpm-ostree says of the host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Status {
    pub(super) deployments: Deployments,
    /// What its daemon is doing.
    pub(super) transaction: Option<String>,
    /// Packages of the running deployment.
    pub(super) booted: Requested,
    /// Packages of the deployment that the next boot takes.
    pub(super) next: Requested,
}

/// What a deployment was asked to have on top of its image, and without what of it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Requested {
    pub(super) added: Vec<String>,
    pub(super) removed: Vec<String>,
}

#[derive(Deserialize)]
struct Printed {
    deployments: Vec<Entry>,
    /// What, for whom, and where.
    #[serde(default)]
    transaction: Option<Vec<String>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Entry {
    osname: String,
    checksum: String,
    serial: u32,
    #[serde(default)]
    booted: bool,
    #[serde(default)]
    staged: bool,
    /// Absent where the origin is no image, or none that is understood.
    container_image_reference_digest: Option<String>,
    /// As the image was asked for.
    container_image_reference: Option<String>,
    #[serde(default)]
    requested_packages: Vec<String>,
    #[serde(default)]
    requested_base_removals: Vec<String>,
}

impl Entry {
    fn image(&self) -> Option<Digest> {
        let digest = self.container_image_reference_digest.as_ref()?;
        digest.parse().ok()
    }

    fn requested(&self) -> Requested {
        Requested {
            added: self.requested_packages.clone(),
            removed: self.requested_base_removals.clone(),
        }
    }
}

impl Status {
    /// Understands the text.
    pub(super) fn parse(text: &str) -> Result<Status, OsError> {
        let printed: Printed = serde_json::from_str(text).map_err(|error| {
            OsError::Unexpected(format!(
                "a status of rpm-ostree that is not as known: {error}"
            ))
        })?;
        let booted = printed.deployments.iter().position(|entry| entry.booted);
        let role = |at: usize, entry: &Entry| match booted {
            _ if entry.booted => Role::Booted,
            _ if entry.staged => Role::Staged,
            Some(booted) if at < booted => Role::Pending,
            Some(booted) if at == booted + 1 => Role::Rollback,
            Some(_) => Role::Other,
            // A sysroot that is not the running host's.
            None if at == 0 => Role::Pending,
            None if at == 1 => Role::Rollback,
            None => Role::Other,
        };
        let of = |entry: Option<&Entry>| entry.map(Entry::requested).unwrap_or_default();
        let (running, next) = (
            of(printed.deployments.iter().find(|entry| entry.booted)),
            of(printed.deployments.first()),
        );
        let deployments = printed.deployments.iter().enumerate();
        let deployments = deployments.map(|(at, entry)| Deployment {
            role: role(at, entry),
            id: DeploymentId {
                checksum: entry.checksum.clone(),
                serial: entry.serial,
            },
            os: entry.osname.clone(),
            image: entry.image(),
            named: named(entry.container_image_reference.as_deref(), entry.image()),
        });
        Ok(Status {
            deployments: Deployments(deployments.collect()),
            booted: running,
            next,
            transaction: printed
                .transaction
                .map(|told| told.into_iter().next().unwrap_or_default()),
        })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::os::shown;

    fn seen(fixture: &str) -> String {
        let status = Status::parse(fixture).unwrap();
        let doing = status.transaction.map(|doing| format!("busy: {doing}"));
        format!(
            "{}{}",
            shown(&status.deployments),
            doing.unwrap_or_default()
        )
    }

    #[test]
    fn booted() {
        insta::assert_snapshot!(seen(include_str!("fixtures/booted.json")));
    }

    #[test]
    fn staged_over_booted_with_rollback() {
        insta::assert_snapshot!(seen(include_str!("fixtures/staged.json")));
    }

    #[test]
    fn staged_is_another_deployment_of_the_booted_image() {
        insta::assert_snapshot!(seen(include_str!("fixtures/staged-equals-booted.json")));
    }

    #[test]
    fn rolled_back_for_the_next_boot() {
        insta::assert_snapshot!(seen(include_str!("fixtures/rollback-pending.json")));
    }

    #[test]
    fn asked_for_by_the_list_of_its_architectures() {
        let printed = include_str!("fixtures/named-by-its-list.json");
        assert!(
            seen(printed).contains("Booted aaaaaa of dddddd"),
            "{}",
            seen(printed)
        );
    }

    #[test]
    fn pinned() {
        insta::assert_snapshot!(seen(include_str!("fixtures/pinned.json")));
    }

    #[test]
    fn unknown_origin() {
        insta::assert_snapshot!(seen(include_str!("fixtures/unknown-origin.json")));
    }

    #[test]
    fn transaction_in_progress() {
        insta::assert_snapshot!(seen(include_str!("fixtures/transaction-in-progress.json")));
    }

    #[test]
    fn broken_output_is_an_error_that_says_so() {
        let error = Status::parse(include_str!("fixtures/broken.json")).unwrap_err();
        assert!(error.to_string().contains("rpm-ostree"), "{error}");
    }
}
