//! Whether a built image and a rendered config fit together, asked before any node is touched.

mod facts;

use std::collections::BTreeSet;
use std::fmt;
use std::io;

use crate::ignition::{Config, Node, NodeKind, Owner, Unit, has_install_section};
use crate::render::Provenance;

pub use facts::Facts;

/// Most bytes of a unit or of `/etc/passwd` that are read.
const READ_LIMIT: usize = 4 * 1024 * 1024;

/// Where systemd looks for units in an image, the first that has one wins.
const UNIT_DIRECTORIES: &[&str] = &[
    "/etc/systemd/system",
    "/usr/local/lib/systemd/system",
    "/usr/lib/systemd/system",
    "/lib/systemd/system",
];

/// The file system of a built image. Absolute paths; links of parent directories are followed inside the image.
pub trait ImageRoot {
    /// What is at `path`, links themselves not followed; nothing when nothing is there.
    ///
    /// # Errors
    /// When the image cannot be read.
    fn entry(&self, path: &str) -> io::Result<Option<Entry>>;

    /// The first `limit` bytes of the file at `path`, links followed; nothing when no file is there.
    ///
    /// # Errors
    /// When the image cannot be read.
    fn read(&self, path: &str, limit: usize) -> io::Result<Option<Vec<u8>>>;

    /// Names in the directory at `path`, sorted; empty when no directory is there.
    ///
    /// # Errors
    /// When the image cannot be read.
    fn list(&self, path: &str) -> io::Result<Vec<String>>;
}

/// What is at a path of an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Entry {
    File,
    Directory,
    /// A symbolic link, and what it says.
    Link(String),
    /// A device, socket or pipe.
    Other,
}

/// Something that would go wrong on a node. [`crate::problem::summary`] makes one message of several.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct ImageProblem {
    /// The MachineConfig that asks for what the image cannot give; none when the image itself is at fault.
    pub machine_config: Option<String>,
    /// What is wrong and what to do.
    pub reason: String,
}

impl fmt::Display for ImageProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.machine_config {
            Some(name) => write!(f, "MachineConfig `{name}`: {}", self.reason),
            None => write!(f, "image: {}", self.reason),
        }
    }
}

/// Everything that would keep nodes from running `image` with `config`: enabled units that exist nowhere, owners that
/// are no users, no kernel to boot.
///
/// # Errors
/// When the image cannot be read.
pub fn check(
    config: &Config,
    provenance: &Provenance,
    image: &dyn ImageRoot,
) -> io::Result<Vec<ImageProblem>> {
    let mut problems = shape(image)?;
    for unit in config
        .units
        .iter()
        .filter(|unit| unit.enabled == Some(true))
    {
        if let Some(reason) = unit_problem(unit, config, image)? {
            problems.push(ImageProblem {
                machine_config: provenance.enabling(&unit.name).map(str::to_owned),
                reason: format!("unit `{}` is enabled but {reason}", unit.name),
            });
        }
    }
    problems.extend(owner_problems(config, provenance, image)?);
    Ok(problems)
}

/// Why nothing would start an enabled unit, or nothing when something would.
fn unit_problem(unit: &Unit, config: &Config, image: &dyn ImageRoot) -> io::Result<Option<String>> {
    let (place, text) = match find(unit, config, image)? {
        Found::Text { place, text } => (place, text),
        Found::Masked { place } => {
            return Ok(Some(format!("`{place}` masks it; remove that mask")));
        }
        Found::Dangling { place } => {
            return Ok(Some(format!("`{place}` is a link to nothing")));
        }
        Found::Nothing => {
            return Ok(Some(
                "exists neither in the image nor in a MachineConfig; install the package that has it in the Containerfile, or give its `contents`".into(),
            ));
        }
    };
    let dropins = unit
        .dropins
        .iter()
        .filter_map(|dropin| dropin.contents.as_deref());
    let starts = std::iter::once(text.as_str())
        .chain(dropins)
        .any(has_install_section);
    Ok((!starts).then(|| {
        format!("{place} has no [Install] section, so nothing would start it; leave out `enabled`, or add a drop-in with one")
    }))
}

/// What a node would load as a unit, and where that is.
enum Found {
    Text { place: String, text: String },
    Masked { place: String },
    Dangling { place: String },
    Nothing,
}

fn find(unit: &Unit, config: &Config, image: &dyn ImageRoot) -> io::Result<Found> {
    let template = template_of(&unit.name);
    for name in std::iter::once(unit.name.as_str()).chain(template.as_deref()) {
        let written = config.unit(name).and_then(|unit| unit.contents.as_ref());
        if let Some(text) = written {
            return Ok(Found::Text {
                place: format!("its text in the MachineConfig (`{name}`)"),
                text: text.clone(),
            });
        }
        for directory in UNIT_DIRECTORIES {
            let path = format!("{directory}/{name}");
            let found = match config.node(&path) {
                Some(node) => Some(find_written(node, image)?),
                None => find_in_image(&path, image)?,
            };
            if let Some(found) = found {
                return Ok(found);
            }
        }
    }
    Ok(Found::Nothing)
}

/// A unit that the config has among its files and links.
fn find_written(node: &Node, image: &dyn ImageRoot) -> io::Result<Found> {
    let place = format!("`{}`", node.path);
    Ok(match &node.kind {
        NodeKind::File { .. } => Found::Text {
            place,
            text: String::from_utf8_lossy(node.contents().unwrap_or_default()).into_owned(),
        },
        NodeKind::Link {
            target: Some(target),
        } if target == "/dev/null" => Found::Masked {
            place: node.path.clone(),
        },
        NodeKind::Link { target } => {
            match image.read(target.as_deref().unwrap_or_default(), READ_LIMIT)? {
                Some(text) => Found::Text {
                    place,
                    text: String::from_utf8_lossy(&text).into_owned(),
                },
                None => Found::Dangling {
                    place: node.path.clone(),
                },
            }
        }
        NodeKind::Directory { .. } => Found::Nothing,
    })
}

fn find_in_image(path: &str, image: &dyn ImageRoot) -> io::Result<Option<Found>> {
    let place = path.to_owned();
    Ok(match image.entry(path)? {
        None => None,
        Some(Entry::Link(target)) if target == "/dev/null" => Some(Found::Masked { place }),
        Some(_) => Some(match image.read(path, READ_LIMIT)? {
            Some(text) => Found::Text {
                place: format!("`{path}` in the image"),
                text: String::from_utf8_lossy(&text).into_owned(),
            },
            None => Found::Dangling { place },
        }),
    })
}

/// `getty@.service` for `getty@tty1.service`.
fn template_of(name: &str) -> Option<String> {
    let (prefix, rest) = name.split_once('@')?;
    let (instance, suffix) = rest.rsplit_once('.')?;
    (!instance.is_empty()).then(|| format!("{prefix}@.{suffix}"))
}

fn owner_problems(
    config: &Config,
    provenance: &Provenance,
    image: &dyn ImageRoot,
) -> io::Result<Vec<ImageProblem>> {
    let named = |node: &Node| {
        [&node.user, &node.group]
            .iter()
            .any(|owner| matches!(owner, Some(Owner::Name(_))))
    };
    if !config.nodes.iter().any(named) {
        return Ok(Vec::new());
    }
    let users = accounts(config, image, "passwd", &['u'])?;
    // Every user that sysusers makes gets a group of its name.
    let groups = accounts(config, image, "group", &['u', 'g'])?;
    let mut problems = Vec::new();
    for node in &config.nodes {
        for (kind, owner, known) in [
            ("user", &node.user, &users),
            ("group", &node.group, &groups),
        ] {
            let Some(Owner::Name(name)) = owner else {
                continue;
            };
            if known.contains(name) {
                continue;
            }
            problems.push(ImageProblem {
                machine_config: provenance.of_path(&node.path).last().cloned(),
                reason: format!(
                    "{} `{}` belongs to {kind} `{name}`, which the image does not have; create it in the Containerfile or with a file in `/etc/sysusers.d`",
                    node.kind_name(),
                    node.path
                ),
            });
        }
    }
    Ok(problems)
}

/// Names in the image's `/etc/<database>` and in its and the config's `sysusers.d` files.
fn accounts(
    config: &Config,
    image: &dyn ImageRoot,
    database: &str,
    sysusers_types: &[char],
) -> io::Result<BTreeSet<String>> {
    let mut names = BTreeSet::new();
    for directory in ["/etc", "/usr/lib"] {
        let text = image.read(&format!("{directory}/{database}"), READ_LIMIT)?;
        let text = text.unwrap_or_default();
        let lines = String::from_utf8_lossy(&text);
        names.extend(
            lines
                .lines()
                .filter_map(|line| Some(line.split_once(':')?.0.to_owned())),
        );
    }
    let mut sysusers: Vec<String> = Vec::new();
    for directory in ["/etc/sysusers.d", "/usr/lib/sysusers.d"] {
        for name in image
            .list(directory)?
            .iter()
            .filter(|name| name.ends_with(".conf"))
        {
            let text = image.read(&format!("{directory}/{name}"), READ_LIMIT)?;
            sysusers.extend(text.map(|text| String::from_utf8_lossy(&text).into_owned()));
        }
    }
    let written = config
        .nodes
        .iter()
        .filter(|node| node.path.starts_with("/etc/sysusers.d/"));
    sysusers.extend(
        written
            .filter_map(Node::contents)
            .map(|text| String::from_utf8_lossy(text).into_owned()),
    );
    for line in sysusers.iter().flat_map(|text| text.lines()) {
        let mut words = line.split_whitespace();
        let kind = words.next().and_then(|word| word.chars().next());
        if kind.is_some_and(|kind| sysusers_types.contains(&kind)) {
            names.extend(words.next().map(str::to_owned));
        }
    }
    Ok(names)
}

/// What every bootable image of an ostree host has.
fn shape(image: &dyn ImageRoot) -> io::Result<Vec<ImageProblem>> {
    let mut reasons = Vec::new();
    let mut kernels = Vec::new();
    for release in image.list("/usr/lib/modules")? {
        if image
            .entry(&format!("/usr/lib/modules/{release}/vmlinuz"))?
            .is_some()
        {
            kernels.push(release);
        }
    }
    match kernels.as_slice() {
        [] => reasons.push("there is no kernel at `/usr/lib/modules/<release>/vmlinuz`; start from a bootable base image".to_owned()),
        [_] => {}
        several => reasons.push(format!(
            "there is more than one kernel (`{}`) in `/usr/lib/modules`; remove the packages of all but one in the Containerfile",
            several.join("`, `")
        )),
    }
    let mut init = false;
    for path in ["/usr/lib/systemd/systemd", "/lib/systemd/systemd"] {
        init = init || image.entry(path)?.is_some();
    }
    if !init {
        reasons.push(
            "there is no systemd at `/usr/lib/systemd/systemd`; start from a bootable base image"
                .to_owned(),
        );
    }
    if image.entry("/sysroot")? != Some(Entry::Directory) {
        reasons.push("there is no directory `/sysroot`, where ostree mounts the disk; keep it, or start from a bootable base image".to_owned());
    }
    match image.entry("/ostree")? {
        Some(Entry::Link(target)) if target.trim_matches('/') == "sysroot/ostree" => {}
        _ => reasons.push("`/ostree` is not a link to `sysroot/ostree`; keep it, or start from a bootable base image".to_owned()),
    }
    Ok(reasons
        .into_iter()
        .map(|reason| ImageProblem {
            machine_config: None,
            reason,
        })
        .collect())
}

#[cfg(test)]
mod tests;
