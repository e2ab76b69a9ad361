//! The bytes of a layer, uncompressed, counted, bounded and hashed on the way.

use std::io::{self, BufReader, Read};

use flate2::bufread::MultiGzDecoder;

use super::LayerError;
use crate::digest::{Digest, Digester};

/// Bytes of compressed input read at once.
const BUFFER: usize = 256 << 10;
/// Largest window of zstd that is accepted, as a power of two: 128 MiB of memory, the tool's own default bound.
const MAX_ZSTD_WINDOW: u32 = 27;

/// How a layer is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Compression {
    None,
    Gzip,
    Zstd,
}

impl Compression {
    fn of(media_type: &str) -> Option<Compression> {
        let kind = media_type
            .strip_prefix("application/vnd.oci.image.layer.v1.")
            .or_else(|| {
                media_type.strip_prefix("application/vnd.oci.image.layer.nondistributable.v1.")
            })
            .or_else(|| media_type.strip_prefix("application/vnd.docker.image.rootfs.diff."))
            .or_else(|| {
                media_type.strip_prefix("application/vnd.docker.image.rootfs.foreign.diff.")
            })?;
        match kind {
            "tar" => Some(Compression::None),
            "tar+gzip" | "tar.gzip" => Some(Compression::Gzip),
            "tar+zstd" | "tar.zstd" => Some(Compression::Zstd),
            _ => None,
        }
    }
}

/// An uncompressed layer. Reading past the limit is an error, recognised with [`Stream::exceeded`].
pub(super) struct Stream<'a> {
    source: Box<dyn Read + 'a>,
    digester: Digester,
    limit: u64,
    exceeded: bool,
}

impl<'a> Stream<'a> {
    pub(super) fn open(
        reader: impl Read + 'a,
        media_type: &str,
        limit: u64,
    ) -> Result<Stream<'a>, LayerError> {
        let compression = Compression::of(media_type)
            .ok_or_else(|| LayerError::MediaType(media_type.chars().take(200).collect()))?;
        let reader = BufReader::with_capacity(BUFFER, reader);
        let source: Box<dyn Read + 'a> = match compression {
            Compression::None => Box::new(reader),
            Compression::Gzip => Box::new(BufReader::with_capacity(
                BUFFER,
                MultiGzDecoder::new(reader),
            )),
            Compression::Zstd => {
                let mut decoder =
                    zstd::stream::read::Decoder::with_buffer(reader).map_err(LayerError::Read)?;
                decoder
                    .window_log_max(MAX_ZSTD_WINDOW)
                    .map_err(LayerError::Read)?;
                Box::new(BufReader::with_capacity(BUFFER, decoder))
            }
        };
        Ok(Stream {
            source,
            digester: Digester::new(),
            limit,
            exceeded: false,
        })
    }

    /// Whether the layer turned out to be longer than the limit.
    pub(super) fn exceeded(&self) -> bool {
        self.exceeded
    }

    /// Reads what follows the archive, and gives length and digest of everything.
    pub(super) fn finish(mut self) -> Result<(u64, Digest), LayerError> {
        match io::copy(&mut self, &mut io::sink()) {
            Ok(_) => Ok((self.digester.length(), self.digester.finish())),
            Err(_) if self.exceeded => Err(LayerError::TooLarge {
                limit: self.limit,
                unit: "bytes",
            }),
            Err(error) => Err(LayerError::Read(error)),
        }
    }
}

impl Read for Stream<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.source.read(buffer)?;
        self.digester.update(&buffer[..read]);
        if self.digester.length() > self.limit {
            self.exceeded = true;
            return Err(io::Error::other("the layer is longer than allowed"));
        }
        Ok(read)
    }
}
