//! The host's root, for an agent that runs in a container of the host: a DaemonSet's pod.
//!
//! The whole process moves there, so that files, the host's own tools, its D-Bus and its journal are where they are for
//! an agent that systemd started. Tools of the host run with the host's libraries.

use std::fs::DirBuilder;
use std::os::unix::fs::DirBuilderExt;

use anyhow::{Context, anyhow};
use camino::Utf8Path;
use rustix::mount::mount_bind;

use crate::exit::{Failure, refused};

/// Where a pod finds its credential, which is renewed there as long as it runs.
const SERVICE_ACCOUNT: &str = "/var/run/secrets/kubernetes.io/serviceaccount";
/// The same place on a host, where `/var/run` is a link to `/run`.
const SERVICE_ACCOUNT_ON_HOST: &str = "run/secrets/kubernetes.io/serviceaccount";
/// systemd's own sign that a host runs it; it is there in the root of a running host and in no image.
const RUNNING_SYSTEMD: &str = "run/systemd/system";

/// Makes `root` this process's root. The pod's credential stays readable at its path.
pub(crate) fn enter(root: &Utf8Path) -> Result<(), Failure> {
    if !root.join(RUNNING_SYSTEMD).is_dir() {
        let problem = anyhow!(
            "`--host-root {root}`: this is not the root of a running host: `{RUNNING_SYSTEMD}` is not there"
        );
        return Err(refused(problem).hint(
            "mount the host's `/` with everything below it: `hostPath: {path: /}`, `mountPropagation: HostToContainer`",
        ));
    }
    if Utf8Path::new(SERVICE_ACCOUNT).is_dir() {
        let there = root.join(SERVICE_ACCOUNT_ON_HOST);
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&there)
            .with_context(|| format!("failed to make `{there}`"))?;
        mount_bind(SERVICE_ACCOUNT, there.as_std_path())
            .with_context(|| format!("failed to bring the pod's credential to `{there}`; the container must be privileged"))?;
    }
    rustix::process::chroot(root.as_std_path()).with_context(|| {
        format!("failed to change the root to `{root}`; the container must be privileged")
    })?;
    std::env::set_current_dir("/").context("failed to change to the host's `/`")?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_directory_is_no_host() {
        let error = enter(Utf8Path::new("/proc")).expect_err("not the root of a host");
        assert!(
            format!("{error:?}").contains("--host-root /proc"),
            "{error:?}"
        );
    }
}
