//! Layers, honest and hostile, unpacked into trees.

#![allow(clippy::unwrap_used, clippy::print_stderr)]

#[path = "../common/mod.rs"]
mod common;
mod hostile;

use std::fs;
use std::io::{Cursor, Write as _};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};

use common::layers::{Layer, PLAIN, Tree, apply, listing, options};
use oci::Digest;
use oci::layer::{LayerError, Marks, Options, Privilege, Whiteouts, unpack};
use tar::EntryType;

#[test]
fn an_honest_layer_arrives_whole() {
    let tree = Tree::new();
    let mut setuid = Layer::header("bin/su", EntryType::Regular, 0o4755);
    setuid.set_size(2);
    let long = "l/".to_owned() + &"x".repeat(200);
    let layer = Layer::new()
        .dir("./")
        .dir("bin/")
        .add(setuid, b"su")
        .file("etc/implied/parents", "made")
        .symlink("lib", "usr/lib")
        .symlink("abs", "/etc")
        .hard_link("bin/su2", "bin/su")
        .hard_link("bin/su3", "/bin/su")
        .add(Layer::header("run/pipe", EntryType::Fifo, 0o600), b"")
        .pax(&[
            ("path", long.as_bytes()),
            ("mtime", b"12.5"),
            ("comment", b"x\ny"),
        ])
        .file("short", "long")
        .pax(&[("path", "ü/\u{fffd}".as_bytes())])
        .file("short", "utf8")
        .file("empty", "");
    let bytes = layer.finish();
    let stats = unpack(
        Cursor::new(&bytes),
        PLAIN,
        &tree.root(),
        &options(Whiteouts::Apply),
    )
    .unwrap();
    assert_eq!(
        (stats.diff_id, stats.bytes),
        (Digest::of(&bytes), bytes.len() as u64)
    );
    assert_eq!(stats.entries, 12);
    let expected = [
        ("abs", "-> /etc"),
        ("bin", "dir"),
        ("bin/su", "su"),
        ("bin/su2", "su"),
        ("bin/su3", "su"),
        ("empty", ""),
        ("etc", "dir"),
        ("etc/implied", "dir"),
        ("etc/implied/parents", "made"),
        ("l", "dir"),
        (long.as_str(), "long"),
        ("lib", "-> usr/lib"),
        ("run", "dir"),
        ("run/pipe", "fifo"),
        ("ü", "dir"),
        ("ü/\u{fffd}", "utf8"),
    ];
    assert_eq!(tree.listing(), listing(&expected));
    let su = fs::metadata(tree.root().join("bin/su")).unwrap();
    assert_eq!(
        (su.permissions().mode() & 0o7777, su.nlink(), su.mtime()),
        (0o4755, 3, 1_000_000_000)
    );
    let bin = fs::metadata(tree.root().join("bin")).unwrap();
    assert_eq!(
        (bin.permissions().mode() & 0o7777, bin.mtime()),
        (0o755, 1_000_000_000)
    );
    let timed = fs::metadata(tree.root().join(&long)).unwrap();
    assert_eq!((timed.mtime(), timed.mtime_nsec()), (12, 500_000_000));
}

#[test]
fn every_compression_gives_the_same_tree() {
    let bytes = Layer::new().file("a", "content").dir("d").finish();
    let gzip = |bytes: &[u8]| {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    };
    // Members and frames end wherever their writer likes.
    let (first, rest) = bytes.split_at(700);
    let members = [gzip(first), gzip(b""), gzip(rest)].concat();
    let frames = [
        zstd::encode_all(first, 3).unwrap(),
        // As in zstd:chunked, whose table of contents readers pass over.
        b"\x50\x2a\x4d\x18\x03\x00\x00\x00toc".to_vec(),
        zstd::encode_all(rest, 3).unwrap(),
    ]
    .concat();
    let cases = [
        ("application/vnd.oci.image.layer.v1.tar", bytes.clone()),
        ("application/vnd.oci.image.layer.v1.tar+gzip", gzip(&bytes)),
        ("application/vnd.oci.image.layer.v1.tar+gzip", members),
        ("application/vnd.oci.image.layer.v1.tar+zstd", frames),
        (
            "application/vnd.docker.image.rootfs.diff.tar.gzip",
            gzip(&bytes),
        ),
        (
            "application/vnd.docker.image.rootfs.diff.tar",
            bytes.clone(),
        ),
        (
            "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip",
            gzip(&bytes),
        ),
    ];
    for (media_type, compressed) in cases {
        let tree = Tree::new();
        let stats = unpack(
            &compressed[..],
            media_type,
            &tree.root(),
            &options(Whiteouts::Apply),
        )
        .unwrap();
        assert_eq!(stats.diff_id, Digest::of(&bytes), "{media_type}");
        assert_eq!(tree.listing(), listing(&[("a", "content"), ("d", "dir")]));
        let cut = &compressed[..compressed.len() / 2];
        let error = unpack(cut, media_type, &tree.root(), &options(Whiteouts::Apply));
        assert!(
            matches!(error, Err(LayerError::Read(_))),
            "{media_type}: {error:?}"
        );
    }
    for media_type in [
        "application/json",
        "",
        "application/vnd.oci.image.layer.v1.tar+lz4",
        "application/vnd.oci.image.layer.v1.tar+gzip+encrypted",
    ] {
        let error = unpack(
            &b""[..],
            media_type,
            &Tree::new().root(),
            &options(Whiteouts::Apply),
        );
        assert!(
            matches!(error, Err(LayerError::MediaType(_))),
            "{media_type}"
        );
    }
}

#[test]
fn whiteouts_are_applied_to_lower_layers_only() {
    let tree = Tree::new();
    let lower = Layer::new()
        .file("a", "lower")
        .file("d/keep", "lower")
        .file("d/gone", "lower")
        .file("e/x/deep", "lower")
        .file("e/y", "lower")
        .file("f/old", "lower")
        .file("g/old", "lower")
        .symlink("s", "d");
    apply(lower, &tree.root()).unwrap();
    let upper = Layer::new()
        .file(".wh.a", "")
        .file("d/.wh.gone", "")
        .file("d/.wh.never-there", "")
        .file("not/there/.wh.x", "")
        .file("e/x/new", "upper")
        .file("e/.wh..wh..opq", "")
        .file("e/z", "upper")
        .file("f/new", "upper")
        .file(".wh.f", "")
        .file(".wh.g", "")
        .file("g/new", "upper")
        .file(".wh.s", "")
        .file(".wh..wh.plnk/1.2", "");
    let stats = apply(upper, &tree.root()).unwrap();
    assert_eq!(stats.whiteouts, 8);
    let expected = [
        ("d", "dir"),
        ("d/keep", "lower"),
        ("e", "dir"),
        ("e/x", "dir"),
        ("e/x/new", "upper"),
        ("e/z", "upper"),
        ("f", "dir"),
        ("f/new", "upper"),
        ("g", "dir"),
        ("g/new", "upper"),
        ("not", "dir"),
        ("not/there", "dir"),
    ];
    assert_eq!(tree.listing(), listing(&expected));
}

#[test]
fn whiteouts_are_kept_for_overlays() {
    let tree = Tree::new();
    let layer = Layer::new()
        .file("d/.wh.gone", "")
        .file("own", "upper")
        .file(".wh.own", "")
        .file(".wh.late", "")
        .file("late", "upper");
    let bytes = Cursor::new(layer.finish());
    let stats = unpack(
        bytes,
        PLAIN,
        &tree.root(),
        &options(Whiteouts::Overlay(Marks::Trusted)),
    )
    .unwrap();
    assert_eq!(stats.whiteouts, 3);
    let expected = [
        ("d", "dir"),
        ("d/gone", "char 0"),
        ("late", "upper"),
        ("own", "upper"),
    ];
    assert_eq!(tree.listing(), listing(&expected));
}

#[test]
fn things_of_one_kind_replace_those_of_another() {
    let tree = Tree::new();
    let root = tree.root();
    fs::create_dir_all(root.join("dir/full/of")).unwrap();
    fs::write(root.join("dir/full/of/things"), "x").unwrap();
    fs::write(root.join("file"), "x").unwrap();
    symlink("../outside", root.join("link")).unwrap();
    symlink("/outside/secret", root.join("link2")).unwrap();
    let layer = Layer::new()
        .file("dir", "now a file")
        .dir("file/")
        .file("file/inside", "x")
        .dir("link")
        .file("link/inside", "x")
        .file("link2", "now a file")
        .file("twice", "first")
        .file("twice", "second");
    apply(layer, &root).unwrap();
    let expected = [
        ("dir", "now a file"),
        ("file", "dir"),
        ("file/inside", "x"),
        ("link", "dir"),
        ("link/inside", "x"),
        ("link2", "now a file"),
        ("twice", "second"),
    ];
    assert_eq!(tree.listing(), listing(&expected));
    tree.check_outside();
}

#[test]
fn a_shared_file_is_replaced_never_written_to() {
    let tree = Tree::new();
    let (root, shared) = (tree.root(), tree.dir.path().join("outside/secret"));
    fs::hard_link(&shared, root.join("file")).unwrap();
    let before = fs::metadata(&shared).unwrap();
    let layer = Layer::new()
        .file("file", "changed")
        .hard_link("other", "file");
    apply(layer, &root).unwrap();
    assert_eq!(
        tree.listing(),
        listing(&[("file", "changed"), ("other", "changed")])
    );
    tree.check_outside();
    let after = fs::metadata(&shared).unwrap();
    assert_eq!(
        (before.mode(), before.mtime()),
        (after.mode(), after.mtime())
    );
}

#[test]
fn links_lead_where_they_would_on_the_running_system() {
    let tree = Tree::new();
    let layer = Layer::new()
        .dir("usr/lib/")
        .symlink("lib", "/usr/lib")
        .file("lib/a", "through an absolute link")
        .symlink("usr/up", "../../../../usr/lib")
        .file("usr/up/b", "through a link that climbs")
        .hard_link("c", "lib/a");
    apply(layer, &tree.root()).unwrap();
    let expected = [
        ("c", "through an absolute link"),
        ("lib", "-> /usr/lib"),
        ("usr", "dir"),
        ("usr/lib", "dir"),
        ("usr/lib/a", "through an absolute link"),
        ("usr/lib/b", "through a link that climbs"),
        ("usr/up", "-> ../../../../usr/lib"),
    ];
    assert_eq!(tree.listing(), listing(&expected));
    tree.check_outside();
}

#[test]
fn names_need_not_be_utf8() {
    let tree = Tree::new();
    apply(
        Layer::new().pax(&[("path", b"\xff\xfe")]).file("x", "odd"),
        &tree.root(),
    )
    .unwrap();
    let path = tree.root().join(std::ffi::OsStr::from_bytes(b"\xff\xfe"));
    assert_eq!(fs::read_to_string(path).unwrap(), "odd");
}

#[test]
fn a_closed_directory_can_be_filled() {
    let tree = Tree::new();
    let layer = Layer::new()
        .add(Layer::header("closed/", EntryType::Directory, 0o555), b"")
        .file("closed/in/side", "x")
        .add(Layer::header("gone/", EntryType::Directory, 0o000), b"")
        .symlink("gone", "closed");
    apply(layer, &tree.root()).unwrap();
    let mode = fs::metadata(tree.root().join("closed"))
        .unwrap()
        .permissions()
        .mode();
    assert_eq!(mode & 0o7777, 0o555);
    // So that the directory can be removed again by those who are not the superuser.
    fs::set_permissions(
        tree.root().join("closed"),
        fs::Permissions::from_mode(0o755),
    )
    .unwrap();
}

/// Needs root: owners, devices and the attributes of overlayfs.
#[test]
fn privileged_owners_devices_and_attributes() {
    if std::env::var_os("CAPROCK_TEST_PRIVILEGED").is_none() {
        eprintln!("skipped: set CAPROCK_TEST_PRIVILEGED=1 and be root");
        return;
    }
    // What layers carry, on a file system of the host's kind.
    let tree = Tree::new();
    let capability: &[u8] = &[
        1, 0, 0, 2, 0, 0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
    ];
    let mut owned = Layer::header("owned", EntryType::Regular, 0o6755);
    owned.set_uid(1234);
    owned.set_gid(5678);
    let mut device = Layer::header("dev/null", EntryType::Char, 0o666);
    device.set_device_major(1).unwrap();
    device.set_device_minor(3).unwrap();
    let layer = Layer::new()
        .pax(&[
            ("SCHILY.xattr.security.capability", capability),
            ("SCHILY.xattr.trusted.overlay.redirect", b"/x"),
        ])
        .add(owned, b"")
        .add(device, b"")
        .file("d/.wh..wh..opq", "")
        .file(".wh.e", "")
        .dir("e/");
    let options = Options {
        privilege: Privilege::Full,
        ..options(Whiteouts::Overlay(Marks::Trusted))
    };
    unpack(Cursor::new(layer.finish()), PLAIN, &tree.root(), &options).unwrap();
    let metadata = fs::metadata(tree.root().join("owned")).unwrap();
    assert_eq!(
        (metadata.uid(), metadata.gid(), metadata.mode() & 0o7777),
        (1234, 5678, 0o6755)
    );
    let null = fs::metadata(tree.root().join("dev/null")).unwrap();
    assert_eq!(
        (null.rdev(), null.mode() & 0o7777),
        (rustix::fs::makedev(1, 3), 0o666)
    );
    let attribute = |path: &str, name: &str| {
        let mut value = vec![0; 100];
        let length = rustix::fs::getxattr(tree.root().join(path), name, &mut value[..]).ok()?;
        value.truncate(length);
        Some(value)
    };
    assert_eq!(
        attribute("owned", "security.capability").as_deref(),
        Some(capability)
    );
    assert_eq!(attribute("owned", "trusted.overlay.redirect"), None);
    assert_eq!(
        attribute("d", "trusted.overlay.opaque").as_deref(),
        Some(&b"y"[..])
    );
    assert_eq!(
        attribute("e", "trusted.overlay.opaque").as_deref(),
        Some(&b"y"[..])
    );
}
