//! The schema of CustomResourceDefinition.

use serde_json::{Value, json};

use super::{condition, count, flag, keyed, list, object, open, text};

pub(super) fn definition() -> Value {
    let names = || {
        object(
            "Names of the kind.",
            [
                ("plural", text("As in URLs.")),
                ("singular", text("As people type it.")),
                ("kind", text("As in manifests.")),
                ("listKind", text("Kind of lists.")),
                (
                    "shortNames",
                    list("Abbreviations.", text("An abbreviation.")),
                ),
                (
                    "categories",
                    list("Groups such as `all`.", text("A category.")),
                ),
            ],
        )
    };
    let column = object(
        "A column of `kubectl get`.",
        [
            ("name", text("Heading.")),
            ("type", text("integer, number, string, boolean or date.")),
            ("format", text("Format of the type.")),
            ("description", text("What is shown.")),
            ("priority", count("Above zero: only with `-o wide`.")),
            ("jsonPath", text("Where the value is.")),
        ],
    );
    let scale = object(
        "The scale subresource.",
        [
            ("specReplicasPath", text("Where the desired number is.")),
            ("statusReplicasPath", text("Where the seen number is.")),
            ("labelSelectorPath", text("Where the selector is.")),
        ],
    );
    let version = object(
        "A version of the kind.",
        [
            ("name", text("Such as `v1`.")),
            ("served", flag("Whether clients can use it.")),
            (
                "storage",
                flag("Whether objects are stored in it; exactly one is."),
            ),
            ("deprecated", flag("Whether clients are warned.")),
            ("deprecationWarning", text("The warning.")),
            (
                "schema",
                object(
                    "What objects look like.",
                    [("openAPIV3Schema", open(object("A structural schema.", [])))],
                ),
            ),
            (
                "subresources",
                object(
                    "Parts with their own endpoint.",
                    [
                        ("status", open(object("The status is a subresource.", []))),
                        ("scale", scale),
                    ],
                ),
            ),
            (
                "additionalPrinterColumns",
                list("Columns of `kubectl get`.", column),
            ),
            (
                "selectableFields",
                list(
                    "Fields that field selectors may use.",
                    object("A field.", [("jsonPath", text("Where it is."))]),
                ),
            ),
        ],
    );
    object(
        "CustomResourceDefinition adds a kind to the API.",
        [
            (
                "spec",
                object(
                    "The kind.",
                    [
                        ("group", text("API group.")),
                        ("scope", text("Cluster or Namespaced.")),
                        ("names", names()),
                        ("versions", list("Versions of the kind.", version)),
                        (
                            "conversion",
                            open(object("How versions are converted: None.", [])),
                        ),
                        ("preserveUnknownFields", flag("No longer used.")),
                    ],
                ),
            ),
            (
                "status",
                object(
                    "State of the definition.",
                    [
                        (
                            "conditions",
                            keyed("Details of the state.", "type", condition()),
                        ),
                        ("acceptedNames", names()),
                        (
                            "storedVersions",
                            list("Versions that may be in the store.", text("")),
                        ),
                        (
                            "observedGeneration",
                            json!({"type": "integer", "format": "int64"}),
                        ),
                    ],
                ),
            ),
        ],
    )
}
