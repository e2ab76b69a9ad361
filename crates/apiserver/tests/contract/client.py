"""Python's official client against the server of $KUBECONFIG, in the namespace that is named; says `done` at the end."""

import sys

from kubernetes import client, config, dynamic, watch
from kubernetes.client.rest import ApiException

namespace = sys.argv[1]
config.load_kube_config()
core, apps = client.CoreV1Api(), client.AppsV1Api()


def refused(code, call, *arguments, **options):
    try:
        call(*arguments, **options)
    except ApiException as error:
        assert error.status == code, error
    else:
        raise AssertionError(f"not refused with {code}")


def labelled(**data):
    return client.V1ConfigMap(metadata=client.V1ObjectMeta(name="a", labels={"x": "y"}), data=data)


made = core.create_namespaced_config_map(namespace, labelled(k="v"))
assert made.metadata.creation_timestamp and made.metadata.managed_fields
refused(409, core.create_namespaced_config_map, namespace, labelled())
refused(422, core.create_namespaced_config_map, namespace, {"metadata": {"name": "A_"}})

# The kinds of patch.
core.patch_namespaced_config_map("a", namespace, {"data": {"k2": "v2"}})
core.patch_namespaced_config_map("a", namespace, [{"op": "remove", "path": "/data/k2"}])
applied = core.patch_namespaced_config_map(
    "a", namespace, {"apiVersion": "v1", "kind": "ConfigMap", "data": {"z": "1"}},
    field_manager="py", _content_type="application/apply-patch+yaml",
)
assert applied.data == {"k": "v", "z": "1"}, applied.data

# Optimistic concurrency.
read = core.read_namespaced_config_map("a", namespace)
read.data["q"] = "1"
assert core.replace_namespaced_config_map("a", namespace, read).data["q"] == "1"
refused(409, core.replace_namespaced_config_map, "a", namespace, read)

# A watch sees what came after its version, in order.
core.delete_namespaced_config_map("a", namespace, body=client.V1DeleteOptions(propagation_policy="Foreground"))
watcher, seen = watch.Watch(), []
since = made.metadata.resource_version
for event in watcher.stream(core.list_namespaced_config_map, namespace, resource_version=since, timeout_seconds=60):
    if event["object"].metadata.name != "a":
        continue
    seen.append((event["type"], int(event["object"].metadata.resource_version)))
    if event["type"] == "DELETED":
        watcher.stop()
assert [kind for kind, _ in seen[:4]] == ["MODIFIED"] * 4 and seen[-1][0] == "DELETED", seen
assert [version for _, version in seen] == sorted({version for _, version in seen}), seen

# The dynamic client finds kinds by discovery.
maps = dynamic.DynamicClient(client.ApiClient()).resources.get(api_version="v1", kind="ConfigMap")
body = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "d"}, "data": {"a": "b"}}
maps.server_side_apply(namespace=namespace, body=body, field_manager="dynamic")
maps.patch(namespace=namespace, name="d", body={"data": {"n": "1"}}, content_type="application/merge-patch+json")
assert maps.get(namespace=namespace, name="d").data.to_dict() == {"a": "b", "n": "1"}

# Subresources.
apps.create_namespaced_deployment(namespace, {
    "metadata": {"name": "x"},
    "spec": {
        "replicas": 0,
        "selector": {"matchLabels": {"a": "b"}},
        "template": {
            "metadata": {"labels": {"a": "b"}},
            "spec": {"containers": [{"name": "a", "image": "b"}]},
        },
    },
})
scaled = apps.patch_namespaced_deployment_scale("x", namespace, {"spec": {"replicas": 1}})
assert scaled.spec.replicas == 1 and scaled.status.selector == "a=b", scaled
apps.delete_namespaced_deployment("x", namespace)
core.create_namespaced_service_account(namespace, {"metadata": {"name": "robot"}})
token = core.create_namespaced_service_account_token("robot", namespace, {"spec": {}})
assert token.status.token.count(".") == 2

# Lists in pages, and deleting what a selector fits.
for number in range(5):
    core.create_namespaced_config_map(namespace, {"metadata": {"name": f"p{number}", "labels": {"page": "y"}}})
page = core.list_namespaced_config_map(namespace, label_selector="page=y", limit=2)
names = [item.metadata.name for item in page.items]
while page.metadata._continue:
    page = core.list_namespaced_config_map(
        namespace, label_selector="page=y", limit=2, _continue=page.metadata._continue
    )
    names += [item.metadata.name for item in page.items]
assert names == [f"p{number}" for number in range(5)], names
core.delete_collection_namespaced_config_map(namespace, label_selector="page=y")
assert not core.list_namespaced_config_map(namespace, label_selector="page=y").items

client.VersionApi().get_code()
client.ApiextensionsV1Api().list_custom_resource_definition()
rules = client.AuthorizationV1Api().create_self_subject_rules_review({"spec": {"namespace": namespace}})
assert rules.status.resource_rules
print("done")
