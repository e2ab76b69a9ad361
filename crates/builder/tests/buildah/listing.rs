//! An image as text: what people see of its configuration, then its files, one a line.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use oci::Digest;
use serde_json::Value;

const CONFIG: [&str; 12] = [
    "User",
    "ExposedPorts",
    "Env",
    "Entrypoint",
    "Cmd",
    "Volumes",
    "WorkingDir",
    "Labels",
    "StopSignal",
    "Healthcheck",
    "OnBuild",
    "Shell",
];

/// Places that a runtime mounts on, which buildah leaves behind.
const MOUNTED: [&str; 8] = [
    "dev",
    "proc",
    "sys",
    "run",
    "etc/hosts",
    "etc/hostname",
    "etc/resolv.conf",
    "etc/mtab",
];

/// The image of a configuration and a manifest whose layers `open` opens. Files of the base, given with their sizes,
/// are left out; one that is gone is said to be.
pub(crate) fn text(
    config: &Value,
    manifest: &Value,
    open: impl Fn(&str) -> File,
    base: &BTreeMap<PathBuf, u64>,
) -> String {
    let mut lines: Vec<String> = settings(&config["config"]);
    let mut files: BTreeMap<PathBuf, Entry> = BTreeMap::new();
    for layer in manifest["layers"].as_array().unwrap() {
        let file = open(layer["digest"].as_str().unwrap());
        apply(&mut files, flate2::read::MultiGzDecoder::new(file));
    }
    files.retain(|path, _| !MOUNTED.iter().any(|place| path.starts_with(place)));
    let on_base = files.contains_key(Path::new("bin/busybox"));
    let paths: BTreeSet<&PathBuf> = files.keys().chain(base.keys()).collect();
    for path in paths {
        match (files.get(path), base.get(path)) {
            (Some(entry), Some(size)) if entry.size == *size => {}
            (Some(entry), _) => lines.push(format!("{} {}", path.display(), entry.text)),
            (None, _) if on_base => lines.push(format!("{} is gone", path.display())),
            (None, _) => {}
        }
    }
    lines.join("\n") + "\n"
}

struct Entry {
    size: u64,
    text: String,
}

fn settings(config: &Value) -> Vec<String> {
    let mut lines = Vec::new();
    for name in CONFIG {
        let mut value = config[name].clone();
        if name == "Labels" && value.is_object() {
            value.as_object_mut().unwrap().remove("io.buildah.version");
        }
        if name == "Env" && value.is_array() {
            // A search path that nobody set is the builder's to give or to leave out.
            let kept = |entry: &&Value| !entry.as_str().unwrap().starts_with("PATH=");
            value = value
                .as_array()
                .unwrap()
                .iter()
                .filter(kept)
                .cloned()
                .collect();
        }
        // Empty and missing are the same.
        let empty = match &value {
            Value::Array(items) => items.is_empty(),
            Value::Object(fields) => fields.is_empty(),
            Value::String(text) => text.is_empty() || (name == "WorkingDir" && text == "/"),
            other => other.is_null(),
        };
        if !empty {
            lines.push(format!("{name}: {value}"));
        }
    }
    lines
}

fn apply(files: &mut BTreeMap<PathBuf, Entry>, layer: impl Read) {
    let mut archive = tar::Archive::new(layer);
    for entry in archive.entries().unwrap() {
        let mut entry = entry.unwrap();
        let path = plain(&entry.path().unwrap());
        let name = path
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        let parent = path.parent().unwrap_or(Path::new("")).to_path_buf();
        if name == ".wh..wh..opq" {
            files.retain(|path, _| *path == parent || !path.starts_with(&parent));
            continue;
        }
        if let Some(gone) = name.strip_prefix(".wh.") {
            let gone = parent.join(gone);
            files.retain(|path, _| !path.starts_with(&gone));
            continue;
        }
        if path.as_os_str().is_empty() {
            continue;
        }
        if entry.header().entry_type() != tar::EntryType::Directory {
            files.retain(|below, _| *below == path || !below.starts_with(&path));
        }
        let text = describe(&mut entry, files);
        let size = entry.header().size().unwrap();
        files.insert(path, Entry { size, text });
    }
}

fn describe(entry: &mut tar::Entry<'_, impl Read>, files: &BTreeMap<PathBuf, Entry>) -> String {
    let header = entry.header().clone();
    let owner = format!("{}:{}", header.uid().unwrap(), header.gid().unwrap());
    let mode = format!("{:04o}", header.mode().unwrap() & 0o7777);
    let link = entry.link_name().unwrap().map(|link| link.into_owned());
    let attributes: Vec<String> = entry
        .pax_extensions()
        .unwrap()
        .into_iter()
        .flatten()
        .map(|extension| extension.unwrap())
        .filter_map(|extension| {
            let name = extension.key().unwrap().strip_prefix("SCHILY.xattr.")?;
            Some(format!(
                " {name}={}",
                Digest::of(extension.value_bytes()).hex()
            ))
        })
        .collect();
    let text = match header.entry_type() {
        tar::EntryType::Directory => format!("dir {mode} {owner}"),
        tar::EntryType::Symlink => format!("symlink {owner} {}", link.unwrap().display()),
        tar::EntryType::Link => return files[&plain(&link.unwrap())].text.clone(),
        tar::EntryType::Fifo => format!("fifo {mode} {owner}"),
        _ => {
            let mut content = Vec::new();
            entry.read_to_end(&mut content).unwrap();
            format!("file {mode} {owner} {}", show(&content))
        }
    };
    text + &attributes.concat()
}

/// Short text as it is, other content by size and digest.
fn show(content: &[u8]) -> String {
    match std::str::from_utf8(content) {
        Ok(text) if text.len() <= 200 => format!("{text:?}"),
        _ => format!(
            "{} bytes {}",
            content.len(),
            &Digest::of(content).hex()[..12]
        ),
    }
}

fn plain(path: &Path) -> PathBuf {
    let path: PathBuf = path.components().collect();
    path.strip_prefix(".").unwrap_or(&path).to_path_buf()
}

/// The lines that are on one side only.
pub(crate) fn difference(expected: &str, found: &str) -> String {
    let lines = |text: &str| text.lines().map(str::to_string).collect::<BTreeSet<_>>();
    let (expected, found) = (lines(expected), lines(found));
    let gone = expected
        .difference(&found)
        .map(|line| format!("  - {line}\n"));
    let new = found
        .difference(&expected)
        .map(|line| format!("  + {line}\n"));
    gone.chain(new).collect()
}
