//! What `ADD` takes from elsewhere: files by URL and git repositories.

use std::fs;
use std::io;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::Stdio;

use oci::{ClientError, Digest};
use serde::Serialize;
use tokio::process::Command;

use crate::error::BuildError;
use crate::work::Work;

/// Largest file that is fetched.
const MAX_FILE: u64 = 16 << 30;

/// A git repository, or a directory of one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Git {
    pub(crate) url: String,
    /// A branch, tag or commit; the repository's default when absent.
    pub(crate) revision: Option<String>,
    /// The directory in the repository.
    pub(crate) directory: Option<String>,
    pub(crate) keep_git_dir: bool,
    /// The commit that it must be.
    pub(crate) checksum: Option<String>,
}

/// Why something could not be fetched.
#[derive(Debug)]
pub(crate) enum Failure {
    /// The Containerfile's author has to look, or the other side does.
    Refused(String),
    Other(Box<BuildError>),
}

impl From<BuildError> for Failure {
    fn from(error: BuildError) -> Self {
        Failure::Other(Box::new(error))
    }
}

/// Whether a source of `ADD` is a file elsewhere.
pub(crate) fn is_url(text: &str) -> bool {
    text.starts_with("http://") || text.starts_with("https://")
}

/// The name of the file that a URL leads to; empty when it has none.
pub(crate) fn file_name(url: &str) -> String {
    let path = url.split(['?', '#']).next().unwrap_or_default();
    let path = path.split_once("://").map_or(path, |(_, rest)| rest);
    match path.split_once('/') {
        Some((_, path)) => match path.rsplit('/').next().unwrap_or_default() {
            "." | ".." => String::new(),
            name => name.to_string(),
        },
        None => String::new(),
    }
}

/// Reads `git@HOST:PATH`, `git://…`, `ssh://…` and `https://….git`, each with `#REVISION[:DIRECTORY]`; `None` for what
/// is not a repository.
pub(crate) fn git(text: &str) -> Result<Option<Git>, String> {
    let (url, fragment) = match text.split_once('#') {
        Some((url, fragment)) => (url, Some(fragment)),
        None => (text, None),
    };
    let repository = ["git://", "ssh://", "git@"]
        .iter()
        .any(|prefix| url.starts_with(prefix))
        || (is_url(url) && url.trim_end_matches('/').ends_with(".git"));
    if !repository {
        return Ok(None);
    }
    let part = |text: &str| Some(text.to_string()).filter(|text| !text.is_empty());
    let (revision, directory) =
        match fragment.map(|text| text.split_once(':').unwrap_or((text, ""))) {
            Some((revision, directory)) => (part(revision), part(directory)),
            None => (None, None),
        };
    // These become arguments of a program.
    let odd = |text: &str| text.starts_with('-') || text.contains(char::is_control);
    if odd(url) || revision.as_deref().is_some_and(odd) {
        return Err(format!("`{url}`: expected a repository and a revision"));
    }
    Ok(Some(Git {
        url: url.to_string(),
        revision,
        directory,
        keep_git_dir: false,
        checksum: None,
    }))
}

/// Fetches a file into the store. One whose digest is given and that is there is not fetched again.
pub(crate) fn fetch(work: &Work, url: &str, checksum: Option<&Digest>) -> Result<Digest, Failure> {
    let blobs = work.cache().blobs();
    if let Some(digest) = checksum
        && blobs.has(digest)
    {
        work.cache().used(&blobs.path(digest));
        return Ok(*digest);
    }
    let client = work.engine.client();
    let fetched = work.wait(async { Ok(client.download(url, checksum, blobs, MAX_FILE).await) })?;
    fetched.map_err(|error| match error {
        ClientError::Store(error) => Failure::from(BuildError::from(error)),
        error => Failure::Refused(format!(
            "`{url}` cannot be fetched: {}",
            crate::error::chain(&error)
        )),
    })
}

/// Checks a repository out; returns the directory that was asked for. What is at hand is not fetched again.
pub(crate) fn checkout(work: &Work, git: &Git) -> Result<PathBuf, Failure> {
    let commit = match git.revision.as_deref() {
        Some(revision) if is_commit(revision) => revision.to_string(),
        revision => {
            let wanted = revision.unwrap_or("HEAD");
            let listed = run(
                work,
                None,
                &[
                    "ls-remote",
                    "--",
                    &git.url,
                    wanted,
                    &format!("{wanted}^{{}}"),
                ],
            )?;
            // The last line is the commit that an annotated tag stands for.
            let line = listed.lines().last().unwrap_or_default();
            let commit = line.split_whitespace().next().unwrap_or_default();
            if !is_commit(commit) {
                return Err(Failure::Refused(format!(
                    "`{}` has no revision `{wanted}`",
                    git.url
                )));
            }
            commit.to_string()
        }
    };
    if let Some(expected) = &git.checksum
        && !commit.starts_with(expected.as_str())
    {
        return Err(Failure::Refused(format!(
            "`{}` is at commit `{commit}`, expected `{expected}`",
            git.url
        )));
    }
    let failed = || BuildError::host::<io::Error>("cannot keep a git repository");
    let name = Digest::of(format!("{} {commit}", git.url).as_bytes());
    let place = work.cache().checkout(&name);
    if !place.is_dir() {
        let scratch = work.cache().scratch().map_err(failed())?;
        let tree = scratch.path.join("tree");
        fs::create_dir(&tree).map_err(failed())?;
        let here = Some(tree.as_path());
        run(work, here, &["init", "--quiet"])?;
        run(work, here, &["remote", "add", "origin", "--", &git.url])?;
        run(
            work,
            here,
            &["fetch", "--quiet", "--depth=1", "origin", &commit],
        )?;
        run(
            work,
            here,
            &[
                "-c",
                "advice.detachedHead=false",
                "checkout",
                "--quiet",
                "FETCH_HEAD",
            ],
        )?;
        run(
            work,
            here,
            &[
                "submodule",
                "--quiet",
                "update",
                "--init",
                "--recursive",
                "--depth=1",
            ],
        )?;
        settle_modes(&tree).map_err(failed())?;
        match fs::rename(&tree, &place) {
            Err(_) if place.is_dir() => {}
            other => other.map_err(failed())?,
        }
    }
    work.cache().used(&place);
    Ok(place)
}

/// Gives a directory and all in it the modes that git records, whatever the mask of this process made of them.
fn settle_modes(dir: &Path) -> io::Result<()> {
    fs::set_permissions(dir, fs::Permissions::from_mode(0o755))?;
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let metadata = entry.metadata()?;
        if metadata.is_dir() {
            settle_modes(&entry.path())?;
        } else if metadata.is_file() {
            let mode = if metadata.mode() & 0o100 == 0 {
                0o644
            } else {
                0o755
            };
            fs::set_permissions(entry.path(), fs::Permissions::from_mode(mode))?;
        }
    }
    Ok(())
}

fn is_commit(text: &str) -> bool {
    matches!(text.len(), 40 | 64) && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// Runs `git` without the settings of whoever builds and without a way to ask for passwords.
fn run(work: &Work, dir: Option<&Path>, args: &[&str]) -> Result<String, Failure> {
    let mut command = Command::new("git");
    command
        .args([
            "-c",
            "protocol.ext.allow=never",
            "-c",
            "core.hooksPath=/dev/null",
        ])
        .args(args)
        .env("GIT_TERMINAL_PROMPT", "0")
        .env("GIT_CONFIG_NOSYSTEM", "1")
        .env("GIT_CONFIG_GLOBAL", "/dev/null")
        .env("GIT_SSH_COMMAND", "ssh -o BatchMode=yes")
        .stdin(Stdio::null())
        .kill_on_drop(true);
    if let Some(dir) = dir {
        command.current_dir(dir);
    }
    let output = work.wait(async {
        command.output().await.map_err(|source| {
            let action = match source.kind() {
                io::ErrorKind::NotFound => {
                    "`git` is not installed, which `ADD` of a repository takes"
                }
                _ => "cannot run `git`",
            };
            BuildError::host(action)(source)
        })
    })?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    if output.status.success() {
        return Ok(text(&output.stdout));
    }
    let said = text(&output.stderr);
    let last: Vec<&str> = said.lines().rev().take(3).collect();
    let last: Vec<&str> = last.into_iter().rev().collect();
    Err(Failure::Refused(format!("git: {}", last.join("; "))))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn files_are_named_by_the_last_part_of_the_path() {
        for (url, name) in [
            ("https://x.example/a/b.tgz?c=d/e#f", "b.tgz"),
            ("http://x.example/", ""),
            ("http://x.example", ""),
            ("http://x.example/..", ""),
        ] {
            assert_eq!(file_name(url), name, "{url}");
        }
    }

    #[test]
    fn repositories_are_told_from_files() {
        let parts = |text: &str| {
            git(text).unwrap().map(|git| {
                let or_none = |part: Option<String>| part.unwrap_or_else(|| "-".into());
                format!(
                    "{} {} {}",
                    git.url,
                    or_none(git.revision),
                    or_none(git.directory)
                )
            })
        };
        for (text, expected) in [
            (
                "https://x.example/a.git",
                Some("https://x.example/a.git - -"),
            ),
            (
                "https://x.example/a.git#v1:sub/dir",
                Some("https://x.example/a.git v1 sub/dir"),
            ),
            ("git@x.example:a/b#:sub", Some("git@x.example:a/b - sub")),
            ("ssh://x.example/a", Some("ssh://x.example/a - -")),
            ("https://x.example/a.tgz", None),
            ("a.git", None),
        ] {
            assert_eq!(parts(text).as_deref(), expected, "{text}");
        }
        assert!(git("https://x.example/a.git#--upload-pack=x").is_err());
    }
}
