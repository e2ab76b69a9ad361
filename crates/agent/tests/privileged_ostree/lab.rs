//! A sysroot, a layout of images, and what is put into them.

use std::fs;
use std::process::Command;

use agent::os::ostree::{Ostree, Source};
use agent::os::{Deployment, KernelArguments, Os, OsError, PackageChanges, Role};
use camino::{Utf8Path, Utf8PathBuf};
use oci::Digest;
use serde_json::{Value, json};

use crate::suite::{Published, Subject, arguments};

const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";

/// An entry of a layer: a file with its text, or something special by its first letter.
pub(crate) enum Entry {
    File(&'static str, &'static str),
    Directory(&'static str),
    Link(&'static str, &'static str),
    Hard(&'static str, &'static str),
}
use Entry::{Directory, File, Hard, Link};

pub(crate) fn layer(entries: &[Entry]) -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    for entry in entries {
        let mut header = tar::Header::new_gnu();
        header.set_mtime(0);
        header.set_uid(0);
        header.set_gid(0);
        header.set_size(0);
        match entry {
            File(path, text) => {
                header.set_mode(0o644);
                header.set_size(text.len() as u64);
                tar.append_data(&mut header, path, text.as_bytes()).unwrap();
            }
            Directory(path) => {
                header.set_entry_type(tar::EntryType::Directory);
                header.set_mode(0o755);
                tar.append_data(&mut header, path, std::io::empty())
                    .unwrap();
            }
            Link(path, target) | Hard(path, target) => {
                header.set_entry_type(match entry {
                    Hard(..) => tar::EntryType::Link,
                    _ => tar::EntryType::Symlink,
                });
                header.set_mode(0o777);
                tar.append_link(&mut header, path, target).unwrap();
            }
        }
    }
    tar.into_inner().unwrap()
}

pub(crate) struct Lab {
    dir: tempfile::TempDir,
    runtime: tokio::runtime::Runtime,
}

impl Lab {
    pub(crate) fn new() -> Self {
        Lab {
            dir: tempfile::tempdir_in("/var/tmp").unwrap(),
            runtime: tokio::runtime::Runtime::new().unwrap(),
        }
    }

    pub(crate) fn path(&self, name: &str) -> Utf8PathBuf {
        Utf8Path::from_path(self.dir.path()).unwrap().join(name)
    }

    pub(crate) fn ostree(&self) -> Ostree {
        let handle = self.runtime.handle().clone();
        let ostree = Ostree::new(
            &self.path("sysroot"),
            Some("test".to_owned()),
            &self.path("state"),
            handle,
        );
        ostree.initialise().unwrap();
        ostree
    }

    /// Adds an image to the layout under a tag.
    pub(crate) fn image(&self, tag: &str, layers: &[Vec<u8>]) -> Source {
        let dir = self.path("layout");
        let store = oci::BlobStore::open(&dir).unwrap();
        let described = |bytes: &[u8], media_type: &str| json!({"mediaType": media_type, "size": bytes.len(), "digest": store.put(bytes).unwrap()});
        let diff_ids: Vec<Digest> = layers.iter().map(|layer| Digest::of(layer)).collect();
        let config = json!({"architecture": "amd64", "os": "linux", "rootfs": {"type": "layers", "diff_ids": diff_ids}});
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": described(config.to_string().as_bytes(), "application/vnd.oci.image.config.v1+json"),
            "layers": layers.iter().map(|layer| described(layer, LAYER)).collect::<Vec<_>>(),
        });
        let mut entry = described(manifest.to_string().as_bytes(), MANIFEST);
        entry["annotations"] = json!({"org.opencontainers.image.ref.name": tag});
        let mut index: Value = fs::read(dir.join("index.json"))
            .map(|bytes| serde_json::from_slice(&bytes).unwrap())
            .unwrap_or(json!({"schemaVersion": 2, "manifests": []}));
        index["manifests"].as_array_mut().unwrap().push(entry);
        fs::write(dir.join("index.json"), index.to_string()).unwrap();
        Source::Layout {
            dir,
            tag: Some(tag.to_owned()),
        }
    }

    /// The deployments that the boot loader's entries lead to, in boot order.
    pub(crate) fn boots(&self) -> Vec<String> {
        let sysroot = self.path("sysroot");
        let entries = sysroot.join("boot/loader/entries");
        let mut found: Vec<(u32, String)> = entries
            .read_dir_utf8()
            .unwrap()
            .map(|entry| {
                let text = fs::read_to_string(entry.unwrap().path()).unwrap();
                let after = |key: &str| {
                    let rest = text.split_once(key).unwrap().1;
                    rest.split_whitespace().next().unwrap().to_owned()
                };
                let root = sysroot.join(after("ostree=/")).canonicalize_utf8().unwrap();
                let name = root.file_name().unwrap().to_owned();
                (after("\nversion ").parse().unwrap(), name)
            })
            .collect();
        found.sort_by_key(|(version, _)| std::cmp::Reverse(*version));
        found.into_iter().map(|(_, name)| name).collect()
    }

    pub(crate) fn refs(&self) -> Vec<String> {
        let repo = format!("--repo={}", self.path("sysroot/ostree/repo"));
        let output = Command::new("ostree")
            .args(["refs", &repo])
            .output()
            .unwrap();
        let mut refs: Vec<String> = String::from_utf8(output.stdout)
            .unwrap()
            .lines()
            .filter(|name| name.starts_with("caprock/"))
            .map(|name| name.rsplit_once('/').unwrap().0.to_owned())
            .collect();
        refs.sort();
        refs
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        // ostree marks deployments immutable.
        let deploys = self.path("sysroot/ostree/deploy/test/deploy");
        for entry in fs::read_dir(deploys).into_iter().flatten().flatten() {
            Command::new("chattr")
                .arg("-i")
                .arg(entry.path())
                .output()
                .unwrap();
        }
    }
}

pub(crate) fn base() -> Vec<u8> {
    layer(&[
        Directory("etc"),
        File("etc/passwd", "root:x:0:0::/root:/bin/sh\n"),
        File("etc/os-release", "NAME=Test\nPRETTY_NAME=Test\n"),
        File("etc/motd", "base\n"),
        Directory("usr"),
        Directory("usr/bin"),
        File("usr/bin/tool", "base\n"),
        File("usr/bin/doomed", "base\n"),
        Directory("usr/lib/gone"),
        File("usr/lib/gone/a", "a"),
        File("usr/lib/modules/6.1/vmlinuz", "kernel"),
        File("usr/lib/modules/6.1/initramfs.img", "initramfs"),
        File("usr/lib/systemd/systemd", "init"),
        Link("bin", "usr/bin"),
        Directory("var"),
        File("var/lib/dropped", "machine content"),
        Directory("dev"),
        Directory("home"),
    ])
}

pub(crate) fn read(root: &Utf8Path, path: &str) -> String {
    fs::read_to_string(root.join(path)).unwrap_or_else(|error| error.kind().to_string())
}

/// Deploys an image without packages on top of it.
pub(crate) fn deploy(ostree: &Ostree, image: &Digest, arguments: &KernelArguments) -> Deployment {
    ostree
        .deploy(image, None, arguments, &PackageChanges::default())
        .unwrap()
}

pub(crate) fn deployment(ostree: &Ostree, role: Role) -> Utf8PathBuf {
    let deployments = ostree.status().unwrap();
    ostree.root_of(
        deployments
            .0
            .iter()
            .find(|deployment| deployment.role == role)
            .unwrap(),
    )
}

/// A sysroot that nothing runs from: what is first in it is what the next boot takes.
impl Subject for Lab {
    fn os(&self) -> Box<dyn Os> {
        Box::new(self.ostree())
    }

    fn publish(&self, name: &str) -> Published {
        let added = layer(&[File("usr/bin/added", name.to_owned().leak())]);
        self.image(name, &[base(), added]);
        let index = fs::read(self.path("layout/index.json")).unwrap();
        let index: Value = serde_json::from_slice(&index).unwrap();
        let last = index["manifests"].as_array().unwrap().last().unwrap();
        Published {
            digest: last["digest"].as_str().unwrap().parse().unwrap(),
            pull_spec: name.to_owned(),
        }
    }

    fn bring(&self, image: &Published) -> Result<(), OsError> {
        let source = Source::Layout {
            dir: self.path("layout"),
            tag: Some(image.pull_spec.clone()),
        };
        assert_eq!(self.ostree().import(&source)?, image.digest);
        Ok(())
    }

    fn boot(&self) {}

    fn next_arguments(&self) -> Vec<String> {
        self.ostree().kernel_arguments().unwrap()
    }
}

/// A sysroot with a first deployment.
pub(crate) fn installed() -> (Lab, Digest) {
    let lab = Lab::new();
    let ostree = lab.ostree();
    let image = ostree.import(&lab.image("base", &[base()])).unwrap();
    deploy(&ostree, &image, &arguments(&[], &["rw", "quiet"]));
    (lab, image)
}
