//! Turns image layers into ostree commits, one per layer chain, so that a layered image on a base that is already
//! there imports its own layers only.
//!
//! A layer is unpacked alone and committed over its parent: unchanged files are neither checked out nor read again.
//! Only a layer that deletes something of its parent, or puts a directory in place of a file, needs the parent's tree;
//! that is checked out with hard links. Every commit appears under its ref when it is whole, so a killed import resumes at the layer
//! it was in.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt, symlink};

use camino::{Utf8Path, Utf8PathBuf};
use oci::digest::Digest;
use oci::layer::{Limits, Marks, Options, Privilege, Whiteouts};
use oci::manifest::chain_id;

use super::super::{OsError, io_error};
use super::repo::{Repo, Tree};
use super::status::IMAGE_REF;
use crate::command::CommandError;

/// Ref of the tree after a layer; the chain id's hex follows.
pub(super) const LAYER_REF: &str = "caprock/layer/";
/// Commit metadata: the image's pull spec.
const IMAGE_KEY: &str = "caprock.image";
/// Commit metadata: the chain ids of the image's layers, separated by blanks.
pub(super) const LAYERS_KEY: &str = "caprock.layers";

/// Directories whose content belongs to the machine, not to an image.
const NOT_OF_THE_IMAGE: [&str; 7] = ["boot", "dev", "proc", "run", "sys", "tmp", "var"];
/// Links that every deployment has, and where they lead.
const LINKS: [(&str, &str); 7] = [
    ("home", "var/home"),
    ("mnt", "var/mnt"),
    ("opt", "var/opt"),
    ("ostree", "sysroot/ostree"),
    ("root", "var/roothome"),
    ("srv", "var/srv"),
    ("usr/local", "../var/usrlocal"),
];
/// Attribute by which overlayfs, and a layer unpacked for it, marks a directory that hides the one below.
const OPAQUE: &str = Marks::Trusted.opaque();

/// One layer of an image.
#[derive(Debug, Clone)]
pub(super) struct Layer {
    /// Digest of the compressed blob.
    pub(super) digest: Digest,
    /// Its media type.
    pub(super) media_type: String,
    /// Digest of the uncompressed content.
    pub(super) diff_id: Digest,
    /// Identity of this layer on top of the ones below.
    pub(super) chain_id: Digest,
}

/// Chain ids as the OCI image specification defines them.
pub(super) fn chain_ids(diff_ids: &[Digest]) -> Vec<Digest> {
    let chain = diff_ids.iter().scan(None, |below, diff_id| {
        *below = Some(chain_id(*below, diff_id));
        *below
    });
    chain.collect()
}

pub(super) fn layer_ref(chain_id: &Digest) -> String {
    format!("{LAYER_REF}{}", chain_id.hex())
}

pub(super) fn image_ref(image: &Digest) -> String {
    format!("{IMAGE_REF}{}", image.hex())
}

/// Imports into one repository.
#[derive(Debug)]
pub(super) struct Import<'a> {
    repo: &'a Repo,
    /// Scratch directory on the repository's file system, ours alone.
    work: Utf8PathBuf,
}

impl<'a> Import<'a> {
    /// Starts with an empty scratch directory, whatever a killed import left in it.
    pub(super) fn new(repo: &'a Repo, work: Utf8PathBuf) -> Result<Self, OsError> {
        let import = Self { repo, work };
        import.clear()?;
        fs::create_dir_all(&import.work).map_err(io_error("make", &import.work))?;
        Ok(import)
    }

    /// Removes the scratch directory.
    pub(super) fn clear(&self) -> Result<(), OsError> {
        remove_tree(&self.work)
    }

    /// Commits a layer on top of `below`.
    pub(super) fn layer(
        &self,
        layer: &Layer,
        below: Option<&Digest>,
        blob: impl Fn() -> Result<File, OsError>,
    ) -> Result<(), OsError> {
        let alone = self.work.join("layer");
        fs::create_dir(&alone).map_err(io_error("make", &alone))?;
        unpack(layer, blob()?, &alone, Whiteouts::Overlay(Marks::Trusted))?;
        adopt_etc(&alone)?;
        drop_machine_content(&alone)?;
        let whiteouts = take_whiteouts(&alone, Utf8Path::new("/"))?;
        let name = layer_ref(&layer.chain_id);
        let Some(below) = below.map(layer_ref) else {
            shape(&alone)?;
            self.repo.commit(&name, &Tree::Directory(&alone), &[])?;
            return remove_tree(&alone);
        };
        if !self.deletes(&whiteouts, &below)? {
            match self.repo.commit(&name, &Tree::Over(&below, &alone), &[]) {
                Ok(()) => return remove_tree(&alone),
                // A directory where the parent has a file, or the reverse.
                Err(OsError::Command(error @ CommandError::Failed { .. })) => {
                    tracing::debug!(%error, "layer does not fit over its parent; applying it to the parent's tree");
                }
                Err(error) => return Err(error),
            }
        }
        remove_tree(&alone)?;
        let whole = self.work.join("whole");
        self.repo.checkout(&below, &whole)?;
        restore_etc(&whole)?;
        unpack(layer, blob()?, &whole, Whiteouts::Apply)?;
        adopt_etc(&whole)?;
        drop_machine_content(&whole)?;
        shape(&whole)?;
        self.repo.commit(&name, &Tree::Checkout(&whole), &[])?;
        remove_tree(&whole)
    }

    /// Whether any of the whiteouts hides something that the parent has.
    fn deletes(&self, whiteouts: &[Utf8PathBuf], below: &str) -> Result<bool, OsError> {
        if whiteouts.is_empty() {
            return Ok(false);
        }
        let parent = self.repo.list(below)?;
        Ok(whiteouts.iter().any(|path| parent.contains(path)))
    }

    /// Gives the tree of the last layer the image's name.
    pub(super) fn image(
        &self,
        image: &Digest,
        pull_spec: &str,
        layers: &[Layer],
    ) -> Result<(), OsError> {
        let last = layers.last().ok_or_else(|| OsError::Image {
            image: pull_spec.to_owned(),
            problem: "it has no layers".to_owned(),
        })?;
        let top = layer_ref(&last.chain_id);
        self.check_bootable(pull_spec, &top)?;
        let chain: Vec<String> = layers.iter().map(|layer| layer.chain_id.hex()).collect();
        let metadata = [(IMAGE_KEY, pull_spec), (LAYERS_KEY, &chain.join(" "))];
        self.repo
            .commit(&image_ref(image), &Tree::Ref(&top), &metadata)
    }

    /// Says what is missing in words, where `ostree admin deploy` would fail after the node was drained.
    fn check_bootable(&self, pull_spec: &str, name: &str) -> Result<(), OsError> {
        let problem = |problem: &str| OsError::Image {
            image: pull_spec.to_owned(),
            problem: problem.to_owned(),
        };
        let mut has_kernel = false;
        for version in self
            .repo
            .children(name, Utf8Path::new("/usr/lib/modules"))?
        {
            has_kernel |= self.repo.has_path(name, &version.join("vmlinuz"))?;
        }
        if !has_kernel {
            return Err(problem(
                "it has no kernel at `/usr/lib/modules/VERSION/vmlinuz`",
            ));
        }
        if !self.repo.has_path(name, Utf8Path::new("/usr/etc"))? {
            return Err(problem("it has no `/etc`"));
        }
        if !self
            .repo
            .has_path(name, Utf8Path::new("/usr/lib/systemd/systemd"))?
        {
            return Err(problem("it has no `/usr/lib/systemd/systemd`"));
        }
        Ok(())
    }
}

fn unpack(layer: &Layer, blob: File, root: &Utf8Path, whiteouts: Whiteouts) -> Result<(), OsError> {
    let failed = |source: Box<dyn std::error::Error + Send + Sync>| OsError::Unpack {
        digest: layer.digest,
        source,
    };
    let options = Options {
        whiteouts,
        privilege: Privilege::Full,
        limits: Limits::default(),
    };
    let stats = oci::layer::unpack(
        io::BufReader::new(blob),
        &layer.media_type,
        root.as_std_path(),
        &options,
    )
    .map_err(|error| failed(error.into()))?;
    if stats.diff_id != layer.diff_id {
        let text = format!(
            "its content has digest `{}`, the image says `{}`",
            stats.diff_id, layer.diff_id
        );
        return Err(failed(text.into()));
    }
    Ok(())
}

/// Moves `/etc` to `/usr/etc`, where an ostree commit keeps the image's half of it.
fn adopt_etc(tree: &Utf8Path) -> Result<(), OsError> {
    let (etc, usr, usr_etc) = (tree.join("etc"), tree.join("usr"), tree.join("usr/etc"));
    if !exists(&etc)? {
        return Ok(());
    }
    if !exists(&usr)? {
        fs::create_dir(&usr).map_err(io_error("make", &usr))?;
    }
    if exists(&usr_etc)? {
        return Err(OsError::Image {
            image: tree.to_string(),
            problem: "it has both `/etc` and `/usr/etc`; keep `/etc`".to_owned(),
        });
    }
    fs::rename(&etc, &usr_etc).map_err(io_error("rename", &etc))
}

/// The reverse of [`adopt_etc`], for a tree that a layer is applied to.
fn restore_etc(tree: &Utf8Path) -> Result<(), OsError> {
    let usr_etc = tree.join("usr/etc");
    match fs::rename(&usr_etc, tree.join("etc")) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(io_error("rename", &usr_etc)(error))
        }
        _ => Ok(()),
    }
}

/// Empties the directories whose content is the machine's own.
fn drop_machine_content(tree: &Utf8Path) -> Result<(), OsError> {
    for name in NOT_OF_THE_IMAGE {
        let dir = tree.join(name);
        if !fs::symlink_metadata(&dir).is_ok_and(|found| found.is_dir()) {
            continue;
        }
        for entry in dir.read_dir_utf8().map_err(io_error("read", &dir))? {
            let path = entry.map_err(io_error("read", &dir))?.into_path();
            let is_dir = fs::symlink_metadata(&path)
                .map_err(io_error("read", &path))?
                .is_dir();
            let removed = if is_dir {
                fs::remove_dir_all(&path)
            } else {
                fs::remove_file(&path)
            };
            removed.map_err(io_error("remove", &path))?;
        }
    }
    Ok(())
}

/// Adds the mount points and links of a deployment where the image has nothing, or an empty directory, in their place.
fn shape(tree: &Utf8Path) -> Result<(), OsError> {
    for name in NOT_OF_THE_IMAGE.into_iter().chain(["sysroot"]) {
        let dir = tree.join(name);
        if !exists(&dir)? {
            fs::create_dir(&dir).map_err(io_error("make", &dir))?;
        }
    }
    for (name, target) in LINKS {
        let path = tree.join(name);
        // Fails on a directory with content, which then stays as the image has it.
        if fs::symlink_metadata(&path).is_ok_and(|found| found.is_dir())
            && let Err(error) = fs::remove_dir(&path)
        {
            tracing::debug!(%path, %error, "left in place of a link");
        }
        if !exists(&path)? {
            symlink(target, &path).map_err(io_error("link", &path))?;
        }
    }
    Ok(())
}

/// Takes whiteouts and opaque marks away and says which paths they hide.
fn take_whiteouts(dir: &Utf8Path, inside: &Utf8Path) -> Result<Vec<Utf8PathBuf>, OsError> {
    let mut hidden = Vec::new();
    for entry in dir.read_dir_utf8().map_err(io_error("read", dir))? {
        let path = entry.map_err(io_error("read", dir))?.into_path();
        let name = path.file_name().expect("a directory entry has a name");
        let place = inside.join(name);
        let found = fs::symlink_metadata(&path).map_err(io_error("read", &path))?;
        if found.file_type().is_char_device() && found.rdev() == 0 {
            fs::remove_file(&path).map_err(io_error("remove", &path))?;
            hidden.push(place);
        } else if found.is_dir() {
            hidden.extend(take_whiteouts(&path, &place)?);
            if take_opaque_mark(&path)? {
                hidden.push(place);
            }
        }
    }
    Ok(hidden)
}

fn take_opaque_mark(path: &Utf8Path) -> Result<bool, OsError> {
    use rustix::io::Errno;
    match rustix::fs::lremovexattr(path.as_std_path(), OPAQUE) {
        Ok(()) => Ok(true),
        // Only the superuser can set such a mark, or see one.
        Err(Errno::NODATA | Errno::NOTSUP | Errno::PERM) => Ok(false),
        Err(errno) => Err(io_error("read the attributes of", path)(errno.into())),
    }
}

fn remove_tree(path: &Utf8Path) -> Result<(), OsError> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(io_error("remove", path)(error))
        }
        _ => Ok(()),
    }
}

fn exists(path: &Utf8Path) -> Result<bool, OsError> {
    match fs::symlink_metadata(path) {
        Ok(_) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(io_error("read", path)(error)),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn tree(paths: &[&str]) -> (tempfile::TempDir, Utf8PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let root = Utf8PathBuf::from_path_buf(dir.path().to_owned()).unwrap();
        for path in paths {
            if let Some(path) = path.strip_suffix('/') {
                fs::create_dir_all(root.join(path)).unwrap();
            } else {
                let path = root.join(path);
                fs::create_dir_all(path.parent().unwrap()).unwrap();
                fs::write(path, "").unwrap();
            }
        }
        (dir, root)
    }

    #[test]
    fn chain_ids_follow_the_image_specification() {
        let (a, b) = (Digest::of(b"a"), Digest::of(b"b"));
        let chain = chain_ids(&[a, b]);
        assert_eq!(chain, [a, Digest::of(format!("{a} {b}").as_bytes())]);
        assert_ne!(chain_ids(&[b, a])[1], chain[1]);
    }

    #[test]
    fn a_tree_gets_the_shape_of_a_deployment() {
        let (_guard, root) = tree(&[
            "etc/passwd",
            "var/lib/x",
            "dev/null",
            "home/",
            "usr/bin/ls",
            "opt/vendor/tool",
        ]);
        adopt_etc(&root).unwrap();
        drop_machine_content(&root).unwrap();
        shape(&root).unwrap();
        assert!(root.join("usr/etc/passwd").is_file());
        assert_eq!(root.join("var").read_dir_utf8().unwrap().count(), 0);
        assert_eq!(root.join("dev").read_dir_utf8().unwrap().count(), 0);
        assert_eq!(root.join("home").read_link_utf8().unwrap(), "var/home");
        assert_eq!(
            root.join("usr/local").read_link_utf8().unwrap(),
            "../var/usrlocal"
        );
        assert!(root.join("sysroot").is_dir());
        assert!(
            root.join("opt/vendor/tool").is_file(),
            "content of the image is kept"
        );
    }
}
