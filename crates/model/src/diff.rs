//! How two versions of a node differ, for people: decoded contents line by line, secrets never.

use std::fmt;

use serde::Serialize;
use similar::TextDiff;

use crate::ignition::{Node, NodeKind, Owner, Unit};
use crate::update::{Change, Reason, Version, changes};

/// Longest content that is compared line by line, in bytes; what people read is far shorter.
const MAX_TEXT_BYTES: usize = 256 * 1024;
/// Lines around a difference.
const CONTEXT_LINES: usize = 3;

/// Places of keys and passwords whatever their permissions are. One that ends in `/` stands for all below it.
const SECRETS: &[&str] = &[
    "/etc/apt/auth.conf",
    "/etc/apt/auth.conf.d/",
    "/etc/caprock/",
    "/etc/gshadow",
    "/etc/krb5.keytab",
    "/etc/kubernetes/kubeconfig",
    "/etc/mco/internal-registry-pull-secret.json",
    "/etc/NetworkManager/system-connections/",
    "/etc/pki/entitlement/",
    "/etc/pki/tls/private/",
    "/etc/shadow",
    "/etc/ssl/private/",
    "/etc/sssd/",
    "/etc/wireguard/",
    "/var/lib/kubelet/config.json",
];

/// One difference.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Difference {
    /// What differs, and which object says so.
    #[serde(flatten)]
    pub reason: Reason,
    /// Whether contents are kept back.
    pub secret: bool,
    /// How it differs: attributes a line each, then the contents as a unified difference.
    pub lines: Vec<String>,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{} ({})", self.reason.change, self.reason.object)?;
        for line in &self.lines {
            writeln!(f, "    {line}")?;
        }
        Ok(())
    }
}

/// Everything that differs in effect; another spelling of the same is no difference.
pub fn between(from: &Version, to: &Version) -> Vec<Difference> {
    let difference = |(change, reason): (Change, Reason)| {
        let (secret, lines) = details(&change, from, to);
        Difference {
            reason,
            secret,
            lines,
        }
    };
    changes(from, to).into_iter().map(difference).collect()
}

fn details(change: &Change, from: &Version, to: &Version) -> (bool, Vec<String>) {
    let mut lines = Vec::new();
    match change {
        Change::Path { path, .. } => {
            let (before, after) = (from.ignition.node(path), to.ignition.node(path));
            let secret = [before, after].into_iter().flatten().any(is_secret);
            attributes(before, after, &mut lines);
            let bytes = |node: Option<&Node>| node.and_then(Node::contents).map(<[u8]>::to_vec);
            contents(secret, bytes(before), bytes(after), &mut lines);
            return (secret, lines);
        }
        Change::Unit { name, .. } => {
            let none = Unit::default();
            let before = from.ignition.unit(name).unwrap_or(&none);
            unit(before, to.ignition.unit(name).unwrap_or(&none), &mut lines);
        }
        Change::SshKeys => {
            let (before, after) = (&from.ignition.core.ssh_keys, &to.ignition.core.ssh_keys);
            let only = |these: &[String], those: &[String], mark: char| -> Vec<String> {
                let keys = these.iter().filter(|key| !those.contains(key));
                keys.map(|key| format!("{mark}{}", printable(key)))
                    .collect()
            };
            lines.extend(only(before, after, '-'));
            lines.extend(only(after, before, '+'));
        }
        Change::Password => return (true, vec!["differs (secret)".to_owned()]),
        Change::Image { from, to } => {
            lines.extend(from.iter().map(|image| format!("-{image}")));
            lines.push(format!("+{to}"));
        }
        Change::KernelArguments { .. }
        | Change::Extensions { .. }
        | Change::ExtensionsImage { .. }
        | Change::KernelType { .. }
        | Change::Fips(_) => {}
    }
    (false, lines)
}

/// Whether a file's contents are nobody's business but its owner's.
pub fn is_secret(node: &Node) -> bool {
    if !matches!(node.kind, NodeKind::File { .. }) {
        return false;
    }
    let is_at = |place: &&str| match place.ends_with('/') {
        true => node.path.starts_with(place),
        false => node.path == *place,
    };
    let holds_key = || {
        let text = String::from_utf8_lossy(node.contents().unwrap_or_default());
        text.contains("PRIVATE KEY-----")
    };
    node.secret().is_some()
        || node.mode() & 0o044 == 0
        || SECRETS.iter().any(is_at)
        || node.path.ends_with(".key")
        || holds_key()
}

fn attributes(before: Option<&Node>, after: Option<&Node>, lines: &mut Vec<String>) {
    let (Some(before), Some(after)) = (before, after) else {
        return;
    };
    let mut compare = |what: &str, before: String, after: String| {
        if before != after {
            lines.push(format!("{what} {before} → {after}"));
        }
    };
    let target = |node: &Node| match &node.kind {
        NodeKind::Link { target } => printable(target.as_deref().unwrap_or_default()),
        NodeKind::File { .. } | NodeKind::Directory { .. } => String::new(),
    };
    compare("kind", before.kind_name().into(), after.kind_name().into());
    if !matches!(after.kind, NodeKind::Link { .. }) {
        let mode = |node: &Node| format!("{:04o}", node.mode());
        compare("mode", mode(before), mode(after));
    }
    compare("owner", owner(before.user()), owner(after.user()));
    compare("group", owner(before.group()), owner(after.group()));
    compare("target", target(before), target(after));
    let source = |node: &Node| {
        let from = node.secret();
        from.map_or("the MachineConfig".to_owned(), |from| {
            format!("Secret {from}")
        })
    };
    compare("content from", source(before), source(after));
}

fn owner(owner: &Owner) -> String {
    match owner {
        Owner::Id(id) => id.to_string(),
        Owner::Name(name) => printable(name),
    }
}

fn unit(before: &Unit, after: &Unit, lines: &mut Vec<String>) {
    let word =
        |value: Option<bool>| value.map_or("by preset".to_owned(), |value| value.to_string());
    if before.enabled != after.enabled {
        lines.push(format!(
            "enabled {} → {}",
            word(before.enabled),
            word(after.enabled)
        ));
    }
    if before.masked() != after.masked() {
        lines.push(format!("masked {} → {}", before.masked(), after.masked()));
    }
    let bytes = |text: Option<&String>| text.map(|text| text.clone().into_bytes());
    contents(
        false,
        bytes(before.contents.as_ref()),
        bytes(after.contents.as_ref()),
        lines,
    );
    let dropin = |unit: &Unit, name: &str| {
        let found = unit.dropins.iter().find(|dropin| dropin.name == name);
        found.and_then(|dropin| bytes(dropin.contents.as_ref()))
    };
    let mut names: Vec<&String> = before
        .dropins
        .iter()
        .chain(&after.dropins)
        .map(|dropin| &dropin.name)
        .collect();
    names.sort();
    names.dedup();
    for name in names {
        let (before, after) = (dropin(before, name), dropin(after, name));
        if before != after {
            lines.push(format!("drop-in {name}"));
            contents(false, before, after, lines);
        }
    }
}

fn contents(
    secret: bool,
    before: Option<Vec<u8>>,
    after: Option<Vec<u8>>,
    lines: &mut Vec<String>,
) {
    if before == after {
        return;
    }
    if secret {
        lines.push("contents differ (secret)".to_owned());
        return;
    }
    let (before, after) = (before.unwrap_or_default(), after.unwrap_or_default());
    let sizes = format!("{} bytes → {} bytes", before.len(), after.len());
    if before.len().max(after.len()) > MAX_TEXT_BYTES {
        lines.push(format!("contents too long to show: {sizes}"));
        return;
    }
    match (text(&before), text(&after)) {
        (Some(before), Some(after)) => {
            let diff = TextDiff::from_lines(before, after);
            let unified = diff
                .unified_diff()
                .context_radius(CONTEXT_LINES)
                .to_string();
            lines.extend(unified.lines().map(printable));
        }
        _ => lines.push(format!("contents are no text: {sizes}")),
    }
}

fn text(bytes: &[u8]) -> Option<&str> {
    std::str::from_utf8(bytes)
        .ok()
        .filter(|text| !text.contains('\0'))
}

/// Text that does nothing to a terminal.
fn printable(text: &str) -> String {
    let one = |c: char| match c {
        '\t' => "\t".to_owned(),
        c if c.is_control() => c.escape_default().to_string(),
        c => c.to_string(),
    };
    text.chars().map(one).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use serde_json::{Value, json};

    use super::*;

    fn version(name: &str, mut spec: Value) -> Version {
        spec["config"]["ignition"] = json!({"version": "3.4.0"});
        Version::new(name, &serde_json::from_value(spec).unwrap(), None).unwrap()
    }

    #[track_caller]
    fn text(from: Value, to: Value) -> String {
        let found = between(&version("a", from), &version("b", to));
        found.iter().map(ToString::to_string).collect()
    }

    fn file(path: &str, source: &str, mode: u32) -> Value {
        json!({"config": {"storage": {"files": [
            {"path": path, "mode": mode, "contents": {"source": format!("data:,{source}")}},
        ]}}})
    }

    #[test]
    fn contents_are_decoded_and_compared_by_line() {
        let compressed = json!({"config": {"storage": {"files": [{"path": "/etc/x", "contents": {
            "source": "data:;base64,H4sIAAAAAAAAA8tIzcnJBwCGphA2BQAAAA==", "compression": "gzip"}}]}}});
        assert_eq!(text(compressed.clone(), file("/etc/x", "hello", 0o644)), "");
        insta::assert_snapshot!(text(compressed, file("/etc/x", "hello%0Aworld%1B[31m%0A", 0o755)), @r"
        ~file /etc/x (b)
            mode 0644 → 0755
            @@ -1 +1,2 @@
            -hello
            \ No newline at end of file
            +hello
            +world\u{1b}[31m
        ");
    }

    #[test]
    fn secrets_are_never_shown() {
        let secret = "s3cret";
        for (path, mode) in [
            ("/etc/app.conf", 0o600),
            ("/etc/sssd/sssd.conf", 0o644),
            ("/etc/tls/x.key", 0o644),
        ] {
            for text in [
                text(file(path, "old", mode), file(path, secret, mode)),
                text(json!({}), file(path, secret, mode)),
                text(file(path, secret, mode), json!({})),
                text(file(path, secret, mode), file(path, secret, 0o644)),
            ] {
                assert!(!text.contains(secret), "{text}");
            }
        }
        let key = "-----BEGIN%20PRIVATE%20KEY-----%0As3cret";
        assert!(!text(json!({}), file("/etc/x", key, 0o644)).contains(secret));
        let password = json!({"config": {"passwd": {"users": [{"name": "core", "passwordHash": "$6$s3cret"}]}}});
        assert_eq!(
            text(json!({}), password),
            "password of `core` (b)\n    differs (secret)\n"
        );
    }

    #[test]
    fn units_show_what_changes_of_them() {
        let unit = |unit: Value| json!({"config": {"systemd": {"units": [unit]}}});
        insta::assert_snapshot!(text(
            unit(json!({"name": "a.service", "enabled": true, "contents": "[Unit]\nA=1\n"})),
            unit(json!({"name": "a.service", "contents": "[Unit]\nA=2\n", "dropins": [{"name": "x.conf", "contents": "[Unit]\n"}]})),
        ), @r"
        ~unit a.service (b)
            enabled true → by preset
            @@ -1,2 +1,2 @@
             [Unit]
            -A=1
            +A=2
            drop-in x.conf
            @@ -0,0 +1 @@
            +[Unit]
        ");
    }

    #[test]
    fn what_is_no_text_shows_its_size() {
        assert_eq!(
            text(file("/etc/x", "%00", 0o644), file("/etc/x", "ab", 0o644)),
            "~file /etc/x (b)\n    contents are no text: 1 bytes → 2 bytes\n"
        );
    }
}
