//! Which fields of which kinds can be read. Of most kinds all are here, because what is left out would be lost; of
//! workloads those that `kubectl create` knows, and a body that has others is refused.

/// How a field's bytes become JSON.
#[derive(Clone, Copy)]
pub(super) enum Kind {
    Text,
    Bytes,
    Int,
    /// `intstr.IntOrString`.
    IntOrText,
    Flag,
    /// `metav1.Time` and `metav1.MicroTime`.
    Time,
    /// `map<string, string>`.
    Texts,
    /// `map<string, bytes>`.
    Blobs,
    Message(&'static [Field]),
    /// Repeated.
    TextList,
    MessageList(&'static [Field]),
    /// An integer whose absence is not zero.
    GivenInt,
    /// A flag whose absence is not false.
    GivenFlag,
}

/// A kind that can be read.
#[derive(Clone, Copy)]
pub(super) struct Readable {
    pub(super) fields: &'static [Field],
    /// There are fields that are not here; and zeros stand for what was not said.
    pub(super) partial: bool,
}

/// Number, JSON name and kind of a field.
pub(super) type Field = (u64, &'static str, Kind);

use Kind::{
    Blobs, Bytes, Flag, GivenFlag, GivenInt, Int, IntOrText, Message, MessageList, Text, TextList,
    Texts, Time,
};

pub(super) const ENVELOPE: &[Field] = &[
    (1, "typeMeta", Message(TYPE_META)),
    (2, "raw", Bytes),
    (3, "contentEncoding", Text),
    (4, "contentType", Text),
];
const TYPE_META: &[Field] = &[(1, "apiVersion", Text), (2, "kind", Text)];
const OWNER: &[Field] = &[
    (1, "kind", Text),
    (3, "name", Text),
    (4, "uid", Text),
    (5, "apiVersion", Text),
    (6, "controller", Flag),
    (7, "blockOwnerDeletion", Flag),
];
const META: &[Field] = &[
    (1, "name", Text),
    (2, "generateName", Text),
    (3, "namespace", Text),
    (5, "uid", Text),
    (6, "resourceVersion", Text),
    (7, "generation", Int),
    (8, "creationTimestamp", Time),
    (9, "deletionTimestamp", Time),
    (10, "deletionGracePeriodSeconds", Int),
    (11, "labels", Texts),
    (12, "annotations", Texts),
    (13, "ownerReferences", MessageList(OWNER)),
    (14, "finalizers", TextList),
];
const NAMESPACE: &[Field] = &[
    (1, "metadata", Message(META)),
    (2, "spec", Message(&[(1, "finalizers", TextList)])),
    (3, "status", Message(&[(1, "phase", Text)])),
];
const CONFIG_MAP: &[Field] = &[
    (1, "metadata", Message(META)),
    (2, "data", Texts),
    (3, "binaryData", Blobs),
    (4, "immutable", Flag),
];
const SECRET: &[Field] = &[
    (1, "metadata", Message(META)),
    (2, "data", Blobs),
    (3, "type", Text),
    (4, "stringData", Texts),
    (5, "immutable", Flag),
];
const REFERENCE: &[Field] = &[
    (1, "kind", Text),
    (2, "namespace", Text),
    (3, "name", Text),
    (4, "uid", Text),
    (5, "apiVersion", Text),
    (6, "resourceVersion", Text),
    (7, "fieldPath", Text),
];
const SERVICE_ACCOUNT: &[Field] = &[
    (1, "metadata", Message(META)),
    (2, "secrets", MessageList(REFERENCE)),
    (3, "imagePullSecrets", MessageList(&[(1, "name", Text)])),
    (4, "automountServiceAccountToken", Flag),
];
const EVENT: &[Field] = &[
    (1, "metadata", Message(META)),
    (2, "involvedObject", Message(REFERENCE)),
    (3, "reason", Text),
    (4, "message", Text),
    (
        5,
        "source",
        Message(&[(1, "component", Text), (2, "host", Text)]),
    ),
    (6, "firstTimestamp", Time),
    (7, "lastTimestamp", Time),
    (8, "count", Int),
    (9, "type", Text),
    (10, "eventTime", Time),
    (
        11,
        "series",
        Message(&[(1, "count", Int), (2, "lastObservedTime", Time)]),
    ),
    (12, "action", Text),
    (13, "related", Message(REFERENCE)),
    (14, "reportingComponent", Text),
    (15, "reportingInstance", Text),
];
const LEASE: &[Field] = &[
    (1, "metadata", Message(META)),
    (
        2,
        "spec",
        Message(&[
            (1, "holderIdentity", Text),
            (2, "leaseDurationSeconds", Int),
            (3, "acquireTime", Time),
            (4, "renewTime", Time),
            (5, "leaseTransitions", Int),
            (6, "strategy", Text),
            (7, "preferredHolder", Text),
        ]),
    ),
];
const DELETE_OPTIONS: &[Field] = &[
    (1, "gracePeriodSeconds", Int),
    (
        2,
        "preconditions",
        Message(&[(1, "uid", Text), (2, "resourceVersion", Text)]),
    ),
    (3, "orphanDependents", Flag),
    (4, "propagationPolicy", Text),
    (5, "dryRun", TextList),
];
const EVICTION: &[Field] = &[
    (1, "metadata", Message(META)),
    (2, "deleteOptions", Message(DELETE_OPTIONS)),
];
const ACCESS_REVIEW: &[Field] = &[
    (1, "metadata", Message(META)),
    (
        2,
        "spec",
        Message(&[
            (
                1,
                "resourceAttributes",
                Message(&[
                    (1, "namespace", Text),
                    (2, "verb", Text),
                    (3, "group", Text),
                    (4, "version", Text),
                    (5, "resource", Text),
                    (6, "subresource", Text),
                    (7, "name", Text),
                ]),
            ),
            (
                2,
                "nonResourceAttributes",
                Message(&[(1, "path", Text), (2, "verb", Text)]),
            ),
        ]),
    ),
];
const LABEL_SELECTOR: &[Field] = &[
    (1, "matchLabels", Texts),
    (
        2,
        "matchExpressions",
        MessageList(&[
            (1, "key", Text),
            (2, "operator", Text),
            (3, "values", TextList),
        ]),
    ),
];
const POLICY_RULE: &[Field] = &[
    (1, "verbs", TextList),
    (2, "apiGroups", TextList),
    (3, "resources", TextList),
    (4, "resourceNames", TextList),
    (5, "nonResourceURLs", TextList),
];
const ROLE: &[Field] = &[
    (1, "metadata", Message(META)),
    (2, "rules", MessageList(POLICY_RULE)),
    (
        3,
        "aggregationRule",
        Message(&[(1, "clusterRoleSelectors", MessageList(LABEL_SELECTOR))]),
    ),
];
const ROLE_BINDING: &[Field] = &[
    (1, "metadata", Message(META)),
    (
        2,
        "subjects",
        MessageList(&[
            (1, "kind", Text),
            (2, "apiGroup", Text),
            (3, "name", Text),
            (4, "namespace", Text),
        ]),
    ),
    (
        3,
        "roleRef",
        Message(&[(1, "apiGroup", Text), (2, "kind", Text), (3, "name", Text)]),
    ),
];
const DISRUPTION_BUDGET: &[Field] = &[
    (1, "metadata", Message(META)),
    (
        2,
        "spec",
        Message(&[
            (1, "minAvailable", IntOrText),
            (2, "selector", Message(LABEL_SELECTOR)),
            (3, "maxUnavailable", IntOrText),
            (4, "unhealthyPodEvictionPolicy", Text),
        ]),
    ),
];
const BOUND_OBJECT: &[Field] = &[
    (1, "kind", Text),
    (2, "apiVersion", Text),
    (3, "name", Text),
    (4, "uid", Text),
];
const TOKEN_REQUEST: &[Field] = &[
    (1, "metadata", Message(META)),
    (
        2,
        "spec",
        Message(&[
            (1, "audiences", TextList),
            (3, "boundObjectRef", Message(BOUND_OBJECT)),
            (4, "expirationSeconds", Int),
        ]),
    ),
];
const SELF_REVIEW: &[Field] = &[(1, "metadata", Message(META))];
const RULES_REVIEW: &[Field] = &[
    (1, "metadata", Message(META)),
    (2, "spec", Message(&[(1, "namespace", Text)])),
];

const CONTAINER: &[Field] = &[
    (1, "name", Text),
    (2, "image", Text),
    (3, "command", TextList),
    (4, "args", TextList),
    (5, "workingDir", Text),
    (
        6,
        "ports",
        MessageList(&[
            (1, "name", Text),
            (2, "hostPort", Int),
            (3, "containerPort", Int),
            (4, "protocol", Text),
            (5, "hostIP", Text),
        ]),
    ),
    (
        7,
        "env",
        MessageList(&[(1, "name", Text), (2, "value", Text)]),
    ),
    (13, "terminationMessagePath", Text),
    (14, "imagePullPolicy", Text),
    (16, "stdin", Flag),
    (17, "stdinOnce", Flag),
    (18, "tty", Flag),
    (20, "terminationMessagePolicy", Text),
];
const POD_TEMPLATE: &[Field] = &[
    (1, "metadata", Message(META)),
    (
        2,
        "spec",
        Message(&[
            (2, "containers", MessageList(CONTAINER)),
            (3, "restartPolicy", Text),
            (4, "terminationGracePeriodSeconds", GivenInt),
            (5, "activeDeadlineSeconds", GivenInt),
            (6, "dnsPolicy", Text),
            (7, "nodeSelector", Texts),
            (8, "serviceAccountName", Text),
            (9, "serviceAccount", Text),
            (10, "nodeName", Text),
            (11, "hostNetwork", Flag),
            (12, "hostPID", Flag),
            (13, "hostIPC", Flag),
            (15, "imagePullSecrets", MessageList(&[(1, "name", Text)])),
            (16, "hostname", Text),
            (17, "subdomain", Text),
            (19, "schedulerName", Text),
        ]),
    ),
];
const DEPLOYMENT: &[Field] = &[
    (1, "metadata", Message(META)),
    (
        2,
        "spec",
        Message(&[
            (1, "replicas", GivenInt),
            (2, "selector", Message(LABEL_SELECTOR)),
            (3, "template", Message(POD_TEMPLATE)),
            (
                4,
                "strategy",
                Message(&[
                    (1, "type", Text),
                    (
                        2,
                        "rollingUpdate",
                        Message(&[(1, "maxUnavailable", IntOrText), (2, "maxSurge", IntOrText)]),
                    ),
                ]),
            ),
            (5, "minReadySeconds", Int),
            (6, "revisionHistoryLimit", GivenInt),
            (7, "paused", Flag),
            (9, "progressDeadlineSeconds", GivenInt),
        ]),
    ),
];
const JOB_SPEC: &[Field] = &[
    (1, "parallelism", GivenInt),
    (2, "completions", GivenInt),
    (3, "activeDeadlineSeconds", GivenInt),
    (4, "selector", Message(LABEL_SELECTOR)),
    (5, "manualSelector", GivenFlag),
    (6, "template", Message(POD_TEMPLATE)),
    (7, "backoffLimit", GivenInt),
    (8, "ttlSecondsAfterFinished", GivenInt),
    (9, "completionMode", Text),
    (10, "suspend", GivenFlag),
];
const JOB: &[Field] = &[
    (1, "metadata", Message(META)),
    (2, "spec", Message(JOB_SPEC)),
];
const CRON_JOB: &[Field] = &[
    (1, "metadata", Message(META)),
    (
        2,
        "spec",
        Message(&[
            (1, "schedule", Text),
            (2, "startingDeadlineSeconds", GivenInt),
            (3, "concurrencyPolicy", Text),
            (4, "suspend", GivenFlag),
            (5, "jobTemplate", Message(JOB)),
            (6, "successfulJobsHistoryLimit", GivenInt),
            (7, "failedJobsHistoryLimit", GivenInt),
            (8, "timeZone", Text),
        ]),
    ),
];
const SERVICE: &[Field] = &[
    (1, "metadata", Message(META)),
    (
        2,
        "spec",
        Message(&[
            (
                1,
                "ports",
                MessageList(&[
                    (1, "name", Text),
                    (2, "protocol", Text),
                    (3, "port", Int),
                    (4, "targetPort", IntOrText),
                    (5, "nodePort", Int),
                    (6, "appProtocol", Text),
                ]),
            ),
            (2, "selector", Texts),
            (3, "clusterIP", Text),
            (4, "type", Text),
            (5, "externalIPs", TextList),
            (7, "sessionAffinity", Text),
            (8, "loadBalancerIP", Text),
            (9, "loadBalancerSourceRanges", TextList),
            (10, "externalName", Text),
            (11, "externalTrafficPolicy", Text),
        ]),
    ),
];

/// How a kind can be read.
pub(super) fn readable(api_version: &str, kind: &str) -> Option<Readable> {
    let partial = match (api_version, kind) {
        ("apps/v1", "Deployment") => Some(DEPLOYMENT),
        ("batch/v1", "Job") => Some(JOB),
        ("batch/v1", "CronJob") => Some(CRON_JOB),
        ("v1", "Service") => Some(SERVICE),
        _ => None,
    };
    match partial {
        Some(fields) => Some(Readable {
            fields,
            partial: true,
        }),
        None => whole(api_version, kind).map(|fields| Readable {
            fields,
            partial: false,
        }),
    }
}

/// The fields of a kind of which all are known.
fn whole(api_version: &str, kind: &str) -> Option<&'static [Field]> {
    Some(match (api_version, kind) {
        ("v1", "Namespace") => NAMESPACE,
        ("v1", "ConfigMap") => CONFIG_MAP,
        ("v1", "Secret") => SECRET,
        ("v1", "ServiceAccount") => SERVICE_ACCOUNT,
        ("v1", "Event") => EVENT,
        ("coordination.k8s.io/v1", "Lease") => LEASE,
        (_, "DeleteOptions") => DELETE_OPTIONS,
        ("policy/v1", "Eviction") => EVICTION,
        ("authorization.k8s.io/v1", "SelfSubjectAccessReview") => ACCESS_REVIEW,
        ("authorization.k8s.io/v1", "SelfSubjectRulesReview") => RULES_REVIEW,
        ("authentication.k8s.io/v1", "SelfSubjectReview") => SELF_REVIEW,
        ("authentication.k8s.io/v1", "TokenRequest") => TOKEN_REQUEST,
        ("rbac.authorization.k8s.io/v1", "Role" | "ClusterRole") => ROLE,
        ("rbac.authorization.k8s.io/v1", "RoleBinding" | "ClusterRoleBinding") => ROLE_BINDING,
        ("policy/v1", "PodDisruptionBudget") => DISRUPTION_BUDGET,
        _ => return None,
    })
}
