//! The Ignition config that a new node is given: its pool's rendered config, and what the agent starts from.
//!
//! Paths that other tools read are those of OpenShift's machine config server.

use std::collections::BTreeMap;
use std::fmt;

use serde_json::{Value, json};

use super::SpecVersion;
use crate::api::{MachineConfig, MachineConfigSpec};
use crate::file_secret::{self, Values};
use crate::ignition::{self, Config, Contents, Node, NodeKind, Unit};
use crate::keys;
use crate::node::Target;
use crate::problem::Problem;

/// The agent's first credential, as a kubeconfig.
pub const BOOTSTRAP_KUBECONFIG: &str = "/etc/caprock/kubeconfig";
/// Environment of the agent's unit, with the labels that its node joins with.
pub const AGENT_ENVIRONMENT: &str = "/etc/caprock/agent.env";
/// Annotations that the Node is made with.
const ANNOTATIONS: &str = "/etc/machine-config-daemon/node-annotations.json";
/// The rendered MachineConfig, whole.
const MACHINE_CONFIG: &str = "/etc/mcs-machine-config-content.json";
/// What of it Ignition cannot do: image, kernel arguments and the like.
const ENCAPSULATED: &str = "/etc/ignition-machine-config-encapsulated.json";
/// Credentials for registries where host tools look for them.
pub const REGISTRY_AUTH: &str = "/etc/ostree/auth.json";
/// Below it, a directory for each registry with an authority of its own.
pub const REGISTRY_CERTS: &str = "/etc/containers/certs.d";
/// Authorities of the API.
const API_CA: &str = "/etc/caprock/ca.crt";

/// Everything that a new node is given.
#[derive(Clone)]
pub struct Provision {
    /// What it boots into.
    pub target: Target,
    /// The rendered config of that.
    pub spec: MachineConfigSpec,
    /// Content of its files that comes from Secrets.
    pub values: Values,
    /// Labels that make it a member of its pool.
    pub labels: BTreeMap<String, String>,
    /// Credentials for registries, as a docker configuration.
    pub registry_auth: Option<String>,
    /// Authorities of registries, PEM by `host[:port]`.
    pub registry_cas: BTreeMap<String, String>,
    /// Authorities of the API, PEM.
    pub api_ca: String,
    /// The credential that it joins with; absent for a client that has joined.
    pub kubeconfig: Option<String>,
    /// The agent's units, name and text; those that can be are enabled.
    pub units: Vec<(String, String)>,
}

/// What the agent of a new node takes from the config it is given.
#[derive(Clone, PartialEq)]
pub struct Given {
    /// What it boots into.
    pub target: Target,
    /// The rendered config of that.
    pub spec: MachineConfigSpec,
    /// Content of its files that comes from Secrets.
    pub values: Values,
    /// Credentials for registries, as a docker configuration.
    pub registry_auth: Option<String>,
    /// Authorities of registries, PEM by `host[:port]`.
    pub registry_cas: BTreeMap<String, String>,
    /// Environment of the agent's unit.
    pub environment: String,
}

/// Neither shows what is secret.
impl fmt::Debug for Provision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Provision")
            .field("target", &self.target)
            .field("labels", &self.labels)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for Given {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Given")
            .field("target", &self.target)
            .finish_non_exhaustive()
    }
}

/// The config in a version of the specification.
///
/// # Errors
/// Every problem of the rendered config.
pub fn served(provision: &Provision, version: SpecVersion) -> Result<Value, Vec<Problem>> {
    let Provision {
        target,
        spec,
        values,
        labels,
        registry_auth,
        registry_cas,
        api_ca,
        kubeconfig,
        units,
    } = provision;
    let mut config = spec
        .config
        .as_ref()
        .map(ignition::parse)
        .transpose()?
        .unwrap_or_default();
    // Ignition fetches no Secret: it is given what they hold.
    for node in &mut config.nodes {
        let Some(from) = node.secret().cloned() else {
            continue;
        };
        let value = values.get(&from).ok_or_else(|| {
            vec![Problem::new(
                &node.path,
                format!("Secret key `{from}` is not available to nodes"),
            )]
        })?;
        if let NodeKind::File { contents, .. } = &mut node.kind {
            *contents = Some(Contents::Inline(value.bytes.clone()));
        }
    }
    let labels: Vec<String> = labels
        .iter()
        .map(|(key, value)| format!("{key}={value}"))
        .collect();
    let environment = format!(
        "CAPROCK_AGENT_ARGS=--register-node --node-labels {}\n",
        labels.join(",")
    );
    let public = |path: &str, text: String| file(path, text, 0o644);
    let private = |path: &str, text: String| file(path, text, 0o600);
    let mut nodes = vec![
        public(AGENT_ENVIRONMENT, environment),
        public(API_CA, api_ca.clone()),
        public(ANNOTATIONS, annotations(target).to_string()),
        // Rendered configs may hold passwords.
        private(MACHINE_CONFIG, machine_config(target, spec.clone())),
        public(ENCAPSULATED, encapsulated(target, spec, version)),
    ];
    nodes.extend(
        kubeconfig
            .clone()
            .map(|text| private(BOOTSTRAP_KUBECONFIG, text)),
    );
    nodes.extend(
        registry_auth
            .clone()
            .map(|text| private(REGISTRY_AUTH, text)),
    );
    for (host, pem) in registry_cas.iter().filter(|(host, _)| is_host(host)) {
        nodes.push(public(
            &format!("{REGISTRY_CERTS}/{host}/ca.crt"),
            pem.clone(),
        ));
    }
    config
        .nodes
        .retain(|node| !nodes.iter().any(|ours| ours.path == node.path));
    config.nodes.extend(nodes);
    config
        .units
        .retain(|unit| !units.iter().any(|(name, _)| *name == unit.name));
    config.units.extend(units.iter().map(|(name, text)| Unit {
        name: name.clone(),
        contents: Some(text.clone()),
        enabled: ignition::has_install_section(text).then_some(true),
        ..Unit::default()
    }));
    Ok(in_version(&config, version))
}

/// Reads what [`served`] made, in any version from 3.0 on.
///
/// # Errors
/// What is missing or cannot be read.
pub fn read(config: &Value) -> Result<Given, Vec<Problem>> {
    let config = ignition::parse(config)?;
    let text = |path: &str| {
        let bytes = config.node(path).and_then(Node::contents)?;
        String::from_utf8(bytes.to_vec()).ok()
    };
    let needed = |path: &str| {
        text(path).ok_or_else(|| vec![Problem::new(path, "expected a file of text, found none")])
    };
    let unreadable =
        |path: &str, error: serde_json::Error| vec![Problem::new(path, error.to_string())];
    let annotations: BTreeMap<String, String> = serde_json::from_str(&needed(ANNOTATIONS)?)
        .map_err(|error| unreadable(ANNOTATIONS, error))?;
    let object: MachineConfig = serde_json::from_str(&needed(MACHINE_CONFIG)?)
        .map_err(|error| unreadable(MACHINE_CONFIG, error))?;
    let target = Target {
        config: object.metadata.name.clone().unwrap_or_default(),
        image: annotations.get(keys::DESIRED_IMAGE).cloned(),
    };
    if annotations.get(keys::DESIRED_CONFIG) != Some(&target.config) {
        let reason = "expected the rendered config that the annotations name";
        return Err(vec![Problem::new(MACHINE_CONFIG, reason)]);
    }
    let registry_cas = config
        .nodes
        .iter()
        .filter_map(|node| {
            let rest = node.path.strip_prefix(REGISTRY_CERTS)?.strip_prefix('/')?;
            let host = rest.strip_suffix("/ca.crt").filter(|host| is_host(host))?;
            Some((host.to_owned(), text(&node.path)?))
        })
        .collect();
    let from_secrets = object.spec.config.as_ref().map(file_secret::files);
    let values = from_secrets.into_iter().flatten().filter_map(|file| {
        let value = file_secret::Value {
            bytes: config.node(&file.path)?.contents()?.to_vec(),
            version: String::new(),
        };
        Some((file.from, value))
    });
    Ok(Given {
        target,
        values: values.collect(),
        spec: object.spec,
        registry_auth: text(REGISTRY_AUTH),
        registry_cas,
        environment: text(AGENT_ENVIRONMENT).unwrap_or_default(),
    })
}

/// Whether a text is `host[:port]`, and so one safe part of a path.
pub fn is_host(text: &str) -> bool {
    let (host, port) = text.split_once(':').unwrap_or((text, "0"));
    let label = |label: &str| {
        !label.is_empty()
            && label
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
    };
    text.len() <= 253 && host.split('.').all(label) && port.parse::<u16>().is_ok()
}

fn file(path: &str, text: String, mode: u32) -> Node {
    Node {
        path: path.to_owned(),
        user: None,
        group: None,
        kind: NodeKind::File {
            contents: Some(Contents::Inline(text.into_bytes())),
            mode: Some(mode),
        },
    }
}

fn annotations(target: &Target) -> Value {
    let mut annotations = json!({
        keys::CURRENT_CONFIG: target.config,
        keys::DESIRED_CONFIG: target.config,
        "machineconfiguration.openshift.io/firstPivotConfig": target.config,
        keys::STATE: "Done",
    });
    if let Some(image) = &target.image {
        annotations[keys::CURRENT_IMAGE] = json!(image);
        annotations[keys::DESIRED_IMAGE] = json!(image);
    }
    annotations
}

fn machine_config(target: &Target, spec: MachineConfigSpec) -> String {
    json!(MachineConfig::new(&target.config, spec)).to_string()
}

/// The MachineConfig with an empty Ignition config of the version that is served, and the image that is to be booted.
fn encapsulated(target: &Target, spec: &MachineConfigSpec, version: SpecVersion) -> String {
    let mut spec = spec.clone();
    spec.config = Some(json!({"ignition": {"version": version.to_string()}}));
    if let Some(image) = &target.image {
        spec.os_image_url.clone_from(image);
    }
    machine_config(target, spec)
}

/// What the versions differ in, of what our configs have.
fn in_version(config: &Config, version: SpecVersion) -> Value {
    let mut value = ignition::to_value(config);
    value["ignition"]["version"] = json!(version.to_string());
    for list in ["directories", "files", "links"] {
        let items = value["storage"][list].as_array_mut();
        for item in items.into_iter().flatten() {
            if version.is_old() {
                item["filesystem"] = json!("root");
            }
            // Clients before 3.4 do not know these bits; the agent sets them when it configures the deployment.
            if let Some(mode) = item["mode"]
                .as_u64()
                .filter(|_| !version.has_special_modes())
            {
                item["mode"] = json!(mode & 0o777);
            }
        }
    }
    prune_null(&mut value);
    value
}

/// Indexing a missing list made it `null`.
fn prune_null(value: &mut Value) {
    if let Some(storage) = value["storage"].as_object_mut() {
        storage.retain(|_, list| !list.is_null());
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::provision::negotiate;
    use proptest::prelude::*;

    const PEM: &str = "-----BEGIN CERTIFICATE-----\n";

    fn provision(image: Option<&str>) -> Provision {
        let spec = json!({
            "osImageURL": "r/base@sha256:0",
            "kernelArguments": ["quiet"],
            "config": {
                "ignition": {"version": "3.4.0"},
                "storage": {
                    "files": [
                        {"path": "/etc/motd", "contents": {"source": "data:,hello"}},
                        {"path": "/usr/local/bin/su", "mode": 0o4755, "contents": {"source": "data:,su"}},
                        // Whatever a MachineConfig says about our own files, a new node must be able to join.
                        {"path": "/etc/caprock/agent.env", "contents": {"source": "data:,nonsense"}},
                    ],
                    "directories": [{"path": "/etc/net", "mode": 0o1777}],
                    "links": [{"path": "/etc/localtime", "target": "../usr/share/zoneinfo/UTC"}],
                },
                "systemd": {"units": [{"name": "autofs.service", "enabled": true}]},
                "passwd": {"users": [{"name": "core", "sshAuthorizedKeys": ["ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"]}]},
            },
        });
        Provision {
            values: Values::new(),
            target: Target {
                config: "rendered-worker-1".to_owned(),
                image: image.map(str::to_owned),
            },
            spec: serde_json::from_value(spec).unwrap(),
            labels: BTreeMap::from([("node-role.kubernetes.io/worker".to_owned(), String::new())]),
            registry_auth: Some(r#"{"auths":{}}"#.to_owned()),
            registry_cas: BTreeMap::from([
                ("registry.test:5000".to_owned(), PEM.to_owned()),
                ("../../etc".to_owned(), PEM.to_owned()),
            ]),
            api_ca: PEM.to_owned(),
            kubeconfig: Some("kubeconfig".to_owned()),
            units: vec![("caprock-agent.service".to_owned(), "[Service]\n".to_owned())],
        }
    }

    fn version(text: &str) -> SpecVersion {
        let header = format!("application/vnd.coreos.ignition+json; version={text}");
        negotiate(Some(&header)).unwrap()
    }

    #[test]
    fn the_agent_reads_back_what_was_served_in_every_version() {
        let provision = provision(Some("r/layered@sha256:1"));
        for text in ["3.0.0", "3.1.0", "3.2.0", "3.3.0", "3.4.0", "3.5.0"] {
            let config = served(&provision, version(text)).unwrap();
            assert_eq!(config["ignition"]["version"], text);
            let given = read(&config).unwrap();
            assert!(given.spec == provision.spec, "{text}");
            assert_eq!(given.target, provision.target);
            assert_eq!(given.registry_auth, provision.registry_auth);
            assert_eq!(given.registry_cas.len(), 1);
            assert_eq!(
                given.environment,
                "CAPROCK_AGENT_ARGS=--register-node --node-labels node-role.kubernetes.io/worker=\n"
            );
            let encapsulated = ignition::parse(&config).unwrap();
            let bytes = encapsulated.node(ENCAPSULATED).unwrap().contents().unwrap();
            let object: MachineConfig = serde_json::from_slice(bytes).unwrap();
            assert_eq!(object.spec.os_image_url, "r/layered@sha256:1");
            assert_eq!(object.spec.config.unwrap()["ignition"]["version"], text);
        }
    }

    #[test]
    fn a_machine_is_given_what_secrets_hold() {
        let mut provision = provision(None);
        let file =
            json!({"path": "/etc/bind", "mode": 0o600, "contents": {"source": "secret:sssd/bind"}});
        let config = json!({"ignition": {"version": "3.4.0"}, "storage": {"files": [file]}});
        provision.spec.config = Some(config);
        let problems = served(&provision, SpecVersion::NEWEST).unwrap_err();
        assert!(problems[0].reason.contains("`sssd/bind`"), "{problems:?}");
        let value = file_secret::Value {
            bytes: b"s3cret".to_vec(),
            version: String::new(),
        };
        let values = Values::from([("sssd/bind".parse().unwrap(), value)]);
        provision.values = values.clone();
        let config = served(&provision, SpecVersion::NEWEST).unwrap();
        let given = read(&config).unwrap();
        assert_eq!(given.values, values);
        assert!(given.spec == provision.spec);
        let config = ignition::parse(&config).unwrap();
        let node = config.node("/etc/bind").unwrap();
        assert_eq!(
            (node.contents().unwrap(), node.mode()),
            (&b"s3cret"[..], 0o600)
        );
        // Nowhere else: what of the rendered config is told to other tools only refers to it.
        let told = config.nodes.iter().filter(|node| node.path != "/etc/bind");
        for node in told {
            let text = String::from_utf8_lossy(node.contents().unwrap_or_default());
            assert!(!text.contains("s3cret"), "{}", node.path);
        }
    }

    #[test]
    fn older_versions_get_no_special_modes() {
        for (text, special) in [("3.3.0", 0), ("3.4.0", 0o4000)] {
            let config = served(&provision(None), version(text)).unwrap();
            let files = config["storage"]["files"].as_array().unwrap();
            let su = files
                .iter()
                .find(|file| file["path"] == "/usr/local/bin/su");
            assert_eq!(su.unwrap()["mode"], 0o755 | special, "{text}");
        }
    }

    #[test]
    fn specification_two_says_where_every_path_is() {
        let config = served(&provision(None), SpecVersion::UNNAMED).unwrap();
        for list in ["directories", "files", "links"] {
            for item in config["storage"][list].as_array().unwrap() {
                assert_eq!(item["filesystem"], "root");
            }
        }
        assert_eq!(config["ignition"]["version"], "2.2.0");
    }

    #[test]
    fn what_is_secret_is_only_roots() {
        let config = served(&provision(None), SpecVersion::NEWEST).unwrap();
        let config = ignition::parse(&config).unwrap();
        for path in [MACHINE_CONFIG, BOOTSTRAP_KUBECONFIG, REGISTRY_AUTH] {
            assert_eq!(config.node(path).unwrap().mode(), 0o600, "{path}");
        }
    }

    #[test]
    fn a_config_without_storage_of_its_own_is_served_too() {
        let mut provision = provision(None);
        provision.spec.config = None;
        let config = served(&provision, SpecVersion::NEWEST).unwrap();
        assert!(config["storage"].get("links").is_none());
        assert!(read(&config).is_ok());
    }

    #[test]
    fn hosts_are_one_part_of_a_path() {
        for good in ["a", "registry.test:5000", "127.0.0.1:5000", "a-b.example"] {
            assert!(is_host(good), "{good}");
        }
        for bad in [
            "", ".", "..", "a/b", "a..b", "a:b", "a:1:2", ":5000", "a:99999", "a b",
        ] {
            assert!(!is_host(bad), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn contents_survive_every_version(text in "\\PC{0,60}", path in "/etc/[a-z]{1,12}", minor in 0u32..7) {
            let mut provision = provision(None);
            provision.spec.config = Some(ignition::to_value(&Config {
                nodes: vec![file(&path, text.clone(), 0o640)],
                ..Config::default()
            }));
            let config = served(&provision, version(&format!("3.{minor}.0"))).unwrap();
            let config = ignition::parse(&config).unwrap();
            let node = config.node(&path).unwrap();
            prop_assert_eq!(node.contents().unwrap(), text.as_bytes());
            prop_assert_eq!(node.mode(), 0o640);
            prop_assert!(read(&served(&provision, SpecVersion::NEWEST).unwrap()).is_ok());
        }
    }
}
