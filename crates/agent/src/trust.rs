//! Credentials and certificates for the programs of the node: registry credentials, authorities of registries, and
//! authorities that everything trusts. They follow the cluster without a drain or a reboot, and go when they are
//! withdrawn.
//!
//! What a MachineConfig writes at one of these paths stays its own, and authorities that it brings are taken up as these
//! are. What was written is listed in a file in `/etc`, which
//! goes with the deployment as what it lists does.

use std::collections::{BTreeMap, BTreeSet};

use camino::{Utf8Path, Utf8PathBuf};
use model::provision::{REGISTRY_AUTH, REGISTRY_CERTS, is_host};
use oci::Digest;
use serde::{Deserialize, Serialize};

use crate::command::Command;
use crate::host::{Host, HostError};
use crate::root::{Found, Root, RootError};
use crate::state::mine;

/// What was written, and what the programs were told of.
const LEDGER: &str = "/etc/caprock/trust.json";
/// Where the Red Hat family reads authorities from.
const RED_HAT: &str = "/etc/pki/ca-trust/source/anchors/openshift-config-user-ca-bundle.crt";
/// Where the Debian family reads authorities from, one certificate a file.
const DEBIAN: &str = "/usr/local/share/ca-certificates";
const BEGIN: &str = "-----BEGIN CERTIFICATE-----";
const END: &str = "-----END CERTIFICATE-----";

/// What the cluster gives the node's programs.
#[derive(Clone, Default, PartialEq, Eq)]
pub(crate) struct Wanted {
    /// Credentials for registries, as a docker configuration.
    pub(crate) registry_auth: Option<Vec<u8>>,
    /// Authorities of registries, PEM by `host[:port]`.
    pub(crate) registry_cas: BTreeMap<String, Vec<u8>>,
    /// Authorities that everything trusts, PEM.
    pub(crate) user_bundle: String,
}

/// A distribution's way to take up authorities.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Family {
    /// The tool, without which there is nothing to do.
    tool: &'static str,
    args: &'static [&'static str],
}

const FAMILIES: [Family; 2] = [
    Family {
        tool: "/usr/bin/update-ca-trust",
        args: &["extract"],
    },
    Family {
        tool: "/usr/sbin/update-ca-certificates",
        args: &[],
    },
];

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Ledger {
    /// Paths that are ours.
    #[serde(default)]
    written: BTreeSet<Utf8PathBuf>,
    /// Digest of the authorities that the tools were run for, and the boot in which that was: another deployment has
    /// authorities of its own, which the tools have to add ours to.
    #[serde(default)]
    anchors: Option<(String, String)>,
}

#[derive(Clone, PartialEq, Eq)]
struct Entry {
    bytes: Vec<u8>,
    mode: u32,
}

impl Host {
    /// Brings what the node's programs trust in line. `taken` are paths that MachineConfigs write. Returns whether
    /// anything changed.
    pub(crate) fn follow_trust(
        &self,
        wanted: &Wanted,
        taken: &BTreeSet<Utf8PathBuf>,
    ) -> Result<bool, HostError> {
        let root = Root::open(&self.root)?;
        let boot = self.boot()?;
        let run = |family: Family| -> Result<(), HostError> {
            let tool = Command::new(family.tool).args(family.args.iter().copied());
            tool.run()
                .map(drop)
                .map_err(|error| HostError::Trust(Box::new(error)))
        };
        follow(&root, wanted, taken, &boot, &run)
    }
}

fn follow(
    root: &Root,
    wanted: &Wanted,
    taken: &BTreeSet<Utf8PathBuf>,
    boot: &str,
    run: &dyn Fn(Family) -> Result<(), HostError>,
) -> Result<bool, HostError> {
    let families = families(root)?;
    let mut entries = entries(wanted, &families);
    entries.retain(|path, _| !taken.contains(path));
    let before = ledger(root)?;
    // First the list, so that what is written after a kill is known to be ours.
    let mut ledger = before.clone();
    ledger.written.extend(entries.keys().cloned());
    write(root, &before, &ledger)?;
    let mut changed = false;
    for (path, entry) in &entries {
        changed |= root.write(path, &entry.bytes, mine(entry.mode))?;
    }
    for path in ledger
        .written
        .iter()
        .filter(|path| !entries.contains_key(*path))
    {
        if !taken.contains(path) {
            changed |= root.remove(path)?;
        }
    }
    let listed = ledger.clone();
    ledger.written = entries.keys().cloned().collect();
    let anchors = anchors(root, &entries, taken)?;
    let told = ledger.anchors.as_ref();
    let due = match (&anchors, told) {
        (None, None) => false,
        (None, Some(_)) => true,
        (Some(digest), told) => told != Some(&(digest.clone(), boot.to_owned())),
    };
    if due {
        for family in families {
            run(family)?;
        }
        ledger.anchors = anchors.map(|digest| (digest, boot.to_owned()));
        changed = true;
    }
    write(root, &listed, &ledger)?;
    Ok(changed)
}

/// The tools that the host has.
fn families(root: &Root) -> Result<Vec<Family>, RootError> {
    let mut found = Vec::new();
    for family in FAMILIES {
        if !matches!(root.find(family.tool.into())?, Found::Nothing) {
            found.push(family);
        }
    }
    Ok(found)
}

fn entries(wanted: &Wanted, families: &[Family]) -> BTreeMap<Utf8PathBuf, Entry> {
    let public = |bytes: &[u8]| Entry {
        bytes: bytes.to_vec(),
        mode: 0o644,
    };
    let mut entries = BTreeMap::new();
    if let Some(auth) = &wanted.registry_auth {
        let entry = Entry {
            bytes: auth.clone(),
            mode: 0o600,
        };
        entries.insert(REGISTRY_AUTH.into(), entry);
    }
    for (host, pem) in wanted.registry_cas.iter().filter(|(host, _)| is_host(host)) {
        let path = format!("{REGISTRY_CERTS}/{host}/ca.crt");
        entries.insert(path.into(), public(pem));
    }
    let certificates = certificates(&wanted.user_bundle);
    for family in families.iter().filter(|_| !certificates.is_empty()) {
        if family.tool == FAMILIES[0].tool {
            entries.insert(RED_HAT.into(), public(certificates.concat().as_bytes()));
            continue;
        }
        for certificate in &certificates {
            let digest = Digest::of(certificate.as_bytes()).hex();
            let path = format!("{DEBIAN}/caprock-{}.crt", &digest[..16]);
            entries.insert(path.into(), public(certificate.as_bytes()));
        }
    }
    entries
}

/// The certificates of a bundle, each with its frame; comments between them are left out.
fn certificates(bundle: &str) -> Vec<String> {
    bundle
        .split(BEGIN)
        .skip(1)
        .filter_map(|rest| {
            let (body, _) = rest.split_once(END)?;
            Some(format!("{BEGIN}{body}{END}\n"))
        })
        .collect()
}

/// Digest of what the tools read, whoever wrote it; none when that is nothing.
fn anchors(
    root: &Root,
    entries: &BTreeMap<Utf8PathBuf, Entry>,
    taken: &BTreeSet<Utf8PathBuf>,
) -> Result<Option<String>, RootError> {
    let mut anchors = Vec::new();
    for path in taken.iter().filter(|path| is_anchor(path)) {
        if let Found::File { bytes, .. } = root.find(path)? {
            anchors.extend([path.as_str().as_bytes(), &bytes].concat());
        }
    }
    for (path, entry) in entries.iter().filter(|(path, _)| is_anchor(path)) {
        anchors.extend([path.as_str().as_bytes(), &entry.bytes].concat());
    }
    Ok((!anchors.is_empty()).then(|| Digest::of(&anchors).to_string()))
}

fn is_anchor(path: &Utf8Path) -> bool {
    let places = [
        "/etc/ca-certificates",
        "/etc/pki/ca-trust/source",
        "/var/usrlocal/share/ca-certificates",
        DEBIAN,
    ];
    places.iter().any(|place| path.starts_with(place)) || path == "/etc/ca-certificates.conf"
}

/// One that is damaged is started over: what it listed and is still wanted is written again.
fn ledger(root: &Root) -> Result<Ledger, RootError> {
    match root.find(LEDGER.into())? {
        Found::File { bytes, .. } => Ok(serde_json::from_slice(&bytes).unwrap_or_default()),
        _ => Ok(Ledger::default()),
    }
}

fn write(root: &Root, before: &Ledger, after: &Ledger) -> Result<(), RootError> {
    if before != after {
        let text = serde_json::json!(after).to_string();
        root.write(LEDGER.into(), text.as_bytes(), mine(0o644))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::cell::RefCell;

    const ONE: &str = "-----BEGIN CERTIFICATE-----\nMQ==\n-----END CERTIFICATE-----\n";
    const TWO: &str = "-----BEGIN CERTIFICATE-----\nMg==\n-----END CERTIFICATE-----\n";

    struct Node {
        dir: tempfile::TempDir,
        runs: RefCell<Vec<&'static str>>,
    }

    impl Node {
        fn new(tools: &[&str]) -> Self {
            let dir = tempfile::tempdir().unwrap();
            for tool in tools {
                let path = dir.path().join(tool.trim_start_matches('/'));
                std::fs::create_dir_all(path.parent().unwrap()).unwrap();
                std::fs::write(path, "").unwrap();
            }
            Node {
                dir,
                runs: RefCell::default(),
            }
        }

        fn follow(&self, wanted: &Wanted, taken: &[&str], boot: &str) -> bool {
            let root = Root::open(Utf8Path::from_path(self.dir.path()).unwrap()).unwrap();
            let taken = taken.iter().map(Utf8PathBuf::from).collect();
            let run = |family: Family| {
                self.runs.borrow_mut().push(family.tool);
                Ok(())
            };
            follow(&root, wanted, &taken, boot, &run).unwrap()
        }

        fn read(&self, path: &str) -> Option<String> {
            std::fs::read_to_string(self.dir.path().join(path.trim_start_matches('/'))).ok()
        }

        fn runs(&self) -> usize {
            self.runs.borrow_mut().drain(..).count()
        }
    }

    fn wanted(auth: &str, bundle: &str) -> Wanted {
        Wanted {
            registry_auth: Some(auth.as_bytes().to_vec()),
            registry_cas: BTreeMap::from([
                ("r.example:5000".to_owned(), ONE.as_bytes().to_vec()),
                ("../../etc".to_owned(), ONE.as_bytes().to_vec()),
            ]),
            user_bundle: bundle.to_owned(),
        }
    }

    #[test]
    fn credentials_and_authorities_come_and_go() {
        use std::os::unix::fs::PermissionsExt;
        let node = Node::new(&[]);
        assert!(node.follow(&wanted("a", ""), &[], "boot"));
        assert!(!node.follow(&wanted("a", ""), &[], "boot"));
        assert_eq!(node.read(REGISTRY_AUTH).as_deref(), Some("a"));
        let meta = std::fs::metadata(node.dir.path().join(&REGISTRY_AUTH[1..])).unwrap();
        assert_eq!(meta.permissions().mode() & 0o777, 0o600);
        let ca = "/etc/containers/certs.d/r.example:5000/ca.crt";
        assert_eq!(node.read(ca).as_deref(), Some(ONE));

        assert!(node.follow(&wanted("b", ""), &[], "boot"));
        assert_eq!(node.read(REGISTRY_AUTH).as_deref(), Some("b"));
        assert!(node.follow(&Wanted::default(), &[], "boot"));
        assert_eq!((node.read(REGISTRY_AUTH), node.read(ca)), (None, None));
        assert_eq!(node.runs(), 0);
    }

    #[test]
    fn each_family_gets_authorities_in_its_own_way_once_a_boot() {
        let bundle = format!("# ours\n{ONE}some words\n{TWO}");
        let debian = Node::new(&["/usr/sbin/update-ca-certificates"]);
        debian.follow(&wanted("a", &bundle), &[], "boot");
        let dir = debian.dir.path().join(&DEBIAN[1..]);
        let files = || std::fs::read_dir(&dir).unwrap().count();
        assert_eq!((files(), debian.runs()), (2, 1));
        debian.follow(&wanted("b", &bundle), &[], "boot");
        assert_eq!(debian.runs(), 0);
        debian.follow(&wanted("b", &bundle), &[], "next boot");
        assert_eq!(debian.runs(), 1);
        debian.follow(&wanted("b", ONE), &[], "next boot");
        assert_eq!((files(), debian.runs()), (1, 1));
        debian.follow(&wanted("b", ""), &[], "next boot");
        assert_eq!((files(), debian.runs()), (0, 1));
        debian.follow(&wanted("b", ""), &[], "third boot");
        assert_eq!(debian.runs(), 0);

        let red_hat = Node::new(&["/usr/bin/update-ca-trust"]);
        red_hat.follow(&wanted("a", &bundle), &[], "boot");
        assert_eq!(red_hat.read(RED_HAT), Some(format!("{ONE}{TWO}")));
        assert_eq!(red_hat.runs(), 1);
    }

    #[test]
    fn what_a_machine_config_writes_is_left_alone() {
        let node = Node::new(&[]);
        node.follow(&wanted("ours", ""), &[], "boot");
        node.follow(&wanted("newer", ""), &[REGISTRY_AUTH], "boot");
        assert_eq!(node.read(REGISTRY_AUTH).as_deref(), Some("ours"));
        node.follow(&Wanted::default(), &[REGISTRY_AUTH], "boot");
        assert_eq!(node.read(REGISTRY_AUTH).as_deref(), Some("ours"));
    }

    #[test]
    fn what_a_machine_config_trusts_is_taken_up() {
        let node = Node::new(&["/usr/bin/update-ca-trust"]);
        let path = "/etc/pki/ca-trust/source/anchors/site.crt";
        let place = node.dir.path().join(&path[1..]);
        std::fs::create_dir_all(place.parent().unwrap()).unwrap();
        std::fs::write(&place, ONE).unwrap();
        node.follow(&Wanted::default(), &[path], "boot");
        assert_eq!(node.runs(), 1);
        node.follow(&Wanted::default(), &[path, "/etc/motd"], "boot");
        assert_eq!(node.runs(), 0);
        std::fs::write(&place, TWO).unwrap();
        node.follow(&Wanted::default(), &[path], "boot");
        assert_eq!(node.runs(), 1);
        std::fs::remove_file(&place).unwrap();
        node.follow(&Wanted::default(), &[], "boot");
        assert_eq!(node.runs(), 1, "what was trusted is trusted no more");
        node.follow(&Wanted::default(), &[], "boot");
        assert_eq!(node.runs(), 0);
    }

    #[test]
    fn a_tool_that_failed_is_run_again() {
        let node = Node::new(&["/usr/sbin/update-ca-certificates"]);
        let root = Root::open(Utf8Path::from_path(node.dir.path()).unwrap()).unwrap();
        let fail = |_: Family| Err(HostError::NotBooted);
        assert!(follow(&root, &wanted("a", ONE), &BTreeSet::new(), "boot", &fail).is_err());
        node.follow(&wanted("a", ONE), &[], "boot");
        assert_eq!(node.runs(), 1);
    }
}
