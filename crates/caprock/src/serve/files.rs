//! Small files of a data directory, replaced atomically and synced.

use std::io::Write;
use std::os::unix::fs::PermissionsExt;

use anyhow::Context;
use camino::Utf8Path;

/// The file's text, or `None` when there is no such file.
pub(crate) fn read_if_present(path: &Utf8Path) -> anyhow::Result<Option<String>> {
    match std::fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).with_context(|| format!("failed to read `{path}`")),
    }
}

/// Replaces a file that holds a secret: readable by its owner alone.
pub(crate) fn write_private(path: &Utf8Path, text: &str) -> anyhow::Result<()> {
    write_private_bytes(path, text.as_bytes())
}

/// The same for a file that is no text.
pub(crate) fn write_private_bytes(path: &Utf8Path, content: &[u8]) -> anyhow::Result<()> {
    write(path, content, 0o600)
}

/// Replaces a file that everybody may read.
pub(crate) fn write_public(path: &Utf8Path, text: &str) -> anyhow::Result<()> {
    write(path, text.as_bytes(), 0o644)
}

fn write(path: &Utf8Path, content: &[u8], mode: u32) -> anyhow::Result<()> {
    let write = || -> std::io::Result<()> {
        let dir = path.parent().unwrap_or(Utf8Path::new("."));
        std::fs::create_dir_all(dir)?;
        let mut file = tempfile::Builder::new()
            .permissions(std::fs::Permissions::from_mode(mode))
            .tempfile_in(dir)?;
        file.write_all(content)?;
        file.as_file().sync_all()?;
        file.persist(path).map_err(|error| error.error)?;
        std::fs::File::open(dir)?.sync_all()
    };
    write().with_context(|| format!("failed to write `{path}`"))
}
