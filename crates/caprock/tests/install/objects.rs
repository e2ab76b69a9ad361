//! The objects alone: the three ways to install mean the same, no field is misspelt, values are checked.

use std::collections::BTreeMap;
use std::path::Path;

use k8s_openapi::api::{
    admissionregistration, apps, batch, core, networking, policy, rbac, scheduling,
};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::tools::{caprock, command, documents, ok, root, tool, words};

const IMAGE: &str = "r.example/caprock:1";

type Objects = BTreeMap<String, Value>;

/// Objects by kind and name, without what a tool adds for itself.
fn by_name(objects: Vec<Value>) -> Objects {
    let objects = objects.into_iter().map(|mut object| {
        let metadata = object["metadata"].as_object_mut().unwrap();
        if let Some(annotations) = metadata
            .get_mut("annotations")
            .and_then(Value::as_object_mut)
        {
            annotations.retain(|key, _| !key.starts_with("helm.sh/"));
            if annotations.is_empty() {
                metadata.remove("annotations");
            }
        }
        let text = |pointer| {
            object
                .pointer(pointer)
                .and_then(Value::as_str)
                .unwrap_or_default()
        };
        let name = format!(
            "{} {}/{}",
            text("/kind"),
            text("/metadata/namespace"),
            text("/metadata/name")
        );
        (name, object)
    });
    objects.collect()
}

fn nowhere() -> &'static Path {
    Path::new("/nonexistent/kubeconfig")
}

fn printed(flags: &str) -> Objects {
    let line = format!("install --image {IMAGE} --print {flags}");
    by_name(documents(&ok(&mut command(&caprock(), nowhere(), &line))))
}

fn assert_same(what: &str, found: &Objects, expected: &Objects) {
    let names = |objects: &Objects| objects.keys().cloned().collect::<Vec<_>>();
    assert_eq!(names(found), names(expected), "{what}");
    for (name, object) in found {
        assert_kept(&format!("{what}: {name}"), object, &expected[name]);
        assert_kept(&format!("{what}: {name}"), &expected[name], object);
    }
}

#[test]
fn the_chart_and_caprock_mean_the_same() {
    let Some(helm) = tool("helm") else { return };
    let template = |values: &str| {
        let line = format!("template caprock deploy --no-hooks --set image={IMAGE} {values}");
        by_name(documents(&ok(&mut command(&helm, nowhere(), &line))))
    };
    assert_same("helm template", &template(""), &printed(""));
    assert_same(
        "helm template with additions",
        &template(
            "--set registry.enabled=true,monitoring.enabled=true,builder.replicas=3,builder.mode=userNamespace \
             --set imagePullSecrets[0].name=pull",
        ),
        &printed(
            "--with registry --with monitoring --builders 3 --builder-mode user-namespace --image-pull-secret pull",
        ),
    );
}

#[test]
fn the_kustomizations_and_caprock_mean_the_same() {
    let Some(kubectl) = tool("kubectl") else {
        return;
    };
    let kustomize = |directory: &str| {
        documents(&ok(&mut command(
            &kubectl,
            nowhere(),
            &format!("kustomize {directory}"),
        )))
    };
    // The images' names are what a person puts into `deploy/kustomization.yaml`.
    let images = |objects: &mut Objects| {
        for object in objects.values_mut() {
            if let Some(image) = object.pointer_mut("/spec/template/spec/containers/0/image") {
                let (name, _) = image.as_str().unwrap().rsplit_once(':').unwrap();
                *image = name.rsplit('/').next().unwrap().into();
            }
        }
    };
    let mut expected = printed("");
    images(&mut expected);
    assert_same("kustomize", &by_name(kustomize("deploy")), &expected);
    let mut all = kustomize("deploy");
    all.extend(kustomize("deploy/registry"));
    all.extend(kustomize("deploy/monitoring"));
    let mut expected = printed("--with registry --with monitoring");
    images(&mut expected);
    assert_same("kustomize with additions", &by_name(all), &expected);

    let overlay = tempfile::tempdir().unwrap();
    // Resources of a kustomization are named from where it is.
    let up = "../".repeat(overlay.path().components().count() - 1);
    let deploy = format!("{up}{}/deploy", root().strip_prefix("/").unwrap().display());
    let text = format!("resources: [{deploy}]\ncomponents: [{deploy}/user-namespaces]\n");
    std::fs::write(overlay.path().join("kustomization.yaml"), text).unwrap();
    let mut expected = printed("--builder-mode user-namespace");
    images(&mut expected);
    let found = by_name(kustomize(&overlay.path().display().to_string()));
    assert_same("kustomize with user namespaces", &found, &expected);
}

/// Reads an object as the type of its kind; what the type does not know is gone when it is written again.
fn typed<T: Serialize + DeserializeOwned>(object: &Value) -> Value {
    let typed: T =
        serde_json::from_value(object.clone()).unwrap_or_else(|error| panic!("{error}: {object}"));
    serde_json::to_value(&typed).unwrap()
}

fn assert_kept(place: &str, given: &Value, kept: &Value) {
    match (given, kept) {
        (Value::Object(given), Value::Object(_)) => {
            for (key, value) in given {
                assert_kept(&format!("{place}.{key}"), value, &kept[key]);
            }
        }
        (Value::Array(given), Value::Array(kept)) => {
            assert_eq!(given.len(), kept.len(), "{place}");
            for (number, (given, kept)) in given.iter().zip(kept).enumerate() {
                assert_kept(&format!("{place}[{number}]"), given, kept);
            }
        }
        // An empty map or list may be left out.
        (Value::Object(given), Value::Null) if given.is_empty() => {}
        (Value::Array(given), Value::Null) if given.is_empty() => {}
        // `1.0` is `1` to some tools.
        (Value::Number(given), Value::Number(kept)) => {
            assert_eq!(given.as_f64(), kept.as_f64(), "{place}");
        }
        _ => assert_eq!(given, kept, "{place}: no such field, or another value"),
    }
}

#[test]
fn no_field_is_unknown_to_kubernetes() {
    let mut objects = printed("--with registry --with monitoring --builder-mode user-namespace");
    let mut remove = Vec::new();
    for file in ["access.yaml", "job.yaml"] {
        remove.extend(documents(
            &std::fs::read_to_string(root().join("deploy/remove").join(file)).unwrap(),
        ));
    }
    objects.extend(by_name(remove));
    for (name, object) in &objects {
        let kept = match object["kind"].as_str().unwrap() {
            "Namespace" => typed::<core::v1::Namespace>(object),
            "ServiceAccount" => typed::<core::v1::ServiceAccount>(object),
            "Service" => typed::<core::v1::Service>(object),
            "Deployment" => typed::<apps::v1::Deployment>(object),
            "StatefulSet" => typed::<apps::v1::StatefulSet>(object),
            "DaemonSet" => typed::<apps::v1::DaemonSet>(object),
            "Job" => typed::<batch::v1::Job>(object),
            "Role" => typed::<rbac::v1::Role>(object),
            "RoleBinding" => typed::<rbac::v1::RoleBinding>(object),
            "ClusterRole" => typed::<rbac::v1::ClusterRole>(object),
            "ClusterRoleBinding" => typed::<rbac::v1::ClusterRoleBinding>(object),
            "PodDisruptionBudget" => typed::<policy::v1::PodDisruptionBudget>(object),
            "NetworkPolicy" => typed::<networking::v1::NetworkPolicy>(object),
            "PriorityClass" => typed::<scheduling::v1::PriorityClass>(object),
            "ValidatingAdmissionPolicy" => {
                typed::<admissionregistration::v1::ValidatingAdmissionPolicy>(object)
            }
            "ValidatingAdmissionPolicyBinding" => {
                typed::<admissionregistration::v1::ValidatingAdmissionPolicyBinding>(object)
            }
            // A schema may hold anything; the server checks it when the definition is made.
            "CustomResourceDefinition" => {
                typed::<apiextensions::v1::CustomResourceDefinition>(object);
                continue;
            }
            // Kinds of the Prometheus operator.
            "PodMonitor" | "PrometheusRule" | "ConfigMap" => continue,
            kind => panic!("{name}: the test does not know the kind `{kind}`"),
        };
        assert_kept(name, object, &kept);
    }
}

/// What a pod of the parts must have, whoever writes the next one.
#[test]
fn every_pod_is_confined_probed_and_bounded() {
    for (name, object) in printed("--with registry") {
        let Some(pod) = object.pointer("/spec/template/spec") else {
            continue;
        };
        assert_eq!(
            pod["serviceAccountName"], object["metadata"]["name"],
            "{name}"
        );
        for container in pod["containers"].as_array().unwrap() {
            let context = &container["securityContext"];
            assert_eq!(context["readOnlyRootFilesystem"], true, "{name}");
            if context["privileged"] != true {
                assert_eq!(context["capabilities"]["drop"][0], "ALL", "{name}");
                assert_eq!(context["allowPrivilegeEscalation"], false, "{name}");
                assert_eq!(pod["securityContext"]["runAsNonRoot"], true, "{name}");
            }
            for probe in ["livenessProbe", "readinessProbe"] {
                assert!(container[probe].is_object(), "{name}: {probe}");
            }
            for bound in ["/resources/requests/cpu", "/resources/limits/memory"] {
                assert!(container.pointer(bound).is_some(), "{name}: {bound}");
            }
        }
    }
}

#[test]
fn values_that_mean_nothing_are_refused() {
    let Some(helm) = tool("helm") else { return };
    let good = format!("template caprock deploy --set image={IMAGE}");
    for (values, told) in [
        ("--set image=", "image"),
        ("--set image=No_Image", "image"),
        ("--set controler.replicas=2", "controler"),
        ("--set controller.replicas=0", "minimum"),
        ("--set controller.replicas=two", "controller/replicas"),
        ("--set controller.replica=2", "replica"),
        ("--set builder.cache.size=many", "builder/cache/size"),
        ("--set agent.maxUnavailable=0%", "agent/maxUnavailable"),
        ("--set webhook.enabled=maybe", "webhook/enabled"),
        ("--set builder.mode=rootless", "builder/mode"),
        ("--set imagePullPolicy=Sometimes", "imagePullPolicy"),
        ("--set builder.extraArgs[0]=oops", "builder/extraArgs"),
        (
            "--set image=r.example/caprock@sha256:0000000000000000000000000000000000000000000000000000000000000000",
            "builder.image",
        ),
    ] {
        let output = command(&helm, nowhere(), &format!("{good} {values}"))
            .output()
            .unwrap();
        assert!(!output.status.success(), "{values} is accepted");
        assert!(
            words(&output).contains(told),
            "{values}: {}",
            words(&output)
        );
    }
}

/// A value changes what it says and nothing else.
#[test]
fn values_reach_the_objects() {
    let Some(helm) = tool("helm") else { return };
    let template = |values: &str| {
        let line = format!("template caprock deploy --no-hooks --set image={IMAGE} {values}");
        by_name(documents(&ok(&mut command(&helm, nowhere(), &line))))
    };
    let plain = template("");
    for (values, object, pointer, expected) in [
        (
            "--set builder.cache.size=1Ti",
            "StatefulSet caprock-system/caprock-builder",
            "/spec/volumeClaimTemplates/0/spec/resources/requests/storage",
            "\"1Ti\"",
        ),
        (
            "--set controller.replicas=3",
            "Deployment caprock-system/caprock-controller",
            "/spec/replicas",
            "3",
        ),
        (
            "--set agent.extraArgs[0]=--pull-bytes-per-second=9",
            "DaemonSet caprock-system/caprock-agent",
            "/spec/template/spec/containers/0/args/3",
            "\"--pull-bytes-per-second=9\"",
        ),
        (
            "--set agent.maxUnavailable=50%",
            "DaemonSet caprock-system/caprock-agent",
            "/spec/updateStrategy/rollingUpdate/maxUnavailable",
            "\"50%\"",
        ),
        (
            "--set builder.nodeSelector.disk=fast",
            "StatefulSet caprock-system/caprock-builder",
            "/spec/template/spec/nodeSelector/disk",
            "\"fast\"",
        ),
    ] {
        let mut with = template(values);
        let found = with[object].pointer(pointer).map(Value::to_string);
        assert_eq!(found.as_deref(), Some(expected), "{values}");
        with.insert(object.to_owned(), plain[object].clone());
        assert_same(values, &with, &plain);
    }
    let without = template(
        "--set webhook.enabled=false,crds.install=false,namespaces.create=false,networkPolicies.enabled=false",
    );
    for name in without.keys() {
        let left_out = [
            "webhook",
            "CustomResourceDefinition",
            "Namespace",
            "NetworkPolicy",
        ];
        assert!(left_out.iter().all(|part| !name.contains(part)), "{name}");
    }
}
