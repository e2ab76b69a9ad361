//! The fields of a MachineConfig's spec beside Ignition: checked one by one, then combined.

use std::collections::BTreeSet;

use super::{ConfigProblem, Defaults, kernel, name_of};
use crate::api::{MachineConfig, MachineConfigSpec};
use crate::ignition::{self, Config, MAX_CONTENT_BYTES};
use crate::packages::{self, DEFAULT_KERNEL};
use crate::problem::{Problem, did_you_mean};
use crate::pull_spec::PullSpec;

/// The extension that only fits the default kernel.
const KERNEL_DEVEL: &str = "kernel-devel";

/// Reads one MachineConfig: its Ignition config, when it has one that can be read, and everything that is wrong.
pub(super) fn read(config: &MachineConfig) -> (Option<Config>, Vec<ConfigProblem>) {
    let mut problems = spec_problems(&config.spec);
    let fragment = match config.spec.config.as_ref().map(ignition::parse) {
        None => None,
        Some(Ok(fragment)) => Some(fragment),
        Some(Err(found)) => {
            problems.extend(found.into_iter().map(|problem| Problem {
                field: within("spec.config", &problem.field),
                reason: problem.reason,
            }));
            None
        }
    };
    let name = name_of(config);
    let problems = problems
        .into_iter()
        .map(|problem| ConfigProblem {
            machine_configs: vec![name.clone()],
            field: format!("`{}`", problem.field),
            reason: problem.reason,
        })
        .collect();
    (fragment, problems)
}

fn within(outer: &str, field: &str) -> String {
    if field.is_empty() {
        outer.to_owned()
    } else {
        format!("{outer}.{field}")
    }
}

fn spec_problems(spec: &MachineConfigSpec) -> Vec<Problem> {
    let mut problems = Vec::new();
    let (kernel_type, known) = (spec.kernel_type.as_str(), packages::kernel_types());
    if !kernel_type.is_empty() && !known.contains(&kernel_type) {
        problems.push(Problem::new("spec.kernelType", one_of(kernel_type, &known)));
    }
    let known = packages::extensions();
    for (index, extension) in spec.extensions.iter().enumerate() {
        if !known.contains(&extension.as_str()) {
            problems.push(Problem::new(
                format!("spec.extensions[{index}]"),
                one_of(extension, &known),
            ));
        }
    }
    for (index, argument) in spec.kernel_arguments.iter().enumerate() {
        if let Some(reason) = kernel::problem(argument) {
            problems.push(Problem::new(
                format!("spec.kernelArguments[{index}]"),
                reason,
            ));
        }
    }
    for (field, image) in [
        ("spec.osImageURL", &spec.os_image_url),
        (
            "spec.baseOSExtensionsContainerImage",
            &spec.base_os_extensions_container_image,
        ),
    ] {
        if !image.is_empty()
            && let Err(error) = image.parse::<PullSpec>()
        {
            problems.push(Problem::new(field, error.to_string()));
        }
    }
    problems
}

fn one_of(word: &str, known: &[&str]) -> String {
    format!(
        "expected one of `{}`, found `{word}`{}",
        known.join("`, `"),
        did_you_mean(word, known.iter().copied())
    )
}

/// Names that more than one object has; possible only when they are read from files.
pub(super) fn repeated_names(selected: &[&MachineConfig]) -> Vec<ConfigProblem> {
    let mut seen = BTreeSet::new();
    selected
        .iter()
        .map(|config| name_of(config))
        .filter(|name| !seen.insert(name.clone()))
        .map(|name| ConfigProblem {
            machine_configs: vec![name],
            field: "`metadata.name`".into(),
            reason: "there is more than one MachineConfig of this name".into(),
        })
        .collect()
}

/// Everything of the rendered spec but the Ignition config.
pub(super) fn combine(selected: &[&MachineConfig], defaults: &Defaults) -> MachineConfigSpec {
    let specs = || selected.iter().map(|config| &config.spec);
    let last = |value: fn(&MachineConfigSpec) -> &String, default: &str| {
        let set = specs().map(value).rfind(|value| !value.is_empty());
        set.map_or(default, String::as_str).to_owned()
    };
    let mut extensions: Vec<String> = specs().flat_map(|spec| spec.extensions.clone()).collect();
    extensions.sort();
    extensions.dedup();
    MachineConfigSpec {
        os_image_url: last(|spec| &spec.os_image_url, &defaults.os_image_url),
        base_os_extensions_container_image: last(
            |spec| &spec.base_os_extensions_container_image,
            &defaults.extensions_image,
        ),
        config: None,
        kernel_arguments: kernel::arguments(
            specs().flat_map(|spec| spec.kernel_arguments.iter().map(String::as_str)),
        ),
        extensions,
        fips: specs().any(|spec| spec.fips),
        kernel_type: last(|spec| &spec.kernel_type, DEFAULT_KERNEL),
    }
}

/// Fields of the combined spec that do not go together.
pub(super) fn contradictions(
    spec: &MachineConfigSpec,
    selected: &[&MachineConfig],
) -> Vec<ConfigProblem> {
    if spec.kernel_type == DEFAULT_KERNEL
        || !spec.extensions.iter().any(|name| name == KERNEL_DEVEL)
    {
        return Vec::new();
    }
    let involved = |config: &&&MachineConfig| {
        config.spec.kernel_type == spec.kernel_type
            || config
                .spec
                .extensions
                .iter()
                .any(|name| name == KERNEL_DEVEL)
    };
    vec![ConfigProblem {
        machine_configs: selected
            .iter()
            .filter(involved)
            .map(|config| name_of(config))
            .collect(),
        field: "`spec.extensions`".into(),
        reason: format!(
            "`{KERNEL_DEVEL}` is for the default kernel only, and `spec.kernelType` is `{}`",
            spec.kernel_type
        ),
    }]
}

/// The bound on contents holds for the merged config as for each of its parts.
pub(super) fn too_many_bytes(
    merged: &Config,
    selected: &[&MachineConfig],
) -> Option<ConfigProblem> {
    let bytes = merged.content_bytes();
    (bytes > MAX_CONTENT_BYTES).then(|| ConfigProblem {
        machine_configs: selected.iter().map(|config| name_of(config)).collect(),
        field: "`spec.config.storage.files`".into(),
        reason: format!(
            "the files have {bytes} bytes together, at most {MAX_CONTENT_BYTES} are allowed"
        ),
    })
}
