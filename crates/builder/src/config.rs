//! The image configuration as a build changes it. Fields that are not known here are kept as they came.

use std::collections::BTreeMap;

use jiff::Timestamp;
use oci::Digest;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Map, Value};

/// An image configuration, OCI or Docker.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ImageConfig {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub author: Option<String>,
    pub architecture: String,
    pub os: String,
    #[serde(default, deserialize_with = "or_default")]
    pub config: Execution,
    pub rootfs: RootFs,
    #[serde(default, deserialize_with = "or_default")]
    pub history: Vec<History>,
    #[serde(flatten)]
    pub other: Map<String, Value>,
}

/// How a container of the image runs.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Execution {
    #[serde(
        skip_serializing_if = "String::is_empty",
        deserialize_with = "or_default"
    )]
    pub user: String,
    #[serde(
        skip_serializing_if = "BTreeMap::is_empty",
        deserialize_with = "or_default"
    )]
    pub exposed_ports: BTreeMap<String, Value>,
    #[serde(skip_serializing_if = "Vec::is_empty", deserialize_with = "or_default")]
    pub env: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub entrypoint: Option<Vec<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cmd: Option<Vec<String>>,
    #[serde(
        skip_serializing_if = "BTreeMap::is_empty",
        deserialize_with = "or_default"
    )]
    pub volumes: BTreeMap<String, Value>,
    #[serde(
        skip_serializing_if = "String::is_empty",
        deserialize_with = "or_default"
    )]
    pub working_dir: String,
    #[serde(
        skip_serializing_if = "BTreeMap::is_empty",
        deserialize_with = "or_default"
    )]
    pub labels: BTreeMap<String, String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stop_signal: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub healthcheck: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub shell: Option<Vec<String>>,
    #[serde(skip_serializing_if = "Vec::is_empty", deserialize_with = "or_default")]
    pub on_build: Vec<String>,
    #[serde(flatten)]
    pub other: Map<String, Value>,
}

/// The layers, uncompressed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RootFs {
    #[serde(rename = "type")]
    pub kind: String,
    #[serde(deserialize_with = "or_default", default)]
    pub diff_ids: Vec<Digest>,
}

/// One instruction of the past.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct History {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub created: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub created_by: Option<String>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub empty_layer: bool,
    #[serde(flatten)]
    pub other: Map<String, Value>,
}

/// Writers of images put `null` where the specification has an empty list.
fn or_default<'de, D: Deserializer<'de>, T: Deserialize<'de> + Default>(
    deserializer: D,
) -> Result<T, D::Error> {
    Ok(Option::<T>::deserialize(deserializer)?.unwrap_or_default())
}

impl ImageConfig {
    /// The variant of the architecture, if it has one.
    pub fn variant(&self) -> Option<&str> {
        self.other.get("variant").and_then(Value::as_str)
    }

    /// The configuration of `FROM scratch`.
    pub fn scratch(os: &str, architecture: &str, variant: Option<&str>) -> Self {
        let mut other = Map::new();
        if let Some(variant) = variant {
            other.insert("variant".into(), variant.into());
        }
        ImageConfig {
            created: None,
            author: None,
            architecture: architecture.to_string(),
            os: os.to_string(),
            config: Execution::default(),
            rootfs: RootFs {
                kind: "layers".into(),
                diff_ids: Vec::new(),
            },
            history: Vec::new(),
            other,
        }
    }

    /// When the image says it was created; the start of the epoch if it does not say.
    pub fn created(&self) -> Timestamp {
        self.created
            .as_deref()
            .and_then(|text| text.parse().ok())
            .unwrap_or(Timestamp::UNIX_EPOCH)
    }

    /// The value of an environment variable.
    pub fn env(&self, name: &str) -> Option<&str> {
        self.config.env.iter().rev().find_map(|entry| {
            let (key, value) = entry.split_once('=')?;
            (key == name).then_some(value)
        })
    }

    /// Sets an environment variable, in place when it is set already.
    pub fn set_env(&mut self, name: &str, value: &str) {
        let entry = format!("{name}={value}");
        let same = |old: &&mut String| old.split('=').next() == Some(name);
        match self.config.env.iter_mut().find(same) {
            Some(old) => *old = entry,
            None => self.config.env.push(entry),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn unknown_fields_and_nulls_survive() {
        let text = r#"{"created":"2024-01-02T03:04:05Z","architecture":"amd64","os":"linux","config":{"Env":null,
            "ArgsEscaped":true,"Labels":null},"rootfs":{"type":"layers","diff_ids":[]},"history":null,"os.version":"1"}"#;
        let config: ImageConfig = serde_json::from_str(text).unwrap();
        assert_eq!(config.created().as_second(), 1_704_164_645);
        let again = serde_json::to_value(&config).unwrap();
        assert_eq!(again["config"]["ArgsEscaped"], true);
        assert_eq!(again["os.version"], "1");
        assert!(again["config"].get("Env").is_none());
    }

    #[test]
    fn env_is_replaced_in_place() {
        let mut config = ImageConfig::scratch("linux", "amd64", None);
        for (name, value) in [("A", "1"), ("B", "2"), ("A", "3")] {
            config.set_env(name, value);
        }
        assert_eq!(config.config.env, ["A=3", "B=2"]);
        assert_eq!(config.env("A"), Some("3"));
    }
}
