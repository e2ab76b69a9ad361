//! One side of a comparison: the configuration that some manifests, or a MachineConfig, come to.

use std::collections::BTreeMap;

use anyhow::anyhow;
use camino::Utf8Path;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use kube::ResourceExt;
use model::api::{
    MachineConfig, MachineConfigPool, MachineConfigPoolSpec, MachineConfiguration, MachineOSConfig,
};
use model::problem::summary;
use model::render::{self, Defaults, Provenance};
use model::update::Version;

use crate::exit::{Failure, refused};
use crate::manifests::{self, Manifests};

/// Label that the MachineConfigs of manifests without a pool are given, to render them all.
const ALL: &str = "caprock.dev/all";

/// What a node has or is to have.
#[derive(Debug)]
pub(crate) struct Side {
    pub(crate) version: Version,
    /// How its layered image is made, when it has one.
    pub(crate) image: Option<MachineOSConfig>,
    /// The MachineConfiguration among the manifests.
    pub(crate) configuration: Option<MachineConfiguration>,
}

impl Side {
    /// Reads a file or a directory. One MachineConfig alone is taken as it is; several are rendered, for the pool among
    /// them when there is one.
    pub(crate) fn read(path: &Utf8Path, pool: Option<&str>) -> Result<Self, Failure> {
        let Manifests {
            pools,
            configs,
            images,
            configuration,
            defaults,
            // Order and times are no difference between two configurations.
            rollouts: _,
        } = Manifests::read(&[path.to_owned()])?;
        let place = format!("`{path}`");
        let pool = manifests::pick(&pools, pool, &place)?;
        let version = match (pool, configs.as_slice()) {
            (Some(pool), configs) => rendered(pool, configs, &defaults.unwrap_or_default())?,
            (None, []) => {
                return Err(refused(anyhow!("{place} has no MachineConfig")));
            }
            (None, [only]) => version(only)?,
            (None, several) => rendered(
                &everything(),
                &labelled(several),
                &defaults.unwrap_or_default(),
            )?,
        };
        let image = images.into_iter().find(|image| {
            let of = &image.spec.machine_config_pool.name;
            pool.is_none_or(|pool| pool.name_any() == *of)
        });
        Ok(Side {
            version,
            image,
            configuration,
        })
    }
}

/// A MachineConfig as it is.
pub(crate) fn version(config: &MachineConfig) -> Result<Version, Failure> {
    let name = config.name_any();
    let version = Version::new(&name, &config.spec, None).map_err(|problems| {
        refused(anyhow!(
            "MachineConfig `{name}` is not valid: {}",
            summary(&problems)
        ))
    })?;
    Ok(match render::is_rendered(config) {
        true => version,
        false => version.explained(Provenance::of([config])),
    })
}

/// What a pool's nodes are to have.
pub(crate) fn rendered(
    pool: &MachineConfigPool,
    configs: &[MachineConfig],
    defaults: &Defaults,
) -> Result<Version, Failure> {
    let rendered = render::render(pool, configs, defaults).map_err(|error| {
        refused(anyhow!(error).context(format!("cannot render pool `{}`", pool.name_any())))
    })?;
    Ok(version(&rendered.config)?.explained(rendered.provenance))
}

fn everything() -> MachineConfigPool {
    let label = BTreeMap::from([(ALL.to_owned(), String::new())]);
    let spec = MachineConfigPoolSpec {
        machine_config_selector: Some(LabelSelector {
            match_labels: Some(label),
            ..LabelSelector::default()
        }),
        ..MachineConfigPoolSpec::default()
    };
    MachineConfigPool::new("all", spec)
}

fn labelled(configs: &[MachineConfig]) -> Vec<MachineConfig> {
    let mut configs = configs.to_vec();
    for config in &mut configs {
        config.labels_mut().insert(ALL.to_owned(), String::new());
    }
    configs
}
