//! Telling archives that `ADD` unpacks from other files.

use std::fs::File;
use std::io::{self, Read, Seek as _};

/// What `ADD` does with a file.
pub(super) enum ArchiveKind {
    /// Unpacks it; the media type of a layer of that form.
    Tar(&'static str),
    /// Refuses it: compressed with something that is not known here.
    Unsupported(&'static str),
    /// Copies it.
    Not,
}

/// What kind of archive a file is, by its first bytes; the file is left at its start.
pub(super) fn archive_kind(file: &mut File) -> io::Result<ArchiveKind> {
    let head = |reader: &mut dyn Read| -> io::Result<Vec<u8>> {
        let mut head = Vec::new();
        match reader.take(512).read_to_end(&mut head) {
            // Not what its first bytes promised: an ordinary file.
            Err(error)
                if error.kind() == io::ErrorKind::InvalidData
                    || error.kind() == io::ErrorKind::InvalidInput => {}
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {}
            other => drop(other?),
        }
        Ok(head)
    };
    let is_tar = |head: &[u8]| head.get(257..262) == Some(b"ustar");
    let first = head(file)?;
    file.rewind()?;
    let kind = if is_tar(&first) {
        ArchiveKind::Tar("application/vnd.oci.image.layer.v1.tar")
    } else if first.starts_with(b"\x1f\x8b") {
        match is_tar(&head(&mut flate2::read::MultiGzDecoder::new(&mut *file))?) {
            true => ArchiveKind::Tar("application/vnd.oci.image.layer.v1.tar+gzip"),
            false => ArchiveKind::Not,
        }
    } else if first.starts_with(b"\x28\xb5\x2f\xfd") {
        match is_tar(&head(&mut zstd::Decoder::new(&mut *file)?)?) {
            true => ArchiveKind::Tar("application/vnd.oci.image.layer.v1.tar+zstd"),
            false => ArchiveKind::Not,
        }
    } else if first.starts_with(b"BZh") {
        ArchiveKind::Unsupported("bzip2")
    } else if first.starts_with(b"\xfd7zXZ\0") {
        ArchiveKind::Unsupported("xz")
    } else {
        ArchiveKind::Not
    };
    file.rewind()?;
    Ok(kind)
}
