//! One difference between two versions of a node.

use std::fmt;

use super::Version;
use super::compare::difference;
use super::reason::Reason;
use crate::keys;
use crate::render::field;

/// What happens to something with a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Edit {
    /// It is new.
    Add,
    /// It is there and differs.
    Change,
    /// It goes, and what was there before the first config comes back.
    Remove,
}

impl Edit {
    fn mark(self) -> char {
        match self {
            Edit::Add => '+',
            Edit::Change => '~',
            Edit::Remove => '-',
        }
    }
}

/// One difference.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// Another image.
    Image {
        /// The one now; none when the node does not say.
        from: Option<String>,
        /// The one to come.
        to: String,
    },
    /// Kernel arguments.
    KernelArguments {
        /// To take away.
        remove: Vec<String>,
        /// To add.
        add: Vec<String>,
    },
    /// Another set of extensions.
    Extensions {
        /// To take away.
        remove: Vec<String>,
        /// To add.
        add: Vec<String>,
    },
    /// Extensions that stay come from another image.
    ExtensionsImage {
        /// The one to come.
        to: String,
    },
    /// Another kernel.
    KernelType {
        /// The one now.
        from: String,
        /// The one to come.
        to: String,
    },
    /// FIPS mode on or off.
    Fips(bool),
    /// A file, directory or link.
    Path {
        /// What happens to it.
        edit: Edit,
        /// `file`, `directory` or `link`.
        kind: &'static str,
        /// Where it is.
        path: String,
    },
    /// A unit: its text, drop-ins, enablement or mask.
    Unit {
        /// What happens to it.
        edit: Edit,
        /// Its name.
        name: String,
        /// Whether its text or a drop-in differs, and not only whether it starts.
        text: bool,
        /// Whether it starts at boot now, as far as the config says.
        was_enabled: bool,
        /// Whether it starts at boot afterwards.
        enabled: bool,
        /// Whether it must not run afterwards: disabled, masked, or its text removed.
        stopped: bool,
    },
    /// SSH keys of user `core`.
    SshKeys,
    /// Password hash of user `core`.
    Password,
}

impl Change {
    /// Whether it can be made on a running node.
    pub fn is_live(&self) -> bool {
        match self {
            Change::Path { .. } | Change::Unit { .. } | Change::SshKeys | Change::Password => true,
            Change::Image { .. }
            | Change::KernelArguments { .. }
            | Change::Extensions { .. }
            | Change::ExtensionsImage { .. }
            | Change::KernelType { .. }
            | Change::Fips(_) => false,
        }
    }

    /// What it is about; two changes of one subject are one change.
    pub(super) fn subject(&self) -> (u8, &str) {
        match self {
            Change::Image { .. } => (0, ""),
            Change::KernelArguments { .. } => (1, ""),
            Change::Extensions { .. } => (2, ""),
            Change::KernelType { .. } => (3, ""),
            Change::Fips(_) => (4, ""),
            Change::Path { path, .. } => (5, path),
            Change::Unit { name, .. } => (6, name),
            Change::SshKeys => (7, ""),
            Change::Password => (8, ""),
            Change::ExtensionsImage { .. } => (9, ""),
        }
    }

    /// Why something follows from it: which object asks for it, and in which field.
    pub(super) fn reason(&self, from: &Version, to: &Version) -> Reason {
        let (field, path, unit) = match self {
            Change::Image { .. } if to.layered_image.is_some() => (keys::DESIRED_IMAGE, None, None),
            Change::Image { .. } => (field::OS_IMAGE_URL, None, None),
            Change::KernelArguments { .. } => (field::KERNEL_ARGUMENTS, None, None),
            Change::Extensions { .. } => (field::EXTENSIONS, None, None),
            Change::ExtensionsImage { .. } => (field::EXTENSIONS_IMAGE, None, None),
            Change::KernelType { .. } => (field::KERNEL_TYPE, None, None),
            Change::Fips(_) => (field::FIPS, None, None),
            Change::Path { kind, path, .. } => (field::of_path(kind), Some(path.clone()), None),
            Change::Unit { name, .. } => (field::UNITS, None, Some(name.clone())),
            Change::SshKeys | Change::Password => (field::USERS, None, None),
        };
        Reason {
            object: self.object(from, to),
            field,
            path,
            unit,
            change: self.to_string(),
            policy: None,
            details: Vec::new(),
        }
    }

    /// The MachineConfig that asks for it; of what goes, the one that had it.
    fn object(&self, from: &Version, to: &Version) -> String {
        let last = |names: &[String]| names.last().cloned();
        let set = |version: &Version, field, values: &[String]| {
            let mut names = values
                .iter()
                .map(|value| version.provenance.of_setting(field, value));
            names.find_map(last)
        };
        let listed = |field, add: &[String], remove: &[String]| {
            set(to, field, add).or_else(|| set(from, field, remove))
        };
        let gone = match self {
            Change::Path { edit, .. } | Change::Unit { edit, .. } => *edit == Edit::Remove,
            _ => false,
        };
        let known = match self {
            Change::Path { path, .. } if gone => last(from.provenance.of_path(path)),
            Change::Path { path, .. } => last(to.provenance.of_path(path)),
            Change::Unit { name, .. } if gone => last(from.provenance.of_unit(name)),
            Change::Unit { name, .. } => last(to.provenance.of_unit(name)),
            Change::Image { .. } if to.layered_image.is_some() => None,
            Change::Image { .. } => set(
                to,
                field::OS_IMAGE_URL,
                std::slice::from_ref(&to.os_image_url),
            ),
            Change::KernelArguments { remove, add } => listed(field::KERNEL_ARGUMENTS, add, remove),
            Change::Extensions { remove, add } => listed(field::EXTENSIONS, add, remove),
            Change::ExtensionsImage { to: image } => {
                set(to, field::EXTENSIONS_IMAGE, std::slice::from_ref(image))
            }
            Change::KernelType { from: was, to: is } => listed(
                field::KERNEL_TYPE,
                std::slice::from_ref(is),
                std::slice::from_ref(was),
            ),
            Change::Fips(_) => listed(field::FIPS, &["true".into()], &["true".into()]),
            Change::SshKeys => {
                let (remove, add) =
                    difference(&from.ignition.core.ssh_keys, &to.ignition.core.ssh_keys)
                        .unwrap_or_default();
                listed(field::USERS, &add, &remove)
            }
            Change::Password => listed(field::USERS, &[String::new()], &[String::new()]),
        };
        known.unwrap_or_else(|| {
            if gone {
                from.name.clone()
            } else {
                to.name.clone()
            }
        })
    }
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Change::Image {
                from: Some(from),
                to,
            } => write!(f, "image {} → {}", short(from), short(to)),
            Change::Image { from: None, to } => write!(f, "image {}", short(to)),
            Change::KernelArguments { remove, add } => {
                write!(f, "kernelArguments {}", signed(remove, add))
            }
            Change::Extensions { remove, add } => write!(f, "extensions {}", signed(remove, add)),
            Change::ExtensionsImage { to } => {
                write!(f, "baseOSExtensionsContainerImage {}", short(to))
            }
            Change::KernelType { from, to } => write!(f, "kernelType {from} → {to}"),
            Change::Fips(on) => write!(f, "fips {}", if *on { "on" } else { "off" }),
            Change::Path { edit, kind, path } => write!(f, "{}{kind} {path}", edit.mark()),
            Change::Unit { edit, name, .. } => write!(f, "{}unit {name}", edit.mark()),
            Change::SshKeys => f.write_str("SSH keys of `core`"),
            Change::Password => f.write_str("password of `core`"),
        }
    }
}

/// Repository's last part and the first digits of the digest: enough to recognise an image in a line.
fn short(pull_spec: &str) -> String {
    let (name, digest) = pull_spec.rsplit_once('@').unwrap_or((pull_spec, ""));
    let name = name.rsplit('/').next().unwrap_or(name);
    match digest.strip_prefix("sha256:") {
        Some(hex) if name == digest || name.is_empty() => hex.chars().take(12).collect(),
        Some(hex) => format!("{name}@{}", hex.chars().take(12).collect::<String>()),
        None => name.to_owned(),
    }
}

fn signed(remove: &[String], add: &[String]) -> String {
    let removed = remove.iter().map(|item| format!("-{item}"));
    removed
        .chain(add.iter().map(|item| format!("+{item}")))
        .collect::<Vec<_>>()
        .join(" ")
}

/// `new image, 3 files, 2 units`
pub(super) fn summary(changes: &[Change]) -> String {
    let mut parts = Vec::new();
    let count =
        |wanted: &dyn Fn(&Change) -> bool| changes.iter().filter(|change| wanted(change)).count();
    let plural = |n: usize, one: &str, many: &str| match n {
        0 => None,
        1 => Some(format!("1 {one}")),
        n => Some(format!("{n} {many}")),
    };
    let kind = |name: &'static str| {
        count(&move |c| matches!(c, Change::Path { kind, .. } if *kind == name))
    };
    for change in changes {
        match change {
            Change::Image { .. } => parts.push("new image".to_owned()),
            Change::KernelArguments { remove, add } => {
                parts.extend(plural(
                    remove.len() + add.len(),
                    "kernel argument",
                    "kernel arguments",
                ));
            }
            Change::Extensions { remove, add } => {
                parts.extend(plural(remove.len() + add.len(), "extension", "extensions"));
            }
            Change::ExtensionsImage { .. } => parts.push("new extensions".to_owned()),
            Change::KernelType { .. } => parts.push("other kernel".to_owned()),
            Change::Fips(_) => parts.push("FIPS mode".to_owned()),
            Change::Path { .. } | Change::Unit { .. } | Change::SshKeys | Change::Password => {}
        }
    }
    parts.extend(plural(kind("file"), "file", "files"));
    parts.extend(plural(kind("directory"), "directory", "directories"));
    parts.extend(plural(kind("link"), "link", "links"));
    parts.extend(plural(
        count(&|c| matches!(c, Change::Unit { .. })),
        "unit",
        "units",
    ));
    if changes.contains(&Change::SshKeys) {
        parts.push("SSH keys".to_owned());
    }
    if changes.contains(&Change::Password) {
        parts.push("password".to_owned());
    }
    parts.join(", ")
}
