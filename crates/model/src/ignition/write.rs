//! From [`Config`] to JSON.

use std::io::Write;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use flate2::Compression;
use flate2::write::GzEncoder;
use serde_json::{Map, Value, json};

use crate::file_secret::SCHEME;

use super::{Config, Contents, Node, NodeKind, Owner, ROOT, Unit};

/// Version of the specification that configs are written in.
pub const OUTPUT_VERSION: &str = "3.5.0";

/// Contents longer than this are compressed, so that a config with a large file still fits into an object.
const COMPRESS_FROM: usize = 16 * 1024;

/// The config as Ignition JSON.
pub fn to_value(config: &Config) -> Value {
    write(config, &encode)
}

/// The config as JSON, with `contents` saying what stands for a file's bytes. Of a file from a Secret only where it comes
/// from is said, whether or not the value is known.
pub(crate) fn write(config: &Config, contents: &dyn Fn(&[u8]) -> Value) -> Value {
    let mut files = Vec::new();
    let mut directories = Vec::new();
    let mut links = Vec::new();
    for node in &config.nodes {
        let mut object = node_object(node);
        match &node.kind {
            NodeKind::File { contents: held, .. } => {
                object.insert("mode".into(), node.mode().into());
                if let Some(held) = held {
                    // Ignition allows `overwrite` only beside contents.
                    object.insert("overwrite".into(), true.into());
                    let held = match held {
                        Contents::Inline(bytes) => contents(bytes),
                        Contents::Secret { from, .. } => {
                            json!({"source": format!("{SCHEME}{from}")})
                        }
                    };
                    object.insert("contents".into(), held);
                }
                files.push(Value::Object(object));
            }
            NodeKind::Directory { .. } => {
                object.insert("mode".into(), node.mode().into());
                directories.push(Value::Object(object));
            }
            NodeKind::Link { target } => {
                object.insert("overwrite".into(), true.into());
                if let Some(target) = target {
                    object.insert("target".into(), target.as_str().into());
                }
                links.push(Value::Object(object));
            }
        }
    }
    let mut root = Map::new();
    root.insert("ignition".into(), json!({"version": OUTPUT_VERSION}));
    let mut storage = Map::new();
    insert_list(&mut storage, "directories", directories);
    insert_list(&mut storage, "files", files);
    insert_list(&mut storage, "links", links);
    insert_object(&mut root, "storage", storage);
    let mut systemd = Map::new();
    insert_list(
        &mut systemd,
        "units",
        config.units.iter().map(unit).collect(),
    );
    insert_object(&mut root, "systemd", systemd);
    let mut core = Map::new();
    insert_list(
        &mut core,
        "sshAuthorizedKeys",
        config
            .core
            .ssh_keys
            .iter()
            .map(|key| key.as_str().into())
            .collect(),
    );
    if let Some(hash) = &config.core.password_hash {
        core.insert("passwordHash".into(), hash.as_str().into());
    }
    if !core.is_empty() {
        core.insert("name".into(), "core".into());
        root.insert("passwd".into(), json!({"users": [core]}));
    }
    Value::Object(root)
}

fn node_object(node: &Node) -> Map<String, Value> {
    let mut object = Map::new();
    object.insert("path".into(), node.path.as_str().into());
    for (key, owner) in [("user", node.user()), ("group", node.group())] {
        match owner {
            owner if *owner == ROOT => None,
            Owner::Id(id) => object.insert(key.into(), json!({"id": id})),
            Owner::Name(name) => object.insert(key.into(), json!({"name": name})),
        };
    }
    object
}

fn unit(unit: &Unit) -> Value {
    let mut object = Map::new();
    object.insert("name".into(), unit.name.as_str().into());
    if let Some(contents) = &unit.contents {
        object.insert("contents".into(), contents.as_str().into());
    }
    for (key, flag) in [("enabled", unit.enabled), ("mask", unit.mask)] {
        if let Some(flag) = flag {
            object.insert(key.into(), flag.into());
        }
    }
    let dropins = unit.dropins.iter().map(|dropin| match &dropin.contents {
        Some(contents) => json!({"name": dropin.name, "contents": contents}),
        None => json!({"name": dropin.name}),
    });
    insert_list(&mut object, "dropins", dropins.collect());
    Value::Object(object)
}

fn insert_list(object: &mut Map<String, Value>, key: &str, list: Vec<Value>) {
    if !list.is_empty() {
        object.insert(key.into(), Value::Array(list));
    }
}

fn insert_object(object: &mut Map<String, Value>, key: &str, inner: Map<String, Value>) {
    if !inner.is_empty() {
        object.insert(key.into(), Value::Object(inner));
    }
}

fn encode(bytes: &[u8]) -> Value {
    if bytes.len() <= COMPRESS_FROM {
        return json!({"source": format!("data:;base64,{}", STANDARD.encode(bytes))});
    }
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    let compressed = encoder
        .write_all(bytes)
        .and_then(|()| encoder.finish())
        .expect("writing to memory never fails");
    json!({
        "compression": "gzip",
        "source": format!("data:;base64,{}", STANDARD.encode(compressed)),
    })
}
