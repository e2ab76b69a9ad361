//! What a build is given by name, beside its Containerfile: the pool's files, further contexts, secrets.

use std::collections::BTreeMap;
use std::fs::{self, File, Permissions};
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use builder::{NamedContext, Secrets};
use model::layering::sources::Content;
use model::layering::{BUILD_CONTEXT, BuildFile, ImageInputs};
use tempfile::TempDir;

use super::folder;

/// The contexts of one attempt. Their files are removed when this is dropped.
#[derive(Debug)]
pub(super) struct Contexts {
    pub(super) named: BTreeMap<String, NamedContext>,
    pub(super) secrets: Secrets,
    _dir: TempDir,
    /// Tells those who clean up that its builder lives.
    _lock: File,
}

impl Contexts {
    /// Writes the files of every context to a folder; secrets stay in memory.
    pub(super) fn write(inputs: &ImageInputs) -> io::Result<Contexts> {
        let (dir, lock) = folder::make()?;
        let directory = |name: &str, files: &[BuildFile]| {
            // Names are checked where they are read: each is the name of one directory.
            let root = dir.path().join(name);
            write(&root, files)?;
            io::Result::Ok(NamedContext::Dir(root))
        };
        let own = directory(BUILD_CONTEXT, inputs.files())?;
        let mut named = BTreeMap::from([(BUILD_CONTEXT.to_owned(), own)]);
        let mut secrets = Secrets::default();
        for source in inputs.sources() {
            let context = match &source.content {
                Content::Files(files) => directory(&source.name, files)?,
                Content::Image(image) => NamedContext::Image(image.to_string()),
                Content::Artifact(artifact) => NamedContext::Artifact(artifact.to_string()),
                Content::Secret { value, .. } => {
                    secrets.insert(source.name.clone(), value.0.clone());
                    continue;
                }
            };
            named.insert(source.name.clone(), context);
        }
        Ok(Contexts {
            named,
            secrets,
            _dir: dir,
            _lock: lock,
        })
    }
}

fn write(root: &Path, files: &[BuildFile]) -> io::Result<()> {
    fs::create_dir(root)?;
    for file in files {
        // The render refuses `..`, and paths are absolute and normalised.
        let place = root.join(file.path.trim_start_matches('/'));
        if let Some(parent) = place.parent() {
            fs::create_dir_all(parent)?;
        }
        fs::write(&place, &file.contents)?;
        fs::set_permissions(&place, Permissions::from_mode(file.mode))?;
    }
    Ok(())
}
