//! The parts of a cluster under the accounts of `deploy/`, with RBAC and policies in force.

use std::sync::{Arc, Mutex};

use k8s_openapi::api::core::v1::{Node, Secret, ServiceAccount};
use k8s_openapi::api::rbac::v1::{Role, RoleBinding};
use kube::api::{Api, DeleteParams, Patch, PatchParams};
use kube::{Client, ResourceExt};
use model::keys;
use serde_json::json;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;

use super::fake::FakeAgent;
use super::world::{World, eventually, ignition};
use crate::leader::{Candidate, TERMS};
use crate::{BuilderParts, Parts, run_parts};

#[path = "../../../../deploy/testing.rs"]
mod deploy;

const SYSTEM: &str = "caprock-system";

/// What the server refused, as `account METHOD path`.
type Refused = Arc<Mutex<Vec<String>>>;

/// A client of an account that notes what is refused.
async fn client(world: &World, namespace: &str, account: &str, refused: &Refused) -> Client {
    let token = deploy::token(&world.client, namespace, account, None).await;
    let (server, account) = (world.server.clone(), account.to_owned());
    let refused = refused.clone();
    let service = tower::service_fn(move |request: http::Request<kube::client::Body>| {
        let router = server.lock().unwrap().as_ref().unwrap().router_as(&token);
        let (account, refused) = (account.clone(), refused.clone());
        async move {
            let asked = format!("{account} {} {}", request.method(), request.uri());
            let response = router.oneshot(request).await;
            if let Ok(response) = &response
                && matches!(response.status().as_u16(), 401 | 403 | 422)
            {
                refused.lock().unwrap().push(asked);
            }
            response
        }
    });
    Client::new(service, "default")
}

/// What a kubelet says of its node.
async fn kubelet(world: &World, node: &str) {
    let status = json!({"status": {
        "conditions": [{"type": "Ready", "status": "True"}],
        "nodeInfo": {"kubeletVersion": "v1.35.0"},
    }});
    world
        .all::<Node>()
        .patch_status(node, &PatchParams::default(), &Patch::Merge(status))
        .await
        .unwrap();
}

async fn access(world: &World, node: &str) -> [bool; 3] {
    let of = keys::NODE_SECRET_NAMESPACE;
    let client = || world.client.clone();
    let account: Api<ServiceAccount> = Api::namespaced(client(), of);
    let role: Api<Role> = Api::namespaced(client(), of);
    let binding: Api<RoleBinding> = Api::namespaced(client(), of);
    [
        account.get_opt(node).await.unwrap().is_some(),
        role.get_opt(node).await.unwrap().is_some(),
        binding.get_opt(node).await.unwrap().is_some(),
    ]
}

async fn until_access(world: &World, node: &str, wanted: bool) {
    eventually("access of the node", || async {
        let seen = access(world, node).await;
        let labelled: Node = world.get(node).await;
        let labelled = labelled.labels().contains_key(keys::MANAGED);
        match seen == [wanted; 3] && labelled == wanted {
            true => Ok(()),
            false => Err((seen, labelled)),
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_roll_out_needs_no_more_than_the_accounts_have() {
    let world = World::without_loops();
    deploy::install(&world.client).await;
    let refused = Refused::default();
    let controllers = client(&world, SYSTEM, "caprock-controller", &refused).await;
    let builder = client(&world, SYSTEM, "caprock-builder", &refused).await;
    let stop = CancellationToken::new();
    let candidate = Candidate {
        client: controllers.clone(),
        identity: "controller-1".to_owned(),
        terms: TERMS,
    };
    let parts = Parts {
        registries: Some(world.registries.clone()),
        candidate: Some(candidate),
        builder: None::<BuilderParts<super::fake::FakeBuilder>>,
        telemetry: Default::default(),
    };
    let controlling = tokio::spawn(run_parts(controllers, parts, stop.clone()));
    let parts = Parts {
        registries: None::<super::fake::FakeRegistries>,
        candidate: None,
        builder: Some(BuilderParts {
            engine: world.builder.clone(),
            identity: "builder-1".to_owned(),
            terms: crate::worker::claim::TERMS,
            parallel_builds: std::num::NonZeroU32::MIN,
        }),
        telemetry: Default::default(),
    };
    let building = tokio::spawn(run_parts(builder, parts, stop.clone()));

    let mut spec = ignition(&[("/etc/motd", "one")], &["autofs.service"]);
    spec["osImageURL"] = json!(super::world::BASE);
    world.config("50-motd", "worker", spec).await;
    world.builder.install("autofs.service");
    world.pool("worker", false).await;
    world.os_config("worker", "FROM configs AS final").await;
    world.until_succeeded().await;
    drop(world.register("worker-1", &["worker"]).await);
    kubelet(&world, "worker-1").await;
    until_access(&world, "worker-1", true).await;

    let node = client(&world, keys::NODE_SECRET_NAMESPACE, "worker-1", &refused).await;
    let secrets: Api<Secret> = Api::namespaced(node.clone(), keys::NODE_SECRET_NAMESPACE);
    eventually("the node's credentials", || secrets.get("worker-1")).await;
    let mut agents = [FakeAgent::new(&node, "worker-1")];
    world.play(&mut agents).await;
    world.until_updated("worker").await;
    // A change, which leaves an older rendered config to be removed, and drains the node again.
    let mut spec = ignition(&[("/etc/motd", "two")], &["autofs.service"]);
    spec["osImageURL"] = json!(super::world::BASE);
    world
        .merge::<model::api::MachineConfig>("50-motd", json!({"spec": spec}))
        .await;
    let first = agents[0].reached[0].0.clone();
    eventually("another version for the node", || async {
        let node: Node = world.get("worker-1").await;
        match node.annotations().get(keys::DESIRED_CONFIG) {
            Some(config) if *config != first => Ok(()),
            other => Err(other.cloned()),
        }
    })
    .await;
    world.play(&mut agents).await;
    assert_eq!(agents[0].reached.len(), 2);
    world.until_updated("worker").await;

    // What somebody took away comes back while the node has a pool, and goes with the pool.
    let roles: Api<Role> = Api::namespaced(world.client.clone(), keys::NODE_SECRET_NAMESPACE);
    let role = roles.get("worker-1").await.unwrap();
    assert_eq!(role.owner_references()[0].kind, "Node");
    let removed = roles.delete("worker-1", &DeleteParams::default()).await;
    removed.unwrap();
    until_access(&world, "worker-1", true).await;
    let unlabel =
        json!({"metadata": {"labels": {format!("{}worker", keys::NODE_ROLE_PREFIX): null}}});
    world.merge::<Node>("worker-1", unlabel).await;
    until_access(&world, "worker-1", false).await;

    stop.cancel();
    controlling.await.unwrap().unwrap();
    building.await.unwrap().unwrap();
    assert_eq!(*refused.lock().unwrap(), Vec::<String>::new());
}

#[tokio::test]
async fn an_agent_that_stands_in_for_a_kubelet_gets_no_account() {
    let world = World::new().await;
    world.pool("worker", false).await;
    drop(world.register("worker-1", &["worker"]).await);
    let secrets: Api<Secret> = Api::namespaced(world.client.clone(), keys::NODE_SECRET_NAMESPACE);
    eventually("the node's credentials", || secrets.get("worker-1")).await;
    let node: Node = world.get("worker-1").await;
    assert!(!node.labels().contains_key(keys::MANAGED));
    assert_eq!(access(&world, "worker-1").await, [false; 3]);
    kubelet(&world, "worker-1").await;
    until_access(&world, "worker-1", true).await;
}
