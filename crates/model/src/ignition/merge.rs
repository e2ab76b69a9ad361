//! Merging configs: the child's word counts where it says anything, the parent's everywhere else.
//!
//! What a merge can break, though both sides were sound, is found by [`conflicts`] before anything is published.

use std::borrow::Cow;
use std::collections::HashMap;
use std::fmt;

use super::{
    Config, CoreUser, Dropin, Node, NodeKind, UNIT_DIRECTORY, Unit, has_install_section, path,
};

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
    found.extend(paths_in_the_way(&config.nodes));
    found.extend(units_written_twice(config));
    found.extend(config.units.iter().filter_map(unit_conflict));
    found
}

/// Paths that are the same place under two names, and paths below a file or a link: the one cannot be, the other would be
/// written somewhere else.
fn paths_in_the_way(nodes: &[Node]) -> Vec<Conflict> {
    let conflict = |node: &Node, other: &Node, reason| Conflict {
        subject: Subject::Path(node.path.clone()),
        with: Some(Subject::Path(other.path.clone())),
        reason,
    };
    let mut found = Vec::new();
    let mut places: HashMap<Cow<'_, str>, &Node> = HashMap::new();
    for node in nodes {
        if let Some(other) = places.insert(path::real(&node.path), node) {
            let reason = format!("is the same place as `{}`; keep one of the two", other.path);
            found.push(conflict(node, other, reason));
        }
    }
    for node in nodes {
        let place = path::real(&node.path);
        let above = place
            .match_indices('/')
            .filter_map(|(end, _)| places.get(&place[..end]));
        for &other in above {
            if !matches!(other.kind, NodeKind::Directory { .. }) {
                let reason = format!(
                    "`{}` is a {}, not a directory",
                    other.path,
                    other.kind_name()
                );
                found.push(conflict(node, other, reason));
            }
        }
    }
    found
}

/// Units that are also written as files: nodes could only keep one of the two texts.
fn units_written_twice(config: &Config) -> impl Iterator<Item = Conflict> + '_ {
    config.units.iter().flat_map(|unit| {
        let own = format!("{UNIT_DIRECTORY}/{}", unit.name);
        let text = (unit.contents.is_some() || unit.masked()).then(|| own.clone());
        let dropins = unit
            .dropins
            .iter()
            .map(move |dropin| format!("{own}.d/{}", dropin.name));
        let written = text
            .into_iter()
            .chain(dropins)
            .filter(|path| config.node(path).is_some());
        written.map(|path| Conflict {
            subject: Subject::Unit(unit.name.clone()),
            reason: format!("is also written as `{path}`; keep one of the two"),
            with: Some(Subject::Path(path)),
        })
    })
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
