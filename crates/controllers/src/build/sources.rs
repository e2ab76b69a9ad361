//! What the sources of a build hold: ConfigMaps and Secrets of our namespace, and images by digest.

use kube::ResourceExt;
use model::api::MachineOSConfig;
use model::condition::BuildReason;
use model::keys;
use model::layering::BuildFile;
use model::layering::sources::{self, Asked, Content, From, Hidden, Source};

use super::wanted;
use crate::cache::Cache;
use crate::registry::Failure;

/// Permission bits of files from a ConfigMap, which has none.
const MODE: u32 = 0o644;

/// Everything that the MachineOSConfig's annotations ask for.
///
/// # Errors
/// What somebody must correct or create; that change brings the loops back.
pub(super) fn resolve(cache: &Cache, config: &MachineOSConfig) -> Result<Vec<Source>, Failure> {
    let asked = sources::asked(config).map_err(wanted::blocked)?;
    let resolved = asked.into_iter().map(|asked| {
        let content = content(cache, &asked).map_err(|reason| Failure {
            reason: BuildReason::SourceUnavailable,
            message: format!("annotation `{}`: {reason}", asked.annotation),
            may_pass: false,
        })?;
        let name = asked.name;
        Ok(Source { name, content })
    });
    resolved.collect()
}

/// Changes with everything that [`resolve`] reads.
pub(super) fn versions(cache: &Cache, config: &MachineOSConfig) -> Vec<Option<String>> {
    let asked = sources::asked(config).unwrap_or_default();
    let version = |asked: Asked| match asked.from {
        From::ConfigMap { name } => cache.config_map(&name)?.resource_version(),
        From::Secret { name, .. } => cache.secret(&name)?.resource_version(),
        From::Image(_) | From::Artifact(_) => None,
    };
    asked.into_iter().map(version).collect()
}

fn content(cache: &Cache, asked: &Asked) -> Result<Content, String> {
    let missing = |kind: &str, name: &str| {
        format!(
            "there is no {kind} `{name}` in namespace `{}`; create it or name another",
            keys::NAMESPACE
        )
    };
    match &asked.from {
        From::Image(image) => Ok(Content::Image(image.clone())),
        From::Artifact(artifact) => Ok(Content::Artifact(artifact.clone())),
        From::ConfigMap { name } => {
            let map = cache.config_map(name);
            let map = map.ok_or_else(|| missing("ConfigMap", name))?;
            let text = map.data.iter().flatten();
            let text = text.map(|(key, text)| (key, text.clone().into_bytes()));
            let binary = map.binary_data.iter().flatten();
            let binary = binary.map(|(key, bytes)| (key, bytes.0.clone()));
            let mut files = Vec::new();
            for (key, contents) in text.chain(binary) {
                if matches!(key.as_str(), "" | "." | "..") || key.contains('/') {
                    return Err(format!(
                        "ConfigMap `{name}`: key `{key}` is not a file name"
                    ));
                }
                files.push(BuildFile {
                    path: format!("/{key}"),
                    mode: MODE,
                    contents,
                });
            }
            files.sort_by(|a, b| a.path.cmp(&b.path));
            Ok(Content::Files(files))
        }
        From::Secret { name, key } => {
            let secret = cache.secret(name).ok_or_else(|| missing("Secret", name))?;
            let value = secret.data.as_ref().and_then(|data| data.get(key));
            let value = value.ok_or_else(|| {
                format!("Secret `{name}` has no key `{key}`; add it or name another")
            })?;
            Ok(Content::Secret {
                version: format!(
                    "{}/{}",
                    secret.uid().unwrap_or_default(),
                    secret.resource_version().unwrap_or_default()
                ),
                value: Hidden(value.0.clone()),
            })
        }
    }
}
