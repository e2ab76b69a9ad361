//! Schemas of admission policies and what binds them.

use serde_json::{Value, json};

use super::{condition, keyed, list, object, open, text};

fn words(description: &str) -> Value {
    list(description, text(""))
}

fn one_of(description: &str, values: &[&str]) -> Value {
    json!({"type": "string", "description": description, "enum": values})
}

fn constraints(description: &str) -> Value {
    let rule = || {
        object(
            "Operations on resources.",
            [
                (
                    "operations",
                    words("CREATE, UPDATE, DELETE, CONNECT, or * for all."),
                ),
                (
                    "apiGroups",
                    words("Groups; the empty string is the core group, * is any."),
                ),
                ("apiVersions", words("Versions; * is any.")),
                (
                    "resources",
                    words(
                        "Plural names, subresources as pods/status; pods/*, */status, * and */*.",
                    ),
                ),
                (
                    "resourceNames",
                    words("Only objects of these names; empty is any."),
                ),
                (
                    "scope",
                    one_of("Cluster, Namespaced or *.", &["Cluster", "Namespaced", "*"]),
                ),
            ],
        )
    };
    object(
        description,
        [
            ("resourceRules", list("What is matched.", rule())),
            (
                "excludeResourceRules",
                list("What is not matched, whatever the rules say.", rule()),
            ),
            (
                "namespaceSelector",
                open(object("By the labels of the object's namespace.", [])),
            ),
            (
                "objectSelector",
                open(object("By the object's labels.", [])),
            ),
            (
                "matchPolicy",
                one_of(
                    "Whether the rules are also about the same objects in other versions.",
                    &["Equivalent", "Exact"],
                ),
            ),
        ],
    )
}

fn named(description: &str, key: &str, value: &str) -> Value {
    let mut item = object(
        description,
        [(key, text("Name.")), (value, text("A CEL expression."))],
    );
    item["required"] = json!([key, value]);
    keyed(description, key, item)
}

pub(super) fn policy() -> Value {
    let mut validation = object(
        "A demand.",
        [
            (
                "expression",
                text(
                    "A CEL expression that must be true; sees object, oldObject, request, params, namespaceObject, variables.",
                ),
            ),
            ("message", text("What is said when it is not.")),
            (
                "messageExpression",
                text("A CEL expression that makes what is said."),
            ),
            (
                "reason",
                text("Unauthorized, Forbidden, Invalid or RequestEntityTooLarge."),
            ),
        ],
    );
    validation["required"] = json!(["expression"]);
    let spec = object(
        "What is demanded of which writes.",
        [
            (
                "paramKind",
                object(
                    "The kind of `params`.",
                    [
                        ("apiVersion", text("group/version.")),
                        ("kind", text("Kind.")),
                    ],
                ),
            ),
            ("matchConstraints", constraints("Which writes.")),
            (
                "matchConditions",
                named(
                    "Which writes, more closely: all of these must be true.",
                    "name",
                    "expression",
                ),
            ),
            (
                "variables",
                named(
                    "Values that later expressions find as variables.NAME.",
                    "name",
                    "expression",
                ),
            ),
            ("validations", list("What is demanded.", validation)),
            (
                "auditAnnotations",
                named("What is added to the audit log.", "key", "valueExpression"),
            ),
            (
                "failurePolicy",
                one_of("What an expression that fails means.", &["Fail", "Ignore"]),
            ),
        ],
    );
    let status = object(
        "What is known of the policy.",
        [
            (
                "observedGeneration",
                json!({"type": "integer", "format": "int64"}),
            ),
            (
                "conditions",
                keyed("Aspects of the state.", "type", condition()),
            ),
            ("typeChecking", open(object("Warnings about types.", []))),
        ],
    );
    let mut policy = object(
        "ValidatingAdmissionPolicy says what writes must be like. It is in force where it is bound.",
        [("spec", spec), ("status", status)],
    );
    policy["required"] = json!(["spec"]);
    policy
}

pub(super) fn binding() -> Value {
    let spec = object(
        "Which policy is in force where.",
        [
            ("policyName", text("Name of the policy.")),
            (
                "paramRef",
                object(
                    "The objects that are `params`.",
                    [
                        ("name", text("Name of the object.")),
                        (
                            "namespace",
                            text("Its namespace; that of the request when it is not given."),
                        ),
                        (
                            "selector",
                            open(object("Selects objects by their labels.", [])),
                        ),
                        (
                            "parameterNotFoundAction",
                            one_of("Allow or Deny when there is none.", &["Allow", "Deny"]),
                        ),
                    ],
                ),
            ),
            (
                "matchResources",
                constraints("Which of the writes that the policy is about."),
            ),
            (
                "validationActions",
                json!({
                    "type": "array", "description": "What is done about failures.",
                    "items": {"type": "string", "enum": ["Deny", "Warn", "Audit"]},
                    "x-kubernetes-list-type": "set",
                }),
            ),
        ],
    );
    let mut binding = object(
        "ValidatingAdmissionPolicyBinding puts a policy into force.",
        [("spec", spec)],
    );
    binding["required"] = json!(["spec"]);
    binding
}
