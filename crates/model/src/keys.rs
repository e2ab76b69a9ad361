//! Names that objects agree on: annotations, labels, and the objects with a fixed name.

/// The namespace of Secrets, ConfigMaps and Leases.
pub const NAMESPACE: &str = "openshift-machine-config-operator";
/// The namespace of the Leases by which nodes show that they live.
pub const NODE_LEASE_NAMESPACE: &str = "kube-node-lease";

/// ConfigMap: key `host..port` (`..` stands for `:`), value the PEM certificates that registry is trusted by.
pub const REGISTRY_CERTS: &str = "registry-certs";
/// Secret with the credentials for pulls and pushes that name no Secret of their own.
pub const GLOBAL_PULL_SECRET: &str = "global-pull-secret-copy";
/// Secret with the credentials that nodes get for registries where the cluster's own may do more than pull.
pub const NODE_PULL_SECRET: &str = "node-pull-secret";
/// The namespace of the Secrets with each node's credentials for registries, and of the accounts that may read them; each
/// has its node's name.
pub const NODE_SECRET_NAMESPACE: &str = "caprock-nodes";
/// Label of a Secret in [`NAMESPACE`]: `true` when files of nodes may take their content from it.
pub const NODE_FILES_LABEL: &str = "caprock.dev/node-files";
/// Key of a node's own Secret with the content of those of its files that come from Secrets, as JSON.
pub const NODE_FILES_KEY: &str = "files.json";
/// ConfigMap with the authorities that the API's certificates are signed by, as every namespace of a cluster has it.
pub const API_CA: &str = "kube-root-ca.crt";
/// Key of the PEM certificates in that ConfigMap.
pub const API_CA_KEY: &str = "ca.crt";
/// ConfigMap with authorities that the nodes' own programs trust besides those of their image.
pub const USER_CA_BUNDLE: &str = "user-ca-bundle";
/// Key of the PEM certificates in that ConfigMap.
pub const USER_CA_BUNDLE_KEY: &str = "ca-bundle.crt";
/// Node annotation: fingerprint of the API's authorities that the node's agent trusts.
pub const TRUSTED_API_CA: &str = "caprock.dev/trusted-api-ca";
/// MachineConfigPool annotation: rendered config and image, as JSON, that new nodes boot into.
pub const FIRST_BOOT_TARGET: &str = "caprock.dev/first-boot-target";
/// ConfigMap that names the cluster's default base image.
pub const OS_IMAGE_URL_CONFIG_MAP: &str = "machine-config-osimageurl";
/// Key of the default base image in that ConfigMap.
pub const BASE_OS_IMAGE_KEY: &str = "baseOSContainerImage";
/// Key of the default image with extensions in that ConfigMap.
pub const BASE_OS_EXTENSIONS_IMAGE_KEY: &str = "baseOSExtensionsContainerImage";
/// Key of the credentials in a Secret of type `kubernetes.io/dockerconfigjson`.
pub const DOCKER_CONFIG_KEY: &str = ".dockerconfigjson";
/// Type of a Secret that holds `.dockerconfigjson`.
pub const DOCKER_CONFIG_TYPE: &str = "kubernetes.io/dockerconfigjson";

/// Prefix of a label that gives a node a role; the role follows.
pub const NODE_ROLE_PREFIX: &str = "node-role.kubernetes.io/";
/// Label: the zone of a node.
pub const ZONE: &str = "topology.kubernetes.io/zone";

/// Label of a MachineConfig: the role whose pools take it.
pub const ROLE: &str = "machineconfiguration.openshift.io/role";
/// The role whose MachineConfigs every other pool may build upon.
pub const WORKER_ROLE: &str = "worker";
/// Annotation of a rendered MachineConfig: version of the controller that made it.
pub const GENERATED_BY: &str = "machineconfiguration.openshift.io/generated-by-controller-version";
/// Annotation of a rendered MachineConfig: `true` when a MachineConfig replaces the default image.
pub const OS_IMAGE_URL_OVERRIDDEN: &str =
    "machineconfiguration.openshift.io/os-image-url-overridden";
/// Prefix of the names of rendered MachineConfigs.
pub const RENDERED_PREFIX: &str = "rendered-";

/// Node annotation: the rendered config that the node has.
pub const CURRENT_CONFIG: &str = "machineconfiguration.openshift.io/currentConfig";
/// Node annotation: the rendered config that the node should have.
pub const DESIRED_CONFIG: &str = "machineconfiguration.openshift.io/desiredConfig";
/// Node annotation: the layered image that the node runs; absent when it runs the base image.
pub const CURRENT_IMAGE: &str = "machineconfiguration.openshift.io/currentImage";
/// Node annotation: the layered image that the node should run; absent when it should run the base image.
pub const DESIRED_IMAGE: &str = "machineconfiguration.openshift.io/desiredImage";
/// Node annotation: when the node was told what it should have, as an RFC 3339 time of the controllers' clock.
pub const TOLD_AT: &str = "caprock.dev/told-at";
/// Node annotation that the daemon of the Machine Config Operator writes, and no agent of Caprock.
pub const PEER_SYNCED: &str =
    "machineconfiguration.openshift.io/lastSyncedControllerConfigResourceVersion";
/// Node annotation: `Done`, `Working` or `Degraded`.
pub const STATE: &str = "machineconfiguration.openshift.io/state";
/// Node annotation: since when the node runs what it was told and is well, as an RFC 3339 time of its own clock.
pub const DONE_SINCE: &str = "caprock.dev/done-since";
/// Node annotation: of which versions of Secrets the node's files are that come from those, as `file_secret` writes it.
pub const FILE_SECRETS: &str = "caprock.dev/file-secrets";
/// Node annotation: which versions of Secrets wait for the node's next update, in the same form.
pub const HELD_BACK: &str = "caprock.dev/held-back-secrets";
/// Node annotation: why the node is degraded.
pub const REASON: &str = "machineconfiguration.openshift.io/reason";
/// Longest text of the `reason` annotation, in bytes.
pub const MAX_REASON_BYTES: usize = 2000;
/// Node annotation: the drain or uncordon that the node asks for, as `drain-<rendered>` or `uncordon-<rendered>`.
pub const DESIRED_DRAIN: &str = "machineconfiguration.openshift.io/desiredDrain";
/// Node annotation: the request that was last carried out.
pub const LAST_APPLIED_DRAIN: &str = "machineconfiguration.openshift.io/lastAppliedDrain";
/// Node annotation: the newest reboots of the node and what they were for, as `ledger` writes them.
pub const REBOOTS: &str = "caprock.dev/reboots";
/// Node label: a pool has the node, and so it has an agent where a kubelet runs pods.
pub const MANAGED: &str = "node.caprock.dev/managed";
/// Node label: the machine is not there; its value names the simulation that made it.
pub const SIMULATED: &str = "caprock.dev/simulated";
/// Node annotation: the version of the node's agent. Lease annotation: that of the controller or builder that holds it.
pub const VERSION: &str = "caprock.dev/version";
/// The Lease of the controller that leads.
pub const CONTROLLER_LEASE: &str = "caprock-controller";
/// The ClusterRole of the controllers where Caprock is installed on a cluster.
pub const CONTROLLER_ROLE: &str = "caprock-controller";
/// ConfigMap by which somebody said that Caprock acts on a cluster that has the Machine Config Operator.
pub const TAKEOVER: &str = "caprock-takeover";

/// MachineOSBuild label: the pool that the image is for.
pub const TARGET_POOL: &str = "machineconfiguration.openshift.io/target-machine-config-pool";
/// MachineOSBuild label: the rendered config that the image is for.
pub const RENDERED_CONFIG: &str = "machineconfiguration.openshift.io/rendered-machine-config";
/// MachineOSBuild label: the MachineOSConfig that asks for the image.
pub const MACHINE_OS_CONFIG: &str = "machineconfiguration.openshift.io/machine-os-config";
/// MachineOSConfig annotation: the build that is wanted now; written for tools that read it, never read.
pub const CURRENT_BUILD: &str = "machineconfiguration.openshift.io/current-machine-os-build";
/// MachineOSConfig annotation: asks for one more build of the same inputs.
pub const REBUILD: &str = "machineconfiguration.openshift.io/rebuild";

/// Image label: the pool that an image was built for.
pub const IMAGE_POOL: &str = "machineconfigpool";
/// Image label: the pull spec of the base image.
pub const IMAGE_BASE: &str = "baseOSContainerImage";
/// Annotation of any object: ids of `caprock lint`, separated by commas, whose warnings are not told about it.
pub const LINT_IGNORE: &str = "caprock.dev/lint-ignore";
