//! Which backend a host is for.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use camino::Utf8Path;
use tokio::runtime::Handle;

use super::bootc::{self, Bootc};
use super::ostree::Ostree;
use super::rpm_ostree::{Patience, RpmOstree};
use super::tools::Tools;
use super::{Os, OsError};

/// The backends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BackendName {
    /// Hosts that bootc updates.
    Bootc,
    /// Hosts that rpm-ostree updates.
    RpmOstree,
    /// Any ostree host.
    Ostree,
}

impl fmt::Display for BackendName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            BackendName::Bootc => "bootc",
            BackendName::RpmOstree => "rpm-ostree",
            BackendName::Ostree => "ostree",
        })
    }
}

impl FromStr for BackendName {
    type Err = OsError;

    fn from_str(text: &str) -> Result<Self, OsError> {
        match text {
            "bootc" => Ok(BackendName::Bootc),
            "rpm-ostree" => Ok(BackendName::RpmOstree),
            "ostree" => Ok(BackendName::Ostree),
            other => Err(OsError::Unsupported(format!(
                "expected `bootc`, `rpm-ostree` or `ostree` as host backend, found `{other}`"
            ))),
        }
    }
}

/// A backend and its name.
#[derive(Debug, Clone)]
pub struct Backend {
    /// Which one.
    pub name: BackendName,
    /// The backend.
    pub os: Arc<dyn Os>,
}

/// What a host is, as far as the choice goes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Facts {
    /// It runs from an ostree deployment.
    booted: bool,
    /// The deployment was made by our own backend.
    ours: bool,
    /// bootc is there.
    bootc: bool,
    /// bootc says that it can update the host.
    bootc_compatible: bool,
    /// rpm-ostree is there.
    rpm_ostree: bool,
    /// The `ostree` tool is there.
    ostree: bool,
}

/// Decides, or says what is missing.
fn decide(facts: Facts, wanted: Option<BackendName>) -> Result<BackendName, String> {
    if !facts.booted {
        return Err(
            "it does not run from an ostree deployment (there is no `/run/ostree-booted`); install it from a bootc \
             or ostree image"
                .to_owned(),
        );
    }
    if let Some(wanted) = wanted {
        return match (wanted, facts) {
            (BackendName::Bootc, Facts { bootc: false, .. })
            | (
                BackendName::RpmOstree,
                Facts {
                    rpm_ostree: false, ..
                },
            )
            | (BackendName::Ostree, Facts { ostree: false, .. }) => Err(format!(
                "the `{wanted}` backend was asked for, and there is no `{wanted}`; install it or leave the choice open"
            )),
            (
                BackendName::Bootc,
                Facts {
                    bootc_compatible: false,
                    ..
                },
            ) => Err(
                "the `bootc` backend was asked for, and `bootc status` says that it cannot update this host; remove \
                 layered packages, or leave the choice open"
                    .to_owned(),
            ),
            _ => Ok(wanted),
        };
    }
    match facts {
        Facts {
            ours: true,
            ostree: true,
            ..
        } => Ok(BackendName::Ostree),
        Facts {
            bootc_compatible: true,
            ..
        } => Ok(BackendName::Bootc),
        Facts {
            rpm_ostree: true, ..
        } => Ok(BackendName::RpmOstree),
        Facts { ostree: true, .. } => Ok(BackendName::Ostree),
        Facts { .. } => Err(
            "it runs from an ostree deployment and has none of the tools `bootc`, `rpm-ostree` and `ostree`; add one \
             to its image"
                .to_owned(),
        ),
    }
}

/// Chooses the backend of the running host, or takes the one that is wanted when it fits.
///
/// # Errors
/// When none fits, with what to do.
pub fn choose(
    wanted: Option<BackendName>,
    root: &Utf8Path,
    state_dir: &Utf8Path,
    runtime: Handle,
) -> Result<Backend, OsError> {
    let tools = Tools::default();
    let ostree = Ostree::new(root, None, state_dir, runtime);
    let bootc = tools.has("bootc");
    let facts = Facts {
        booted: root.join("run/ostree-booted").exists(),
        bootc,
        // A status that cannot be read is no reason to fail while another tool can do it.
        bootc_compatible: bootc
            && bootc::read(&tools)
                .inspect_err(|error| tracing::warn!("{}", crate::error::chain(error)))
                .is_ok_and(|status| status.compatible),
        rpm_ostree: tools.has("rpm-ostree"),
        ostree: tools.has("ostree"),
        ours: tools.has("ostree") && ostree.booted_is_ours()?,
    };
    let name = decide(facts, wanted).map_err(|problem| {
        OsError::Unsupported(format!("this host cannot be updated: {problem}"))
    })?;
    tracing::info!(backend = %name, ?facts, "chose the host's backend");
    let os: Arc<dyn Os> = match name {
        BackendName::Bootc => Arc::new(Bootc::new(root, tools)),
        BackendName::RpmOstree => Arc::new(RpmOstree::new(root, tools, Patience::default())),
        BackendName::Ostree => Arc::new(ostree),
    };
    Ok(Backend { name, os })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_host_gets_the_backend_that_fits() {
        let booted = Facts {
            booted: true,
            ostree: true,
            ..Facts::default()
        };
        let check = |facts: Facts, expected: BackendName| {
            assert_eq!(decide(facts, None).unwrap(), expected, "{facts:?}");
        };
        check(booted, BackendName::Ostree);
        let rpm_ostree = Facts {
            rpm_ostree: true,
            ..booted
        };
        check(rpm_ostree, BackendName::RpmOstree);
        let layered = Facts {
            bootc: true,
            ..rpm_ostree
        };
        check(layered, BackendName::RpmOstree);
        let bootc = Facts {
            bootc_compatible: true,
            ..layered
        };
        check(bootc, BackendName::Bootc);
        check(
            Facts {
                ours: true,
                ..bootc
            },
            BackendName::Ostree,
        );
        assert_eq!(
            decide(bootc, Some(BackendName::RpmOstree)).unwrap(),
            BackendName::RpmOstree
        );
    }

    #[test]
    fn what_does_not_fit_is_said_with_a_remedy() {
        let check = |facts: Facts, wanted: Option<BackendName>, expected: &str| {
            let problem = decide(facts, wanted).unwrap_err();
            assert!(problem.contains(expected), "{problem}");
        };
        let booted = Facts {
            booted: true,
            ..Facts::default()
        };
        check(
            Facts::default(),
            None,
            "does not run from an ostree deployment",
        );
        check(booted, None, "add one to its image");
        check(booted, Some(BackendName::Bootc), "there is no `bootc`");
        let bootc = Facts {
            bootc: true,
            ..booted
        };
        check(bootc, Some(BackendName::Bootc), "cannot update this host");
        assert!("docker".parse::<BackendName>().is_err());
    }
}
