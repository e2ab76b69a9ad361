//! Layers on their way from a tree on disk to the store and to registries, while the build goes on.

use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use oci::digest::Digester;
use oci::{BlobWriter, Client, Digest, Growth, Reference, StoreError};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::cache::{Blob, CachedLayer, Entry};
use crate::commit::{self, Changes};
use crate::compress::compress;
use crate::error::BuildError;
use crate::event::{Event, Transfer};
use crate::work::Work;

/// A repository that layers are sent to as soon as they are made.
#[derive(Debug, Clone)]
pub struct Destination {
    /// Where to.
    pub reference: Reference,
    /// With which credentials and trust.
    pub client: Client,
}

/// Bytes between two announcements of what was written.
const STRIDE: u64 = 1 << 20;

/// Uploads that began while the image was built.
#[derive(Debug, Default)]
pub(crate) struct Uploads {
    running: Mutex<Vec<JoinHandle<()>>>,
}

impl Uploads {
    fn add(&self, upload: JoinHandle<()>) {
        self.running
            .lock()
            .expect("nobody panics with this lock")
            .push(upload);
    }

    /// Waits until each has ended, in whatever way: who pushes looks what is there.
    pub(crate) async fn settle(&self) {
        let running =
            std::mem::take(&mut *self.running.lock().expect("nobody panics with this lock"));
        for upload in running {
            if let Err(error) = upload.await {
                tracing::debug!(%error, "an upload was stopped");
            }
        }
    }
}

impl Drop for Uploads {
    fn drop(&mut self) {
        for upload in self
            .running
            .get_mut()
            .iter()
            .flat_map(|running| running.iter())
        {
            upload.abort();
        }
    }
}

/// A layer that is being packed on a thread of its own.
#[derive(Debug)]
pub(crate) struct Packing {
    job: Mutex<Option<JoinHandle<Result<Blob, BuildError>>>>,
}

impl Packing {
    /// Packs the tree in the background and remembers the result under `key`. `changes` are listed when absent.
    pub(crate) fn start(
        work: &Work,
        tree: PathBuf,
        changes: Option<Changes>,
        diff_id: Digest,
        key: Digest,
    ) -> Packing {
        Packing::spawn(work, diff_id, key, move |work, sink| {
            let changes = changes.map_or_else(
                || commit::relist(&tree, work.cache().superuser().marks()),
                Ok,
            )?;
            commit::pack(&tree, &changes, work.compression, sink)
        })
    }

    /// Packs a layer of the store in another way, in the background, and remembers the result under `key`.
    pub(crate) fn again(work: &Work, blob: Blob, diff_id: Digest, key: Digest) -> Packing {
        Packing::spawn(work, diff_id, key, move |work, sink| {
            let packed = work
                .cache()
                .blobs()
                .open_blob(&blob.digest)
                .map_err(plain)?;
            let layer = blob.compression.decoder(packed)?;
            let mut layer = HashingReader {
                layer,
                plain: Digester::new(),
            };
            let copied = |sink: &mut dyn Write| io::copy(&mut layer, sink).map(drop);
            compress(work.compression, sink, copied)?;
            match layer.plain.finish() == diff_id {
                true => Ok(()),
                false => Err(io::Error::other(
                    "a layer in the build cache is spoilt; remove the cache",
                )),
            }
        })
    }

    fn spawn(
        work: &Work,
        diff_id: Digest,
        key: Digest,
        produce: impl FnOnce(&Work, &mut Growing<'_>) -> io::Result<()> + Send + 'static,
    ) -> Packing {
        let work = work.clone();
        let handle = work.handle.clone();
        let job = handle.spawn_blocking(move || {
            // One at a time: each uses every core for itself.
            let _alone = work.engine.packing();
            let packed = write(&work, |sink| produce(&work, sink));
            let (blob, ()) = packed.map_err(|error| work.or_cancelled(error))?;
            let layer = CachedLayer {
                diff_id,
                blob: Some(blob),
            };
            work.cache()
                .record(&key, &Entry { layer: Some(layer) })
                .map_err(BuildError::host("cannot write the build cache"))?;
            Ok(blob)
        });
        Packing {
            job: Mutex::new(Some(job)),
        }
    }

    /// Waits for the blob. A layer is asked for once.
    pub(crate) fn finish(&self, work: &Work) -> Result<Blob, BuildError> {
        let job = self
            .job
            .lock()
            .expect("nobody panics with this lock")
            .take();
        let Some(job) = job else {
            return Err(BuildError::Cancelled);
        };
        work.wait(async {
            match job.await {
                Ok(packed) => packed,
                Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
                Err(_) => Err(BuildError::Cancelled),
            }
        })
    }
}

/// Packs a layer at once and names it.
pub(crate) fn pack_now(
    work: &Work,
    tree: &Path,
    changes: &Changes,
) -> Result<CachedLayer, BuildError> {
    let _alone = work.engine.packing();
    let packed = write(work, |sink| {
        commit::pack_and_name(tree, changes, work.compression, sink)
    });
    let (blob, diff_id) = packed.map_err(|error| work.or_cancelled(error))?;
    Ok(CachedLayer {
        diff_id,
        blob: Some(blob),
    })
}

/// Writes a blob into the store while it is sent to where the image will go.
fn write<T>(
    work: &Work,
    produce: impl FnOnce(&mut Growing<'_>) -> io::Result<T>,
) -> io::Result<(Blob, T)> {
    let writer = work.cache().blobs().writer().map_err(plain)?;
    let (growth, grown) = watch::channel(Growth::Written(0));
    for destination in work.destinations.iter() {
        let (file, grown) = (writer.reader().map_err(plain)?, grown.clone());
        let (destination, events) = (destination.clone(), work.events.clone());
        work.uploads.add(work.handle.spawn(async move {
            let Destination { reference, client } = destination;
            let sent = client.push_growing(&reference, file, grown.clone()).await;
            match (sent, *grown.borrow()) {
                (Ok(()), Growth::Complete { size, digest }) => {
                    let done = Event::Bytes {
                        transfer: Transfer::Push,
                        blob: digest.to_string(),
                        done: size,
                        total: size,
                    };
                    // Whoever pushes the image tells it again.
                    drop(events.try_send(done));
                }
                (Ok(()), Growth::Written(_)) => {}
                (Err(error), _) => {
                    tracing::debug!(%error, "a layer is sent again when the image is pushed");
                }
            }
        }));
    }
    let mut sink = Growing {
        writer,
        work,
        growth,
        told: 0,
    };
    let produced = produce(&mut sink)?;
    let Growing { writer, growth, .. } = sink;
    let (size, digest) = (writer.written(), writer.digest());
    // The registry makes it durable while we do.
    growth.send_replace(Growth::Complete { size, digest });
    writer.commit(Some(&digest)).map_err(plain)?;
    let blob = Blob {
        digest,
        size,
        compression: work.compression,
    };
    Ok((blob, produced))
}

fn plain(error: StoreError) -> io::Error {
    match error {
        StoreError::Io { source, .. } => source,
        other => io::Error::other(other),
    }
}

/// Hashes what is read.
struct HashingReader<R> {
    layer: R,
    plain: Digester,
}

impl<R: Read> Read for HashingReader<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = self.layer.read(buffer)?;
        self.plain.update(&buffer[..length]);
        Ok(length)
    }
}

/// A blob in the making that others follow.
struct Growing<'a> {
    writer: BlobWriter,
    work: &'a Work,
    growth: watch::Sender<Growth>,
    told: u64,
}

impl Write for Growing<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.work.cancel.is_cancelled() {
            return Err(io::Error::other("the build was cancelled"));
        }
        let length = self.writer.write(bytes)?;
        let written = self.writer.written();
        if written - self.told >= STRIDE {
            self.told = written;
            self.growth.send_replace(Growth::Written(written));
        }
        Ok(length)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.writer.flush()
    }
}
