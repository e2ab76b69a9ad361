//! From nothing to a rolled-out pool, to another version, to nothing, with each tool.

use serde_json::{Value, json};

use crate::cluster::Cluster;
use crate::served;
use crate::tools::{command, ok, tool, words};

const POOL: &str = "
apiVersion: machineconfiguration.openshift.io/v1
kind: MachineConfigPool
metadata: {name: caprock-test}
spec:
  machineConfigSelector: {matchLabels: {machineconfiguration.openshift.io/role: caprock-test}}
  nodeSelector: {matchLabels: {node-role.kubernetes.io/caprock-test: ''}}
---
apiVersion: machineconfiguration.openshift.io/v1
kind: MachineConfig
metadata:
  name: 50-caprock-test
  labels: {machineconfiguration.openshift.io/role: caprock-test}
spec:
  config:
    ignition: {version: 3.5.0}
    storage:
      files: [{path: /etc/caprock-test, contents: {source: 'data:,one'}}]
";

/// What a person does with a tool.
struct Ways<'a> {
    /// Also how one gets to another version.
    install: &'a dyn Fn(&Cluster, &str),
    remove: &'a dyn Fn(&Cluster),
}

fn image_of(cluster: &Cluster, workload: &str) -> String {
    let object = cluster
        .get(&format!("-n caprock-system {workload}"))
        .unwrap();
    let image = &object["spec"]["template"]["spec"]["containers"][0]["image"];
    image.as_str().unwrap().to_owned()
}

fn renders(cluster: &Cluster) -> String {
    let mut name = String::new();
    cluster.eventually("the pool is rendered", || {
        let pool = cluster.get("machineconfigpool caprock-test").unwrap();
        let rendered = pool["spec"]["configuration"]["name"].as_str();
        name = rendered.unwrap_or_default().to_owned();
        !name.is_empty()
    });
    name
}

fn check(cluster: &Cluster, ways: &Ways<'_>) {
    let image = cluster.image.clone();
    (ways.install)(cluster, &image);
    assert_eq!(image_of(cluster, "deployment/caprock-controller"), image);
    cluster.kubectl("wait --for=condition=Established crd/machineconfigpools.machineconfiguration.openshift.io --timeout=60s");
    cluster.apply(POOL);
    renders(cluster);
    // It goes with what the tool removes.
    let lease = "-n openshift-machine-config-operator lease/caprock-controller";
    let owners = &cluster.get(lease).unwrap()["metadata"]["ownerReferences"];
    assert_eq!(owners[0]["kind"], "ClusterRole", "{owners}");

    // A node that is on its way when Caprock is upgraded, and one that a person has cordoned.
    for (name, annotation) in [
        ("caprock-test-ours", "caprock.dev/cordoned-by=drain-x"),
        ("caprock-test-theirs", "people=us"),
    ] {
        cluster.apply(&format!(
            "{{apiVersion: v1, kind: Node, metadata: {{name: {name}}}, spec: {{unschedulable: true}}}}"
        ));
        cluster.kubectl(&format!("annotate node {name} {annotation}"));
    }

    // Doing it again with other images is the upgrade: what people wrote stays as it was.
    let before = cluster.get("machineconfigpool caprock-test").unwrap();
    if std::env::var_os("CAPROCK_TEST_KUBECONFIG").is_none() {
        (ways.install)(cluster, "r.example/caprock:2");
        assert_eq!(
            image_of(cluster, "deployment/caprock-controller"),
            "r.example/caprock:2"
        );
        assert_eq!(
            image_of(cluster, "statefulset/caprock-builder"),
            "r.example/caprock-builder:2"
        );
    }
    let after = cluster.get("machineconfigpool caprock-test").unwrap();
    assert_eq!(before["metadata"]["uid"], after["metadata"]["uid"]);
    assert_eq!(before["spec"], after["spec"]);

    (ways.remove)(cluster);
    cluster.eventually("the namespace is gone", || {
        cluster.get("namespace caprock-system").is_none()
    });
    for kind in ["clusterrole", "clusterrolebinding", "priorityclass"] {
        let listed = cluster.kubectl(&format!(
            "get {kind} -l app.kubernetes.io/part-of=caprock -o name"
        ));
        assert_eq!(listed, "", "{kind} is left");
    }
    // Who leads the next installation need not wait for the one of this.
    cluster.eventually("the controllers' Lease is gone", || {
        cluster.get(lease).is_none()
    });
    // What people wrote is there, and nothing begins while nobody looks.
    let pool = cluster.get("machineconfigpool caprock-test").unwrap();
    assert_eq!(pool["spec"]["paused"], true);
    let cordoned =
        |name: &str| cluster.get(&format!("node {name}")).unwrap()["spec"]["unschedulable"] == true;
    assert!(!cordoned("caprock-test-ours") && cordoned("caprock-test-theirs"));

    cluster.kubectl("delete machineconfigpool,machineconfig --all --wait=false");
    cluster.kubectl("delete node caprock-test-ours caprock-test-theirs");
}

#[test]
fn caprock_installs_upgrades_and_removes() {
    let Some(cluster) = Cluster::start() else {
        return;
    };
    check(
        &cluster,
        &Ways {
            install: &|cluster, image| {
                cluster.caprock(&format!("install --image {image} --timeout 3m"));
            },
            remove: &|cluster| {
                cluster.caprock("uninstall --timeout 3m");
                let lease = "-n openshift-machine-config-operator lease/caprock-controller";
                assert!(cluster.get(lease).is_none(), "the next one has to wait");
                // There is nothing to do, and that is no error.
                cluster.caprock("uninstall");
            },
        },
    );
}

#[test]
fn helm_installs_upgrades_and_removes() {
    let Some(helm) = tool("helm") else { return };
    let Some(cluster) = Cluster::start() else {
        return;
    };
    let helm = |cluster: &Cluster, line: &str| ok(&mut cluster.command(&helm, line));
    check(
        &cluster,
        &Ways {
            install: &|cluster, image| {
                helm(
                    cluster,
                    &format!(
                        "upgrade --install caprock deploy --namespace default --set image={image} --wait --timeout 3m --take-ownership --force-conflicts"
                    ),
                );
            },
            remove: &|cluster| {
                helm(
                    cluster,
                    "uninstall caprock --namespace default --wait --timeout 3m",
                );
            },
        },
    );
}

/// A kustomization as the guide has it: one of ours, with the names that the images were pushed to.
fn overlay(of: &str, image: &str) -> tempfile::TempDir {
    let overlay = tempfile::tempdir_in(crate::tools::root().join("target")).unwrap();
    let (name, tag) = image.rsplit_once(':').unwrap();
    let kustomization = format!(
        "resources: [../../{of}]\nimages:\n\
         - {{name: caprock, newName: {name}, newTag: '{tag}'}}\n\
         - {{name: caprock-builder, newName: {name}-builder, newTag: '{tag}'}}\n"
    );
    std::fs::write(overlay.path().join("kustomization.yaml"), kustomization).unwrap();
    overlay
}

#[test]
fn kubectl_installs_upgrades_and_removes() {
    let Some(cluster) = Cluster::start() else {
        return;
    };
    check(
        &cluster,
        &Ways {
            install: &|cluster, image| {
                let overlay = overlay("deploy", image);
                let line = format!(
                    "apply --server-side --force-conflicts --validate=strict -k {}",
                    overlay.path().display()
                );
                cluster.kubectl(&line);
                cluster.kubectl(
                    "-n caprock-system rollout status deployment/caprock-controller --timeout=3m",
                );
            },
            remove: &|cluster| {
                let overlay = overlay("deploy/remove", &cluster.image);
                let job = overlay.path().display();
                cluster.kubectl(&format!("apply -k {job}"));
                assert_eq!(image_of(cluster, "job/caprock-uninstall"), cluster.image);
                cluster.kubectl("-n caprock-system wait --for=condition=complete job/caprock-uninstall --timeout=3m");
                cluster.kubectl(&format!("delete -k {job}"));
                cluster.kubectl("delete -k deploy/objects --ignore-not-found --timeout=3m");
            },
        },
    );
}

#[test]
fn what_is_under_way_is_not_cut_off() {
    let Some(cluster) = Cluster::start() else {
        return;
    };
    cluster.caprock(&format!("install --image {} --timeout 3m", cluster.image));
    cluster.apply("{apiVersion: v1, kind: Node, metadata: {name: caprock-test-busy}}");
    let annotate = |state: &str| {
        cluster.kubectl(&format!(
        "annotate --overwrite node caprock-test-busy machineconfiguration.openshift.io/currentConfig=rendered-a \
         machineconfiguration.openshift.io/desiredConfig=rendered-b machineconfiguration.openshift.io/state={state}"
    ))
    };
    annotate("Working");
    let caprock = crate::tools::caprock();
    let output = cluster
        .command(&caprock, "uninstall --timeout 1s")
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(
        words(&output).contains("`caprock-test-busy`"),
        "{}",
        words(&output)
    );
    assert!(
        cluster
            .get("-n caprock-system deployment/caprock-controller")
            .is_some()
    );
    // What has failed stays where it is, and is not waited for.
    annotate("Degraded");
    cluster.caprock("uninstall --crds --timeout 3m");
    assert!(
        cluster
            .get("crd machineconfigpools.machineconfiguration.openshift.io")
            .is_none()
    );
    cluster.kubectl("delete node caprock-test-busy");
}

/// Here nobody stands in for a kubelet.
#[test]
fn an_installation_that_waits_in_vain_says_for_which_pod_and_why() {
    let Some(kubectl) = tool("kubectl") else {
        return;
    };
    let scratch = tempfile::tempdir().unwrap();
    let elsewhere = ["--without", "controllers", "--without", "builder"];
    let _server = served::serve(scratch.path(), &elsewhere);
    let kubeconfig = served::kubeconfig(scratch.path());
    let create = |object: Value| {
        let file = scratch.path().join("object.json");
        std::fs::write(&file, object.to_string()).unwrap();
        let line = format!("create -o json -f {}", file.display());
        let made = ok(&mut command(&kubectl, &kubeconfig, &line));
        serde_json::from_str::<Value>(&made).unwrap()
    };
    create(
        json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "caprock-system"}}),
    );
    let labels =
        json!({"app.kubernetes.io/name": "caprock", "app.kubernetes.io/component": "controller"});
    let named = json!({"name": "caprock-controller-6d5f-x", "namespace": "caprock-system", "labels": labels});
    let pod = create(json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": named,
        "spec": {"containers": [{"name": "caprock", "image": "r.example/caprock:1"}]},
    }));
    let uid = &pod["metadata"]["uid"];
    create(json!({
        "apiVersion": "v1", "kind": "Event",
        "metadata": {"name": "caprock-controller-6d5f-x.1", "namespace": "caprock-system"},
        "involvedObject": {"kind": "Pod", "namespace": "caprock-system", "name": "caprock-controller-6d5f-x", "uid": uid},
        "type": "Warning", "reason": "FailedMount", "message": "no volume for `tmp`",
        "lastTimestamp": "2026-01-01T00:00:00Z",
    }));
    let line = "install --image r.example/caprock:1 --timeout 1s";
    let output = command(&crate::tools::caprock(), &kubeconfig, line)
        .output()
        .unwrap();
    let told = words(&output);
    assert_eq!(output.status.code(), Some(1), "{told}");
    assert!(
        told.contains(
            "pod `caprock-controller-6d5f-x`: FailedMount: no volume for `tmp`; make the Secret"
        ),
        "{told}"
    );
}

/// The test is the agent of a node that is not there.
#[test]
fn a_pool_is_rolled_out_by_what_was_installed() {
    const NODE: &str = "caprock-test-node";
    let Some(cluster) = Cluster::start() else {
        return;
    };
    cluster.caprock(&format!("install --image {} --timeout 3m", cluster.image));
    cluster.apply(POOL);
    let first = renders(&cluster);
    let key = |name: &str| format!("machineconfiguration.openshift.io/{name}");
    let annotate = |pairs: &[(&str, &str)]| {
        let pairs = pairs
            .iter()
            .map(|(name, value)| format!("{}={value}", key(name)));
        let pairs = pairs.collect::<Vec<_>>().join(" ");
        cluster.kubectl(&format!("annotate --overwrite node {NODE} {pairs}"));
    };
    cluster.apply(&format!(
        "{{apiVersion: v1, kind: Node, metadata: {{name: {NODE}, labels: {{node-role.kubernetes.io/caprock-test: ''}}}}}}"
    ));
    let ready = r#"{"status":{"conditions":[{"type":"Ready","status":"True"}],"nodeInfo":{"kubeletVersion":"v1.35.0","architecture":"","bootID":"","containerRuntimeVersion":"","kernelVersion":"","kubeProxyVersion":"","machineID":"","operatingSystem":"","osImage":"","systemUUID":""}}}"#;
    cluster.kubectl(&format!(
        "patch node {NODE} --subresource=status --type=merge -p {ready}"
    ));
    annotate(&[
        ("currentConfig", &first),
        ("desiredConfig", &first),
        ("state", "Done"),
    ]);

    let managed = || {
        let node = cluster.get(&format!("node {NODE}")).unwrap();
        node["metadata"]["labels"]["node.caprock.dev/managed"].is_string()
    };
    cluster.eventually("the node is labelled for the DaemonSet", managed);

    cluster.apply(&POOL.replace("data:,one", "data:,two"));
    let told = |name: &str| {
        let node = cluster.get(&format!("node {NODE}")).unwrap();
        let value = node["metadata"]["annotations"][key(name)].as_str();
        (
            value.unwrap_or_default().to_owned(),
            node["spec"]["unschedulable"] == true,
        )
    };
    let mut second = String::new();
    cluster.eventually("the node is told of the second configuration", || {
        second = told("desiredConfig").0;
        second != first
    });
    let drain = format!("drain-{second}");
    annotate(&[("state", "Working"), ("desiredDrain", &drain)]);
    cluster.eventually("the node is drained", || {
        told("lastAppliedDrain") == (drain.clone(), true)
    });
    let uncordon = format!("uncordon-{second}");
    annotate(&[
        ("currentConfig", &second),
        ("state", "Done"),
        ("desiredDrain", &uncordon),
    ]);
    cluster.eventually("the node is uncordoned", || {
        told("lastAppliedDrain") == (uncordon.clone(), false)
    });
    cluster.eventually("the pool says so", || {
        let pool = cluster.get("machineconfigpool caprock-test").unwrap();
        let status = &pool["status"];
        status["updatedMachineCount"] == 1 && status["configuration"]["name"] == second.as_str()
    });

    cluster.caprock("uninstall --timeout 3m");
    assert!(!managed(), "the label stays behind");
    cluster.kubectl(&format!("delete node {NODE}"));
    cluster.kubectl("delete machineconfigpool,machineconfig --all --wait=false");
}
