//! Manifests that commands are given: files, directories and standard input, read as an API server would.

use std::collections::BTreeMap;
use std::io::Read as _;

use anyhow::{Context, anyhow};
use camino::{Utf8Path, Utf8PathBuf};
use kube::ResourceExt;
use model::api::{
    MachineConfig, MachineConfigPool, MachineConfiguration, MachineOSConfig, RolloutPolicy,
};
use model::keys;
use model::manifest::{self, Object};
use model::render::Defaults;

use crate::exit::{Failure, refused};

/// Longest manifest that is read.
const MAX_BYTES: u64 = 16 << 20;

/// The objects of some manifests that configuration is made from.
#[derive(Debug, Default)]
pub(crate) struct Manifests {
    pub(crate) pools: Vec<MachineConfigPool>,
    pub(crate) configs: Vec<MachineConfig>,
    pub(crate) images: Vec<MachineOSConfig>,
    pub(crate) configuration: Option<MachineConfiguration>,
    pub(crate) rollouts: Vec<RolloutPolicy>,
    /// What the ConfigMap with the cluster's base image says, when it is among them.
    pub(crate) defaults: Option<Defaults>,
}

impl Manifests {
    /// Reads files, the manifests in directories, and standard input for `-`.
    pub(crate) fn read(paths: &[Utf8PathBuf]) -> Result<Self, Failure> {
        let mut manifests = Manifests::default();
        for (name, text) in read_all(paths)? {
            let objects = manifest::parse(&text).map_err(|error| {
                refused(anyhow!(error).context(format!("`{name}` is not valid")))
            })?;
            for object in objects {
                manifests.take(object);
            }
        }
        Ok(manifests)
    }

    fn take(&mut self, object: Object) {
        match object {
            Object::MachineConfigPool(pool) => self.pools.push(*pool),
            Object::MachineConfig(config) => self.configs.push(*config),
            Object::MachineOSConfig(image) => self.images.push(*image),
            Object::MachineConfiguration(configuration) => {
                self.configuration = Some(*configuration);
            }
            Object::Other(value) => {
                let text = |pointer: &str| value.pointer(pointer).and_then(|value| value.as_str());
                let is_defaults = text("/kind") == Some("ConfigMap")
                    && text("/metadata/name") == Some(keys::OS_IMAGE_URL_CONFIG_MAP);
                if is_defaults {
                    let data = value.get("data").cloned().unwrap_or_default();
                    let data: BTreeMap<String, String> =
                        serde_json::from_value(data).unwrap_or_default();
                    self.defaults = Some(defaults(&data));
                }
            }
            Object::RolloutPolicy(policy) => self.rollouts.push(*policy),
            // Neither makes a difference to nodes.
            Object::MachineOSBuild(_) | Object::MachineConfigNode(_) => {}
        }
    }
}

/// What the cluster gives to pools whose MachineConfigs name no image.
pub(crate) fn defaults(data: &BTreeMap<String, String>) -> Defaults {
    let value = |key: &str| data.get(key).cloned().unwrap_or_default();
    Defaults {
        os_image_url: value(keys::BASE_OS_IMAGE_KEY),
        extensions_image: value(keys::BASE_OS_EXTENSIONS_IMAGE_KEY),
    }
}

/// The one pool of some that is meant.
pub(crate) fn pick<'p>(
    pools: &'p [MachineConfigPool],
    name: Option<&str>,
    place: &str,
) -> Result<Option<&'p MachineConfigPool>, Failure> {
    match (name, pools) {
        (Some(name), pools) => match pools.iter().find(|pool| pool.name_any() == name) {
            Some(pool) => Ok(Some(pool)),
            None => Err(refused(anyhow!(
                "{place} has no MachineConfigPool `{name}`"
            ))),
        },
        (None, []) => Ok(None),
        (None, [only]) => Ok(Some(only)),
        (None, several) => {
            let names: Vec<String> = several.iter().map(ResourceExt::name_any).collect();
            let message = anyhow!(
                "{place} has several MachineConfigPools: `{}`",
                names.join("`, `")
            );
            Err(refused(message).hint("choose one with `--pool NAME`"))
        }
    }
}

/// The texts of files, of the manifests in directories, and of standard input, each with its name. What kustomize reads
/// is no manifest.
pub(crate) fn read_all(paths: &[Utf8PathBuf]) -> Result<Vec<(String, String)>, Failure> {
    let mut texts = Vec::new();
    for path in paths {
        if path.is_dir() {
            let mut files = Vec::new();
            for entry in path
                .read_dir_utf8()
                .with_context(|| format!("failed to read `{path}`"))?
            {
                let file = entry?.into_path();
                let is_manifest = matches!(file.extension(), Some("yaml" | "yml" | "json"))
                    && file.file_stem() != Some("kustomization");
                if is_manifest && file.is_file() {
                    files.push(file);
                }
            }
            files.sort();
            for file in files {
                texts.push((file.to_string(), read(&file)?));
            }
        } else {
            let name = match path.as_str() {
                "-" => "standard input",
                path => path,
            };
            texts.push((name.to_owned(), read(path)?));
        }
    }
    Ok(texts)
}

fn read(path: &Utf8Path) -> Result<String, Failure> {
    let text = String::from_utf8(bytes(path, MAX_BYTES)?);
    text.map_err(|error| refused(anyhow!(error).context(format!("`{path}` is no text"))))
}

/// The bytes of a file, or of standard input for `-`.
///
/// # Errors
/// When it cannot be read, or is longer than `most` bytes.
pub(crate) fn bytes(path: &Utf8Path, most: u64) -> Result<Vec<u8>, Failure> {
    let mut found = Vec::new();
    let read = match path.as_str() {
        "-" => std::io::stdin().take(most + 1).read_to_end(&mut found),
        path => {
            std::fs::File::open(path).and_then(|file| file.take(most + 1).read_to_end(&mut found))
        }
    };
    read.map_err(|error| refused(anyhow!(error).context(format!("failed to read `{path}`"))))?;
    if found.len() as u64 > most {
        return Err(refused(anyhow!("`{path}` is longer than {most} bytes")));
    }
    Ok(found)
}
