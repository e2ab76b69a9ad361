//! New values of files from Secrets, on a node that nobody has told to update.

use std::collections::BTreeSet;

use super::{Disruption, Policy, Update, Version};
use crate::file_secret::{SecretKey, SecretVersions, Value, Values};

/// Leaves to the next update what a node must not do by itself: a value of which one of its files drains or reboots the
/// node under the policy. Returns `desired` with the values of `current` there, and the paths of those files. A node that
/// goes to another version holds a slot of its pool, and takes every value.
pub fn hold_back(
    current: &Version,
    mut desired: Version,
    policy: &Policy,
) -> (Version, Vec<String>) {
    if current.target() != desired.target() {
        return (desired, Vec::new());
    }
    let (mut paths, mut keys) = (Vec::new(), BTreeSet::<SecretKey>::new());
    for node in &desired.ignition.nodes {
        let nodes = &current.ignition.nodes;
        let before = nodes.iter().position(|old| old.path == node.path);
        let (Some(from), Some(place)) = (node.secret(), before) else {
            continue;
        };
        let mut alone = current.clone();
        alone.ignition.nodes[place] = node.clone();
        if Update::between(current, &alone, &[], policy).disruption >= Disruption::Drain {
            paths.push(node.path.clone());
            keys.insert(from.clone());
        }
    }
    // A value is written to all its files or to none: what is written of it is one fact.
    let mut former = current.ignition.values();
    former.retain(|from, _| keys.contains(from));
    desired.ignition.fill(&former);
    (desired, paths)
}

/// Both sides of a node's next update with the values that it held back: different ones, whatever they are.
pub fn with_held_back(from: &Version, to: &Version, held: &SecretVersions) -> (Version, Version) {
    let of = |bytes: &[u8]| -> Values {
        let value = |version: &String| Value {
            bytes: bytes.to_vec(),
            version: version.clone(),
        };
        let each = held.iter();
        each.map(|(from, version)| (from.clone(), value(version)))
            .collect()
    };
    (
        from.clone().filled(&of(b"")),
        to.clone().filled(&of(b"new")),
    )
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::api::NodeDisruptionPolicy;
    use serde_json::json;

    const FILES: [(&str, &str); 4] = [
        ("/etc/sssd/bind", "s/bind"),
        ("/srv/bind", "s/bind"),
        ("/srv/drained", "s/drained"),
        ("/srv/plain", "s/plain"),
    ];

    /// Every value of it is `value`.
    fn version(name: &str, value: &str) -> Version {
        let files = FILES.map(
            |(path, from)| json!({"path": path, "contents": {"source": format!("secret:{from}")}}),
        );
        let config = json!({"ignition": {"version": "3.4.0"}, "storage": {"files": files}});
        let spec = serde_json::from_value(json!({"config": config})).unwrap();
        let value = Value {
            bytes: value.into(),
            version: String::new(),
        };
        let values: Values = FILES
            .iter()
            .map(|(_, from)| (from.parse().unwrap(), value.clone()))
            .collect();
        Version::new(name, &spec, None).unwrap().filled(&values)
    }

    fn check(current: &Version, desired: Version, actions: &[(&str, &str)], expected: [&str; 4]) {
        let files: Vec<_> = actions
            .iter()
            .map(|(path, action)| json!({"path": path, "actions": [{"type": action}]}))
            .collect();
        let user: NodeDisruptionPolicy = serde_json::from_value(json!({"files": files})).unwrap();
        let (desired, held) = hold_back(current, desired, &Policy::of(&user));
        let seen = FILES.map(|(path, _)| {
            let node = desired.ignition.node(path).unwrap();
            String::from_utf8_lossy(node.contents().unwrap()).into_owned()
        });
        assert_eq!(seen, expected);
        let told: Vec<&str> = actions.iter().map(|(path, _)| *path).collect();
        let waits = expected.contains(&"old");
        assert_eq!(held, if waits { told } else { Vec::new() });
    }

    #[test]
    fn what_would_drain_or_reboot_waits_with_every_file_of_its_value() {
        let (old, new) = (version("a", "old"), || version("a", "new"));
        check(&old, new(), &[], ["new"; 4]);
        check(
            &old,
            new(),
            &[("/srv/bind", "Reboot")],
            ["old", "old", "new", "new"],
        );
        check(
            &old,
            new(),
            &[("/srv/drained", "Drain")],
            ["new", "new", "old", "new"],
        );
        // Who goes elsewhere takes every value.
        check(
            &old,
            version("b", "new"),
            &[("/srv/bind", "Reboot")],
            ["new"; 4],
        );
    }

    #[test]
    fn the_next_update_does_what_a_value_that_was_held_back_asks_for() {
        let unfilled = |name: &str| {
            let file = json!({"path": "/srv/bind", "contents": {"source": "secret:s/bind"}});
            let config = json!({"ignition": {"version": "3.4.0"}, "storage": {"files": [file]}});
            let spec = serde_json::from_value(json!({"config": config})).unwrap();
            Version::new(name, &spec, None).unwrap()
        };
        let files = json!({"files": [{"path": "/srv/bind", "actions": [{"type": "Reboot"}]}]});
        let policy = Policy::of(&serde_json::from_value(files).unwrap());
        let disruption = |held: &SecretVersions| {
            let (from, to) = with_held_back(&unfilled("a"), &unfilled("b"), held);
            Update::between(&from, &to, &[], &policy).disruption
        };
        assert_eq!(disruption(&SecretVersions::new()), Disruption::None);
        let held = [("s/bind".parse().unwrap(), "12".to_owned())].into();
        assert_eq!(disruption(&held), Disruption::Reboot);
        let other = [("t/bind".parse().unwrap(), "12".to_owned())].into();
        assert_eq!(disruption(&other), Disruption::None);
    }
}
