//! `caprock logs`: what a build prints, now or when it is over.

use std::time::Duration;

use anyhow::anyhow;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::{Api, Client};
use model::api::{MachineOSBuild, MachineOSConfig};
use model::build_state::BuildState;
use model::{build_log, explain, keys};

use crate::cli;
use crate::client::client;
use crate::exit::{Failure, refused};
use crate::output;

/// How often a log that is followed is looked at. Builders write theirs about once a second.
const LOOK: Duration = Duration::from_millis(500);

pub(crate) async fn run(args: cli::Logs) -> Result<(), Failure> {
    let client = client(&args.cluster).await?;
    let builds: Api<MachineOSBuild> = Api::all(client.clone());
    let logs: Api<ConfigMap> = Api::namespaced(client.clone(), keys::NAMESPACE);
    let build = if args.follow {
        wait_for(&client, &builds, &args.build).await?
    } else {
        match find(&client, &builds, &args.build).await? {
            Meant::Build(build) => build,
            Meant::NotYet(_) => {
                let problem = anyhow!("MachineOSConfig `{}` has no build yet", args.build);
                return Err(refused(problem).hint(format!(
                    "`caprock logs -f {0}` waits for it; `kubectl describe machineosconfig {0}` says what keeps it",
                    args.build
                )));
            }
        }
    };
    let mut position = build_log::Position::default();
    loop {
        // The state is read before the log, so that nothing written before the end is missed.
        let ended = builds
            .get_opt(&build)
            .await?
            .is_none_or(|build| BuildState::of(&build).is_final());
        if let Some(log) = logs.get_opt(&build_log::name(&build)).await? {
            output::result(&position.advance(log.data.as_ref()))?;
        }
        if ended || !args.follow {
            return Ok(());
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// Follows a MachineOSConfig from before it has a build: whoever has just created one need not ask again.
async fn wait_for(
    client: &Client,
    builds: &Api<MachineOSBuild>,
    name: &str,
) -> Result<String, Failure> {
    let mut said = String::new();
    loop {
        let now = match find(client, builds, name).await? {
            Meant::Build(build) => return Ok(build),
            Meant::NotYet(config) => waiting(name, &config),
        };
        if now != said {
            output::words(&now);
            said = now;
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// What is said while there is no build: a trouble that keeps it away would be waited for in vain.
fn waiting(name: &str, config: &MachineOSConfig) -> String {
    match explain::troubles(config).first() {
        Some(trouble) => format!(
            "waiting for the build of MachineOSConfig `{name}`: {}\n",
            trouble.message
        ),
        None => format!("waiting for the build of MachineOSConfig `{name}`\n"),
    }
}

/// What a name is for.
enum Meant {
    /// This build.
    Build(String),
    /// A MachineOSConfig that has no build yet.
    NotYet(Box<MachineOSConfig>),
}

/// The build that is meant: by its own name, or the one that a MachineOSConfig wants now, if it has one.
async fn find(client: &Client, builds: &Api<MachineOSBuild>, name: &str) -> Result<Meant, Failure> {
    if builds.get_opt(name).await?.is_some() {
        return Ok(Meant::Build(name.to_owned()));
    }
    let configs: Api<MachineOSConfig> = Api::all(client.clone());
    let Some(config) = configs.get_opt(name).await? else {
        return Err(refused(anyhow!(
            "there is neither a MachineOSBuild nor a MachineOSConfig `{name}`"
        )));
    };
    let build = config
        .status
        .as_ref()
        .and_then(|status| status.machine_os_build.as_ref());
    Ok(match build {
        Some(build) => Meant::Build(build.name.clone()),
        None => Meant::NotYet(Box::new(config)),
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use serde_json::json;

    use super::*;

    #[test]
    fn who_waits_for_a_build_is_told_what_keeps_it() {
        let config = |status: serde_json::Value| -> MachineOSConfig {
            let spec = json!({"machineConfigPool": {"name": "worker"}, "imageBuilder": {"imageBuilderType": "Job"},
                "renderedImagePushSpec": "r.example/os:latest"});
            serde_json::from_value(json!({
                "apiVersion": "machineconfiguration.openshift.io/v1", "kind": "MachineOSConfig",
                "metadata": {"name": "worker"}, "spec": spec, "status": status,
            }))
            .unwrap()
        };
        let fresh = config(json!({}));
        let words = "waiting for the build of MachineOSConfig `worker`";
        assert_eq!(waiting("worker", &fresh), format!("{words}\n"));
        let kept = config(json!({"conditions": [{
            "type": "Degraded", "status": "True", "reason": "RegistryUnavailable",
            "message": "base image: cannot reach `r.example`: no answer in time", "lastTransitionTime": "2026-01-01T00:00:00Z",
        }]}));
        assert_eq!(
            waiting("worker", &kept),
            format!("{words}: base image: cannot reach `r.example`: no answer in time\n")
        );
    }
}
