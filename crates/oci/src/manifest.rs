//! Image manifests and indexes, as OCI and as Docker schema 2 write them. The bytes that came are kept
//! beside what was read from them: a manifest is known by the digest of its bytes, and writing it anew would
//! lose fields that we do not know.

use bytes::Bytes;

pub use oci_spec::image::{
    Arch, Config, Descriptor, History, ImageConfiguration as ImageConfig, ImageIndex,
    ImageManifest, MediaType, Os, Platform, RootFs,
};

use crate::digest::{Digest, DigestError};

/// Media type of an OCI image manifest.
pub const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
/// Media type of an OCI image index.
pub const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
/// Media type of a Docker schema 2 image manifest.
pub const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
/// Media type of a Docker schema 2 manifest list.
pub const DOCKER_INDEX: &str = "application/vnd.docker.distribution.manifest.list.v2+json";

/// Everything a registry may be asked for, in the order of preference.
pub(crate) const ACCEPTED: [&str; 4] = [OCI_MANIFEST, OCI_INDEX, DOCKER_MANIFEST, DOCKER_INDEX];

/// Largest manifest or index that is read, the bound that registries use for theirs.
pub const MAX_MANIFEST: u64 = 4 << 20;
/// Largest image configuration that is read.
pub const MAX_CONFIG: u64 = 8 << 20;

/// What stands behind a name in a registry.
#[derive(Debug, Clone, PartialEq)]
pub enum Document {
    /// One image.
    Manifest(Manifest),
    /// A choice of images, by platform.
    Index(Index),
}

/// The manifest of one image.
#[derive(Debug, Clone, PartialEq)]
pub struct Manifest {
    bytes: Bytes,
    digest: Digest,
    media_type: String,
    content: Box<ImageManifest>,
}

/// An index (Docker: manifest list).
#[derive(Debug, Clone, PartialEq)]
pub struct Index {
    bytes: Bytes,
    digest: Digest,
    media_type: String,
    content: Box<ImageIndex>,
}

/// Why bytes are not a manifest that can be used.
#[derive(Debug, thiserror::Error)]
pub enum ManifestError {
    /// The media type is none that we read, schema 1 among them.
    #[error("media type `{0}` is not an OCI or Docker schema 2 manifest or index")]
    MediaType(String),
    /// Neither the bytes nor their sender say what they are.
    #[error("manifest has no `mediaType`, and neither `config` nor `manifests` to tell by")]
    Unlabelled,
    /// The sender says one thing, the document another: acting on either could be a trick.
    #[error("manifest says `mediaType` is `{inside}`, but it was sent as `{outside}`")]
    Ambiguous {
        /// What the document says.
        inside: String,
        /// What the sender said.
        outside: String,
    },
    /// Both an image and an index.
    #[error("manifest has both `{0}` and `{1}`")]
    TwoKinds(&'static str, &'static str),
    /// Schema 1 or something of the future.
    #[error("`schemaVersion` is {0}, expected 2")]
    SchemaVersion(u32),
    /// Longer than [`MAX_MANIFEST`].
    #[error("manifest has {0} bytes, more than {MAX_MANIFEST}")]
    TooLong(u64),
    /// A descriptor whose digest is not SHA-256.
    #[error(transparent)]
    Digest(#[from] DigestError),
    /// Not JSON, or fields of wrong types.
    #[error("manifest is not valid: {0}")]
    Json(#[from] serde_json::Error),
}

/// The parts that tell kinds apart, read first and leniently.
#[derive(serde::Deserialize)]
#[serde(rename_all = "camelCase")]
struct Kind {
    media_type: Option<String>,
    config: Option<serde::de::IgnoredAny>,
    layers: Option<serde::de::IgnoredAny>,
    manifests: Option<serde::de::IgnoredAny>,
}

impl Document {
    /// Reads a manifest or index. `media_type` is what the sender called it (parameters are ignored); where
    /// the document names its type too, both must agree.
    pub fn parse(
        bytes: impl Into<Bytes>,
        media_type: Option<&str>,
    ) -> Result<Document, ManifestError> {
        let bytes = bytes.into();
        if bytes.len() as u64 > MAX_MANIFEST {
            return Err(ManifestError::TooLong(bytes.len() as u64));
        }
        let kind: Kind = serde_json::from_slice(&bytes)?;
        // `application/json` and the like are what servers of plain files send.
        let outside = media_type
            .map(essence)
            .filter(|media_type| media_type.starts_with("application/vnd."));
        let media_type = match (outside, kind.media_type.as_deref()) {
            (Some(outside), Some(inside)) if outside != inside => {
                return Err(ManifestError::Ambiguous {
                    inside: inside.to_owned(),
                    outside: outside.to_owned(),
                });
            }
            (Some(media_type), _) | (None, Some(media_type)) => media_type.to_owned(),
            (None, None) if kind.manifests.is_some() => OCI_INDEX.to_owned(),
            (None, None) if kind.config.is_some() => OCI_MANIFEST.to_owned(),
            (None, None) => return Err(ManifestError::Unlabelled),
        };
        let digest = Digest::of(&bytes);
        match media_type.as_str() {
            OCI_MANIFEST | DOCKER_MANIFEST => {
                if kind.manifests.is_some() {
                    return Err(ManifestError::TwoKinds("config", "manifests"));
                }
                let content: Box<ImageManifest> = serde_json::from_slice(&bytes)?;
                check_version(content.schema_version())?;
                for descriptor in std::iter::once(content.config()).chain(content.layers()) {
                    digest_of(descriptor)?;
                }
                Ok(Document::Manifest(Manifest {
                    bytes,
                    digest,
                    media_type,
                    content,
                }))
            }
            OCI_INDEX | DOCKER_INDEX => {
                if kind.layers.is_some() || kind.config.is_some() {
                    return Err(ManifestError::TwoKinds("manifests", "layers"));
                }
                let content: Box<ImageIndex> = serde_json::from_slice(&bytes)?;
                check_version(content.schema_version())?;
                for descriptor in content.manifests() {
                    digest_of(descriptor)?;
                }
                Ok(Document::Index(Index {
                    bytes,
                    digest,
                    media_type,
                    content,
                }))
            }
            _ => Err(ManifestError::MediaType(media_type)),
        }
    }

    /// The bytes as they came.
    pub fn bytes(&self) -> &Bytes {
        match self {
            Document::Manifest(manifest) => &manifest.bytes,
            Document::Index(index) => &index.bytes,
        }
    }

    /// The digest of the bytes.
    pub fn digest(&self) -> Digest {
        match self {
            Document::Manifest(manifest) => manifest.digest,
            Document::Index(index) => index.digest,
        }
    }

    /// The media type, without parameters.
    pub fn media_type(&self) -> &str {
        match self {
            Document::Manifest(manifest) => &manifest.media_type,
            Document::Index(index) => &index.media_type,
        }
    }
}

fn check_version(version: u32) -> Result<(), ManifestError> {
    match version {
        2 => Ok(()),
        other => Err(ManifestError::SchemaVersion(other)),
    }
}

/// A media type without its parameters.
fn essence(media_type: &str) -> &str {
    media_type.split(';').next().unwrap_or_default().trim()
}

impl Manifest {
    /// The bytes as they came.
    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// The digest of the bytes: the image's identity.
    pub fn digest(&self) -> Digest {
        self.digest
    }

    /// The media type, without parameters.
    pub fn media_type(&self) -> &str {
        &self.media_type
    }

    /// What was read.
    pub fn content(&self) -> &ImageManifest {
        &self.content
    }

    /// The descriptor of the image's configuration.
    pub fn config(&self) -> &Descriptor {
        self.content.config()
    }

    /// The descriptors of the layers, lowest first.
    pub fn layers(&self) -> &[Descriptor] {
        self.content.layers()
    }
}

impl Index {
    /// The bytes as they came.
    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// The digest of the bytes.
    pub fn digest(&self) -> Digest {
        self.digest
    }

    /// The media type, without parameters.
    pub fn media_type(&self) -> &str {
        &self.media_type
    }

    /// What was read.
    pub fn content(&self) -> &ImageIndex {
        &self.content
    }

    /// The descriptors of the manifests.
    pub fn manifests(&self) -> &[Descriptor] {
        self.content.manifests()
    }

    /// The first image for `platform`. A variant counts only where both sides name one. An index of one image
    /// that names no platform is for every platform.
    pub fn select(&self, platform: &Platform) -> Option<&Descriptor> {
        let fits = |descriptor: &&Descriptor| match descriptor.platform() {
            Some(offered) => {
                offered.os() == platform.os()
                    && offered.architecture() == platform.architecture()
                    && match (offered.variant(), platform.variant()) {
                        (Some(offered), Some(wanted)) => offered == wanted,
                        _ => true,
                    }
            }
            None => self.manifests().len() == 1,
        };
        self.manifests().iter().find(fits)
    }

    /// The platforms on offer as `os/architecture[/variant]`, for messages.
    pub fn platforms(&self) -> Vec<String> {
        self.manifests()
            .iter()
            .filter_map(|descriptor| descriptor.platform().as_ref())
            .map(platform_text)
            .collect()
    }
}

/// `os/architecture[/variant]`.
pub fn platform_text(platform: &Platform) -> String {
    match platform.variant() {
        Some(variant) => format!("{}/{}/{variant}", platform.os(), platform.architecture()),
        None => format!("{}/{}", platform.os(), platform.architecture()),
    }
}

/// The platform that this program was built for, by the names that images use.
pub fn this_platform() -> Platform {
    Platform::default()
}

/// A descriptor of content with a known digest.
pub fn descriptor(media_type: &str, size: u64, digest: Digest) -> Descriptor {
    Descriptor::new(media_type.into(), size, digest)
}

/// The digest that a descriptor names; ours are SHA-256 only.
pub fn digest_of(descriptor: &Descriptor) -> Result<Digest, DigestError> {
    Digest::try_from(descriptor.digest())
}

/// The chain id of a layer on the chain below it, by the OCI image specification: it names a tree by what it is made of.
pub fn chain_id(below: Option<Digest>, diff_id: &Digest) -> Digest {
    match below {
        None => *diff_id,
        Some(below) => Digest::of(format!("{below} {diff_id}").as_bytes()),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use serde_json::{Value, json};

    fn image() -> Value {
        json!({
            "schemaVersion": 2,
            "mediaType": OCI_MANIFEST,
            "config": { "mediaType": "application/vnd.oci.image.config.v1+json", "digest": Digest::of(b"c"), "size": 1 },
            "layers": [],
            "unknown": { "kept": true },
        })
    }

    fn index(platforms: &[Value]) -> Value {
        let entry = |platform: &Value| {
            let mut entry = json!({ "mediaType": OCI_MANIFEST, "digest": Digest::of(platform.to_string().as_bytes()), "size": 1 });
            if !platform.is_null() {
                entry["platform"] = platform.clone();
            }
            entry
        };
        json!({ "schemaVersion": 2, "manifests": platforms.iter().map(entry).collect::<Vec<_>>() })
    }

    fn parse(document: &Value, media_type: Option<&str>) -> Result<Document, ManifestError> {
        Document::parse(document.to_string(), media_type)
    }

    #[test]
    fn bytes_and_digest_are_kept() {
        let text = format!(" {}\n", image());
        let document = Document::parse(
            text.clone(),
            Some("application/vnd.oci.image.manifest.v1+json; charset=utf-8"),
        )
        .unwrap();
        assert_eq!(
            (document.bytes().as_ref(), document.digest()),
            (text.as_bytes(), Digest::of(text.as_bytes()))
        );
        assert_eq!(document.media_type(), OCI_MANIFEST);
    }

    #[test]
    fn kinds_are_told_apart_or_refused() {
        let without = |key: &str| {
            let mut document = image();
            document.as_object_mut().unwrap().remove(key);
            document
        };
        let with = |key: &str, value: Value| {
            let mut document = image();
            document[key] = value;
            document
        };
        assert!(matches!(
            parse(&without("mediaType"), None),
            Ok(Document::Manifest(_))
        ));
        assert!(matches!(
            parse(&image(), Some("application/json")),
            Ok(Document::Manifest(_))
        ));
        assert!(matches!(parse(&index(&[]), None), Ok(Document::Index(_))));
        assert!(matches!(
            parse(&without("mediaType"), Some(DOCKER_MANIFEST)),
            Ok(Document::Manifest(_))
        ));

        assert!(matches!(
            parse(&image(), Some(OCI_INDEX)),
            Err(ManifestError::Ambiguous { .. })
        ));
        assert!(matches!(
            parse(&with("manifests", json!([])), None),
            Err(ManifestError::TwoKinds(..))
        ));
        assert!(matches!(
            parse(&without("mediaType"), Some(OCI_INDEX)),
            Err(ManifestError::TwoKinds(..))
        ));
        assert!(matches!(
            parse(&with("schemaVersion", json!(1)), None),
            Err(ManifestError::SchemaVersion(1))
        ));
        let schema_1 = with(
            "mediaType",
            json!("application/vnd.docker.distribution.manifest.v1+prettyjws"),
        );
        assert!(matches!(
            parse(&schema_1, None),
            Err(ManifestError::MediaType(_))
        ));
        assert!(matches!(
            parse(&json!({ "schemaVersion": 2 }), None),
            Err(ManifestError::Unlabelled)
        ));
        for broken in [
            with("config", json!(null)),
            without("layers"),
            with("layers", json!([{ "size": -1 }])),
            json!([]),
        ] {
            assert!(parse(&broken, Some(OCI_MANIFEST)).is_err(), "{broken}");
        }
        let mut sha512 = image();
        sha512["config"]["digest"] = format!("sha512:{}", "0".repeat(128)).into();
        assert!(matches!(
            parse(&sha512, None),
            Err(ManifestError::Digest(_))
        ));
        assert!(matches!(
            Document::parse(vec![b' '; MAX_MANIFEST as usize + 1], None),
            Err(ManifestError::TooLong(_))
        ));
        let nested = "[".repeat(100_000);
        assert!(matches!(
            Document::parse(nested, Some(OCI_MANIFEST)),
            Err(ManifestError::Json(_))
        ));
    }

    #[test]
    fn the_image_for_a_platform_is_chosen() {
        let platform = |architecture: &str, variant: Option<&str>| {
            let mut platform = Platform::default();
            platform.set_os("linux".into());
            platform.set_architecture(architecture.into());
            platform.set_variant(variant.map(str::to_owned));
            platform
        };
        let offers = [
            json!({ "os": "unknown", "architecture": "unknown" }),
            json!({ "os": "windows", "architecture": "amd64" }),
            json!({ "os": "linux", "architecture": "arm", "variant": "v6" }),
            json!({ "os": "linux", "architecture": "arm", "variant": "v7" }),
            json!({ "os": "linux", "architecture": "amd64" }),
        ];
        let choose = |offers: &[Value], wanted: Platform| {
            let Document::Index(index) = parse(&index(offers), None).unwrap() else {
                panic!("not an index")
            };
            index.select(&wanted).map(|found| digest_of(found).unwrap())
        };
        let digest = |n: usize| Some(Digest::of(offers[n].to_string().as_bytes()));
        assert_eq!(choose(&offers, platform("amd64", None)), digest(4));
        assert_eq!(choose(&offers, platform("amd64", Some("v2"))), digest(4));
        assert_eq!(choose(&offers, platform("arm", Some("v7"))), digest(3));
        assert_eq!(choose(&offers, platform("arm", None)), digest(2));
        assert_eq!(choose(&offers, platform("s390x", None)), None);
        assert!(choose(&[Value::Null], platform("s390x", None)).is_some());
        assert_eq!(
            choose(&[Value::Null, Value::Null], platform("s390x", None)),
            None
        );
    }

    #[test]
    fn the_chain_of_one_is_its_layer() {
        let (a, b) = (Digest::of(b"a"), Digest::of(b"b"));
        assert_eq!(chain_id(None, &a), a);
        let both = Digest::of(format!("{a} {b}").as_bytes());
        assert_eq!(chain_id(Some(a), &b), both);
    }
}
