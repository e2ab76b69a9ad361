//! Gives each node of a pool what its agent comes in with where a kubelet runs it: an account of the node's name, which may
//! read the node's Secret and nothing else there; and the label that the agents' DaemonSet goes by.
//!
//! An agent that stands in for a kubelet has a credential of its own, and gets none of this. All of it is owned by the
//! Node, and goes with it.

use std::fmt::Debug;
use std::sync::Arc;

use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::core::v1::{Node, ServiceAccount};
use k8s_openapi::api::rbac::v1::{PolicyRule, Role, RoleBinding, RoleRef, Subject};
use kube::api::{Api, DeleteParams, ObjectMeta, Patch, PatchParams, PostParams, Preconditions};
use kube::runtime::controller::Action;
use kube::runtime::reflector::{ObjectRef, Store};
use kube::{Resource, ResourceExt};
use model::keys;
use model::node::has_kubelet;
use model::pool::Membership;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::cache::{Change, Kind};
use crate::context::Context;
use crate::drive::Wake;
use crate::error::{Doing, Result, has_code};
use crate::pool::observe::membership_of;

const RBAC: &str = "rbac.authorization.k8s.io";

/// What makes a node a member of a pool, and what it has.
pub(crate) fn concerns(change: &Change) -> Wake {
    match change.kind {
        Kind::Node | Kind::NodeAccess => Wake::of(change.name.as_deref()),
        Kind::Pool if change.only_status => Wake::Nobody,
        Kind::Pool => Wake::Everyone,
        _ => Wake::Nobody,
    }
}

/// One look at one node.
pub(crate) async fn reconcile(node: Arc<Node>, ctx: Arc<Context>) -> Result<Action> {
    if has_kubelet(&node) {
        match membership_of(&ctx, &node) {
            Membership::Member(_) => {
                // The account before the agent that asks for its token.
                grant(&ctx, &node).await?;
                label(&ctx, &node, true).await?;
            }
            Membership::Unclaimed => {
                label(&ctx, &node, false).await?;
                withdraw(&ctx, &node).await?;
            }
            // It stays what it was until people have decided.
            Membership::Contested(_) => {}
        }
    }
    Ok(Action::await_change())
}

async fn label(ctx: &Context, node: &Node, managed: bool) -> Result<()> {
    if node.labels().contains_key(keys::MANAGED) == managed {
        return Ok(());
    }
    let value = managed.then_some("");
    ctx.merge(
        node,
        json!({"metadata": {"labels": {keys::MANAGED: value}}}),
    )
    .await?;
    tracing::info!(node = node.name_any(), managed, "labelled");
    Ok(())
}

async fn grant(ctx: &Context, node: &Node) -> Result<()> {
    let cache = &ctx.cache;
    let role = role(node);
    let rights = |role: &Role| json!(role.rules);
    ensure(ctx, &cache.node_roles, &role, rights).await?;
    let binding = binding(node);
    let subjects = |binding: &RoleBinding| json!(binding.subjects);
    ensure(ctx, &cache.node_role_bindings, &binding, subjects).await?;
    // Last: who has an account can use it.
    let account = ServiceAccount {
        metadata: metadata(node),
        automount_service_account_token: Some(false),
        ..ServiceAccount::default()
    };
    ensure(ctx, &cache.node_accounts, &account, |_| Value::Null).await
}

/// Makes an object that is not there; one that says something else is put right.
async fn ensure<K>(
    ctx: &Context,
    store: &Store<K>,
    wanted: &K,
    says: impl Fn(&K) -> Value,
) -> Result<()>
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
        + Clone
        + Debug
        + Serialize
        + DeserializeOwned
        + 'static,
{
    let name = wanted.name_any();
    let api: Api<K> = Api::namespaced(ctx.client.clone(), keys::NODE_SECRET_NAMESPACE);
    let written = match store.get(&ObjectRef::new(&name).within(keys::NODE_SECRET_NAMESPACE)) {
        Some(seen) if says(&seen) == says(wanted) => return Ok(()),
        Some(_) => {
            let (params, change) = (PatchParams::default(), Patch::Merge(wanted));
            api.patch(&name, &params, &change).await
        }
        None => api.create(&PostParams::default(), wanted).await,
    };
    match written {
        // The local copy lagged behind.
        Err(error) if has_code(&error, 409) => Ok(()),
        other => other.map(drop).doing(|| written_as::<K>(&name)),
    }
}

async fn withdraw(ctx: &Context, node: &Node) -> Result<()> {
    let (cache, name) = (&ctx.cache, node.name_any());
    // The account first, and with it every token for it.
    remove(ctx, &cache.node_accounts, &name).await?;
    remove(ctx, &cache.node_role_bindings, &name).await?;
    remove(ctx, &cache.node_roles, &name).await
}

async fn remove<K>(ctx: &Context, store: &Store<K>, name: &str) -> Result<()>
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
        + Clone
        + Debug
        + DeserializeOwned
        + 'static,
{
    let place = ObjectRef::new(name).within(keys::NODE_SECRET_NAMESPACE);
    let Some(seen) = store.get(&place) else {
        return Ok(());
    };
    let this_one = DeleteParams::default().preconditions(Preconditions {
        uid: seen.uid(),
        resource_version: None,
    });
    let api: Api<K> = Api::namespaced(ctx.client.clone(), keys::NODE_SECRET_NAMESPACE);
    match api.delete(name, &this_one).await {
        Err(error) if has_code(&error, 404) || has_code(&error, 409) => Ok(()),
        other => other.map(drop).doing(|| written_as::<K>(name)),
    }
}

fn written_as<K: Resource<DynamicType = ()>>(name: &str) -> String {
    let kind = K::kind(&());
    format!("write {kind} `{}/{name}`", keys::NODE_SECRET_NAMESPACE)
}

fn metadata(node: &Node) -> ObjectMeta {
    ObjectMeta {
        name: Some(node.name_any()),
        namespace: Some(keys::NODE_SECRET_NAMESPACE.to_owned()),
        owner_references: node.owner_ref(&()).map(|owner| vec![owner]),
        ..ObjectMeta::default()
    }
}

/// The Secret of the node's credentials, and no other.
fn role(node: &Node) -> Role {
    let words = |list: &[&str]| list.iter().map(|word| (*word).to_owned()).collect();
    Role {
        metadata: metadata(node),
        rules: Some(vec![PolicyRule {
            api_groups: Some(vec![String::new()]),
            resources: Some(words(&["secrets"])),
            resource_names: Some(vec![node.name_any()]),
            verbs: words(&["get", "list", "watch"]),
            ..PolicyRule::default()
        }]),
    }
}

fn binding(node: &Node) -> RoleBinding {
    RoleBinding {
        metadata: metadata(node),
        role_ref: RoleRef {
            api_group: RBAC.to_owned(),
            kind: "Role".to_owned(),
            name: node.name_any(),
        },
        subjects: Some(vec![Subject {
            kind: "ServiceAccount".to_owned(),
            name: node.name_any(),
            namespace: Some(keys::NODE_SECRET_NAMESPACE.to_owned()),
            ..Subject::default()
        }]),
    }
}
