//! `caprock backup` and `caprock restore`: everything that makes a server the same server again.
//!
//! A backup is a tar archive: the API's objects at one moment, and the small files of the data directory (authority,
//! credentials, signing keys). Images are not in it: they are content, and `registry/` can be copied by any tool.

use std::fs::File;
use std::io::{BufReader, Read, Write};
use std::os::unix::fs::OpenOptionsExt;

use anyhow::{Context, anyhow, bail};
use camino::{Utf8Component, Utf8Path, Utf8PathBuf};
use http_body_util::BodyExt;
use kube::client::Body;
use model::keys;
use serde_json::Value;

use crate::cli;
use crate::exit::{Failure, refused};
use crate::output;
use crate::serve::files;
use crate::telemetry::Requests;

/// The API's objects inside the archive.
const OBJECTS: &str = "api/objects.jsonl";
/// Files of `api/` that belong to a backup.
const API_FILES: &[&str] = &["service-account.key"];
/// Files of the data directory that belong to one run of the server.
const NOT_KEPT: &[&str] = &["kubeconfig", "lock"];
/// A small file's bytes at most; credentials and certificates are far below.
const MAX_FILE: u64 = 16 << 20;

/// Writes the backup of a running server.
pub(crate) async fn backup(args: cli::Backup) -> Result<(), Failure> {
    let kubeconfig =
        files::read_if_present(&args.data_dir.join("kubeconfig"))?.ok_or_else(|| {
            refused(anyhow!(
                "no server runs on the data directory `{}`",
                args.data_dir
            ))
            .hint(format!(
                "start `caprock serve --data-dir {}` first",
                args.data_dir
            ))
        })?;
    let client = crate::client::client_trusting(
        &kubeconfig,
        &args.data_dir.join("pki/ca.crt"),
        &Requests::default(),
    )
    .await?;
    let mut objects = tempfile::tempfile().context("failed to make a temporary file")?;
    let count = fetch(&client, &mut objects).await?;
    let work = tokio::task::spawn_blocking(move || -> anyhow::Result<()> {
        let partial = Utf8PathBuf::from(format!("{}.partial", args.file));
        let archive = File::options()
            .write(true)
            .create(true)
            .truncate(true)
            // The authority's key is in there.
            .mode(0o600)
            .open(&partial)
            .with_context(|| format!("failed to create `{partial}`"))?;
        write(&args.data_dir, archive, objects)
            .and_then(|()| std::fs::rename(&partial, &args.file).map_err(Into::into))
            .with_context(|| format!("failed to write `{}`", args.file))
    });
    work.await??;
    output::words(&format!("{count} objects are in the backup\n"));
    Ok(())
}

/// Streams the API's objects into a file and returns how many there are.
async fn fetch(client: &kube::Client, file: &mut File) -> anyhow::Result<usize> {
    let request = http::Request::get("/backup").body(Body::empty())?;
    let response = client
        .send(request)
        .await
        .context("the server does not answer")?;
    if !response.status().is_success() {
        bail!("the server refused: {}", response.status());
    }
    let mut body = response.into_body();
    let mut lines = 0;
    while let Some(frame) = body.frame().await {
        let frame = frame.context("the connection broke before the backup was complete")?;
        if let Ok(data) = frame.into_data() {
            lines += data.iter().filter(|byte| **byte == b'\n').count();
            file.write_all(&data)?;
        }
    }
    // The first and the last line are no objects.
    lines.checked_sub(2).context("the backup is cut short")
}

fn write(data_dir: &Utf8Path, archive: File, mut objects: File) -> anyhow::Result<()> {
    use std::io::Seek;
    let mut archive = tar::Builder::new(archive);
    let mut names: Vec<Utf8PathBuf> = API_FILES
        .iter()
        .map(|f| format!("api/{f}").into())
        .collect();
    names.extend(files_in(data_dir, "")?);
    names.extend(files_in(data_dir, "pki")?);
    for name in names {
        match std::fs::read(data_dir.join(&name)) {
            Ok(bytes) => {
                let length = bytes.len() as u64;
                archive.append_data(&mut header(length), &name, bytes.as_slice())?;
            }
            // It went between the listing and now, or never was.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => return Err(error).with_context(|| format!("failed to read `{name}`")),
        }
    }
    objects.rewind()?;
    let length = objects.metadata()?.len();
    archive.append_data(&mut header(length), OBJECTS, objects)?;
    archive.into_inner()?.sync_all()?;
    Ok(())
}

fn header(length: u64) -> tar::Header {
    let mut header = tar::Header::new_gnu();
    header.set_size(length);
    header.set_mode(0o600);
    header
}

/// Names, relative to the data directory, of the regular files of one of its directories.
fn files_in(data_dir: &Utf8Path, directory: &str) -> anyhow::Result<Vec<Utf8PathBuf>> {
    let path = data_dir.join(directory);
    let mut names = Vec::new();
    let entries = match path.read_dir_utf8() {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(names),
        entries => entries.with_context(|| format!("failed to list `{path}`"))?,
    };
    for entry in entries {
        let entry = entry?;
        let name = entry.file_name();
        let own = NOT_KEPT.contains(&name) || name.ends_with(".lock") || name.starts_with('.');
        if entry.file_type()?.is_file() && !own {
            names.push(Utf8Path::new(directory).join(name));
        }
    }
    names.sort();
    Ok(names)
}

/// Makes a data directory from a backup.
pub(crate) fn restore(args: &cli::Restore) -> Result<(), Failure> {
    let (data_dir, file) = (&args.data_dir, &args.file);
    if data_dir.join("api/store.redb").exists() {
        let error = anyhow!("the data directory `{data_dir}` is in use");
        return Err(refused(error).hint("restore into a directory that does not exist yet"));
    }
    let archive = File::open(file).with_context(|| format!("failed to open `{file}`"))?;
    let mut archive = tar::Archive::new(BufReader::new(archive));
    let malformed = || format!("`{file}` is not a backup");
    let mut restored = false;
    for entry in archive.entries().with_context(malformed)? {
        let mut entry = entry.with_context(malformed)?;
        let name = entry.path().with_context(malformed)?.into_owned();
        let name = Utf8PathBuf::try_from(name).with_context(malformed)?;
        if name == OBJECTS {
            apiserver::restore(
                data_dir.join("api").as_std_path(),
                BufReader::new(&mut entry),
                forget_then,
            )
            .map_err(refused)?;
            restored = true;
            continue;
        }
        if !belongs(&name) || !entry.header().entry_type().is_file() {
            return Err(refused(anyhow!(
                "`{file}` holds `{name}`, which no backup does"
            )));
        }
        let mut bytes = Vec::new();
        entry.by_ref().take(MAX_FILE).read_to_end(&mut bytes)?;
        files::write_private_bytes(&data_dir.join(&name), &bytes)?;
    }
    if !restored {
        return Err(refused(anyhow!(
            "`{file}` is not a backup: it has no `{OBJECTS}`"
        )));
    }
    output::words(&format!(
        "restored; start it with `caprock serve --data-dir {data_dir}`\n"
    ));
    Ok(())
}

/// What was true of nodes then and may not be now: what they were told, which would take all of those back at once that have
/// gone on since, and what they said that they have. Their agents say it again, and their pools tell them anew, as many at
/// a time as may be.
const OF_THEN: [&str; 8] = [
    keys::DESIRED_CONFIG,
    keys::DESIRED_IMAGE,
    keys::TOLD_AT,
    keys::CURRENT_CONFIG,
    keys::CURRENT_IMAGE,
    keys::STATE,
    keys::REASON,
    keys::DONE_SINCE,
];

fn forget_then(object: &mut Value) {
    if object["apiVersion"] != "v1" || object["kind"] != "Node" {
        return;
    }
    let annotations = object.pointer_mut("/metadata/annotations");
    if let Some(annotations) = annotations.and_then(Value::as_object_mut) {
        for key in OF_THEN {
            annotations.remove(key);
        }
    }
}

/// Whether a file may be in a backup; nothing else is ever written.
fn belongs(name: &Utf8Path) -> bool {
    let parts: Vec<Utf8Component<'_>> = name.components().collect();
    match parts.as_slice() {
        [Utf8Component::Normal(_)] => true,
        [Utf8Component::Normal("pki"), Utf8Component::Normal(_)] => true,
        [Utf8Component::Normal("api"), Utf8Component::Normal(file)] => API_FILES.contains(file),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn restored_nodes_say_anew_what_they_have_and_wait_to_be_told() {
        let told = |kind: &str| {
            serde_json::json!({"apiVersion": "v1", "kind": kind, "metadata": {"annotations": {
                keys::CURRENT_CONFIG: "a", keys::DESIRED_DRAIN: "uncordon-a", keys::DESIRED_CONFIG: "a",
                keys::DESIRED_IMAGE: "r/i@sha256:1", keys::TOLD_AT: "2026-03-01T12:00:00Z",
            }}})
        };
        let mut node = told("Node");
        forget_then(&mut node);
        let left = serde_json::json!({keys::DESIRED_DRAIN: "uncordon-a"});
        assert_eq!(node["metadata"]["annotations"], left);
        let mut other = told("ConfigMap");
        forget_then(&mut other);
        assert_eq!(other, told("ConfigMap"));
    }

    #[test]
    fn nothing_leaves_the_data_directory() {
        for (name, expected) in [
            ("tokens.json", true),
            ("pki/ca.key", true),
            ("api/service-account.key", true),
            ("api/store.redb", false),
            ("../tokens.json", false),
            ("/etc/passwd", false),
            ("pki/../../x", false),
            ("registry/blobs/x", false),
        ] {
            assert_eq!(belongs(Utf8Path::new(name)), expected, "{name}");
        }
    }
}
