//! A server in a temporary directory and clients that talk to it in process.

#![allow(clippy::unwrap_used, dead_code)]

use apiserver::{ApiServer, Config, Token};
use serde_json::{Value, json};

pub const ADMIN: &str = "admin-token";

pub struct Fixture {
    pub server: ApiServer,
    pub directory: tempfile::TempDir,
}

pub fn config(directory: &tempfile::TempDir) -> Config {
    Config {
        tokens: vec![Token::new("admin", &["system:masters"], ADMIN)],
        crds: vec![widget_definition()],
        ..Config::new(directory.path())
    }
}

impl Fixture {
    pub fn new() -> Self {
        Self::with(|_| {})
    }

    pub fn with(change: impl FnOnce(&mut Config)) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let mut config = config(&directory);
        change(&mut config);
        let server = ApiServer::open(config).unwrap();
        Self { server, directory }
    }

    pub fn client(&self) -> kube::Client {
        self.client_as(ADMIN)
    }

    pub fn client_as(&self, token: &str) -> kube::Client {
        kube::Client::new(self.server.router_as(token), "default")
    }
}

/// A namespaced kind with most features of structural schemas.
pub fn widget_definition() -> Value {
    json!({
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": "widgets.example.com"},
        "spec": {
            "group": "example.com",
            "scope": "Namespaced",
            "names": {
                "plural": "widgets", "kind": "Widget", "shortNames": ["wd"], "categories": ["all"],
            },
            "versions": [{
                "name": "v1", "served": true, "storage": true,
                "subresources": {"status": {}},
                "additionalPrinterColumns": [
                    {"name": "Size", "type": "integer", "jsonPath": ".spec.size"},
                    {"name": "Ready", "type": "string",
                     "jsonPath": ".status.conditions[?(@.type==\"Ready\")].status"},
                    {"name": "Age", "type": "date", "jsonPath": ".metadata.creationTimestamp"},
                ],
                "schema": {"openAPIV3Schema": {
                    "type": "object",
                    "description": "Widget is a thing to test with.",
                    "required": ["spec"],
                    "properties": {
                        "apiVersion": {"type": "string"},
                        "kind": {"type": "string"},
                        "metadata": {"type": "object"},
                        "spec": {
                            "type": "object",
                            "description": "What is wanted.",
                            "required": ["size"],
                            "properties": {
                                "size": {"type": "integer", "minimum": 0, "maximum": 100,
                                         "description": "How big it is."},
                                "color": {"type": "string", "default": "red",
                                          "enum": ["red", "green", "blue"]},
                                "paused": {"type": "boolean"},
                                "limit": {"x-kubernetes-int-or-string": true},
                                "free": {"type": "object",
                                         "x-kubernetes-preserve-unknown-fields": true},
                                "parts": {
                                    "type": "array",
                                    "x-kubernetes-list-type": "map",
                                    "x-kubernetes-list-map-keys": ["name"],
                                    "items": {
                                        "type": "object",
                                        "required": ["name"],
                                        "properties": {
                                            "name": {"type": "string"},
                                            "count": {"type": "integer", "default": 1},
                                        },
                                    },
                                },
                                "tags": {
                                    "type": "array", "x-kubernetes-list-type": "set",
                                    "items": {"type": "string"},
                                },
                            },
                        },
                        "status": {
                            "type": "object",
                            "properties": {
                                "phase": {"type": "string"},
                                "observedGeneration": {"type": "integer"},
                                "conditions": {
                                    "type": "array",
                                    "x-kubernetes-list-type": "map",
                                    "x-kubernetes-list-map-keys": ["type"],
                                    "items": {
                                        "type": "object",
                                        "required": ["type", "status"],
                                        "properties": {
                                            "type": {"type": "string"},
                                            "status": {"type": "string"},
                                            "reason": {"type": "string"},
                                        },
                                    },
                                },
                            },
                        },
                    },
                }},
            }],
        },
    })
}

pub fn widget(name: &str, size: i64) -> Value {
    json!({
        "apiVersion": "example.com/v1", "kind": "Widget",
        "metadata": {"name": name, "namespace": "default"},
        "spec": {"size": size},
    })
}
