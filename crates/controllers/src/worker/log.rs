//! What a build's steps print, kept in a file for `caprock logs`.

use std::fs::File;
use std::io::Write;
use std::sync::Mutex;

use camino::{Utf8Path, Utf8PathBuf};

use crate::error::{Error, Result};

/// Longest log: beyond it lines are dropped, and the log says so once. The last lines of a failing step are in the
/// build's condition all the same.
const MAX_BYTES: u64 = 16 << 20;

/// The log file of a build.
pub fn path(dir: &Utf8Path, build: &str) -> Utf8PathBuf {
    dir.join(format!("{build}.log"))
}

/// A build's log, open for writing.
#[derive(Debug)]
pub(crate) struct Log {
    inner: Mutex<Inner>,
}

#[derive(Debug)]
struct Inner {
    file: File,
    bytes: u64,
    failed: bool,
}

impl Log {
    /// Starts the log of an attempt; what an earlier attempt wrote is replaced.
    pub(crate) fn create(dir: &Utf8Path, build: &str) -> Result<Self> {
        let path = path(dir, build);
        let file = File::create(&path).map_err(|source| Error::Io {
            doing: format!("create the log `{path}`"),
            source,
        })?;
        Ok(Log {
            inner: Mutex::new(Inner {
                file,
                bytes: 0,
                failed: false,
            }),
        })
    }

    /// Appends a line. A log that cannot be written does not fail the build; that is told once.
    pub(crate) fn line(&self, line: &str) {
        let mut inner = self
            .inner
            .lock()
            .expect("no panic happens while the lock is held");
        let Inner {
            file,
            bytes,
            failed,
        } = &mut *inner;
        if *failed || *bytes > MAX_BYTES {
            return;
        }
        *bytes += line.len() as u64 + 1;
        let text = if *bytes > MAX_BYTES {
            format!("(log ends here: it is longer than {MAX_BYTES} bytes)\n")
        } else {
            format!("{line}\n")
        };
        if let Err(error) = file.write_all(text.as_bytes()) {
            *failed = true;
            tracing::warn!("failed to write a build's log: {error}");
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_log_is_bounded() {
        let dir = tempfile::tempdir().unwrap();
        let dir = Utf8Path::from_path(dir.path()).unwrap();
        let log = Log::create(dir, "b").unwrap();
        let line = "x".repeat(1 << 20);
        for _ in 0..20 {
            log.line(&line);
        }
        let text = std::fs::read_to_string(path(dir, "b")).unwrap();
        assert!(text.len() as u64 <= MAX_BYTES + 100);
        assert!(text.ends_with("(log ends here: it is longer than 16777216 bytes)\n"));
    }
}
