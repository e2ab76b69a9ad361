//! Keeps one MachineConfigNode for every node of a pool, and its spec in step with what the node was told.

use futures::{StreamExt, stream};
use k8s_openapi::api::core::v1::Node;
use kube::api::{Api, ObjectMeta, PostParams};
use kube::{Resource, ResourceExt};
use model::api::{
    MachineConfigNode, MachineConfigNodeSpec, MachineConfigPool, NOT_YET_SET, Named,
    NodeConfigImage, NodeConfigVersion,
};
use model::node::NodeView;
use model::rollout::Seen;
use serde_json::json;

use crate::cache::Cache;
use crate::context::Context;
use crate::error::{Doing, Result};
use crate::pool::WRITES_AT_ONCE;

/// Makes or corrects what is not as it should be.
pub(super) async fn follow(ctx: &Context, pool: &MachineConfigPool, seen: &Seen) -> Result<()> {
    let pool = pool.name_any();
    let each: Vec<_> = seen
        .nodes
        .iter()
        .map(|node| follow_one(ctx, &pool, node))
        .collect();
    let done: Vec<Result<()>> = stream::iter(each).buffered(WRITES_AT_ONCE).collect().await;
    done.into_iter().collect()
}

async fn follow_one(ctx: &Context, pool: &str, node: &NodeView) -> Result<()> {
    let wanted = spec(pool, node);
    let object = match Cache::get(&ctx.cache.machine_config_nodes, &node.name) {
        Some(object) if object.spec == wanted => return Ok(()),
        Some(object) => object,
        None => return create(ctx, &node.name, wanted).await,
    };
    // An absent image has to be said, or the merge would leave the old one.
    let mut change = json!({"spec": wanted});
    if wanted.config_image.is_none() {
        change["spec"]["configImage"] = serde_json::Value::Null;
    }
    ctx.merge(object.as_ref(), change).await.map(drop)
}

async fn create(ctx: &Context, name: &str, spec: MachineConfigNodeSpec) -> Result<()> {
    let Some(node) = Cache::get::<Node>(&ctx.cache.nodes, name) else {
        return Ok(());
    };
    let object = MachineConfigNode {
        metadata: ObjectMeta {
            name: Some(name.to_owned()),
            owner_references: node.controller_owner_ref(&()).map(|owner| vec![owner]),
            ..ObjectMeta::default()
        },
        spec,
        status: None,
    };
    let made = Api::<MachineConfigNode>::all(ctx.client.clone())
        .create(&PostParams::default(), &object)
        .await
        .doing(|| format!("create MachineConfigNode `{name}`"));
    match made {
        Err(error) if error.is_conflict() => Ok(()),
        other => other.map(drop),
    }
}

fn spec(pool: &str, node: &NodeView) -> MachineConfigNodeSpec {
    let desired = node.desired.as_ref();
    MachineConfigNodeSpec {
        node: Named::new(&node.name),
        pool: Named::new(pool),
        config_version: NodeConfigVersion {
            desired: desired.map_or(NOT_YET_SET.to_owned(), |target| target.config.clone()),
        },
        config_image: desired
            .and_then(|target| target.image.clone())
            .map(|desired_image| NodeConfigImage { desired_image }),
    }
}
