#![allow(clippy::unwrap_used)]

use std::sync::atomic::AtomicUsize;
use std::time::Instant;

use apiserver::{ApiServer, Config, Token};
use kube::api::{DeleteParams, ListParams, Patch, PatchParams};
use serde_json::json;
use tower::ServiceExt;

use super::*;

const TOKEN: &str = "a token that only tests know";

/// What OpenShift has and other clusters do not.
const OPENSHIFT: &str = include_str!("../../tests/peer/objects/kinds.yaml");

struct World {
    _dir: tempfile::TempDir,
    client: Client,
}

impl World {
    fn new(crds: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut config = Config::new(dir.path().join("api"));
        config.tokens = vec![Token::new("admin", &["system:masters"], TOKEN)];
        config.crds = serde_saphyr::from_multiple(crds).unwrap();
        config.namespaces.push(keys::NAMESPACE.to_owned());
        let router = ApiServer::open(config).unwrap().router_as(TOKEN);
        let service = tower::service_fn(move |request: http::Request<kube::client::Body>| {
            router.clone().oneshot(request)
        });
        World {
            client: Client::new(service, "default"),
            _dir: dir,
        }
    }

    /// OpenShift with a Machine Config Operator that runs.
    async fn openshift() -> Self {
        let world = World::new(OPENSHIFT);
        let operator: DynamicObject = serde_json::from_value(json!({
            "apiVersion": "config.openshift.io/v1", "kind": "ClusterOperator", "metadata": {"name": "machine-config"},
        }))
        .unwrap();
        openshift(&world.client, "ClusterOperator", "clusteroperators")
            .create(&PostParams::default(), &operator)
            .await
            .unwrap();
        world.scale(1).await;
        world
    }

    async fn scale(&self, replicas: i32) {
        let deployment = json!({
            "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "machine-config-controller"},
            "spec": {
                "replicas": replicas,
                "selector": {"matchLabels": {"k8s-app": "x"}},
                "template": {
                    "metadata": {"labels": {"k8s-app": "x"}},
                    "spec": {"containers": [{"name": "c", "image": "i"}]},
                },
            },
        });
        Api::<Deployment>::namespaced(self.client.clone(), keys::NAMESPACE)
            .patch(
                "machine-config-controller",
                &PatchParams::apply("test").force(),
                &Patch::Apply(deployment),
            )
            .await
            .unwrap();
    }

    async fn mark(&self) {
        let marker =
            json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": keys::TAKEOVER}});
        Api::<ConfigMap>::namespaced(self.client.clone(), keys::NAMESPACE)
            .patch(
                keys::TAKEOVER,
                &PatchParams::apply("test"),
                &Patch::Apply(marker),
            )
            .await
            .unwrap();
    }

    async fn unmark(&self) {
        Api::<ConfigMap>::namespaced(self.client.clone(), keys::NAMESPACE)
            .delete(keys::TAKEOVER, &DeleteParams::default())
            .await
            .unwrap();
    }

    fn part(&self, standby: &Standby) -> Part {
        Part {
            every: Duration::from_millis(10),
            ..Part::new(self.client.clone(), standby, Some("caprock-controller"))
        }
    }
}

async fn until(what: &str, test: impl Fn() -> bool) {
    let began = Instant::now();
    while !test() {
        assert!(began.elapsed() < Duration::from_secs(60), "{what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn on_any_other_cluster_nobody_is_asked_for() {
    let world = World::new("");
    assert_eq!(look(&world.client).await.unwrap(), Evidence::default());
    let standby = Standby::default();
    let ours = world.part(&standby).until_ours().await;
    assert!(!ours.may_change && !standby.holds());
    // OpenShift's API alone is no Machine Config Operator.
    let world = World::new(OPENSHIFT);
    assert_eq!(look(&world.client).await.unwrap().owner(), Owner::Caprock);
}

#[tokio::test]
async fn a_part_stands_by_until_the_cluster_is_taken_over_and_again_when_it_is_given_back() {
    let world = World::openshift().await;
    let (standby, acts) = (Standby::default(), Arc::new(AtomicUsize::new(0)));
    let (part, counted) = (world.part(&standby), acts.clone());
    let running = tokio::spawn(async move {
        let ours = part.until_ours().await;
        let act = |term: CancellationToken| async move {
            counted.fetch_add(1, Ordering::SeqCst);
            term.cancelled().await;
            Ok::<_, std::io::Error>(())
        };
        ours.during(CancellationToken::new(), act).await
    });
    until("it stands by", || standby.holds()).await;
    // A marker alone does not do while the other one runs.
    world.mark().await;
    let owner = look(&world.client).await.unwrap().owner();
    assert!(matches!(owner, Owner::Peer(why) if why.contains("runs again")));
    assert_eq!(acts.load(Ordering::SeqCst), 0);
    world.scale(0).await;
    until("it acts", || acts.load(Ordering::SeqCst) == 1).await;
    assert!(!standby.holds());
    world.unmark().await;
    running.await.unwrap().unwrap();

    let events: Api<Event> = Api::namespaced(world.client.clone(), "default");
    let events = events.list(&ListParams::default()).await.unwrap().items;
    assert_eq!(events.len(), 1, "it says so once: {events:?}");
    assert_eq!(events[0].reason.as_deref(), Some("ReadOnly"));
}
