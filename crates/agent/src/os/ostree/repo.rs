//! The `ostree` commands that act on a repository: refs, commits, checkouts.

use std::collections::BTreeSet;

use camino::{Utf8Path, Utf8PathBuf};

use crate::command::{Command, CommandError};
use crate::os::{OsError, io_error};

/// A repository in `bare` mode, whose files are the objects themselves.
#[derive(Debug, Clone)]
pub(super) struct Repo {
    path: Utf8PathBuf,
}

/// What a new commit is made of.
#[derive(Debug)]
pub(super) enum Tree<'a> {
    /// A directory alone.
    Directory(&'a Utf8Path),
    /// A directory over the tree of a ref; only the directory's files are read.
    Over(&'a str, &'a Utf8Path),
    /// A directory checked out with hard links and then changed; unchanged files are not read.
    Checkout(&'a Utf8Path),
    /// The tree of a ref.
    Ref(&'a str),
}

impl Repo {
    pub(super) fn new(path: Utf8PathBuf) -> Self {
        Self { path }
    }

    fn ostree(&self, verb: &str) -> Command {
        Command::new("ostree")
            .arg(verb)
            .arg(format!("--repo={}", self.path))
    }

    /// Refs that begin with `prefix` (which ends in `/`), in full.
    pub(super) fn refs(&self, prefix: &str) -> Result<Vec<String>, CommandError> {
        let printed = self
            .ostree("refs")
            .arg("--list")
            .arg(prefix.trim_end_matches('/'))
            .run()?;
        Ok(printed.lines().map(str::to_owned).collect())
    }

    pub(super) fn has_ref(&self, name: &str) -> bool {
        self.path.join("refs/heads").join(name).is_file()
    }

    pub(super) fn delete_ref(&self, name: &str) -> Result<(), CommandError> {
        self.ostree("refs")
            .arg("--delete")
            .arg(name)
            .run()
            .map(drop)
    }

    /// Commits a tree under a ref, with string metadata. Directories are used up, but for a checkout.
    ///
    /// The whole file system is synced once, instead of each object, and before the ref says that the commit is there.
    pub(super) fn commit(
        &self,
        name: &str,
        tree: &Tree<'_>,
        metadata: &[(&str, &str)],
    ) -> Result<(), OsError> {
        let command = self.ostree("commit").args([
            "--orphan",
            "--fsync=false",
            "--parent=none",
            "--no-bindings",
        ]);
        let command = match tree {
            Tree::Directory(path) => command.arg("--consume").arg(format!("--tree=dir={path}")),
            Tree::Over(base, path) => command
                .arg("--consume")
                .arg(format!("--base={base}"))
                .arg(format!("--tree=dir={path}")),
            Tree::Checkout(path) => command
                .arg("--devino-canonical")
                .arg(format!("--tree=dir={path}")),
            Tree::Ref(name) => command.arg(format!("--tree=ref={name}")),
        };
        let printed = command
            .args(
                metadata
                    .iter()
                    .map(|(key, value)| format!("--add-metadata-string={key}={value}")),
            )
            .run()?;
        std::fs::File::open(&self.path)
            .and_then(|repo| Ok(rustix::fs::syncfs(repo)?))
            .map_err(io_error("sync", &self.path))?;
        let commit = printed.trim();
        Ok(self
            .ostree("refs")
            .arg(format!("--create={name}"))
            .arg("--force")
            .arg(commit)
            .run()
            .map(drop)?)
    }

    /// Checks a ref out with hard links into a directory that does not exist yet.
    pub(super) fn checkout(&self, name: &str, into: &Utf8Path) -> Result<(), CommandError> {
        self.ostree("checkout")
            .arg("--require-hardlinks")
            .arg(name)
            .arg(into.as_str())
            .run()
            .map(drop)
    }

    /// Every path of a commit. Names are read as the tool prints them: one with a line break in it is not found again.
    pub(super) fn list(&self, name: &str) -> Result<BTreeSet<Utf8PathBuf>, CommandError> {
        Ok(parse_listing(&self.ostree("ls").arg("--recursive").arg(name).run()?).collect())
    }

    /// Whether a commit has a path.
    pub(super) fn has_path(&self, name: &str, path: &Utf8Path) -> Result<bool, CommandError> {
        let (status, ..) = self
            .ostree("ls")
            .arg("--dironly")
            .arg(name)
            .arg(path.as_str())
            .output()?;
        Ok(status.success())
    }

    /// What is in a directory of a commit; nothing when it has no such directory.
    pub(super) fn children(
        &self,
        name: &str,
        path: &Utf8Path,
    ) -> Result<Vec<Utf8PathBuf>, CommandError> {
        let (_, stdout, _) = self.ostree("ls").arg(name).arg(path.as_str()).output()?;
        Ok(parse_listing(&stdout)
            .filter(|found| found != path)
            .collect())
    }

    /// A string of a commit's metadata; none when it has no such key.
    pub(super) fn metadata(&self, name: &str, key: &str) -> Result<Option<String>, CommandError> {
        let (status, stdout, _) = self
            .ostree("show")
            .arg(format!("--print-metadata-key={key}"))
            .arg(name)
            .output()?;
        Ok(status
            .success()
            .then(|| stdout.trim().trim_matches('\'').to_owned()))
    }
}

/// Lines such as `-00755 0 0 1265648 /usr/bin/bash` and `l00777 0 0 0 /bin -> usr/bin`.
fn parse_listing(text: &str) -> impl Iterator<Item = Utf8PathBuf> {
    text.lines().filter_map(|line| {
        let path = &line[line.find(" /")? + 1..];
        let is_link = line.starts_with('l');
        let path = path
            .split_once(" -> ")
            .filter(|_| is_link)
            .map_or(path, |(path, _)| path);
        Some(path.into())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn listing_is_understood() {
        let text = "d00755 0 0      0 /\nl00777 0 0      0 /bin -> usr/bin\n-00755 0 0 1265648 /usr/bin/a -> b\n";
        let found: Vec<Utf8PathBuf> = parse_listing(text).collect();
        assert_eq!(found, ["/", "/bin", "/usr/bin/a -> b"]);
    }
}
