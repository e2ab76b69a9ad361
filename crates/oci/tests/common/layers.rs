//! Layers in the making, and trees to unpack them into.

use std::collections::BTreeMap;
use std::fs;
use std::io::Cursor;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::Path;

use oci::layer::{LayerError, Limits, Options, Privilege, Stats, Whiteouts, unpack};
use tar::{EntryType, Header};

pub(crate) const PLAIN: &str = "application/vnd.oci.image.layer.v1.tar";

/// A layer in the making. Paths are written as they are, without the checks of honest writers.
pub(crate) struct Layer(tar::Builder<Vec<u8>>);

impl Layer {
    pub(crate) fn new() -> Layer {
        Layer(tar::Builder::new(Vec::new()))
    }

    pub(crate) fn header(path: &str, kind: EntryType, mode: u32) -> Header {
        let mut header = Header::new_ustar();
        header.as_old_mut().name[..path.len()].copy_from_slice(path.as_bytes());
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(1_000_000_000);
        header.set_size(0);
        header
    }

    pub(crate) fn add(mut self, mut header: Header, content: &[u8]) -> Layer {
        header.set_cksum();
        self.0.append(&header, content).unwrap();
        self
    }

    pub(crate) fn file(self, path: &str, content: &str) -> Layer {
        let mut header = Layer::header(path, EntryType::Regular, 0o644);
        header.set_size(content.len() as u64);
        self.add(header, content.as_bytes())
    }

    pub(crate) fn dir(self, path: &str) -> Layer {
        self.add(Layer::header(path, EntryType::Directory, 0o755), b"")
    }

    pub(crate) fn link(self, path: &str, kind: EntryType, target: &str) -> Layer {
        let mut header = Layer::header(path, kind, 0o777);
        header.as_old_mut().linkname[..target.len()].copy_from_slice(target.as_bytes());
        self.add(header, b"")
    }

    pub(crate) fn symlink(self, path: &str, target: &str) -> Layer {
        self.link(path, EntryType::Symlink, target)
    }

    pub(crate) fn hard_link(self, path: &str, target: &str) -> Layer {
        self.link(path, EntryType::Link, target)
    }

    pub(crate) fn pax(self, records: &[(&str, &[u8])]) -> Layer {
        let mut body = Vec::new();
        for (key, value) in records {
            let rest = key.len() + value.len() + 3;
            let length = (1..)
                .find(|digits| (rest + digits).to_string().len() == *digits)
                .unwrap()
                + rest;
            body.extend_from_slice(format!("{length} {key}=").as_bytes());
            body.extend_from_slice(value);
            body.push(b'\n');
        }
        let mut header = Layer::header("pax", EntryType::XHeader, 0o644);
        header.set_size(body.len() as u64);
        self.add(header, &body)
    }

    pub(crate) fn finish(self) -> Vec<u8> {
        self.0.into_inner().unwrap()
    }
}

pub(crate) fn options(whiteouts: Whiteouts) -> Options {
    Options {
        whiteouts,
        privilege: Privilege::None,
        limits: Limits::default(),
    }
}

pub(crate) fn apply(layer: Layer, root: &Path) -> Result<Stats, LayerError> {
    unpack(
        Cursor::new(layer.finish()),
        PLAIN,
        root,
        &options(Whiteouts::Apply),
    )
}

/// A tree in a directory that has something beside it worth reaching.
pub(crate) struct Tree {
    pub(crate) dir: tempfile::TempDir,
}

impl Tree {
    pub(crate) fn new() -> Tree {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("root")).unwrap();
        fs::create_dir(dir.path().join("outside")).unwrap();
        fs::write(dir.path().join("outside/secret"), "secret").unwrap();
        Tree { dir }
    }

    pub(crate) fn root(&self) -> std::path::PathBuf {
        self.dir.path().join("root")
    }

    /// What is in the tree, by path.
    pub(crate) fn listing(&self) -> BTreeMap<String, String> {
        let mut found = BTreeMap::new();
        list(&self.root(), "", &mut found);
        found
    }

    pub(crate) fn check_outside(&self) {
        let mut names: Vec<_> = fs::read_dir(self.dir.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name())
            .collect();
        names.sort();
        assert_eq!(names, ["outside", "root"]);
        let outside: Vec<_> = fs::read_dir(self.dir.path().join("outside"))
            .unwrap()
            .collect();
        assert_eq!(outside.len(), 1);
        let secret = self.dir.path().join("outside/secret");
        assert_eq!(fs::read_to_string(&secret).unwrap(), "secret");
        assert_eq!(fs::metadata(&secret).unwrap().nlink(), 1);
    }
}

fn list(dir: &Path, prefix: &str, found: &mut BTreeMap<String, String>) {
    for entry in fs::read_dir(dir).unwrap() {
        let entry = entry.unwrap();
        let name = format!("{prefix}{}", entry.file_name().to_string_lossy());
        let kind = entry.file_type().unwrap();
        let text = if kind.is_dir() {
            list(&entry.path(), &format!("{name}/"), found);
            "dir".to_owned()
        } else if kind.is_symlink() {
            format!("-> {}", fs::read_link(entry.path()).unwrap().display())
        } else if kind.is_char_device() {
            // An overlay lists whiteouts of directories that only one layer has, but they cannot be reached.
            match entry.metadata() {
                Ok(metadata) => format!("char {}", metadata.rdev()),
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
                Err(error) => panic!("{name}: {error}"),
            }
        } else if kind.is_fifo() {
            "fifo".to_owned()
        } else {
            fs::read_to_string(entry.path()).unwrap()
        };
        found.insert(name, text);
    }
}

pub(crate) fn listing(expected: &[(&str, &str)]) -> BTreeMap<String, String> {
    expected
        .iter()
        .map(|(path, text)| ((*path).to_owned(), (*text).to_owned()))
        .collect()
}
