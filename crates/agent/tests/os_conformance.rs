//! The `bootc` and the `rpm-ostree` backend against tools that play a host, each call of which can fail.

#![allow(clippy::unwrap_used, missing_docs)]

mod suite;

use std::fs;
use std::os::unix::fs::symlink;
use std::time::Duration;

use agent::os::bootc::Bootc;
use agent::os::rpm_ostree::{Patience, RpmOstree};
use agent::os::{KernelArguments, Os, OsError, PackageChanges, Role, Tools};
use camino::{Utf8Path, Utf8PathBuf};
use oci::{Client, ClientConfig, Digest, DockerConfig};
use suite::{Published, Subject};

#[derive(Clone, Copy, PartialEq)]
enum Kind {
    Bootc,
    RpmOstree,
}

struct FakeHost {
    _guard: tempfile::TempDir,
    dir: Utf8PathBuf,
    kind: Kind,
}

impl FakeHost {
    fn new(kind: Kind) -> Self {
        let guard = tempfile::tempdir().unwrap();
        let dir = Utf8PathBuf::from_path_buf(guard.path().to_owned()).unwrap();
        fs::create_dir_all(dir.join("bin")).unwrap();
        fs::create_dir_all(dir.join("boot/loader/entries")).unwrap();
        let script = Utf8Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/host/tool.sh");
        for tool in ["bootc", "rpm-ostree", "ostree", "rpm"] {
            symlink(&script, dir.join("bin").join(tool)).unwrap();
        }
        let host = FakeHost {
            _guard: guard,
            dir,
            kind,
        };
        let base = Digest::of(b"base");
        host.write("deployments", &format!("booted {} 0 {base}\n", base.hex()));
        host.write("images", &format!("{base}\n"));
        host.write("registry", "");
        host.write(
            "image-packages",
            "bash\nkernel\nkernel-core\nkernel-modules\n",
        );
        host.entry(2, "rw quiet");
        host
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.dir.join(name), text).unwrap();
    }

    fn read(&self, name: &str) -> String {
        fs::read_to_string(self.dir.join(name)).unwrap_or_default()
    }

    fn entry(&self, version: u32, arguments: &str) {
        self.write(
            &format!("boot/loader/entries/ostree-{version}-test.conf"),
            &format!("title x\nversion {version}\noptions {arguments} ostree=/x\n"),
        );
    }

    fn changes(&self) -> u32 {
        self.read("changes").trim().parse().unwrap_or_default()
    }

    fn calls(&self, beginning: &str) -> usize {
        let calls = self.read("calls");
        calls.lines().filter(|l| l.starts_with(beginning)).count()
    }
}

impl Subject for FakeHost {
    fn os(&self) -> Box<dyn Os> {
        let tools = Tools::within(self.dir.join("bin"));
        match self.kind {
            Kind::Bootc => Box::new(Bootc::new(&self.dir, tools)),
            Kind::RpmOstree => {
                let patience = Patience {
                    wait: Duration::from_secs(100),
                    cancel: Duration::from_secs(100),
                    look: Duration::ZERO,
                };
                Box::new(RpmOstree::new(&self.dir, tools, patience))
            }
        }
    }

    fn publish(&self, name: &str) -> Published {
        let digest = Digest::of(name.as_bytes());
        self.write("registry", &format!("{}{digest}\n", self.read("registry")));
        Published {
            digest,
            pull_spec: format!("r.example/os/image@{digest}"),
        }
    }

    fn bring(&self, image: &Published) -> Result<(), OsError> {
        let client = Client::new(ClientConfig {
            auth: DockerConfig::basic("r.example", "node", "secret"),
            ..ClientConfig::default()
        })
        .unwrap();
        let found = self.os().pull(&image.pull_spec, &client, &|_| {})?;
        assert_eq!(found, image.digest);
        Ok(())
    }

    fn boot(&self) {
        let lines = self.read("deployments");
        let mut lines: Vec<&str> = lines.lines().collect();
        let first = lines.remove(0);
        let (_, rest) = first.split_once(' ').unwrap();
        let old = lines.iter().find_map(|line| line.strip_prefix("booted "));
        let mut text = format!("booted {rest}\n");
        if let Some(old) = old {
            text += &format!("other {old}\n");
        }
        self.write("deployments", &text);
        let arguments = self.read("pending-kargs");
        if !arguments.is_empty() {
            let entries = self.dir.join("boot/loader/entries");
            fs::rename(entries.join("ostree-2-test.conf"), entries.join("old")).unwrap();
            self.entry(1, "old");
            self.entry(2, arguments.trim());
            fs::remove_file(self.dir.join("pending-kargs")).unwrap();
            for what in ["packages", "removals"] {
                let (from, to) = (format!("pending-{what}"), format!("booted-{what}"));
                fs::rename(self.dir.join(from), self.dir.join(to)).unwrap();
            }
        }
    }

    fn next_arguments(&self) -> Vec<String> {
        let pending = self.read("pending-kargs");
        pending.split_whitespace().map(str::to_owned).collect()
    }
}

fn base() -> Digest {
    Digest::of(b"base")
}

const KINDS: [Kind; 2] = [Kind::Bootc, Kind::RpmOstree];

#[test]
fn doing_it_again_is_success() {
    for kind in KINDS {
        let host = FakeHost::new(kind);
        suite::doing_it_again_is_success(&host);
        assert_eq!(host.calls("ostree container image pull"), 1);
    }
}

#[test]
fn the_last_one_counts() {
    for kind in KINDS {
        suite::the_last_one_counts(&FakeHost::new(kind));
    }
}

#[test]
fn back_is_back() {
    for kind in KINDS {
        suite::back_is_back(&FakeHost::new(kind), base());
    }
}

#[test]
fn what_is_not_wanted_any_more_goes() {
    for kind in KINDS {
        suite::what_is_not_wanted_any_more_goes(&FakeHost::new(kind), base());
        for when in ["before", "after"] {
            let host = FakeHost::new(kind);
            let image = host.publish("second");
            let made = suite::go(&host, &image, &KernelArguments::default()).unwrap();
            host.write("fail", &format!("{} {when}", host.changes() + 1));
            let first = host.os().discard(&made.id);
            assert!(first.is_err() || when == "after", "{when}");
            fs::remove_file(host.dir.join("fail")).unwrap();
            host.os().discard(&made.id).unwrap();
            assert_eq!(host.os().status().unwrap().0.len(), 1, "{when}");
        }
    }
}

#[test]
fn a_soft_reboot_takes_a_host_that_knows_it_and_a_kernel_that_stays() {
    for kind in KINDS {
        let host = FakeHost::new(kind);
        let can = || host.os().soft_reboot().unwrap();
        assert_eq!(can(), None, "an older host");
        host.write("soft", "true");
        let how = can().unwrap();
        let ostree = host.dir.join("bin/ostree");
        let verb = |last: &str| format!("{ostree} admin prepare-soft-reboot {last}");
        assert_eq!(
            (how.prepare.join(" "), how.reset.join(" ")),
            (verb("0"), verb("--reset"))
        );
        let image = host.publish("second");
        suite::go(&host, &image, &KernelArguments::default()).unwrap();
        assert!(can().is_some());
        host.write("soft", "false");
        // bootc knows beforehand, elsewhere the preparation tells.
        assert_eq!(can().is_some(), kind == Kind::RpmOstree);
    }
}

fn packages(
    install: &[&str],
    uninstall: &[&str],
    remove: &[&str],
    reset: &[&str],
) -> PackageChanges {
    let owned = |names: &[&str]| names.iter().map(ToString::to_string).collect();
    PackageChanges {
        install: owned(install),
        uninstall: owned(uninstall),
        remove: owned(remove),
        reset: owned(reset),
    }
}

/// Packages of the kernel, of which this image has the first two.
const KERNEL: [&str; 3] = ["kernel", "kernel-core", "kernel-modules-extra"];

#[test]
fn packages_come_and_go_in_one_transaction_with_the_rebase() {
    let host = FakeHost::new(Kind::RpmOstree);
    // Somebody's own, which stays throughout.
    host.write("booted-packages", "htop\n");
    let quiet = KernelArguments::default();
    let step = |name: &str, changes: PackageChanges, transactions: usize, expected: [&str; 2]| {
        let image = match name {
            "base" => Published {
                digest: base(),
                pull_spec: format!("r.example/os/image@{}", base()),
            },
            name => host.publish(name),
        };
        let count = || {
            ["rebase", "install", "uninstall", "override"]
                .map(|verb| host.calls(&format!("rpm-ostree {verb}")))
                .iter()
                .sum::<usize>()
        };
        let before = count();
        for _ in 0..2 {
            suite::go_with(&host, &image, &quiet, &changes).unwrap();
            assert_eq!(
                count() - before,
                transactions,
                "{name}: {}",
                host.read("calls")
            );
        }
        host.boot();
        let found = ["booted-packages", "booted-removals"]
            .map(|list| host.read(list).trim().replace('\n', " "));
        assert_eq!(found, expected, "{name}");
    };
    step(
        "base",
        packages(&["usbguard"], &[], &[], &[]),
        1,
        ["htop usbguard", ""],
    );
    step(
        "second",
        packages(&["usbguard", "sysstat"], &[], &[], &[]),
        1,
        ["htop usbguard sysstat", ""],
    );
    step(
        "third",
        packages(&["sysstat"], &["usbguard"], &[], &[]),
        1,
        ["htop sysstat", ""],
    );
    let rt = ["sysstat", "kernel-rt-core"];
    step(
        "third",
        packages(&rt, &[], &KERNEL, &[]),
        1,
        ["htop sysstat kernel-rt-core", "kernel kernel-core"],
    );
    // An image of its own for what has another kernel already.
    step(
        "fourth",
        packages(&rt, &[], &KERNEL, &[]),
        1,
        ["htop sysstat kernel-rt-core", "kernel kernel-core"],
    );
    let sixty_four = packages(&["kernel-64k-core"], &rt, &KERNEL, &[]);
    step(
        "fourth",
        sixty_four,
        1,
        ["htop kernel-64k-core", "kernel kernel-core"],
    );
    let back = packages(&[], &["kernel-64k-core"], &[], &KERNEL);
    step("fifth", back, 2, ["htop", ""]);
}

#[test]
fn packages_that_fail_at_any_call_are_made_good_by_the_next_attempt() {
    let changes = KernelArguments {
        remove: vec!["quiet".to_owned()],
        add: vec!["audit=0".to_owned()],
    };
    let wanted = packages(&["usbguard", "kernel-rt-core"], &["gone"], &KERNEL, &[]);
    for name in ["base", "second"] {
        let start = || {
            let host = FakeHost::new(Kind::RpmOstree);
            host.write("booted-packages", "gone\n");
            let image = match name {
                "base" => Published {
                    digest: base(),
                    pull_spec: format!("r.example/os/image@{}", base()),
                },
                name => host.publish(name),
            };
            (host, image)
        };
        let (calm, image) = start();
        suite::go_with(&calm, &image, &changes, &wanted).unwrap();
        assert!(calm.changes() >= 2);
        for call in 1..=calm.changes() {
            for when in ["before", "after"] {
                let (host, image) = start();
                host.write("fail", &format!("{call} {when}"));
                let first = suite::go_with(&host, &image, &changes, &wanted);
                assert!(first.is_err() || when == "after", "{name} {call} {when}");
                fs::remove_file(host.dir.join("fail")).unwrap();
                suite::go_with(&host, &image, &changes, &wanted).unwrap();
                for file in [
                    "deployments",
                    "pending-kargs",
                    "pending-packages",
                    "pending-removals",
                ] {
                    assert_eq!(
                        host.read(file),
                        calm.read(file),
                        "{file}, {name} {call} {when}"
                    );
                }
            }
        }
    }
}

#[test]
fn other_hosts_refuse_packages_with_a_remedy() {
    let host = FakeHost::new(Kind::Bootc);
    let image = host.publish("second");
    let wanted = packages(&["usbguard"], &[], &[], &[]);
    let error = suite::go_with(&host, &image, &KernelArguments::default(), &wanted).unwrap_err();
    assert!(error.to_string().contains("Containerfile"), "{error}");
    assert_eq!(host.calls("bootc switch"), 0);
}

#[test]
fn there_may_be_nothing_to_go_back_to() {
    for kind in KINDS {
        let error = FakeHost::new(kind).os().rollback().unwrap_err();
        assert!(matches!(error, OsError::NoRollback), "{error}");
    }
}

#[test]
fn clean_keeps_what_is_needed() {
    for kind in KINDS {
        suite::clean_keeps_what_is_needed(&FakeHost::new(kind), base());
    }
}

#[test]
fn a_failure_at_any_call_is_made_good_by_the_next_attempt() {
    let changes = KernelArguments {
        remove: vec!["quiet".to_owned()],
        add: vec!["audit=0".to_owned()],
    };
    for kind in KINDS {
        let calm = FakeHost::new(kind);
        suite::go(&calm, &calm.publish("second"), &changes).unwrap();
        assert!(calm.changes() >= 3);
        for call in 1..=calm.changes() {
            for when in ["before", "after"] {
                let host = FakeHost::new(kind);
                let image = host.publish("second");
                host.write("fail", &format!("{call} {when}"));
                let first = suite::go(&host, &image, &changes);
                // What was done although the tool said no is done.
                assert!(first.is_err() || when == "after", "{call} {when}");
                fs::remove_file(host.dir.join("fail")).unwrap();
                suite::go(&host, &image, &changes).unwrap();
                for file in ["deployments", "images", "pending-kargs"] {
                    assert_eq!(host.read(file), calm.read(file), "{file}, {call} {when}");
                }
            }
        }
    }
}

#[test]
fn somebody_elses_transaction_is_waited_for_and_then_cancelled() {
    let host = FakeHost::new(Kind::RpmOstree);
    let image = host.publish("second");
    host.bring(&image).unwrap();
    host.write("busy", "3");
    suite::go(&host, &image, &KernelArguments::default()).unwrap();
    assert_eq!(host.calls("rpm-ostree cancel"), 0);

    let patience = |wait, cancel| Patience {
        wait,
        cancel,
        look: Duration::from_millis(1),
    };
    let hasty = |patience| {
        let tools = Tools::within(host.dir.join("bin"));
        RpmOstree::new(&host.dir, tools, patience)
    };
    host.write("busy", "1000000");
    let os = hasty(patience(Duration::ZERO, Duration::from_secs(100)));
    os.deploy(
        &image.digest,
        Some(&image.pull_spec),
        &KernelArguments::default(),
        &PackageChanges::default(),
    )
    .unwrap();
    assert_eq!(host.calls("rpm-ostree cancel"), 1);

    host.write("busy", "1000000");
    let error = hasty(patience(Duration::ZERO, Duration::ZERO))
        .rollback()
        .unwrap_err();
    assert!(matches!(error, OsError::Busy { .. }), "{error}");
}

#[test]
fn the_signature_policy_of_the_host_is_respected() {
    for kind in KINDS {
        let host = FakeHost::new(kind);
        let image = host.publish("second");
        fs::create_dir_all(host.dir.join("etc/containers")).unwrap();
        let policy = |default: &str, ours: &str| {
            let text = format!(
                r#"{{"default": [{{"type": "{default}"}}], "transports": {{"docker": {{"r.example": [{{"type": "{ours}"}}]}}}}}}"#
            );
            host.write("etc/containers/policy.json", &text);
        };
        policy("insecureAcceptAnything", "reject");
        let error = host.bring(&image).unwrap_err();
        assert!(matches!(error, OsError::Policy { .. }), "{error}");
        assert_eq!(host.changes(), 0, "nothing was asked of the host");
        policy("reject", "sigstoreSigned");
        suite::go(&host, &image, &KernelArguments::default()).unwrap();
        let calls = host.read("calls");
        let told = match kind {
            Kind::Bootc => "--enforce-container-sigpolicy",
            Kind::RpmOstree => {
                "rebase --experimental --bypass-driver ostree-image-signed:docker://r.example/os/image@"
            }
        };
        assert!(calls.contains(told), "{calls}");
    }
}

#[test]
fn an_image_that_is_not_there_is_named_and_no_secret_with_it() {
    for kind in KINDS {
        let host = FakeHost::new(kind);
        let digest = Digest::of(b"nowhere");
        let image = Published {
            digest,
            pull_spec: format!("r.example/os/image@{digest}"),
        };
        let error = host.bring(&image).unwrap_err();
        let text = format!("{error:?} {error}");
        assert!(
            text.contains("r.example/os/image@") && text.contains("manifest unknown"),
            "{text}"
        );
        assert!(
            !text.contains("secret") && !text.contains("bm9kZTpzZWNyZXQ"),
            "{text}"
        );
        let auth = host.read("run/ostree/auth.json");
        assert!(auth.contains("r.example/os/image"), "{auth}");
        let seen = host.os().status().unwrap();
        assert_eq!(seen.0.len(), 1);
        assert_eq!(seen.0[0].role, Role::Booted);
    }
}
