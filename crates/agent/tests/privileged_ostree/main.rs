//! The `ostree` backend against the real tool, in a sysroot of its own. Needs root and `ostree`.
#![allow(clippy::unwrap_used, clippy::print_stderr, missing_docs)]

mod lab;
#[path = "../suite/mod.rs"]
mod suite;

use std::fs;
use std::path::Path;
use std::process::Command;

use agent::os::ostree::{Ostree, Source};
use agent::os::{KernelArguments, Os as _, Role};
use camino::Utf8PathBuf;
use oci::Digest;

use lab::Entry::{Directory, File, Hard};
use lab::{Lab, base, deploy, deployment, installed, layer, read};
use suite::{Subject as _, arguments};

/// Skips, saying so, where the test cannot run.
fn privileged() -> bool {
    let asked = std::env::var_os("CAPROCK_TEST_PRIVILEGED").is_some_and(|value| value == "1");
    if !asked {
        eprintln!("skipped: needs root and ostree; set CAPROCK_TEST_PRIVILEGED=1");
    }
    asked
}

/// A sysroot without deployments, where the test can run.
fn empty() -> Option<(Lab, Ostree)> {
    privileged().then(|| {
        let lab = Lab::new();
        let ostree = lab.ostree();
        (lab, ostree)
    })
}

#[test]
fn privileged_a_layered_image_imports_only_its_own_layers() {
    let Some((lab, ostree)) = empty() else {
        return;
    };
    let added = layer(&[
        Directory("etc"),
        File("etc/motd", "layered\n"),
        Directory("usr/lib/systemd/system"),
        File("usr/lib/systemd/system/new.service", "[Service]\n"),
        Hard(
            "usr/lib/systemd/system/alias.service",
            "usr/lib/systemd/system/new.service",
        ),
    ]);
    let base_image = ostree.import(&lab.image("base", &[base()])).unwrap();
    let both = lab.image("both", &[base(), added]);
    // The base's blob is not there any more: only the new layer may be asked for.
    fs::remove_file(
        lab.path("layout/blobs/sha256")
            .join(Digest::of(&base()).hex()),
    )
    .unwrap();
    let image = ostree.import(&both).unwrap();
    assert_eq!(ostree.import(&both).unwrap(), image, "again is success");
    assert!(ostree.has(&image).unwrap() && ostree.has(&base_image).unwrap());
    assert_eq!(
        lab.refs(),
        [
            "caprock/image",
            "caprock/image",
            "caprock/layer",
            "caprock/layer"
        ]
    );

    deploy(&ostree, &image, &KernelArguments::default());
    let root = deployment(&ostree, Role::Pending);
    assert_eq!(read(&root, "etc/motd"), "layered\n");
    assert_eq!(read(&root, "usr/bin/tool"), "base\n");
    assert_eq!(
        read(&root, "usr/lib/systemd/system/alias.service"),
        "[Service]\n"
    );
    assert_eq!(root.join("home").read_link_utf8().unwrap(), "var/home");
    assert!(!root.join("var/lib/dropped").exists());
    assert!(!Path::new(lab.path("sysroot/ostree/caprock-import").as_str()).exists());
}

#[test]
fn privileged_layers_delete_and_change_kinds() {
    let Some((lab, ostree)) = empty() else {
        return;
    };
    let deleting = layer(&[
        Directory("usr/bin"),
        File("usr/bin/.wh.doomed", ""),
        File("usr/lib/gone/.wh..wh..opq", ""),
        File("usr/lib/gone/b", "b"),
        Directory("usr/bin/tool"),
        File("usr/bin/tool/inside", "now a directory"),
        File("etc/.wh.motd", ""),
        File("var/.wh.lib", ""),
    ]);
    let base_image = ostree.import(&lab.image("base", &[base()])).unwrap();
    let image = ostree
        .import(&lab.image("both", &[base(), deleting]))
        .unwrap();
    deploy(&ostree, &base_image, &KernelArguments::default());
    deploy(&ostree, &image, &KernelArguments::default());
    let root = deployment(&ostree, Role::Pending);
    assert_eq!(read(&root, "usr/bin/doomed"), "entity not found");
    assert_eq!(read(&root, "usr/lib/gone/a"), "entity not found");
    assert_eq!(read(&root, "usr/lib/gone/b"), "b");
    assert_eq!(read(&root, "usr/bin/tool/inside"), "now a directory");
    assert_eq!(read(&root, "etc/motd"), "entity not found");
    // The shared objects of the base are as they were.
    let root = deployment(&ostree, Role::Rollback);
    assert_eq!(read(&root, "usr/bin/tool"), "base\n");
    assert_eq!(read(&root, "usr/lib/gone/a"), "a");
    assert_eq!(read(&root, "etc/motd"), "base\n");
}

#[test]
fn privileged_a_killed_import_is_taken_up() {
    let Some((lab, ostree)) = empty() else {
        return;
    };
    let (second, third) = (
        layer(&[File("usr/bin/second", "2")]),
        layer(&[File("usr/bin/third", "3")]),
    );
    let source = lab.image("all", &[base(), second, third.clone()]);
    let blob = lab
        .path("layout/blobs/sha256")
        .join(Digest::of(&third).hex());
    fs::remove_file(&blob).unwrap();
    ostree.import(&source).unwrap_err();
    assert_eq!(lab.refs(), ["caprock/layer", "caprock/layer"]);
    fs::create_dir_all(lab.path("sysroot/ostree/caprock-import/layer/usr/left/over")).unwrap();
    fs::write(&blob, &third).unwrap();
    let image = ostree.import(&source).unwrap();
    deploy(&ostree, &image, &KernelArguments::default());
    let root = deployment(&ostree, Role::Pending);
    assert_eq!(
        (
            read(&root, "usr/bin/third").as_str(),
            root.join("usr/left").exists()
        ),
        ("3", false)
    );
}

#[test]
fn privileged_deployments_take_kernel_arguments_turns_and_a_clean_up() {
    let Some((lab, ostree)) = empty() else {
        return;
    };
    let first = ostree.import(&lab.image("first", &[base()])).unwrap();
    let second = ostree
        .import(&lab.image("second", &[base(), layer(&[File("usr/bin/second", "2")])]))
        .unwrap();
    let unused = ostree
        .import(&lab.image("unused", &[base(), layer(&[File("usr/bin/unused", "3")])]))
        .unwrap();
    deploy(&ostree, &first, &arguments(&[], &["rw", "quiet"]));
    assert_eq!(ostree.kernel_arguments().unwrap(), ["rw", "quiet"]);
    deploy(
        &ostree,
        &second,
        &arguments(&["quiet", "absent"], &["rw", "audit=0"]),
    );
    assert_eq!(ostree.kernel_arguments().unwrap(), ["rw", "audit=0"]);

    let images = || {
        ostree
            .status()
            .unwrap()
            .0
            .iter()
            .map(|d| d.image.unwrap())
            .collect::<Vec<_>>()
    };
    assert_eq!(images(), [second, first]);
    ostree.rollback().unwrap();
    assert_eq!(images(), [first, second]);
    assert_eq!(ostree.kernel_arguments().unwrap(), ["rw", "quiet"]);
    ostree.rollback().unwrap();
    assert_eq!(images(), [second, first]);

    ostree.cleanup(&[]).unwrap();
    assert!(!ostree.has(&unused).unwrap());
    assert!(ostree.has(&first).unwrap() && ostree.has(&second).unwrap());
    ostree.cleanup(&[]).unwrap();
    assert_eq!(
        lab.refs(),
        [
            "caprock/image",
            "caprock/image",
            "caprock/layer",
            "caprock/layer"
        ]
    );
}

/// ostree writes no new boot loader entries when kernel and arguments stay: those that a rollback left must fit.
#[test]
fn privileged_after_a_rollback_the_next_deployment_boots() {
    let Some((lab, ostree)) = empty() else {
        return;
    };
    let import =
        |name, text| ostree.import(&lab.image(name, &[base(), layer(&[File("usr/bin/x", text)])]));
    let images = [
        import("first", "1"),
        import("second", "2"),
        import("third", "3"),
    ];
    let [first, second, third] = images.map(Result::unwrap);
    deploy(&ostree, &first, &KernelArguments::default());
    deploy(&ostree, &second, &KernelArguments::default());
    let deployed = || -> Vec<String> {
        let status = ostree.status().unwrap();
        status.0.iter().map(|d| d.id.to_string()).collect()
    };
    ostree.rollback().unwrap();
    assert_eq!(lab.boots(), deployed());
    let made = deploy(&ostree, &third, &KernelArguments::default());
    assert_eq!(lab.boots(), deployed());
    assert_eq!(lab.boots()[0], made.id.to_string());
}

#[test]
fn privileged_what_cannot_boot_is_refused_before_it_is_deployed() {
    let Some((lab, ostree)) = empty() else {
        return;
    };
    let error = ostree
        .import(&lab.image("plain", &[layer(&[File("usr/bin/tool", "x")])]))
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("no kernel at `/usr/lib/modules/VERSION/vmlinuz`"),
        "{error}"
    );
    let forged = Source::Layout {
        dir: lab.path("layout"),
        tag: Some("absent".to_owned()),
    };
    let error = ostree.import(&forged).unwrap_err().to_string();
    assert!(error.contains("no such tag"), "{error}");
}

#[test]
fn privileged_ostree_does_what_every_backend_must_do() {
    if !privileged() {
        return;
    }
    suite::doing_it_again_is_success(&installed().0);
    suite::the_last_one_counts(&installed().0);
    let (lab, before) = installed();
    suite::what_is_not_wanted_any_more_goes(&lab, before);
    let (lab, before) = installed();
    suite::back_is_back(&lab, before);
    let (lab, before) = installed();
    suite::clean_keeps_what_is_needed(&lab, before);
}

const READ_ONLY_LAB: &str = "CAPROCK_TEST_READ_ONLY_LAB";

#[test]
fn privileged_a_sysroot_that_is_mounted_read_only_is_made_writable_for_the_agent_alone() {
    if !privileged() {
        return;
    }
    let (lab, _) = installed();
    lab.publish("second");
    let sysroot = lab.path("sysroot");
    // As such hosts mount them, in a mount namespace as the agent's unit has one.
    let read_only = format!(
        "for dir in {sysroot} {sysroot}/boot; do mount --bind $dir $dir && mount -o remount,bind,ro $dir || exit; done; \
         ! touch {sysroot}/written 2>/dev/null || exit; exec \"$@\""
    );
    // The first process of the host, as it were, has another mount namespace than the agent.
    let host = "unshare --mount --propagation private sh -c \"$0\" sh \"$@\"; exit $?";
    let status = Command::new("unshare")
        .args(["--pid", "--fork", "--mount", "--mount-proc"])
        .args(["sh", "-c", host, &read_only])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", "on_a_read_only_sysroot", "--nocapture"])
        .env(READ_ONLY_LAB, lab.path(""))
        .status()
        .unwrap();
    assert!(status.success());
    let os = lab.ostree();
    let images: Vec<_> = os.status().unwrap().0.iter().map(|d| d.image).collect();
    assert_eq!(
        images[1],
        Some(lab.publish("second").digest),
        "rolled back from it"
    );
    assert!(lab.path("sysroot/written-there").exists());
}

/// The part of the test above that runs in the other namespace; by itself it does nothing.
#[test]
fn on_a_read_only_sysroot() {
    let Ok(dir) = std::env::var(READ_ONLY_LAB) else {
        return;
    };
    let dir = Utf8PathBuf::from(dir);
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let open = || {
        let handle = runtime.handle().clone();
        Ostree::new(
            &dir.join("sysroot"),
            Some("test".to_owned()),
            &dir.join("state"),
            handle,
        )
    };
    let source = Source::Layout {
        dir: dir.join("layout"),
        tag: Some("second".to_owned()),
    };
    let image = open().import(&source).unwrap();
    let made = deploy(&open(), &image, &KernelArguments::default());
    let root = open().root_of(&made);
    fs::write(root.join("etc/configured"), "by the agent").unwrap();
    fs::write(dir.join("sysroot/written-there"), "").unwrap();
    open().rollback().unwrap();
}
