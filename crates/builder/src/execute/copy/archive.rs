//! Archives that `ADD` unpacks: told from other files by their first bytes.

use std::fs::File;
use std::io::{self, BufReader, Read, Seek as _};
use std::path::Path;

use bzip2::read::MultiBzDecoder;
use flate2::read::MultiGzDecoder;
use lzma_rust2::XzReader;
use oci::layer::{self, LayerError, Options, Stats};

/// Memory that unpacking `xz` may take, the most that its highest level needs.
const XZ_MEMORY: u32 = 80 << 10;

/// A tar archive, perhaps compressed.
#[derive(Debug)]
pub(super) struct Archive {
    file: File,
    form: Form,
}

#[derive(Debug, Clone, Copy)]
enum Form {
    Plain,
    Gzip,
    Zstd,
    Bzip2,
    Xz,
}

impl Archive {
    /// Looks at a file; `None` when it is not an archive.
    pub(super) fn open(mut file: File) -> io::Result<Option<Archive>> {
        let first = head(&file)?;
        file.rewind()?;
        let form = match first.as_slice() {
            [0x1f, 0x8b, ..] => Form::Gzip,
            [0x28, 0xb5, 0x2f, 0xfd, ..] => Form::Zstd,
            [b'B', b'Z', b'h', ..] => Form::Bzip2,
            [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => Form::Xz,
            _ => Form::Plain,
        };
        let mut archive = Archive { file, form };
        let found = archive
            .reader()
            .and_then(head)
            .map(|head| head.get(257..262) == Some(b"ustar"));
        archive.file.rewind()?;
        match found {
            Ok(true) => Ok(Some(archive)),
            Ok(false) => Ok(None),
            // Not what its first bytes promised: an ordinary file.
            Err(error) if broken(&error) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Unpacks it into a directory.
    pub(super) fn unpack(&self, into: &Path, options: &Options) -> Result<Stats, LayerError> {
        let reader = self.reader().map_err(LayerError::Read)?;
        layer::unpack(
            reader,
            "application/vnd.oci.image.layer.v1.tar",
            into,
            options,
        )
    }

    fn reader(&self) -> io::Result<Box<dyn Read + Send + '_>> {
        let file = BufReader::with_capacity(256 << 10, &self.file);
        Ok(match self.form {
            Form::Plain => Box::new(file),
            Form::Gzip => Box::new(MultiGzDecoder::new(file)),
            Form::Zstd => Box::new(zstd::Decoder::with_buffer(file)?),
            Form::Bzip2 => Box::new(MultiBzDecoder::new(file)),
            Form::Xz => Box::new(XzReader::new_mem_limit(file, true, XZ_MEMORY)),
        })
    }
}

fn head(reader: impl Read) -> io::Result<Vec<u8>> {
    let mut head = Vec::new();
    reader.take(512).read_to_end(&mut head)?;
    Ok(head)
}

fn broken(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::InvalidData | io::ErrorKind::InvalidInput | io::ErrorKind::UnexpectedEof
    )
}
