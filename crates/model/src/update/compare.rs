//! What differs between two versions of a node.

use super::change::{Change, Edit};
use super::{Version, same_image};
use crate::ignition::{Config, Node, NodeKind, Unit};

/// Everything that differs, image first, then by path and name.
pub(super) fn between(from: &Version, to: &Version) -> Vec<Change> {
    let mut changes = Vec::new();
    if let Some(image) = to.image()
        && !from.image().is_some_and(|now| same_image(now, image))
    {
        changes.push(Change::Image {
            from: from.image().map(str::to_owned),
            to: image.to_owned(),
        });
    }
    let arguments = difference(&from.kernel_arguments, &to.kernel_arguments);
    if let Some((remove, add)) = arguments {
        changes.push(Change::KernelArguments { remove, add });
    }
    if let Some((remove, add)) = difference(&from.extensions, &to.extensions) {
        changes.push(Change::Extensions { remove, add });
    }
    let extended = !to.extensions.is_empty() && from.extensions == to.extensions;
    if extended && !same_image(&from.extensions_image, &to.extensions_image) {
        changes.push(Change::ExtensionsImage {
            to: to.extensions_image.clone(),
        });
    }
    // A node that never had a config runs the kernel that its image came with.
    let kernel = |version: &Version| match version.kernel_type.as_str() {
        "" => "default".to_owned(),
        chosen => chosen.to_owned(),
    };
    if kernel(from) != kernel(to) {
        changes.push(Change::KernelType {
            from: kernel(from),
            to: kernel(to),
        });
    }
    if from.fips != to.fips {
        changes.push(Change::Fips(to.fips));
    }
    paths(&from.ignition, &to.ignition, &mut changes);
    units(&from.ignition, &to.ignition, &mut changes);
    if from.ignition.core.ssh_keys != to.ignition.core.ssh_keys {
        changes.push(Change::SshKeys);
    }
    let password = |config: &Config| config.core.password_hash.clone();
    if password(&from.ignition) != password(&to.ignition) {
        changes.push(Change::Password);
    }
    changes
}

pub(super) fn difference<'a, C>(from: &'a C, to: &'a C) -> Option<(Vec<String>, Vec<String>)>
where
    &'a C: IntoIterator<Item = &'a String>,
{
    let missing = |these: &'a C, those: &'a C| -> Vec<String> {
        these
            .into_iter()
            .filter(|item| !those.into_iter().any(|other| other == *item))
            .cloned()
            .collect()
    };
    let (remove, add) = (missing(from, to), missing(to, from));
    (!remove.is_empty() || !add.is_empty()).then_some((remove, add))
}

fn paths(from: &Config, to: &Config, changes: &mut Vec<Change>) {
    let change = |edit, node: &Node| Change::Path {
        edit,
        kind: node.kind_name(),
        path: node.path.clone(),
    };
    for node in &to.nodes {
        match from.node(&node.path) {
            None => changes.push(change(Edit::Add, node)),
            Some(before) if !same_node(before, node) => changes.push(change(Edit::Change, node)),
            Some(_) => {}
        }
    }
    for node in from
        .nodes
        .iter()
        .filter(|node| to.node(&node.path).is_none())
    {
        changes.push(change(Edit::Remove, node));
    }
}

fn same_node(a: &Node, b: &Node) -> bool {
    let same_kind = match (&a.kind, &b.kind) {
        (NodeKind::File { contents: this, .. }, NodeKind::File { contents: that, .. }) => {
            let same = match (this, that) {
                (Some(this), Some(that)) => this.same(that),
                (this, that) => this.is_none() && that.is_none(),
            };
            same && a.mode() == b.mode()
        }
        (NodeKind::Directory { .. }, NodeKind::Directory { .. }) => a.mode() == b.mode(),
        (NodeKind::Link { target: a }, NodeKind::Link { target: b }) => a == b,
        _ => false,
    };
    same_kind && a.user() == b.user() && a.group() == b.group()
}

/// What of a unit reaches the node: no text and empty text are the same, so is `mask: false` and none.
fn effect(unit: &Unit) -> (&str, Option<bool>, bool, Vec<(&str, &str)>) {
    let mut dropins: Vec<_> = unit
        .dropins
        .iter()
        .filter_map(|dropin| {
            Some((
                dropin.name.as_str(),
                dropin.contents.as_deref().filter(|text| !text.is_empty())?,
            ))
        })
        .collect();
    dropins.sort_unstable();
    (
        unit.contents.as_deref().unwrap_or_default(),
        unit.enabled,
        unit.masked(),
        dropins,
    )
}

fn units(from: &Config, to: &Config, changes: &mut Vec<Change>) {
    let nothing = Unit::default();
    let names = to.units.iter().chain(
        from.units
            .iter()
            .filter(|unit| to.unit(&unit.name).is_none()),
    );
    for Unit { name, .. } in names {
        let (before, after) = (from.unit(name), to.unit(name));
        let edit = match (before, after) {
            (None, _) => Edit::Add,
            (Some(_), Some(_)) => Edit::Change,
            (Some(_), None) => Edit::Remove,
        };
        let (before, after) = (before.unwrap_or(&nothing), after.unwrap_or(&nothing));
        let (was, is) = (effect(before), effect(after));
        if was == is {
            continue;
        }
        let text_gone = !was.0.is_empty() && is.0.is_empty();
        changes.push(Change::Unit {
            edit,
            name: name.clone(),
            text: (was.0, was.3) != (is.0, is.3),
            was_enabled: was.1 == Some(true) && !was.2,
            enabled: is.1 == Some(true) && !is.2,
            stopped: is.2 || is.1 == Some(false) || text_gone,
        });
    }
}
