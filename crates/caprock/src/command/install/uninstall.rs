//! `caprock uninstall`: takes Caprock off a cluster in an order that leaves every node serving.

use std::time::Duration;

use anyhow::{Context, anyhow};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Node, Pod};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{Api, DeleteParams, ListParams, Patch, PatchParams, PostParams};
use kube::{Client, ResourceExt};
use model::api::{MachineConfigPool, v1alpha1};
use model::drain::CORDONED_BY;
use model::keys;
use model::node::{NodeView, Phase, annotation};
use model::ownership::{Found, Owner};
use serde_json::json;
use tokio::time::Instant;

use super::SYSTEM;
use super::apply::Cluster;
use super::objects::{self, name};
use crate::cli::{self, Addition};
use crate::client::client;
use crate::exit::{Failure, refused};
use crate::output;
use crate::ownership::look;

const LOOK: Duration = Duration::from_secs(1);
const WEBHOOK: &str = "caprock-webhook";

pub(crate) async fn run(args: cli::Uninstall) -> Result<(), Failure> {
    let client = client(&args.cluster).await?;
    let deadline = Instant::now() + args.timeout.unsigned_abs();
    let seen = look(&client).await?;
    if args.crds && seen.operator != Found::Absent {
        return Err(refused(anyhow!(
            "the CustomResourceDefinitions belong to this cluster's Machine Config Operator"
        ))
        .hint("leave `--crds` out"));
    }
    // Where Caprock only looked on, pools and nodes are not its own to prepare.
    if seen.owner() == Owner::Caprock {
        prepare(&client, args.force, deadline).await?;
    }
    if args.prepare {
        return Ok(());
    }
    let mut cluster = Cluster::new(client.clone());
    let mut gone = Vec::new();
    let mut all = objects::parse(objects::PARTS);
    all.extend(objects::parse(objects::REMOVE));
    for addition in [Addition::Registry, Addition::Monitoring] {
        all.extend(objects::parse(addition.files()));
    }
    if args.crds {
        let api = objects::parse(objects::API);
        all.extend(
            api.into_iter()
                .filter(|object| object["kind"] == "CustomResourceDefinition"),
        );
    }
    // What works goes before what it needs.
    all.sort_by_key(|object| std::cmp::Reverse(objects::rank(object)));
    for object in all {
        if cluster.delete(&object).await? {
            output::words(&format!("removed {}\n", name(&object)));
            gone.push(object);
        }
    }
    // An agent that was at work until now may have asked for one more.
    release(&client).await?;
    unlabel(&client).await?;
    for object in &gone {
        while cluster.is_there(object).await? {
            if Instant::now() >= deadline {
                return Err(refused(anyhow!("{} does not go", name(object))).hint(
                    "finalizers keep it, or what it contains: `kubectl get` it with `-o yaml`",
                ));
            }
            tokio::time::sleep(LOOK).await;
        }
    }
    give_up_lead(&client).await?;
    output::words("Caprock is removed; nodes keep running what they run\n");
    if !args.crds {
        output::words(
            "pools, configurations and their CustomResourceDefinitions are still there; pools are paused\n",
        );
    }
    Ok(())
}

/// Leaves no node in the middle of an update, none cordoned, and no kind that needs the webhook.
async fn prepare(client: &Client, force: bool, deadline: Instant) -> Result<(), Failure> {
    pause(client).await?;
    if !force {
        finish(client, deadline).await?;
    }
    release(client).await?;
    end_conversion(client, deadline).await
}

/// No node begins an update from here on.
async fn pause(client: &Client) -> Result<(), Failure> {
    let pools: Api<MachineConfigPool> = Api::all(client.clone());
    let listed = match pools.list(&ListParams::default()).await {
        // Nobody has installed the kind, or somebody has removed it.
        Err(kube::Error::Api(status)) if status.code == 404 => return Ok(()),
        listed => listed.context("failed to list MachineConfigPools")?,
    };
    for pool in listed.iter().filter(|pool| !pool.spec.paused) {
        let name = pool.name_any();
        let paused = Patch::Merge(json!({"spec": {"paused": true}}));
        pools
            .patch(&name, &PatchParams::default(), &paused)
            .await
            .with_context(|| format!("failed to pause pool `{name}`"))?;
        output::words(&format!("paused pool `{name}`\n"));
    }
    Ok(())
}

/// Waits until no node is between two versions.
async fn finish(client: &Client, deadline: Instant) -> Result<(), Failure> {
    let mut told = String::new();
    loop {
        let waits: Vec<String> = nodes(client).await?.iter().filter_map(under_way).collect();
        if waits.is_empty() {
            return Ok(());
        }
        let text = waits.join(", ");
        if Instant::now() >= deadline {
            return Err(refused(anyhow!("updates are under way: {text}")).hint(
                "`caprock explain node/NAME` says what a node waits for; `--force` removes without waiting: \
                 what a node has begun, it may not finish",
            ));
        }
        if text != told {
            output::words(&format!("waiting for updates that are under way: {text}\n"));
            told = text;
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// What a node is in the middle of. One whose update failed stays where it is.
fn under_way(node: &Node) -> Option<String> {
    let view = NodeView::of(node);
    match view.phase() {
        Phase::Pending | Phase::Working => Some(format!("`{}`", view.name)),
        Phase::New | Phase::Done | Phase::Failing | Phase::Degraded => None,
    }
}

/// Takes back what cordons are ours.
async fn release(client: &Client) -> Result<(), Failure> {
    let api: Api<Node> = Api::all(client.clone());
    for node in nodes(client).await? {
        if annotation(&node, CORDONED_BY).is_none() {
            continue;
        }
        let name = node.name_any();
        let change = json!({
            "metadata": {"annotations": {CORDONED_BY: null}},
            "spec": {"unschedulable": null},
        });
        api.patch(&name, &PatchParams::default(), &Patch::Merge(change))
            .await
            .with_context(|| format!("failed to uncordon node `{name}`"))?;
        output::words(&format!("uncordoned node `{name}`\n"));
    }
    Ok(())
}

/// Who led has lost the right to give the lead back before it stopped. Controllers of another installation need not wait for
/// the end of its Lease.
async fn give_up_lead(client: &Client) -> Result<(), Failure> {
    let leases: Api<Lease> = Api::namespaced(client.clone(), keys::NAMESPACE);
    let params = DeleteParams::default();
    match leases.delete(keys::CONTROLLER_LEASE, &params).await {
        Ok(_) => Ok(()),
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
        Err(error) => Err(anyhow!(error)
            .context("failed to remove the controllers' Lease")
            .into()),
    }
}

/// Takes back the label that chose nodes for the DaemonSet.
async fn unlabel(client: &Client) -> Result<(), Failure> {
    let api: Api<Node> = Api::all(client.clone());
    let managed = ListParams::default().labels(keys::MANAGED);
    for node in api.list(&managed).await?.items {
        let name = node.name_any();
        let change = Patch::Merge(json!({"metadata": {"labels": {keys::MANAGED: null}}}));
        api.patch(&name, &PatchParams::default(), &change)
            .await
            .with_context(|| format!("failed to unlabel node `{name}`"))?;
    }
    Ok(())
}

async fn nodes(client: &Client) -> Result<Vec<Node>, Failure> {
    let api: Api<Node> = Api::all(client.clone());
    let listed = api.list(&ListParams::default()).await;
    Ok(listed.context("failed to list Nodes")?.items)
}

/// Ends the webhook, then its mention in the CustomResourceDefinitions: a kind whose webhook is gone cannot be read.
async fn end_conversion(client: &Client, deadline: Instant) -> Result<(), Failure> {
    let deployments: Api<Deployment> = Api::namespaced(client.clone(), SYSTEM);
    match deployments
        .delete(WEBHOOK, &DeleteParams::background())
        .await
    {
        Ok(_) => output::words(&format!("removed Deployment {SYSTEM}/{WEBHOOK}\n")),
        Err(kube::Error::Api(status)) if status.code == 404 => {}
        Err(error) => {
            return Err(anyhow!(error)
                .context("failed to remove the webhook")
                .into());
        }
    }
    let pods: Api<Pod> = Api::namespaced(client.clone(), SYSTEM);
    let of_webhook = ListParams::default().labels("app.kubernetes.io/component=webhook");
    // As long as it runs, it would write the mention again.
    while !pods.list(&of_webhook).await?.items.is_empty() {
        if Instant::now() >= deadline {
            return Err(refused(anyhow!(
                "the pods of Deployment `{WEBHOOK}` do not end"
            )));
        }
        tokio::time::sleep(LOOK).await;
    }
    let definitions: Api<CustomResourceDefinition> = Api::all(client.clone());
    for name in v1alpha1::CRDS {
        let Some(mut definition) = definitions.get_opt(name).await? else {
            continue;
        };
        let conversion = definition.spec.conversion.take();
        if conversion.is_none_or(|conversion| conversion.strategy != "Webhook") {
            continue;
        }
        for version in &mut definition.spec.versions {
            version.served = version.name != v1alpha1::VERSION;
        }
        definitions
            .replace(name, &PostParams::default(), &definition)
            .await
            .with_context(|| format!("failed to write CustomResourceDefinition `{name}`"))?;
        output::words(&format!("`{name}` is served as `v1` alone\n"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn what_is_under_way_is_waited_for_and_what_failed_is_not() {
        let node = |current: &str, state: &str| -> Node {
            serde_json::from_value(json!({"metadata": {"name": "n", "annotations": {
                keys::CURRENT_CONFIG: current, keys::DESIRED_CONFIG: "b", keys::STATE: state,
            }}}))
            .unwrap()
        };
        assert!(under_way(&node("a", "Working")).is_some());
        assert!(under_way(&node("a", "Done")).is_some());
        assert!(under_way(&node("b", "Done")).is_none());
        assert!(under_way(&node("a", "Degraded")).is_none());
    }
}
