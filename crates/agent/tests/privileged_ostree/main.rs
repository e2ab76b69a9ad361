//! The `ostree` backend against the real tool, in a sysroot of its own. Needs root and `ostree`.
#![allow(clippy::unwrap_used, clippy::print_stderr, missing_docs)]

mod suite;

use std::fs;
use std::path::Path;
use std::process::Command;

use agent::os::ostree::{Ostree, Source};
use agent::os::{KernelArguments, Os, OsError, PackageChanges, Role};
use camino::{Utf8Path, Utf8PathBuf};
use oci::Digest;
use serde_json::{Value, json};
use suite::{Published, Subject};

const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";

/// Skips, saying so, where the test cannot run.
fn privileged() -> bool {
    let asked = std::env::var_os("CAPROCK_TEST_PRIVILEGED").is_some_and(|value| value == "1");
    if !asked {
        eprintln!("skipped: needs root and ostree; set CAPROCK_TEST_PRIVILEGED=1");
    }
    asked
}

/// An entry of a layer: a file with its text, or something special by its first letter.
enum Entry {
    File(&'static str, &'static str),
    Directory(&'static str),
    Link(&'static str, &'static str),
    Hard(&'static str, &'static str),
}
use Entry::{Directory, File, Hard, Link};

fn layer(entries: &[Entry]) -> Vec<u8> {
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

struct Lab {
    dir: tempfile::TempDir,
    runtime: tokio::runtime::Runtime,
}

impl Lab {
    fn new() -> Self {
        Lab {
            dir: tempfile::tempdir_in("/var/tmp").unwrap(),
            runtime: tokio::runtime::Runtime::new().unwrap(),
        }
    }

    fn path(&self, name: &str) -> Utf8PathBuf {
        Utf8Path::from_path(self.dir.path()).unwrap().join(name)
    }

    fn ostree(&self) -> Ostree {
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
    fn image(&self, tag: &str, layers: &[Vec<u8>]) -> Source {
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
    fn boots(&self) -> Vec<String> {
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

    fn refs(&self) -> Vec<String> {
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

fn base() -> Vec<u8> {
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

fn read(root: &Utf8Path, path: &str) -> String {
    fs::read_to_string(root.join(path)).unwrap_or_else(|error| error.kind().to_string())
}

fn deployment(ostree: &Ostree, role: Role) -> Utf8PathBuf {
    let deployments = ostree.status().unwrap();
    ostree.root_of(
        deployments
            .0
            .iter()
            .find(|deployment| deployment.role == role)
            .unwrap(),
    )
}

#[test]
fn privileged_a_layered_image_imports_only_its_own_layers() {
    if !privileged() {
        return;
    }
    let lab = Lab::new();
    let ostree = lab.ostree();
    let added = layer(&[
        Directory("etc"),
        File("etc/motd", "layered\n"),
        Directory("usr/lib/systemd/system"),
        File("usr/lib/systemd/system/new.service", "[Service]\n"),
        Hard(
            "usr/lib/systemd/system/alias.service",
            "usr/lib/systemd/system/new.service",
        ),
    ]);
    let base_image = ostree.import(&lab.image("base", &[base()])).unwrap();
    let both = lab.image("both", &[base(), added]);
    // The base's blob is not there any more: only the new layer may be asked for.
    fs::remove_file(
        lab.path("layout/blobs/sha256")
            .join(Digest::of(&base()).hex()),
    )
    .unwrap();
    let image = ostree.import(&both).unwrap();
    assert_eq!(ostree.import(&both).unwrap(), image, "again is success");
    assert!(ostree.has(&image).unwrap() && ostree.has(&base_image).unwrap());
    assert_eq!(
        lab.refs(),
        [
            "caprock/image",
            "caprock/image",
            "caprock/layer",
            "caprock/layer"
        ]
    );

    ostree
        .deploy(
            &image,
            None,
            &KernelArguments::default(),
            &PackageChanges::default(),
        )
        .unwrap();
    let root = deployment(&ostree, Role::Pending);
    assert_eq!(read(&root, "etc/motd"), "layered\n");
    assert_eq!(read(&root, "usr/bin/tool"), "base\n");
    assert_eq!(
        read(&root, "usr/lib/systemd/system/alias.service"),
        "[Service]\n"
    );
    assert_eq!(root.join("home").read_link_utf8().unwrap(), "var/home");
    assert!(!root.join("var/lib/dropped").exists());
    assert!(!Path::new(lab.path("sysroot/ostree/caprock-import").as_str()).exists());
}

#[test]
fn privileged_layers_delete_and_change_kinds() {
    if !privileged() {
        return;
    }
    let lab = Lab::new();
    let ostree = lab.ostree();
    let deleting = layer(&[
        Directory("usr/bin"),
        File("usr/bin/.wh.doomed", ""),
        File("usr/lib/gone/.wh..wh..opq", ""),
        File("usr/lib/gone/b", "b"),
        Directory("usr/bin/tool"),
        File("usr/bin/tool/inside", "now a directory"),
        File("etc/.wh.motd", ""),
        File("var/.wh.lib", ""),
    ]);
    let base_image = ostree.import(&lab.image("base", &[base()])).unwrap();
    let image = ostree
        .import(&lab.image("both", &[base(), deleting]))
        .unwrap();
    ostree
        .deploy(
            &base_image,
            None,
            &KernelArguments::default(),
            &PackageChanges::default(),
        )
        .unwrap();
    ostree
        .deploy(
            &image,
            None,
            &KernelArguments::default(),
            &PackageChanges::default(),
        )
        .unwrap();
    let root = deployment(&ostree, Role::Pending);
    assert_eq!(read(&root, "usr/bin/doomed"), "entity not found");
    assert_eq!(read(&root, "usr/lib/gone/a"), "entity not found");
    assert_eq!(read(&root, "usr/lib/gone/b"), "b");
    assert_eq!(read(&root, "usr/bin/tool/inside"), "now a directory");
    assert_eq!(read(&root, "etc/motd"), "entity not found");
    // The shared objects of the base are as they were.
    let root = deployment(&ostree, Role::Rollback);
    assert_eq!(read(&root, "usr/bin/tool"), "base\n");
    assert_eq!(read(&root, "usr/lib/gone/a"), "a");
    assert_eq!(read(&root, "etc/motd"), "base\n");
}

#[test]
fn privileged_a_killed_import_is_taken_up() {
    if !privileged() {
        return;
    }
    let lab = Lab::new();
    let ostree = lab.ostree();
    let (second, third) = (
        layer(&[File("usr/bin/second", "2")]),
        layer(&[File("usr/bin/third", "3")]),
    );
    let source = lab.image("all", &[base(), second, third.clone()]);
    let blob = lab
        .path("layout/blobs/sha256")
        .join(Digest::of(&third).hex());
    fs::remove_file(&blob).unwrap();
    ostree.import(&source).unwrap_err();
    assert_eq!(lab.refs(), ["caprock/layer", "caprock/layer"]);
    fs::create_dir_all(lab.path("sysroot/ostree/caprock-import/layer/usr/left/over")).unwrap();
    fs::write(&blob, &third).unwrap();
    let image = ostree.import(&source).unwrap();
    ostree
        .deploy(
            &image,
            None,
            &KernelArguments::default(),
            &PackageChanges::default(),
        )
        .unwrap();
    let root = deployment(&ostree, Role::Pending);
    assert_eq!(
        (
            read(&root, "usr/bin/third").as_str(),
            root.join("usr/left").exists()
        ),
        ("3", false)
    );
}

#[test]
fn privileged_deployments_take_kernel_arguments_turns_and_a_clean_up() {
    if !privileged() {
        return;
    }
    let lab = Lab::new();
    let ostree = lab.ostree();
    let first = ostree.import(&lab.image("first", &[base()])).unwrap();
    let second = ostree
        .import(&lab.image("second", &[base(), layer(&[File("usr/bin/second", "2")])]))
        .unwrap();
    let unused = ostree
        .import(&lab.image("unused", &[base(), layer(&[File("usr/bin/unused", "3")])]))
        .unwrap();
    let arguments = |remove: &[&str], add: &[&str]| KernelArguments {
        remove: remove.iter().map(ToString::to_string).collect(),
        add: add.iter().map(ToString::to_string).collect(),
    };
    ostree
        .deploy(
            &first,
            None,
            &arguments(&[], &["rw", "quiet"]),
            &PackageChanges::default(),
        )
        .unwrap();
    assert_eq!(ostree.kernel_arguments().unwrap(), ["rw", "quiet"]);
    ostree
        .deploy(
            &second,
            None,
            &arguments(&["quiet", "absent"], &["rw", "audit=0"]),
            &PackageChanges::default(),
        )
        .unwrap();
    assert_eq!(ostree.kernel_arguments().unwrap(), ["rw", "audit=0"]);

    let images = || {
        ostree
            .status()
            .unwrap()
            .0
            .iter()
            .map(|d| d.image.unwrap())
            .collect::<Vec<_>>()
    };
    assert_eq!(images(), [second, first]);
    ostree.rollback().unwrap();
    assert_eq!(images(), [first, second]);
    assert_eq!(ostree.kernel_arguments().unwrap(), ["rw", "quiet"]);
    ostree.rollback().unwrap();
    assert_eq!(images(), [second, first]);

    ostree.cleanup(&[]).unwrap();
    assert!(!ostree.has(&unused).unwrap());
    assert!(ostree.has(&first).unwrap() && ostree.has(&second).unwrap());
    ostree.cleanup(&[]).unwrap();
    assert_eq!(
        lab.refs(),
        [
            "caprock/image",
            "caprock/image",
            "caprock/layer",
            "caprock/layer"
        ]
    );
}

/// ostree writes no new boot loader entries when kernel and arguments stay: those that a rollback left must fit.
#[test]
fn privileged_after_a_rollback_the_next_deployment_boots() {
    if !privileged() {
        return;
    }
    let lab = Lab::new();
    let ostree = lab.ostree();
    let import =
        |name, text| ostree.import(&lab.image(name, &[base(), layer(&[File("usr/bin/x", text)])]));
    let images = [
        import("first", "1"),
        import("second", "2"),
        import("third", "3"),
    ];
    let [first, second, third] = images.map(Result::unwrap);
    let deploy = |image| {
        let (arguments, packages) = (KernelArguments::default(), PackageChanges::default());
        ostree.deploy(image, None, &arguments, &packages).unwrap()
    };
    deploy(&first);
    deploy(&second);
    let deployed = || -> Vec<String> {
        let status = ostree.status().unwrap();
        status.0.iter().map(|d| d.id.to_string()).collect()
    };
    ostree.rollback().unwrap();
    assert_eq!(lab.boots(), deployed());
    let made = deploy(&third);
    assert_eq!(lab.boots(), deployed());
    assert_eq!(lab.boots()[0], made.id.to_string());
}

#[test]
fn privileged_what_cannot_boot_is_refused_before_it_is_deployed() {
    if !privileged() {
        return;
    }
    let lab = Lab::new();
    let ostree = lab.ostree();
    let error = ostree
        .import(&lab.image("plain", &[layer(&[File("usr/bin/tool", "x")])]))
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("no kernel at `/usr/lib/modules/VERSION/vmlinuz`"),
        "{error}"
    );
    let forged = Source::Layout {
        dir: lab.path("layout"),
        tag: Some("absent".to_owned()),
    };
    let error = ostree.import(&forged).unwrap_err().to_string();
    assert!(error.contains("no such tag"), "{error}");
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
fn installed() -> (Lab, Digest) {
    let lab = Lab::new();
    let ostree = lab.ostree();
    let image = ostree.import(&lab.image("base", &[base()])).unwrap();
    let arguments = KernelArguments {
        remove: Vec::new(),
        add: vec!["rw".to_owned(), "quiet".to_owned()],
    };
    ostree
        .deploy(&image, None, &arguments, &PackageChanges::default())
        .unwrap();
    (lab, image)
}

#[test]
fn privileged_ostree_does_what_every_backend_must_do() {
    if !privileged() {
        return;
    }
    suite::doing_it_again_is_success(&installed().0);
    suite::the_last_one_counts(&installed().0);
    let (lab, before) = installed();
    suite::what_is_not_wanted_any_more_goes(&lab, before);
    let (lab, before) = installed();
    suite::back_is_back(&lab, before);
    let (lab, before) = installed();
    suite::clean_keeps_what_is_needed(&lab, before);
}

const READ_ONLY_LAB: &str = "CAPROCK_TEST_READ_ONLY_LAB";

#[test]
fn privileged_a_sysroot_that_is_mounted_read_only_is_made_writable_for_the_agent_alone() {
    if !privileged() {
        return;
    }
    let (lab, _) = installed();
    lab.publish("second");
    let sysroot = lab.path("sysroot");
    // As such hosts mount them, in a mount namespace as the agent's unit has one.
    let read_only = format!(
        "for dir in {sysroot} {sysroot}/boot; do mount --bind $dir $dir && mount -o remount,bind,ro $dir || exit; done; \
         ! touch {sysroot}/written 2>/dev/null || exit; exec \"$@\""
    );
    // The first process of the host, as it were, has another mount namespace than the agent.
    let host = "unshare --mount --propagation private sh -c \"$0\" sh \"$@\"; exit $?";
    let status = Command::new("unshare")
        .args(["--pid", "--fork", "--mount", "--mount-proc"])
        .args(["sh", "-c", host, &read_only])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", "on_a_read_only_sysroot", "--nocapture"])
        .env(READ_ONLY_LAB, lab.path(""))
        .status()
        .unwrap();
    assert!(status.success());
    let os = lab.ostree();
    let images: Vec<_> = os.status().unwrap().0.iter().map(|d| d.image).collect();
    assert_eq!(
        images[1],
        Some(lab.publish("second").digest),
        "rolled back from it"
    );
    assert!(lab.path("sysroot/written-there").exists());
}

/// The part of the test above that runs in the other namespace; by itself it does nothing.
#[test]
fn on_a_read_only_sysroot() {
    let Ok(dir) = std::env::var(READ_ONLY_LAB) else {
        return;
    };
    let dir = Utf8PathBuf::from(dir);
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let open = || {
        let handle = runtime.handle().clone();
        Ostree::new(
            &dir.join("sysroot"),
            Some("test".to_owned()),
            &dir.join("state"),
            handle,
        )
    };
    let source = Source::Layout {
        dir: dir.join("layout"),
        tag: Some("second".to_owned()),
    };
    let image = open().import(&source).unwrap();
    let made = open()
        .deploy(
            &image,
            None,
            &KernelArguments::default(),
            &PackageChanges::default(),
        )
        .unwrap();
    let root = open().root_of(&made);
    fs::write(root.join("etc/configured"), "by the agent").unwrap();
    fs::write(dir.join("sysroot/written-there"), "").unwrap();
    open().rollback().unwrap();
}
