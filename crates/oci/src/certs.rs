//! Certificate authorities of registries as containers-certs.d(5) keeps them: `DIR/HOST[:PORT]/*.crt`.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, ErrorKind, Read as _};
use std::path::{Path, PathBuf};

/// Where container tools look, what counts most last.
pub const SYSTEM_DIRS: [&str; 2] = ["/etc/docker/certs.d", "/etc/containers/certs.d"];
/// Largest file that is read.
const MAX_FILE: u64 = 1 << 20;

/// A directory of authorities cannot be read.
#[derive(Debug, thiserror::Error)]
#[error("cannot read `{}`", path.display())]
pub struct CertsError {
    /// The file or directory.
    pub path: PathBuf,
    /// What the operating system said.
    #[source]
    pub source: io::Error,
}

/// The authorities in a directory, PEM by `host[:port]`; none when it is not there. Files of client certificates
/// (`*.cert` and `*.key`) are passed over.
///
/// # Errors
/// When something of it cannot be read, or is too long.
pub fn authorities(dir: &Path) -> Result<BTreeMap<String, Vec<u8>>, CertsError> {
    let mut found = BTreeMap::new();
    for host in entries(dir)? {
        let Some(name) = host.file_name().and_then(|name| name.to_str()) else {
            continue;
        };
        if !host.is_dir() {
            continue;
        }
        let mut pem = Vec::new();
        for path in entries(&host)? {
            if path.extension().is_some_and(|extension| extension == "crt") {
                read(&path, &mut pem).map_err(|source| CertsError { path, source })?;
                // Files need not end with a line.
                pem.push(b'\n');
            }
        }
        if !pem.is_empty() {
            found.insert(name.to_ascii_lowercase(), pem);
        }
    }
    Ok(found)
}

fn entries(dir: &Path) -> Result<Vec<PathBuf>, CertsError> {
    let failed = |source| CertsError {
        path: dir.to_owned(),
        source,
    };
    let entries = match fs::read_dir(dir) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(failed)?,
    };
    let paths = entries.map(|entry| Ok(entry?.path()));
    let mut paths = paths.collect::<io::Result<Vec<_>>>().map_err(failed)?;
    paths.sort();
    Ok(paths)
}

fn read(path: &Path, into: &mut Vec<u8>) -> io::Result<()> {
    let read = fs::File::open(path)?.take(MAX_FILE + 1).read_to_end(into)?;
    match read as u64 > MAX_FILE {
        true => Err(io::Error::new(
            ErrorKind::FileTooLarge,
            format!("it is longer than {MAX_FILE} bytes"),
        )),
        false => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn each_directory_is_a_registry() {
        let dir = tempfile::tempdir().unwrap();
        let put = |name: &str, text: &str| {
            let path = dir.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        put("R.example:5000/ca.crt", "one");
        put("R.example:5000/other.crt", "two\n");
        put("R.example:5000/client.cert", "not an authority");
        put("R.example:5000/client.key", "s3cret");
        put("empty.example/readme", "x");
        put("stray.crt", "x");
        let found = authorities(dir.path()).unwrap();
        let expected = ("r.example:5000".to_owned(), b"one\ntwo\n\n".to_vec());
        assert_eq!(found, BTreeMap::from([expected]));
        assert!(authorities(&dir.path().join("absent")).unwrap().is_empty());
        put("long.example/ca.crt", &"x".repeat(MAX_FILE as usize + 1));
        assert!(authorities(dir.path()).is_err());
    }
}
