//! OpenAPI documents: what `kubectl explain`, `create` and `apply` read before they send anything.

use std::hash::{DefaultHasher, Hash, Hasher};

use serde_json::{Map, Value, json};

use crate::kinds::{Registry, Resource, Version};
use crate::resources::metadata;

const OBJECT_META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta";
const LIST_META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.ListMeta";

/// `/openapi/v3`: which documents there are. The hash in a URL changes with its document.
pub(crate) fn index(registry: &Registry) -> Value {
    let mut paths = Map::new();
    for (group, versions) in registry.groups() {
        for version in versions {
            let path = if group.is_empty() {
                format!("api/{version}")
            } else {
                format!("apis/{group}/{version}")
            };
            let mut hasher = DefaultHasher::new();
            for (resource, version) in registry.of_version(group, version) {
                resource.plural.hash(&mut hasher);
                version.published.to_string().hash(&mut hasher);
            }
            let url = format!("/openapi/v3/{path}?hash={:016X}", hasher.finish());
            paths.insert(path, json!({"serverRelativeURL": url}));
        }
    }
    json!({"paths": paths})
}

/// The OpenAPI v3 document of a group and version.
pub(crate) fn document(registry: &Registry, group: &str, version: &str) -> Option<Value> {
    let mut paths = Map::new();
    let mut schemas = Map::new();
    for (resource, version) in registry.of_version(group, version) {
        let name = component(resource, version);
        let list = format!("{name}List");
        schemas.insert(name.clone(), schema(resource, version));
        schemas.insert(list.clone(), list_schema(resource, version, &name));
        add_paths(&mut paths, resource, version, &name, &list);
    }
    if schemas.is_empty() {
        return None;
    }
    schemas.insert(OBJECT_META.into(), object_meta());
    schemas.insert(LIST_META.into(), list_meta());
    Some(json!({
        "openapi": "3.0.0",
        "info": {"title": "Kubernetes", "version": "v1.35.0"},
        "paths": paths,
        "components": {"schemas": schemas},
    }))
}

/// Media type of `/openapi/v2` as protobuf, as clients ask for it.
pub(crate) const V2_PROTOBUF: &str = "application/com.github.proto-openapi.spec.v2@v1.0+protobuf";

/// `/openapi/v2` for clients that take nothing but protobuf, as kubectl does before it applies a `List`. It defines no kind: such
/// a client then leaves the check of fields to the server, which makes it in any case.
pub(crate) fn document_v2_protobuf() -> Vec<u8> {
    // Fields 1 (`swagger`) and 2 (`info`, with `title` and `version`) of `openapi.v2.Document`; all others are optional.
    let text = |field: u8, text: &[u8]| {
        let length = u8::try_from(text.len()).expect("shorter than 128 bytes");
        [&[field << 3 | 2, length], text].concat()
    };
    let info = [text(1, b"Kubernetes"), text(2, b"v1.35.0")].concat();
    [text(1, b"2.0"), text(2, &info)].concat()
}

/// `/openapi/v2`: the same for all groups in the older dialect.
pub(crate) fn document_v2(registry: &Registry) -> Value {
    let mut definitions = Map::new();
    let mut paths = Map::new();
    for (group, versions) in registry.groups() {
        for version in versions {
            let Some(mut document) = document(registry, group, version) else {
                continue;
            };
            if let Value::Object(mut schemas) = document["components"]["schemas"].take() {
                definitions.append(&mut schemas);
            }
            if let Value::Object(mut more) = document["paths"].take() {
                paths.append(&mut more);
            }
        }
    }
    definitions.values_mut().for_each(downgrade);
    let mut paths = Value::Object(paths);
    for operation in paths
        .as_object_mut()
        .into_iter()
        .flat_map(|paths| paths.values_mut())
        .filter_map(Value::as_object_mut)
        .flat_map(|item| item.values_mut())
    {
        if let Some(operation) = operation.as_object_mut() {
            operation.remove("requestBody");
            operation.insert("responses".into(), json!({"200": {"description": "OK"}}));
        }
    }
    json!({
        "swagger": "2.0",
        "info": {"title": "Kubernetes", "version": "v1.35.0"},
        "paths": paths,
        "definitions": definitions,
    })
}

/// Rewrites references in a schema, and drops what version 2 does not have.
fn downgrade(schema: &mut Value) {
    let Some(fields) = schema.as_object_mut() else {
        return;
    };
    for dropped in ["anyOf", "oneOf", "not", "nullable"] {
        fields.remove(dropped);
    }
    if let Some(Value::String(reference)) = fields.get_mut("$ref") {
        *reference = reference.replace("#/components/schemas/", "#/definitions/");
    }
    for (name, inner) in fields {
        match (name.as_str(), inner) {
            ("properties", Value::Object(properties)) => {
                properties.values_mut().for_each(downgrade);
            }
            ("allOf", Value::Array(schemas)) => schemas.iter_mut().for_each(downgrade),
            ("items" | "additionalProperties", inner) => downgrade(inner),
            _ => {}
        }
    }
}

/// `com.example.v1.Widget`; `io.k8s.api.core.v1.Node` for built-in kinds, as clients know them.
fn component(resource: &Resource, version: &Version) -> String {
    let Resource { group, kind, .. } = resource;
    let Version { name, .. } = version;
    if resource.behaviour.custom {
        let reversed: Vec<&str> = group.rsplit('.').collect();
        return format!("{}.{name}.{kind}", reversed.join("."));
    }
    match group.as_str() {
        "" => format!("io.k8s.api.core.{name}.{kind}"),
        "apiextensions.k8s.io" => {
            format!("io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.{name}.{kind}")
        }
        group => {
            let short = group.split('.').next().unwrap_or(group);
            format!("io.k8s.api.{short}.{name}.{kind}")
        }
    }
}

fn reference(name: &str) -> Value {
    json!({"$ref": format!("#/components/schemas/{name}")})
}

fn group_version_kind(resource: &Resource, version: &Version, kind: &str) -> Value {
    json!({"group": resource.group, "version": version.name, "kind": kind})
}

fn schema(resource: &Resource, version: &Version) -> Value {
    let mut schema = (*version.published).clone();
    describe_identity(&mut schema);
    schema["properties"]["metadata"] = json!({
        "description": "Standard object's metadata.",
        "allOf": [reference(OBJECT_META)],
    });
    schema["x-kubernetes-group-version-kind"] =
        json!([group_version_kind(resource, version, &resource.kind)]);
    schema
}

fn list_schema(resource: &Resource, version: &Version, item: &str) -> Value {
    let mut schema = json!({
        "type": "object",
        "description": format!("{} is a list of {}", resource.list_kind, resource.kind),
        "required": ["items"],
        "properties": {
            "items": {"type": "array", "description": "The objects.", "items": reference(item)},
            "metadata": {
                "description": "Standard list metadata.",
                "allOf": [reference(LIST_META)],
            },
        },
    });
    describe_identity(&mut schema);
    schema["x-kubernetes-group-version-kind"] =
        json!([group_version_kind(resource, version, &resource.list_kind)]);
    schema
}

fn describe_identity(schema: &mut Value) {
    schema["type"] = json!("object");
    schema["properties"]["apiVersion"] =
        json!({"type": "string", "description": "Group and version of the kind."});
    schema["properties"]["kind"] =
        json!({"type": "string", "description": "The kind, in CamelCase."});
}

fn object_meta() -> Value {
    let mut schema = metadata::schema();
    schema["description"] = json!("ObjectMeta is metadata that all objects have.");
    for (field, description) in [
        (
            "name",
            "Name; unique within the namespace. Cannot be changed.",
        ),
        (
            "generateName",
            "Prefix of a name that the server makes unique.",
        ),
        ("namespace", "Namespace of the object. Cannot be changed."),
        ("labels", "Keys and values to select objects by."),
        ("annotations", "Keys and values for tools."),
        ("uid", "Identity of the object, set by the server."),
        (
            "resourceVersion",
            "Version of the object, set by the server; send it back to detect conflicts.",
        ),
        ("generation", "Counts changes of the desired state."),
        ("creationTimestamp", "When the object was created."),
        ("deletionTimestamp", "When deletion was asked for."),
        (
            "deletionGracePeriodSeconds",
            "How long the object may take to go.",
        ),
        ("finalizers", "What has to happen before the object may go."),
        (
            "ownerReferences",
            "Objects whose deletion deletes this one.",
        ),
        ("managedFields", "Who set which fields, kept by the server."),
        ("selfLink", "No longer used."),
    ] {
        schema["properties"][field]["description"] = json!(description);
    }
    schema
}

fn list_meta() -> Value {
    json!({
        "type": "object",
        "description": "ListMeta is metadata of lists.",
        "properties": {
            "continue": {"type": "string", "description": "Where the next page begins."},
            "remainingItemCount": {"type": "integer", "format": "int64",
                "description": "How many objects follow this page."},
            "resourceVersion": {"type": "string", "description": "Version of the list."},
            "selfLink": {"type": "string", "description": "No longer used."},
        },
    })
}

fn add_paths(
    paths: &mut Map<String, Value>,
    resource: &Resource,
    version: &Version,
    item: &str,
    list: &str,
) {
    let root = if resource.group.is_empty() {
        format!("/api/{}", version.name)
    } else {
        format!("/apis/{}/{}", resource.group, version.name)
    };
    let plural = &resource.plural;
    let kind = group_version_kind(resource, version, &resource.kind);
    let operation = |action: &str, answer: &str, parameters: &[&str], body: Option<&[&str]>| {
        let mut operation = json!({
            "operationId": format!("{action}{}{}", version.name, resource.kind),
            "x-kubernetes-action": action,
            "x-kubernetes-group-version-kind": kind,
            "parameters": parameters.iter().map(|name| parameter(name)).collect::<Vec<_>>(),
            "responses": {"200": {
                "description": "OK",
                "content": {"application/json": {"schema": reference(answer)}},
            }},
        });
        if let Some(media_types) = body {
            let content: Map<String, Value> = media_types
                .iter()
                .map(|media| ((*media).to_owned(), json!({"schema": reference(item)})))
                .collect();
            operation["requestBody"] = json!({"content": content, "required": true});
        }
        operation
    };
    const WRITE: &[&str] = &["dryRun", "fieldManager", "fieldValidation"];
    const PATCH: &[&str] = &["dryRun", "fieldManager", "fieldValidation", "force"];
    const LIST: &[&str] = &[
        "allowWatchBookmarks",
        "continue",
        "fieldSelector",
        "labelSelector",
        "limit",
        "resourceVersion",
        "resourceVersionMatch",
        "sendInitialEvents",
        "timeoutSeconds",
        "watch",
    ];
    const JSON: &[&str] = &["application/json"];
    let collection = json!({
        "get": operation("list", list, LIST, None),
        "post": operation("post", item, WRITE, Some(JSON)),
        "delete": operation("deletecollection", list, LIST, None),
    });
    let patches = crate::patch::media_types(resource.behaviour.custom);
    let one = |delete: bool| {
        let mut one = json!({
            "get": operation("get", item, &[], None),
            "put": operation("put", item, WRITE, Some(JSON)),
            "patch": operation("patch", item, PATCH, Some(&patches)),
        });
        if delete {
            one["delete"] = operation("delete", item, &["dryRun", "propagationPolicy"], None);
        }
        one
    };
    let base = if resource.namespaced {
        let everywhere = json!({"get": operation("list", list, LIST, None)});
        paths.insert(format!("{root}/{plural}"), everywhere);
        format!("{root}/namespaces/{{namespace}}/{plural}")
    } else {
        format!("{root}/{plural}")
    };
    paths.insert(base.clone(), collection);
    paths.insert(format!("{base}/{{name}}"), one(true));
    if version.status {
        paths.insert(format!("{base}/{{name}}/status"), one(false));
    }
}

fn parameter(name: &str) -> Value {
    let kind = match name {
        "force" | "watch" | "allowWatchBookmarks" | "sendInitialEvents" => "boolean",
        "limit" | "timeoutSeconds" => "integer",
        _ => "string",
    };
    json!({"name": name, "in": "query", "schema": {"type": kind, "uniqueItems": true}})
}
