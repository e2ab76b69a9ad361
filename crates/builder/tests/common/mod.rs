//! A scratch engine and a root file system of busybox for tests that execute steps.
#![allow(clippy::unwrap_used, clippy::print_stderr, unreachable_pub, dead_code)]

pub mod registry;

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use builder::{BuildError, Engine, EngineConfig, Event, Image, Request};
use oci::{Client, ClientConfig};
use tokio_util::sync::CancellationToken;

const BUSYBOX: &str = "/bin/busybox";
const APPLETS: [&str; 31] = [
    "sh", "setsid", "unshare", "head", "sort", "find", "true", "cat", "ls", "echo", "id", "ln",
    "rm", "mkdir", "chmod", "chown", "touch", "sleep", "stat", "mknod", "kill", "seq", "test",
    "env", "pwd", "readlink", "ps", "mount", "wc", "hostname", "rmdir",
];

/// Whether tests that take root, crun and busybox run; says why not.
pub fn privileged() -> bool {
    let reason = if std::env::var("CAPROCK_TEST_PRIVILEGED").as_deref() != Ok("1") {
        "CAPROCK_TEST_PRIVILEGED is not 1"
    } else if !Path::new(BUSYBOX).exists() {
        "there is no /bin/busybox (package busybox-static)"
    } else {
        return true;
    };
    eprintln!("skipped: {reason}");
    false
}

/// An engine with a cache of its own and a build context that holds a busybox root in `rootfs`.
pub struct Lab {
    pub dir: tempfile::TempDir,
    pub engine: Engine,
    pub events: Mutex<Vec<Event>>,
}

impl Lab {
    pub fn new() -> Lab {
        let dir = tempfile::tempdir().unwrap();
        let engine = open(&dir.path().join("cache"));
        let lab = Lab {
            dir,
            engine,
            events: Mutex::default(),
        };
        let root = lab.context().join("rootfs");
        for name in ["bin", "etc", "tmp"] {
            fs::create_dir_all(root.join(name)).unwrap();
        }
        fs::copy(BUSYBOX, root.join("bin/busybox")).unwrap();
        for applet in APPLETS {
            symlink("busybox", root.join("bin").join(applet)).unwrap();
        }
        lab.write(
            "rootfs/etc/passwd",
            "root:x:0:0::/root:/bin/sh\nweb:x:33:34::/srv:/bin/sh\n",
        );
        lab.write("rootfs/etc/group", "root:x:0:\nwww:x:34:\nextra:x:50:web\n");
        lab
    }

    pub fn context(&self) -> PathBuf {
        self.dir.path().join("context")
    }

    pub fn write(&self, path: &str, text: &str) {
        let path = self.context().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    /// A request whose Containerfile starts from the busybox root.
    pub fn request(&self, steps: &str) -> Request {
        Request {
            containerfile: format!("FROM scratch AS base\nCOPY rootfs /\n{steps}"),
            file_name: "Containerfile".into(),
            context: Some(self.context()),
            ..Request::default()
        }
    }

    pub async fn build(&self, steps: &str) -> Result<Image, BuildError> {
        self.build_request(self.request(steps), CancellationToken::new())
            .await
    }

    pub async fn build_request(
        &self,
        request: Request,
        cancel: CancellationToken,
    ) -> Result<Image, BuildError> {
        self.events.lock().unwrap().clear();
        self.engine
            .build(request, cancel, &|event| {
                self.events.lock().unwrap().push(event)
            })
            .await
    }

    /// What commands of the last build wrote.
    pub fn output(&self) -> Vec<String> {
        let events = self.events.lock().unwrap();
        events
            .iter()
            .filter_map(|event| match event {
                Event::Output { line, .. } => Some(line.clone()),
                _ => None,
            })
            .collect()
    }

    /// The steps of the last build that were cached.
    pub fn cached(&self) -> Vec<usize> {
        let events = self.events.lock().unwrap();
        events
            .iter()
            .filter_map(|event| match event {
                Event::Cached { step } => Some(*step),
                _ => None,
            })
            .collect()
    }

    /// The entries of an image's last layer: type, path, and what it links to.
    pub fn last_layer(&self, image: &Image) -> Vec<String> {
        self.layer_entries(image, |archive| {
            archive
                .entries()
                .unwrap()
                .map(|entry| {
                    let entry = entry.unwrap();
                    let link = entry
                        .link_name()
                        .unwrap()
                        .map(|link| format!(" -> {}", link.display()));
                    let kind = match entry.header().entry_type() {
                        tar::EntryType::Regular => "file",
                        tar::EntryType::Directory => "dir",
                        tar::EntryType::Symlink => "symlink",
                        tar::EntryType::Link => "hardlink",
                        tar::EntryType::Fifo => "fifo",
                        tar::EntryType::Char => "char",
                        _ => "other",
                    };
                    format!(
                        "{kind} {}{}",
                        entry.path().unwrap().display(),
                        link.unwrap_or_default()
                    )
                })
                .collect()
        })
    }

    pub fn layer_entries<T>(
        &self,
        image: &Image,
        read: impl FnOnce(&mut tar::Archive<Box<dyn std::io::Read>>) -> T,
    ) -> T {
        let manifest: serde_json::Value = serde_json::from_slice(image.manifest()).unwrap();
        let digest = manifest["layers"].as_array().unwrap().last().unwrap()["digest"]
            .as_str()
            .unwrap()
            .to_string();
        let blob = self
            .dir
            .path()
            .join("cache/blobs")
            .join(digest.replace(':', "/"));
        let reader: Box<dyn std::io::Read> = Box::new(flate2::read::MultiGzDecoder::new(
            fs::File::open(blob).unwrap(),
        ));
        read(&mut tar::Archive::new(reader))
    }
}

pub fn open(cache: &Path) -> Engine {
    let client = Client::new(ClientConfig::default()).unwrap();
    Engine::open(EngineConfig {
        cache_dir: cache.to_path_buf(),
        runtime: None,
        cache_limit: None,
        client,
    })
    .unwrap()
}
