//! What goes into a layered image, and therefore what a build is.
//!
//! Only image inputs change a build's identity: base image, Containerfile, the files that the build reads, and where the
//! result is pushed. Every other file and unit is a live input that the agent writes.

mod build_input;
pub mod sources;

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::api::{
    BuildReference, ContainerfileArch, GROUP, MAX_CONTAINERFILE_BYTES, MachineConfig,
    MachineOSBuild, MachineOSBuildSpec, MachineOSConfig, Named, VERSION,
};
use crate::ignition::{self, Contents, NodeKind};
use crate::keys;
use crate::pull_spec::{PullSpec, PullSpecError};
use crate::render::hex;

pub use build_input::Reads;
use sources::Source;

/// Name of the build context that holds [`ImageInputs::files`].
pub const BUILD_CONTEXT: &str = "machineconfig";
/// Name of the stage that users build upon.
pub const CONFIGS_STAGE: &str = "configs";

/// Everything that decides what a layered image holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageInputs {
    pool: String,
    base: PullSpec,
    push: PullSpec,
    arch: ContainerfileArch,
    containerfile: String,
    files: Vec<BuildFile>,
    sources: Vec<Source>,
    rebuild: Option<String>,
}

/// A file that the build needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BuildFile {
    /// Absolute, normalised path in the image.
    pub path: String,
    /// Permission bits.
    pub mode: u32,
    /// Its bytes.
    pub contents: Vec<u8>,
}

/// Why no build can be made. The user must change what the message names.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LayeringError {
    /// The base image is given by tag; the caller resolves it first.
    #[error("base image `{base}` has no digest; resolve its tag first")]
    BaseWithoutDigest {
        /// Pull spec of the base image.
        base: PullSpec,
    },
    /// The push spec cannot be used.
    #[error("MachineOSConfig `{name}`: `spec.renderedImagePushSpec`: {source}")]
    PushSpec {
        /// Name of the MachineOSConfig.
        name: String,
        /// What is wrong with it.
        source: PullSpecError,
    },
    /// The Containerfile cannot be used.
    #[error("MachineOSConfig `{name}`: `spec.containerFile`: {reason}")]
    Containerfile {
        /// Name of the MachineOSConfig.
        name: String,
        /// What is wrong with it.
        reason: String,
    },
    /// An annotation that names a source of the build cannot be understood.
    #[error("MachineOSConfig `{name}`: annotation `{annotation}`: {reason}")]
    Source {
        /// Name of the MachineOSConfig.
        name: String,
        /// The annotation.
        annotation: String,
        /// What was expected.
        reason: String,
    },
    /// The rendered config asks for something that builds do not do.
    #[error("MachineConfig `{name}`: `{field}`: {reason}")]
    Unsupported {
        /// Name of the rendered MachineConfig.
        name: String,
        /// The field.
        field: &'static str,
        /// What to do instead.
        reason: String,
    },
    /// The rendered config cannot be read; the render never publishes one like that.
    #[error("rendered MachineConfig `{name}` cannot be read: {reason}")]
    Rendered {
        /// Name of the rendered MachineConfig.
        name: String,
        /// The first thing that is wrong.
        reason: String,
    },
}

impl ImageInputs {
    /// Takes the image inputs out of a rendered config and a MachineOSConfig. `base` is the base image with its digest, `arch`
    /// the architecture that is built for.
    ///
    /// # Errors
    /// What the user must change before anything can be built.
    pub fn new(
        rendered: &MachineConfig,
        mosc: &MachineOSConfig,
        base: &PullSpec,
        arch: ContainerfileArch,
    ) -> Result<Self, LayeringError> {
        if base.digest().is_none() {
            return Err(LayeringError::BaseWithoutDigest { base: base.clone() });
        }
        let name = || mosc.metadata.name.clone().unwrap_or_default();
        let push = mosc.spec.rendered_image_push_spec.parse();
        let push: PullSpec = push.map_err(|source| LayeringError::PushSpec {
            name: name(),
            source,
        })?;
        let containerfile =
            containerfile_for(mosc, arch).map_err(|reason| LayeringError::Containerfile {
                name: name(),
                reason,
            })?;
        only_what_builds_do(rendered)?;
        Ok(ImageInputs {
            pool: mosc.spec.machine_config_pool.name.clone(),
            base: base.clone(),
            push,
            arch,
            containerfile: containerfile.to_owned(),
            files: build_files(rendered, containerfile)?,
            sources: Vec::new(),
            rebuild: None,
        })
    }

    /// The same inputs with what [`sources::asked`] asks for.
    pub fn with_sources(self, sources: Vec<Source>) -> Self {
        ImageInputs { sources, ..self }
    }

    /// The same inputs, to be built once more under another name. `wish` tells one wish for that from the next.
    pub fn rebuilt(self, wish: &str) -> Self {
        ImageInputs {
            rebuild: Some(wish.to_owned()),
            ..self
        }
    }

    /// The base image, with digest.
    pub fn base(&self) -> &PullSpec {
        &self.base
    }

    /// What the build context [`BUILD_CONTEXT`] must hold, by path.
    pub fn files(&self) -> &[BuildFile] {
        &self.files
    }

    /// Further contexts and secrets of the build.
    pub fn sources(&self) -> &[Source] {
        &self.sources
    }

    /// Hexadecimal digest of everything that decides what the image holds and where it goes. Credentials do neither.
    pub fn digest(&self) -> String {
        let files: Vec<Value> = self
            .files
            .iter()
            .map(|file| json!([file.path, file.mode, hex(&Sha256::digest(&file.contents))]))
            .collect();
        let mut inputs = json!({
            "arch": self.arch,
            "base": self.base.digest(),
            "baseRepository": self.base.repository(),
            "containerfile": self.containerfile,
            "files": files,
            "pool": self.pool,
            "push": self.push.repository(),
        });
        if !self.sources.is_empty() {
            inputs["sources"] = self.sources.iter().map(Source::identity).collect();
        }
        if let Some(wish) = &self.rebuild {
            inputs["rebuild"] = json!(wish);
        }
        hex(&Sha256::digest(inputs.to_string()))
    }
}

/// Name of the build of these inputs: `<machineosconfig>-<32 hex>`. Equal inputs are one build.
pub fn build_name(mosc: &MachineOSConfig, inputs: &ImageInputs) -> String {
    let name = mosc.metadata.name.as_deref().unwrap_or_default();
    format!("{name}-{}", &inputs.digest()[..32])
}

/// Where the build of these inputs is pushed: the user's repository, with the build's name as the tag.
///
/// # Errors
/// When the MachineOSConfig's name is too long for a tag.
pub fn push_spec(mosc: &MachineOSConfig, inputs: &ImageInputs) -> Result<PullSpec, LayeringError> {
    let tagged = inputs.push.with_tag(&build_name(mosc, inputs));
    tagged.map_err(|source| LayeringError::PushSpec {
        name: mosc.metadata.name.clone().unwrap_or_default(),
        source,
    })
}

/// What stands before the user's Containerfile. Its number of lines is what line numbers of messages are off by.
///
/// The label with the rendered config's name is left out: it would be another image for each live input.
pub fn preamble(inputs: &ImageInputs) -> String {
    let mut text = format!("FROM {} AS {CONFIGS_STAGE}\n", inputs.base);
    if !inputs.files.is_empty() {
        text.push_str(&format!("COPY --from={BUILD_CONTEXT} / /\n"));
    }
    for (label, value) in [
        (keys::IMAGE_POOL, inputs.pool.clone()),
        (keys::IMAGE_BASE, inputs.base.to_string()),
    ] {
        text.push_str(&format!("LABEL {label}=\"{value}\"\n"));
    }
    text
}

/// The whole Containerfile: [`preamble`], then the user's text as it is. Without one, the stage `configs` is the image.
pub fn containerfile(inputs: &ImageInputs) -> String {
    preamble(inputs) + &inputs.containerfile
}

/// The MachineOSBuild of these inputs, ready to be created.
///
/// # Errors
/// When the MachineOSConfig's name is too long for a tag.
pub fn machine_os_build(
    mosc: &MachineOSConfig,
    rendered_name: &str,
    inputs: &ImageInputs,
) -> Result<MachineOSBuild, LayeringError> {
    let mosc_name = mosc.metadata.name.clone().unwrap_or_default();
    let labels = [
        (keys::TARGET_POOL, inputs.pool.as_str()),
        (keys::RENDERED_CONFIG, rendered_name),
        (keys::MACHINE_OS_CONFIG, mosc_name.as_str()),
    ];
    let labels: BTreeMap<String, String> = labels
        .into_iter()
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .collect();
    let owner = mosc.metadata.uid.clone().map(|uid| OwnerReference {
        api_version: format!("{GROUP}/{VERSION}"),
        kind: "MachineOSConfig".into(),
        name: mosc_name.clone(),
        uid,
        controller: Some(true),
        block_owner_deletion: Some(true),
    });
    Ok(MachineOSBuild {
        metadata: ObjectMeta {
            name: Some(build_name(mosc, inputs)),
            labels: Some(labels),
            owner_references: owner.map(|owner| vec![owner]),
            ..ObjectMeta::default()
        },
        spec: MachineOSBuildSpec {
            machine_config: Named::new(rendered_name),
            machine_os_config: Named::new(mosc_name.as_str()),
            rendered_image_push_spec: push_spec(mosc, inputs)?.to_string(),
        },
        status: None,
    })
}

/// What goes into a MachineOSConfig's `status.machineOSBuild`.
pub fn build_reference(name: &str) -> BuildReference {
    BuildReference {
        group: GROUP.into(),
        resource: "machineosbuilds".into(),
        name: name.to_owned(),
        namespace: String::new(),
    }
}

/// The one Containerfile for an architecture.
fn containerfile_for(mosc: &MachineOSConfig, arch: ContainerfileArch) -> Result<&str, String> {
    let all = &mosc.spec.container_file;
    let fits = |wanted: ContainerfileArch| {
        all.iter()
            .filter(move |file| file.containerfile_arch == wanted)
    };
    let mut fitting = fits(ContainerfileArch::NoArch)
        .chain(fits(arch).filter(|_| arch != ContainerfileArch::NoArch));
    let content = match (fitting.next(), fitting.next()) {
        (None, _) if all.is_empty() => "",
        (None, _) => {
            return Err(format!(
                "there is no entry for `{}` or `NoArch`",
                arch_name(arch)
            ));
        }
        (Some(one), None) => &one.content,
        (Some(_), Some(_)) => {
            return Err(format!(
                "more than one entry is for `{}`; keep `NoArch` or one entry for each architecture",
                arch_name(arch)
            ));
        }
    };
    if content.len() > MAX_CONTAINERFILE_BYTES {
        return Err(format!(
            "expected at most {MAX_CONTAINERFILE_BYTES} bytes, found {}",
            content.len()
        ));
    }
    Ok(content)
}

fn arch_name(arch: ContainerfileArch) -> &'static str {
    match arch {
        ContainerfileArch::Arm64 => "ARM64",
        ContainerfileArch::Amd64 => "AMD64",
        ContainerfileArch::Ppc64le => "PPC64LE",
        ContainerfileArch::S390x => "S390X",
        ContainerfileArch::NoArch => "NoArch",
    }
}

fn only_what_builds_do(rendered: &MachineConfig) -> Result<(), LayeringError> {
    let unsupported = |field, reason| LayeringError::Unsupported {
        name: rendered.metadata.name.clone().unwrap_or_default(),
        field,
        reason,
    };
    let spec = &rendered.spec;
    if let Some(extension) = spec.extensions.first() {
        let reason = format!(
            "extension `{extension}` is not installed by the build; install its packages in the MachineOSConfig's Containerfile"
        );
        return Err(unsupported("spec.extensions", reason));
    }
    if !["", "default"].contains(&spec.kernel_type.as_str()) {
        let reason = format!(
            "kernel `{}` is not installed by the build; replace the kernel's packages in the MachineOSConfig's Containerfile",
            spec.kernel_type
        );
        return Err(unsupported("spec.kernelType", reason));
    }
    Ok(())
}

fn build_files(
    rendered: &MachineConfig,
    containerfile: &str,
) -> Result<Vec<BuildFile>, LayeringError> {
    let Some(config) = &rendered.spec.config else {
        return Ok(Vec::new());
    };
    let config = ignition::parse(config).map_err(|problems| LayeringError::Rendered {
        name: rendered.metadata.name.clone().unwrap_or_default(),
        reason: problems
            .first()
            .map(ToString::to_string)
            .unwrap_or_default(),
    })?;
    let config = config.canonical();
    let reads = Reads::new(containerfile, &config);
    let nodes = config.nodes.iter().cloned();
    let files = nodes.filter_map(|node| {
        let mode = node.mode();
        match node.kind {
            NodeKind::File {
                contents: Some(Contents::Inline(contents)),
                ..
            } if reads.is_build_input(&node.path) => Some(BuildFile {
                path: node.path,
                mode,
                contents,
            }),
            NodeKind::File { .. } | NodeKind::Directory { .. } | NodeKind::Link { .. } => None,
        }
    });
    Ok(files.collect())
}

#[cfg(test)]
mod tests;
