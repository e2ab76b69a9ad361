//! Where images are pulled from: mirrors, blocked and insecure registries, as containers-registries.conf(5) (version 2)
//! says them. Container tools of a host share this file, and so do we.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::reference::Reference;

/// The file that container tools of a host share; files of `registries.conf.d` beside it come after it.
pub const SYSTEM_CONFIG: &str = "/etc/containers/registries.conf";
/// Largest file that is read.
const MAX_FILE: u64 = 1 << 20;

/// Why a registries.conf cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum RegistriesError {
    /// It cannot be read.
    #[error("cannot read `{path}`")]
    Read {
        /// The file.
        path: PathBuf,
        /// What the operating system said.
        #[source]
        source: std::io::Error,
    },
    /// It is not TOML of the expected form.
    #[error("`{path}` is not a valid registries.conf: {problem}")]
    Syntax {
        /// The file.
        path: PathBuf,
        /// What is wrong, with line and column.
        problem: String,
    },
    /// An entry says something impossible.
    #[error("`{path}`: registry `{registry}`: {problem}")]
    Entry {
        /// The file.
        path: PathBuf,
        /// Prefix or location of the entry.
        registry: String,
        /// What is wrong with it.
        problem: String,
    },
}

/// The image may be neither pulled nor pushed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("registry `{prefix}` is blocked in registries.conf, so `{reference}` cannot be reached")]
pub struct Blocked {
    /// The entry that blocks it.
    pub prefix: String,
    /// The image.
    pub reference: String,
}

/// One place to try.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Source {
    /// The image there.
    pub reference: Reference,
    /// Whether its certificate need not verify, and plain HTTP may be spoken.
    pub insecure: bool,
}

/// The settings for all registries. The default changes nothing: each image comes from where its name says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Registries {
    /// Entries by prefix; the longest one that fits counts.
    entries: BTreeMap<String, Entry>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Entry {
    location: String,
    insecure: bool,
    blocked: bool,
    mirrors: Vec<Mirror>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Mirror {
    location: String,
    insecure: bool,
    pulls: Pulls,
}

/// Which references a mirror serves.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Pulls {
    #[default]
    All,
    DigestOnly,
    TagOnly,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct File {
    #[serde(default)]
    registry: Vec<RegistryTable>,
    /// Version 1 of the format.
    registries: Option<toml::Value>,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct RegistryTable {
    prefix: Option<String>,
    location: Option<String>,
    #[serde(default)]
    insecure: bool,
    #[serde(default)]
    blocked: bool,
    #[serde(default)]
    mirror_by_digest_only: bool,
    #[serde(default)]
    mirror: Vec<MirrorTable>,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct MirrorTable {
    location: String,
    #[serde(default)]
    insecure: bool,
    pull_from_mirror: Option<Pulls>,
}

impl Registries {
    /// Reads a registries.conf and the `*.conf` files of the directory `registries.conf.d` beside it, in the order of
    /// their names. What is not there says nothing.
    ///
    /// # Errors
    /// When one of them cannot be read, is not valid or is of the format's version 1.
    pub fn load(path: &Path) -> Result<Registries, RegistriesError> {
        let mut found = Registries::default();
        for path in std::iter::once(path.to_owned()).chain(drop_ins(path)?) {
            if let Some(text) = read(&path)? {
                found.add(&path, &text)?;
            }
        }
        Ok(found)
    }

    /// Adds what `text`, the content of `path`, says. An entry replaces an earlier one of the same prefix.
    ///
    /// # Errors
    /// When it is not valid or is of the format's version 1.
    pub fn add(&mut self, path: &Path, text: &str) -> Result<(), RegistriesError> {
        let syntax = |problem: String| RegistriesError::Syntax {
            path: path.to_owned(),
            problem,
        };
        let file: File = toml::from_str(text).map_err(|error| {
            let place = error.span().map(|span| place(text, span.start));
            syntax(format!("{}{}", place.unwrap_or_default(), error.message()))
        })?;
        if file.registries.is_some() {
            let problem = "it has `[registries]` tables of the format's version 1; write `[[registry]]` tables instead";
            return Err(syntax(problem.to_owned()));
        }
        for table in file.registry {
            let (prefix, entry) = table.entry(path)?;
            self.entries.insert(prefix, entry);
        }
        Ok(())
    }

    /// Where to look for an image, the best place first: the mirrors of its entry that serve it, then the place that
    /// its name, or its entry's location, says.
    ///
    /// # Errors
    /// When the image may not be pulled.
    pub fn sources(&self, reference: &Reference) -> Result<Vec<Source>, Blocked> {
        let own = |insecure| Source {
            reference: reference.clone(),
            insecure,
        };
        let Some((prefix, entry)) = self.entry(reference) else {
            return Ok(vec![own(false)]);
        };
        if entry.blocked {
            return Err(Blocked {
                prefix: prefix.to_owned(),
                reference: reference.to_string(),
            });
        }
        let by_digest = reference.digest().is_some();
        let serves = |mirror: &&Mirror| match mirror.pulls {
            Pulls::All => true,
            Pulls::DigestOnly => by_digest,
            Pulls::TagOnly => !by_digest,
        };
        let mirrors = entry
            .mirrors
            .iter()
            .filter(serves)
            .map(|mirror| (&mirror.location, mirror.insecure));
        let places = mirrors.chain([(&entry.location, entry.insecure)]);
        Ok(places
            .filter_map(|(location, insecure)| {
                Some(Source {
                    reference: moved(reference, prefix, location)?,
                    insecure,
                })
            })
            .collect())
    }

    /// Whether an image may be pushed where its name says, and there without a certificate that verifies. Mirrors and
    /// other locations are for pulls alone.
    ///
    /// # Errors
    /// When the registry is blocked.
    pub fn target(&self, reference: &Reference) -> Result<Source, Blocked> {
        let entry = self.entry(reference);
        match entry {
            Some((prefix, entry)) if entry.blocked => Err(Blocked {
                prefix: prefix.to_owned(),
                reference: reference.to_string(),
            }),
            entry => Ok(Source {
                reference: reference.clone(),
                insecure: entry.is_some_and(|(_, entry)| entry.insecure),
            }),
        }
    }

    fn entry(&self, reference: &Reference) -> Option<(&str, &Entry)> {
        self.entries
            .iter()
            .filter(|(prefix, _)| covered(reference, prefix).is_some())
            .max_by_key(|(prefix, _)| prefix.len())
            .map(|(prefix, entry)| (prefix.as_str(), entry))
    }
}

impl RegistryTable {
    fn entry(self, path: &Path) -> Result<(String, Entry), RegistriesError> {
        let named = self.prefix.clone().or(self.location.clone());
        let problem = |problem: &str| RegistriesError::Entry {
            path: path.to_owned(),
            registry: named.clone().unwrap_or_default(),
            problem: problem.to_owned(),
        };
        let clean = |text: String| text.trim_end_matches('/').to_owned();
        let location = clean(self.location.unwrap_or_default());
        let prefix = match clean(self.prefix.unwrap_or_default()) {
            prefix if prefix.is_empty() => location.clone(),
            prefix => prefix,
        };
        if prefix.is_empty() {
            return Err(problem("expected `prefix` or `location`, found neither"));
        }
        if location.is_empty() && !prefix.starts_with("*.") {
            return Err(problem(
                "expected a `location`: only a `prefix` that begins with `*.` goes without one",
            ));
        }
        if prefix.trim_start_matches("*.").contains('*') {
            return Err(problem("a `*` stands only at the beginning of a `prefix`"));
        }
        for text in self
            .mirror
            .iter()
            .map(|mirror| &mirror.location)
            .chain([&location])
        {
            if text.contains("://") {
                return Err(problem("a location has a scheme; leave it out"));
            }
        }
        let for_all = match self.mirror_by_digest_only {
            true => Pulls::DigestOnly,
            false => Pulls::All,
        };
        let mut mirrors = Vec::new();
        for mirror in self.mirror {
            if self.mirror_by_digest_only && mirror.pull_from_mirror.is_some() {
                return Err(problem(
                    "`mirror-by-digest-only` and `pull-from-mirror` exclude each other",
                ));
            }
            mirrors.push(Mirror {
                location: clean(mirror.location),
                insecure: mirror.insecure,
                pulls: mirror.pull_from_mirror.unwrap_or(for_all),
            });
        }
        let entry = Entry {
            location,
            insecure: self.insecure,
            blocked: self.blocked,
            mirrors,
        };
        Ok((prefix, entry))
    }
}

/// What of the reference's name comes after `prefix`, when that is its beginning up to a boundary.
fn covered<'a>(reference: &'a Reference, prefix: &str) -> Option<&'a str> {
    let (host, path) = prefix.split_once('/').unwrap_or((prefix, ""));
    let same_host = match host.strip_prefix('*') {
        Some(domain) => {
            let found = reference.host().strip_suffix(domain);
            found.is_some_and(|rest| !rest.is_empty())
        }
        None => host == reference.host(),
    };
    if !same_host {
        return None;
    }
    // A prefix may be one image, with its tag or digest.
    let path = match path.split_once('@') {
        Some((path, digest)) => {
            let same = reference.digest()?.to_string() == digest;
            return (same && path == reference.repository()).then_some("");
        }
        None => match path.split_once(':') {
            Some((path, tag)) => {
                let same = reference.tag() == Some(tag) && path == reference.repository();
                return same.then_some("");
            }
            None => path,
        },
    };
    let rest = reference.repository().strip_prefix(path)?;
    match rest.strip_prefix('/') {
        Some(rest) => Some(rest),
        None if rest.is_empty() || path.is_empty() => Some(rest),
        None => None,
    }
}

/// The image at another location, in place of what `prefix` covers.
fn moved(reference: &Reference, prefix: &str, location: &str) -> Option<Reference> {
    if location.is_empty() {
        return Some(reference.clone());
    }
    let rest = covered(reference, prefix)?;
    let name = match rest {
        "" => location.to_owned(),
        rest => format!("{location}/{rest}"),
    };
    // A location without a host, or with its own tag, would be another image.
    let bare: Reference = name.parse().ok()?;
    if bare.tag().is_some() || bare.digest().is_some() {
        return None;
    }
    match (reference.tag(), reference.digest()) {
        (_, Some(digest)) => Some(bare.with_digest(digest)),
        (Some(tag), None) => bare.with_tag(tag).ok(),
        (None, None) => Some(bare),
    }
}

fn drop_ins(path: &Path) -> Result<Vec<PathBuf>, RegistriesError> {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".d");
    let dir = path.with_file_name(name);
    let failed = |source| RegistriesError::Read {
        path: dir.clone(),
        source,
    };
    let entries = match std::fs::read_dir(&dir) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(failed)?,
    };
    let mut paths = Vec::new();
    for entry in entries {
        let path = entry.map_err(failed)?.path();
        if path
            .extension()
            .is_some_and(|extension| extension == "conf")
        {
            paths.push(path);
        }
    }
    paths.sort();
    Ok(paths)
}

fn read(path: &Path) -> Result<Option<String>, RegistriesError> {
    use std::io::Read as _;
    let failed = |source| RegistriesError::Read {
        path: path.to_owned(),
        source,
    };
    let file = match std::fs::File::open(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        file => file.map_err(failed)?,
    };
    let mut text = String::new();
    file.take(MAX_FILE + 1)
        .read_to_string(&mut text)
        .map_err(failed)?;
    if text.len() as u64 > MAX_FILE {
        return Err(RegistriesError::Syntax {
            path: path.to_owned(),
            problem: format!("it is longer than {MAX_FILE} bytes"),
        });
    }
    Ok(Some(text))
}

fn place(text: &str, at: usize) -> String {
    let before = &text.as_bytes()[..at.min(text.len())];
    let line = before.iter().filter(|byte| **byte == b'\n').count() + 1;
    format!("line {line}: ")
}

#[cfg(test)]
mod tests;
