//! The examples that people start from render, and come to the builds they promise.
#![allow(clippy::unwrap_used, clippy::disallowed_methods)]

use std::path::{Path, PathBuf};

use model::api::{ContainerfileArch, MachineConfig, MachineConfigPool, MachineOSConfig};
use model::layering::{self, ImageInputs};
use model::manifest::{self, Object};
use model::render::{self, Defaults};

#[derive(Default)]
struct Manifests {
    configs: Vec<MachineConfig>,
    pools: Vec<MachineConfigPool>,
    image_configs: Vec<MachineOSConfig>,
}

/// Every manifest of these files and places of `examples/`, subplaces not included.
fn manifests(places: &[&str]) -> Manifests {
    let examples = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples");
    let mut all = Manifests::default();
    for path in places.iter().flat_map(|place| files(&examples.join(place))) {
        let text = std::fs::read_to_string(&path).unwrap();
        let objects =
            manifest::parse(&text).map_err(|error| format!("{}: {error}", path.display()));
        for object in objects.unwrap() {
            match object {
                Object::MachineConfig(config) => all.configs.push(*config),
                Object::MachineConfigPool(pool) => all.pools.push(*pool),
                Object::MachineOSConfig(config) => all.image_configs.push(*config),
                Object::MachineOSBuild(_)
                | Object::MachineConfigNode(_)
                | Object::RolloutPolicy(_)
                | Object::MachineConfiguration(_)
                | Object::Other(_) => {}
            }
        }
    }
    all
}

fn files(place: &Path) -> Vec<PathBuf> {
    if place.is_file() {
        return vec![place.to_owned()];
    }
    let entries = std::fs::read_dir(place).unwrap();
    let mut files: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    files.retain(|file| {
        file.extension()
            .is_some_and(|extension| extension == "yaml")
    });
    files.sort();
    files
}

#[test]
fn examples_render_and_can_be_built() {
    let base =
        "quay.io/os/base@sha256:0b9ca241da2f41c03d2106c24ce9dee2370329771d7883508ddfc1d4712fc310";
    let all = manifests(&["worker", "automount"]);
    assert!(!all.pools.is_empty() && !all.image_configs.is_empty());
    let mut built = 0;
    for pool in &all.pools {
        let rendered = render::render(pool, &all.configs, &Defaults::default());
        let rendered = rendered.map_err(|error| error.to_string()).unwrap();
        let name = pool.metadata.name.as_deref().unwrap();
        for image in &all.image_configs {
            if image.spec.machine_config_pool.name != name {
                continue;
            }
            let inputs = ImageInputs::new(
                &rendered.config,
                image,
                &base.parse().unwrap(),
                ContainerfileArch::Amd64,
            );
            layering::machine_os_build(image, rendered.name(), &inputs.unwrap()).unwrap();
            built += 1;
        }
    }
    assert_eq!(built, all.image_configs.len());
}
