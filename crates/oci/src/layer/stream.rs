//! The bytes of a layer, uncompressed, counted, bounded and hashed on the way.

use std::io::{self, BufReader, Read};
use std::sync::mpsc::{self, Receiver, SyncSender};

use flate2::bufread::MultiGzDecoder;

use super::LayerError;
use crate::digest::{Digest, Digester};

/// Bytes of compressed input read at once, and of output handed over at once.
const BUFFER: usize = 256 << 10;
/// Pieces that may wait to be read.
const AHEAD: usize = 8;
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

/// What the decompressing thread hands over.
type Piece = Result<Vec<u8>, LayerError>;

/// An uncompressed layer. It is decompressed and hashed on a thread of its own, ahead of the reader.
pub(super) struct Stream {
    pieces: Receiver<Piece>,
    piece: Vec<u8>,
    /// How much of the piece was read.
    read: usize,
    failure: Option<LayerError>,
}

/// Gives the uncompressed layer to `work`, and adds its length and digest to what comes of it. A layer of more than
/// `limit` bytes is an error.
pub(super) fn with_stream<T>(
    reader: impl Read + Send,
    media_type: &str,
    limit: u64,
    work: impl FnOnce(Stream) -> (Stream, Result<T, LayerError>),
) -> Result<(T, u64, Digest), LayerError> {
    let compression = Compression::of(media_type)
        .ok_or_else(|| LayerError::MediaType(media_type.chars().take(200).collect()))?;
    std::thread::scope(|scope| {
        let (sender, pieces) = mpsc::sync_channel(AHEAD);
        let producer = scope.spawn(
            move || match decompress(reader, compression, limit, &sender) {
                Ok(digester) => Some(digester),
                Err(error) => {
                    // When nobody listens any more there is nobody to tell.
                    let _ = sender.send(Err(error));
                    None
                }
            },
        );
        let stream = Stream {
            pieces,
            piece: Vec::new(),
            read: 0,
            failure: None,
        };
        let (mut stream, result) = work(stream);
        // What follows the archive counts as well.
        let result = result.and_then(|value| match io::copy(&mut stream, &mut io::sink()) {
            Ok(_) => Ok(value),
            Err(error) => Err(LayerError::Read(error)),
        });
        let failure = stream.failure.take();
        drop(stream);
        let digester = producer
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        match (result, failure, digester) {
            // The archive cannot know why its reader stopped.
            (Err(LayerError::Read(_)), Some(failure), _) => Err(failure),
            (Err(error), _, _) => Err(error),
            (Ok(value), _, Some(digester)) => Ok((value, digester.length(), digester.finish())),
            (Ok(_), _, None) => unreachable!("a failure ends the stream with an error"),
        }
    })
}

fn decompress(
    reader: impl Read,
    compression: Compression,
    limit: u64,
    pieces: &SyncSender<Piece>,
) -> Result<Digester, LayerError> {
    let reader = BufReader::with_capacity(BUFFER, reader);
    match compression {
        Compression::None => cut(reader, limit, pieces),
        Compression::Gzip => cut(MultiGzDecoder::new(reader), limit, pieces),
        Compression::Zstd => {
            let mut decoder =
                zstd::stream::read::Decoder::with_buffer(reader).map_err(LayerError::Read)?;
            decoder
                .window_log_max(MAX_ZSTD_WINDOW)
                .map_err(LayerError::Read)?;
            cut(decoder, limit, pieces)
        }
    }
}

/// Cuts a stream into pieces.
fn cut(
    mut reader: impl Read,
    limit: u64,
    pieces: &SyncSender<Piece>,
) -> Result<Digester, LayerError> {
    let mut digester = Digester::new();
    loop {
        let mut piece = Vec::with_capacity(BUFFER);
        reader
            .by_ref()
            .take(BUFFER as u64)
            .read_to_end(&mut piece)
            .map_err(LayerError::Read)?;
        if piece.is_empty() {
            return Ok(digester);
        }
        digester.update(&piece);
        if digester.length() > limit {
            return Err(LayerError::TooLarge {
                limit,
                unit: "bytes",
            });
        }
        if pieces.send(Ok(piece)).is_err() {
            // The unpacking side failed and has its own error.
            return Ok(digester);
        }
    }
}

impl Read for Stream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.read == self.piece.len() {
            match self.pieces.recv() {
                Ok(Ok(piece)) => (self.piece, self.read) = (piece, 0),
                Ok(Err(failure)) => {
                    let error = io::Error::other(failure.to_string());
                    self.failure = Some(failure);
                    return Err(error);
                }
                Err(mpsc::RecvError) => return Ok(0),
            }
        }
        let length = buffer.len().min(self.piece.len() - self.read);
        buffer[..length].copy_from_slice(&self.piece[self.read..self.read + length]);
        self.read += length;
        Ok(length)
    }
}
