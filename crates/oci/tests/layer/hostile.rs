//! Layers that want out, or more than they are given.

use std::fs;
use std::io::{Cursor, Read as _};

use oci::layer::{LayerError, Limits, Marks, Options, Whiteouts, unpack};
use tar::EntryType;

use crate::common::layers::{Layer, PLAIN, Tree, apply, options};

#[test]
fn nothing_gets_out() {
    let layers: Vec<(&str, Layer)> = vec![
        ("climbing path", Layer::new().file("../outside/secret", "x")),
        (
            "climbing path within",
            Layer::new().dir("a").file("a/../../outside/secret", "x"),
        ),
        (
            "climbing whiteout",
            Layer::new().file("../outside/.wh.secret", ""),
        ),
        (
            "whiteout of the parent",
            Layer::new().dir("a").file("a/.wh...", ""),
        ),
        (
            "whiteout of itself",
            Layer::new().dir("a").file("a/.wh..", ""),
        ),
        (
            "climbing link then file",
            Layer::new()
                .symlink("l", "../outside")
                .file("l/secret", "x"),
        ),
        (
            "climbing link then new file",
            Layer::new().symlink("l", "../outside").file("l/new", "x"),
        ),
        (
            "climbing link then whiteout",
            Layer::new()
                .symlink("l", "../outside")
                .file("l/.wh.secret", ""),
        ),
        (
            "climbing link then opaque",
            Layer::new()
                .symlink("l", "../outside")
                .file("l/.wh..wh..opq", ""),
        ),
        (
            "climbing link then hard link",
            Layer::new()
                .symlink("l", "../outside")
                .hard_link("h", "l/secret"),
        ),
        ("hard link to a climbing link, then a write", {
            Layer::new()
                .symlink("l", "../outside/secret")
                .hard_link("h", "l")
                .file("h", "x")
        }),
        (
            "climbing hard link",
            Layer::new().hard_link("h", "../outside/secret"),
        ),
        (
            "file through a link to a file",
            Layer::new()
                .symlink("l", "../outside/secret")
                .file("l", "x"),
        ),
        (
            "directory over a link",
            Layer::new()
                .symlink("l", "../outside")
                .dir("l")
                .file("l/secret", "x"),
        ),
        (
            "link in the middle",
            Layer::new()
                .dir("a")
                .symlink("a/b", "../../outside")
                .file("a/b/c/d", "x"),
        ),
        (
            "links to links",
            Layer::new()
                .symlink("a", "b")
                .symlink("b", "..")
                .file("a/outside/secret", "x"),
        ),
        (
            "link to the process",
            Layer::new().symlink("p", "/proc/self/cwd").file("p/x", "x"),
        ),
        (
            "link to itself",
            Layer::new().symlink("l", "l").file("l/x", "x"),
        ),
        ("root as a file", Layer::new().file("./", "x")),
        (
            "root as a link",
            Layer::new().symlink(".", "../outside").file("secret", "x"),
        ),
    ];
    for (name, layer) in layers {
        let bytes = layer.finish();
        for whiteouts in [Whiteouts::Apply, Whiteouts::Overlay(Marks::Trusted)] {
            let tree = Tree::new();
            // Refused or turned inwards: either is right.
            let _ = unpack(
                Cursor::new(&bytes),
                PLAIN,
                &tree.root(),
                &options(whiteouts),
            );
            tree.check_outside();
            assert!(tree.root().is_dir(), "{name}");
        }
    }
    // By absolute path, of the real place outside.
    let tree = Tree::new();
    let outside = tree.dir.path().join("outside");
    let target = outside.to_str().unwrap();
    let absolute = Layer::new()
        .file(&format!("{target}/secret"), "x")
        .symlink("l", target)
        .file("l/secret", "x")
        .file("l/new", "x");
    apply(absolute, &tree.root()).unwrap();
    tree.check_outside();
}

#[test]
fn refusals_name_the_entry() {
    let tree = Tree::new();
    let error = apply(Layer::new().file("a/../../b", "x"), &tree.root()).unwrap_err();
    assert_eq!(
        error.to_string(),
        "layer entry `a/../../b` has `..` in its path"
    );
    let error = apply(Layer::new().hard_link("h", "not/there"), &tree.root()).unwrap_err();
    assert_eq!(error.to_string(), "cannot link `h`");
    let error = apply(Layer::new().hard_link("h", "./h"), &tree.root()).unwrap_err();
    assert_eq!(
        error.to_string(),
        "layer entry `h` is a hard link to itself"
    );
    let error = apply(
        Layer::new().pax(&[("path", b"a\0b")]).file("x", ""),
        &tree.root(),
    )
    .unwrap_err();
    assert_eq!(
        error.to_string(),
        "layer entry `a\\x00b` has a NUL character in its path"
    );
    let sparse = Layer::header("s", EntryType::GNUSparse, 0o644);
    let error = apply(Layer::new().add(sparse, b""), &tree.root()).unwrap_err();
    assert_eq!(
        error.to_string(),
        "layer entry `s` is a sparse file, which is not supported"
    );
    let owner = Layer::new().pax(&[("uid", b"4294967295")]).file("x", "");
    let error = apply(owner, &tree.root()).unwrap_err();
    assert_eq!(
        error.to_string(),
        "layer entry `x` has an owner that is out of range"
    );
}

#[test]
fn nothing_grows_past_its_bounds() {
    let tree = Tree::new();
    let limited = |limits: Limits| Options {
        limits,
        ..options(Whiteouts::Apply)
    };
    let check = |layer: &[u8], limits: Limits, media_type: &str| {
        let result = unpack(layer, media_type, &tree.root(), &limited(limits));
        assert!(
            matches!(result, Err(LayerError::TooLarge { .. })),
            "{result:?}"
        );
    };
    let files = (0..20)
        .fold(Layer::new(), |layer, n| {
            layer.file(&format!("file-{n}"), "x")
        })
        .finish();
    check(
        &files,
        Limits {
            entries: 19,
            ..Limits::default()
        },
        PLAIN,
    );
    check(
        &files,
        Limits {
            names: 100,
            ..Limits::default()
        },
        PLAIN,
    );
    check(
        &files,
        Limits {
            bytes: 5000,
            ..Limits::default()
        },
        PLAIN,
    );
    check(
        &files,
        Limits {
            bytes: files.len() as u64 - 1,
            ..Limits::default()
        },
        PLAIN,
    );
    unpack(
        &files[..],
        PLAIN,
        &tree.root(),
        &limited(Limits {
            bytes: files.len() as u64,
            ..Limits::default()
        }),
    )
    .unwrap();

    // Zeros after the end of the archive, a hundred megabytes in a hundred kilobytes.
    let mut bomb = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    std::io::copy(&mut std::io::repeat(0).take(100 << 20), &mut bomb).unwrap();
    let bomb = bomb.finish().unwrap();
    check(
        &bomb,
        Limits {
            bytes: 50 << 20,
            ..Limits::default()
        },
        "application/vnd.oci.image.layer.v1.tar+gzip",
    );

    // Extended headers that claim to be long, with and without anything behind them.
    for kind in [
        EntryType::GNULongName,
        EntryType::GNULongLink,
        EntryType::XHeader,
        EntryType::XGlobalHeader,
    ] {
        let mut header = Layer::header("x", kind, 0o644);
        header.set_size(8 << 30);
        header.set_cksum();
        check(header.as_bytes(), Limits::default(), PLAIN);
    }
    // A path longer than the kernel takes.
    let path = "a/".repeat(3000);
    let error = apply(
        Layer::new().pax(&[("path", path.as_bytes())]).file("x", ""),
        &tree.root(),
    );
    assert!(matches!(error, Err(LayerError::Entry { .. })), "{error:?}");
    let deep = "a/".repeat(300);
    let error = apply(
        Layer::new().pax(&[("path", deep.as_bytes())]).dir("x"),
        &tree.root(),
    );
    assert!(matches!(error, Err(LayerError::Entry { .. })), "{error:?}");
    // Many extended headers before one entry.
    let value = vec![b'x'; 100_000];
    let many = (0..20).fold(Layer::new(), |layer, _| {
        layer.pax(&[("SCHILY.xattr.user.x", &value)])
    });
    check(&many.file("f", "").finish(), Limits::default(), PLAIN);
}

#[test]
fn a_size_in_an_extended_header_counts() {
    let tree = Tree::new();
    // The header says nothing, the extension says one block: what follows is content, not an entry.
    let hidden = Layer::new().file("hidden", "").finish();
    let mut layer = Layer::new().pax(&[("size", b"512")]).file("f", "").finish();
    layer.truncate(1536);
    layer.extend_from_slice(&hidden);
    unpack(&layer[..], PLAIN, &tree.root(), &options(Whiteouts::Apply)).unwrap();
    let names: Vec<_> = fs::read_dir(tree.root())
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect();
    assert_eq!(names, ["f"]);
    assert_eq!(fs::metadata(tree.root().join("f")).unwrap().len(), 512);
}
