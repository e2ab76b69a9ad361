//! `caprock takeover`: lets Caprock act on a cluster that has the Machine Config Operator, and gives it back.

use anyhow::anyhow;
use k8s_openapi::api::core::v1::{ConfigMap, Node};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::Client;
use kube::api::{Api, DeleteParams, ListParams, Patch, PatchParams};
use model::api::MachineConfigPool;
use model::keys;
use model::node::NodeView;
use model::ownership::{Cluster, DEPLOYMENTS, Found, obstacles};
use model::skew;

use crate::cli;
use crate::client::client;
use crate::exit::{Failure, refused};
use crate::output;
use crate::ownership::{look, openshift, running};

pub(crate) async fn run(args: cli::Takeover) -> Result<(), Failure> {
    let client = client(&args.cluster).await?;
    let evidence = look(&client).await?;
    if args.undo {
        return undo(&client, evidence.taken_over.is_some()).await;
    }
    if evidence.operator == Found::Absent {
        output::words(
            "nothing to take over: this cluster has no Machine Config Operator, so Caprock acts already\n",
        );
        return Ok(());
    }
    if evidence.taken_over.is_some() && evidence.running.is_empty() {
        output::words("this cluster was taken over already\n");
        return Ok(());
    }
    let found = obstacles(&seen(&client).await?);
    if !found.is_empty() {
        let lines: String = found.iter().map(|line| format!("\n  - {line}")).collect();
        return Err(refused(anyhow!(
            "this cluster cannot be taken over yet:{lines}"
        )));
    }
    output::words(
        "Caprock's controllers, builders and agents begin to act within a minute. They render every pool anew, under other \
         names of the same content, and change nothing on a node before its pool is unpaused: read `caprock plan`, then \
         unpause one pool at a time. `caprock takeover --undo` is the way back.\n",
    );
    if !args.confirm {
        return Err(refused(anyhow!("nothing was changed")).hint("say `--confirm` to take over"));
    }
    let marker = ConfigMap {
        metadata: ObjectMeta {
            name: Some(keys::TAKEOVER.to_owned()),
            ..ObjectMeta::default()
        },
        data: Some(
            [
                ("since".to_owned(), jiff::Timestamp::now().to_string()),
                ("version".to_owned(), skew::VERSION.to_owned()),
            ]
            .into(),
        ),
        ..ConfigMap::default()
    };
    markers(&client)
        .patch(
            keys::TAKEOVER,
            &PatchParams::apply("caprock").force(),
            &Patch::Apply(&marker),
        )
        .await?;
    output::words("taken over\n");
    Ok(())
}

/// Gives the cluster back: Caprock stops, and whoever wants scales the other operator up again.
async fn undo(client: &Client, taken_over: bool) -> Result<(), Failure> {
    if !taken_over {
        output::words("this cluster was not taken over\n");
        return Ok(());
    }
    match markers(client)
        .delete(keys::TAKEOVER, &DeleteParams::default())
        .await
    {
        Err(kube::Error::Api(status)) if status.code == 404 => {}
        other => drop(other?),
    }
    output::words(&format!(
        "given back: Caprock's parts stand by within a minute. Then take the override out of ClusterVersion `version`, or scale \
         Deployment `{}` up; its pools come to their own rendered names again\n",
        DEPLOYMENTS[0]
    ));
    Ok(())
}

fn markers(client: &Client) -> Api<ConfigMap> {
    Api::namespaced(client.clone(), keys::NAMESPACE)
}

async fn seen(client: &Client) -> Result<Cluster, Failure> {
    let all = ListParams::default();
    let pools: Api<MachineConfigPool> = Api::all(client.clone());
    let nodes: Api<Node> = Api::all(client.clone());
    let (pools, nodes, running, managed) = tokio::try_join!(
        pools.list(&all),
        nodes.list(&all),
        running(client),
        is_managed(client)
    )?;
    Ok(Cluster {
        running,
        managed,
        pools: pools.items,
        nodes: nodes.iter().map(NodeView::of).collect(),
    })
}

/// Whether the Cluster Version Operator keeps the Machine Config Operator running.
async fn is_managed(client: &Client) -> kube::Result<bool> {
    let versions = openshift(client, "ClusterVersion", "clusterversions");
    let Some(version) = versions.get_opt("version").await? else {
        return Ok(false);
    };
    let overrides = version.data["spec"]["overrides"].as_array().cloned();
    let is_unmanaged = overrides.unwrap_or_default().iter().any(|component| {
        component["kind"] == "Deployment"
            && component["name"] == DEPLOYMENTS[0]
            && component["namespace"] == keys::NAMESPACE
            && component["unmanaged"] == true
    });
    Ok(!is_unmanaged)
}
