//! Merging configs: the child's word counts where it says anything, the parent's everywhere else.
//!
//! What a merge can break, though both sides were sound, is found by [`conflicts`] before anything is published.

use std::collections::HashMap;
use std::fmt;

use super::path::is_below;
use super::{Config, CoreUser, Dropin, Node, NodeKind, Unit, has_install_section};

/// Merges `child` over `parent`. Items that both have stay where the parent has them; the child's others follow.
///
/// Files, directories and links share one key space, so a child's file takes the place of a parent's link. A user or group
/// is replaced as a whole, so a number and a name never meet.
pub fn merge(parent: Config, child: Config) -> Config {
    Config {
        nodes: merge_keyed(parent.nodes, child.nodes, |node| &node.path, merge_node),
        units: merge_keyed(parent.units, child.units, |unit| &unit.name, merge_unit),
        core: merge_core(parent.core, child.core),
    }
}

fn merge_keyed<T>(
    mut parent: Vec<T>,
    child: Vec<T>,
    key: impl Fn(&T) -> &String,
    merge: impl Fn(&mut T, T),
) -> Vec<T> {
    let places: HashMap<String, usize> = parent
        .iter()
        .enumerate()
        .map(|(at, item)| (key(item).clone(), at))
        .collect();
    for item in child {
        match places.get(key(&item)) {
            Some(&at) => merge(&mut parent[at], item),
            None => parent.push(item),
        }
    }
    parent
}

fn merge_node(parent: &mut Node, child: Node) {
    match (&mut parent.kind, child.kind) {
        (
            NodeKind::File { contents, mode },
            NodeKind::File {
                contents: new_contents,
                mode: new_mode,
            },
        ) => {
            replace(contents, new_contents);
            replace(mode, new_mode);
        }
        (NodeKind::Directory { mode }, NodeKind::Directory { mode: new_mode }) => {
            replace(mode, new_mode);
        }
        (NodeKind::Link { target }, NodeKind::Link { target: new_target }) => {
            replace(target, new_target);
        }
        // Another kind: nothing of the parent's stays.
        (_, kind) => {
            parent.kind = kind;
            parent.user = child.user;
            parent.group = child.group;
            return;
        }
    }
    replace(&mut parent.user, child.user);
    replace(&mut parent.group, child.group);
}

fn merge_unit(parent: &mut Unit, child: Unit) {
    replace(&mut parent.contents, child.contents);
    replace(&mut parent.enabled, child.enabled);
    replace(&mut parent.mask, child.mask);
    let dropins = std::mem::take(&mut parent.dropins);
    parent.dropins = merge_keyed(dropins, child.dropins, |dropin| &dropin.name, merge_dropin);
}

fn merge_dropin(parent: &mut Dropin, child: Dropin) {
    replace(&mut parent.contents, child.contents);
}

fn merge_core(mut parent: CoreUser, child: CoreUser) -> CoreUser {
    for key in child.ssh_keys {
        if !parent.ssh_keys.contains(&key) {
            parent.ssh_keys.push(key);
        }
    }
    replace(&mut parent.password_hash, child.password_hash);
    parent
}

fn replace<T>(parent: &mut Option<T>, child: Option<T>) {
    if child.is_some() {
        *parent = child;
    }
}

/// What a conflict is about.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Subject {
    /// A file, directory or link.
    Path(String),
    /// A unit.
    Unit(String),
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Subject::Path(path) => write!(f, "`{path}`"),
            Subject::Unit(name) => write!(f, "unit `{name}`"),
        }
    }
}

/// Something in a merged config that no node could apply, though each part of it was sound.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Conflict {
    /// What cannot be applied.
    pub subject: Subject,
    /// What stands in its way, when that is something else.
    pub with: Option<Subject>,
    /// Why, and what to do.
    pub reason: String,
}

/// Everything that keeps a merged config from being applied.
pub fn conflicts(config: &Config) -> Vec<Conflict> {
    let mut found = Vec::new();
    for node in &config.nodes {
        let missing = match &node.kind {
            NodeKind::File { contents: None, .. } => {
                "has no contents in any MachineConfig; add `contents.source` (`data:,` makes an empty file)"
            }
            NodeKind::Link { target: None } => "has no target in any MachineConfig; add `target`",
            NodeKind::File { .. } | NodeKind::Directory { .. } | NodeKind::Link { .. } => continue,
        };
        found.push(Conflict {
            subject: Subject::Path(node.path.clone()),
            with: None,
            reason: format!("the {} {missing}", node.kind_name()),
        });
    }
    found.extend(paths_below_others(&config.nodes));
    found.extend(config.units.iter().filter_map(unit_conflict));
    found
}

/// Paths below a file or a link: the one cannot be, the other would be written somewhere else.
fn paths_below_others(nodes: &[Node]) -> Vec<Conflict> {
    let closed: HashMap<&str, &Node> = nodes
        .iter()
        .filter(|node| !matches!(node.kind, NodeKind::Directory { .. }))
        .map(|node| (node.path.as_str(), node))
        .collect();
    let mut found = Vec::new();
    for node in nodes {
        let above = node
            .path
            .match_indices('/')
            .filter_map(|(end, _)| closed.get(&node.path[..end]));
        for &other in above {
            debug_assert!(is_below(&node.path, &other.path));
            found.push(Conflict {
                subject: Subject::Path(node.path.clone()),
                with: Some(Subject::Path(other.path.clone())),
                reason: format!(
                    "`{}` is a {}, not a directory",
                    other.path,
                    other.kind_name()
                ),
            });
        }
    }
    found
}

fn unit_conflict(unit: &Unit) -> Option<Conflict> {
    if unit.enabled != Some(true) {
        return None;
    }
    let texts = || {
        let dropins = unit.dropins.iter().filter_map(|d| d.contents.as_deref());
        unit.contents.as_deref().into_iter().chain(dropins)
    };
    let written = unit
        .contents
        .as_deref()
        .is_some_and(|text| !text.is_empty());
    let reason = if unit.masked() {
        "is both enabled and masked; set `enabled: false` beside `mask: true`, or `mask: false` beside `enabled: true`"
    } else if written && !texts().any(has_install_section) {
        "is enabled but has no [Install] section, so nothing would start it; add one such as `WantedBy=multi-user.target`, or leave out `enabled`"
    } else {
        return None;
    };
    Some(Conflict {
        subject: Subject::Unit(unit.name.clone()),
        with: None,
        reason: reason.into(),
    })
}
