//! An agent on a cluster: a kubelet keeps the Node, the agent comes in with the token of its pod, and may do no more than
//! the accounts of `deploy/` let it.

use camino::Utf8Path;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Node, Pod as PodObject, Secret, ServiceAccount};
use k8s_openapi::api::rbac::v1::{Role, RoleBinding};
use kube::api::{Api, DeleteParams, Patch, PatchParams, PostParams};
use model::keys;
use model::node::annotation;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::world::{NODE, World, layered, rendered};
use crate::credentials::{CredentialError, Credentials, Pod};

#[path = "../../../../deploy/testing.rs"]
mod deploy;

const SYSTEM: &str = "caprock-system";
const SERVER: &str = "https://api.test:6443";

async fn create<K>(api: Api<K>, object: Value)
where
    K: Clone + DeserializeOwned + serde::Serialize + std::fmt::Debug,
{
    let object: K = serde_json::from_value(object).unwrap();
    api.create(&PostParams::default(), &object).await.unwrap();
}

/// A Node that a kubelet has registered, with the agent's pod on it.
async fn cluster() -> World {
    let world = World::new().await;
    let client = world.client();
    deploy::install(&client).await;
    create(world.all::<Node>(), json!({"metadata": {"name": NODE}})).await;
    let status = json!({"status": {
        "conditions": [{"type": "Ready", "status": "True", "reason": "KubeletReady"}],
        "nodeInfo": {
            "kubeletVersion": "v1.35.0", "architecture": "", "bootID": "", "containerRuntimeVersion": "",
            "kernelVersion": "", "kubeProxyVersion": "", "machineID": "", "operatingSystem": "", "osImage": "",
            "systemUUID": "",
        },
    }});
    world
        .all::<Node>()
        .patch_status(NODE, &PatchParams::default(), &Patch::Merge(status))
        .await
        .unwrap();
    let pod = json!({
        "metadata": {"name": "agent-1"},
        "spec": {"nodeName": NODE, "containers": [{"name": "agent", "image": "caprock"}]},
    });
    create(Api::<PodObject>::namespaced(client, SYSTEM), pod).await;
    world
}

/// What the controllers make for a node of a pool.
async fn account(world: &World) {
    let (client, of) = (world.client(), keys::NODE_SECRET_NAMESPACE);
    let named = json!({"name": NODE});
    let secret = json!({
        "metadata": named, "type": keys::DOCKER_CONFIG_TYPE,
        "stringData": {keys::DOCKER_CONFIG_KEY: "{\"auths\": {}}"},
    });
    create(Api::<Secret>::namespaced(client.clone(), of), secret).await;
    let rule = json!({
        "apiGroups": [""], "resources": ["secrets"], "resourceNames": [NODE],
        "verbs": ["get", "list", "watch"],
    });
    let role = json!({"metadata": named, "rules": [rule]});
    create(Api::<Role>::namespaced(client.clone(), of), role).await;
    let binding = json!({
        "metadata": named,
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": NODE},
        "subjects": [{"kind": "ServiceAccount", "name": NODE, "namespace": of}],
    });
    create(Api::<RoleBinding>::namespaced(client.clone(), of), binding).await;
    let account = json!({"metadata": named});
    create(Api::<ServiceAccount>::namespaced(client, of), account).await;
}

/// The pod as its agent finds it.
async fn pod(world: &World) -> Pod {
    let token = deploy::token(&world.client(), SYSTEM, "caprock-agent", Some("agent-1")).await;
    Pod::new(world.client_as(&token), SERVER, "the API's authority")
}

fn token(credentials: &Credentials) -> String {
    let dir = credentials.kubeconfig();
    std::fs::read_to_string(dir.with_file_name("token")).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_needs_no_more_than_its_nodes_account_has() {
    let mut world = cluster().await;
    account(&world).await;
    let pod = pod(&world).await;
    let own = Credentials::in_pod(&world.machine.state_dir(), NODE, pod.clone());
    own.exchange(&pod, Timestamp::now()).await.unwrap();
    world.come_in_with(own.clone(), token(&own));
    world.progress_object().await;
    let before = world.all::<Node>().get(NODE).await.unwrap();
    world.start();
    let base = world.machine.booted_image();
    let files = [("/etc/motd", "two")];
    world.settle(&files, json!([])).await;
    let units = json!([{"name": "autofs.service", "enabled": true}]);
    let image = world.machine.publish(layered());
    world.built(image).await;
    world
        .reach("rendered-2", rendered(base, &files, units), Some(image))
        .await;
    assert_eq!(world.refused(), Vec::<String>::new());

    // What a kubelet does is left to it.
    let after = world.all::<Node>().get(NODE).await.unwrap();
    assert_eq!(after.status, before.status);
    assert_eq!(after.metadata.labels, before.metadata.labels);
    let leases: Api<Lease> = Api::namespaced(world.client(), keys::NODE_LEASE_NAMESPACE);
    assert!(leases.get_opt(NODE).await.unwrap().is_none());
    assert_eq!(annotation(&after, keys::STATE), Some("Done"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pods_token_is_exchanged_once_there_is_an_account() {
    let world = cluster().await;
    let pod = pod(&world).await;
    let dir = tempfile::tempdir().unwrap();
    let state_dir = Utf8Path::from_path(dir.path()).unwrap();
    let own = Credentials::in_pod(state_dir, NODE, pod.clone());
    let now = Timestamp::now();
    let refused = own.exchange(&pod, now).await.unwrap_err();
    assert!(
        matches!(&refused, CredentialError::Refused { status, .. } if status.as_u16() == 404),
        "{refused}"
    );
    account(&world).await;
    own.exchange(&pod, now).await.unwrap();
    let kubeconfig = std::fs::read_to_string(own.kubeconfig()).unwrap();
    assert!(kubeconfig.contains(SERVER), "{kubeconfig}");
    let trusted = std::fs::read_to_string(own.authorities()).unwrap();
    assert_eq!(trusted, "the API's authority");
    let ends = own.expires().unwrap().unwrap().duration_since(now);
    assert!(ends <= SignedDuration::from_hours(1), "{ends}");

    // It is renewed by whoever gave it, when two thirds of its life are over.
    let first = token(&own);
    let nobody = world.client_as("nobody's");
    own.renew(&nobody, now).await.unwrap();
    assert_eq!(token(&own), first);
    let later = now + SignedDuration::from_mins(41);
    own.renew(&nobody, later).await.unwrap();
    let second = token(&own);
    assert_ne!(second, first);
    // One that was refused is replaced, but not again and again.
    assert!(!own.replace(later).await.unwrap());
    assert!(
        own.replace(later + SignedDuration::from_mins(3))
            .await
            .unwrap()
    );
    assert_ne!(token(&own), second);

    // A node whose server is away goes on; one whose account is gone does not, once its token has ended.
    let accounts: Api<ServiceAccount> =
        Api::namespaced(world.client(), keys::NODE_SECRET_NAMESPACE);
    let gone = DeleteParams::default();
    accounts.delete(NODE, &gone).await.unwrap();
    own.exchange(&pod, now).await.unwrap();
    let ended = Timestamp::now() + SignedDuration::from_hours(2);
    own.exchange(&pod, ended).await.unwrap_err();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_a_kubelet_keeps_is_left_to_it() {
    let mut world = cluster().await;
    // As a service with `--register-node`, which is wrong there.
    world.progress_object().await;
    let before = world.all::<Node>().get(NODE).await.unwrap();
    world.start();
    let files = [("/etc/motd", "two")];
    world.settle(&files, json!([])).await;
    let after = world.all::<Node>().get(NODE).await.unwrap();
    assert_eq!(after.status, before.status);
    let leases: Api<Lease> = Api::namespaced(world.client(), keys::NODE_LEASE_NAMESPACE);
    assert!(leases.get_opt(NODE).await.unwrap().is_none());
}
