//! Layers made at random: nothing gets out, and what is in agrees with a model.

#![allow(clippy::unwrap_used, clippy::print_stderr)]

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::Cursor;
use std::process::Command;

use common::layers::{Layer, PLAIN, Tree, apply, options};
use oci::layer::{Marks, Options, Privilege, Whiteouts, unpack};
use proptest::prelude::*;
use proptest::sample::select;
use proptest::test_runner::TestRunner;

/// Paths, and whether each is a directory or a file.
type Paths = BTreeMap<String, bool>;

/// Names that meet often, lead astray, or both.
fn hostile_path() -> impl Strategy<Value = String> {
    // What is always refused ends the layer, so it is rare.
    let ordinary = select(vec!["a", "b", "l", "outside", "secret"]);
    let odd = select(vec![
        ".",
        "",
        ".wh.a",
        ".wh.l",
        ".wh.secret",
        ".wh..wh..opq",
    ]);
    let refused = select(vec!["..", ".wh...", ".wh."]);
    let part = prop_oneof![20 => ordinary, 6 => odd, 1 => refused];
    proptest::collection::vec(part, 1..4).prop_map(|parts| parts.join("/"))
}

fn hostile_layer() -> impl Strategy<Value = Vec<u8>> {
    let target = select(vec![
        "a",
        "l",
        "b/l",
        "..",
        "../outside",
        "../../outside",
        "/",
        "/outside",
        "../outside/secret",
        "/proc/self/cwd",
        ".",
    ]);
    let entry = (hostile_path(), target, 0..5);
    proptest::collection::vec(entry, 1..12).prop_map(|entries| {
        let layer =
            entries
                .into_iter()
                .fold(Layer::new(), |layer, (path, target, kind)| match kind {
                    0 => layer.file(&path, "written"),
                    1 => layer.dir(&path),
                    2 => layer.hard_link(&path, target),
                    _ => layer.symlink(&path, target),
                });
        layer.finish()
    })
}

/// Paths of at most three parts that agree with each other: nothing lies within a file.
fn paths() -> impl Strategy<Value = Paths> {
    let part = || select(vec!["a", "b", "c"]);
    let path = proptest::collection::vec(part(), 1..4).prop_map(|parts| parts.join("/"));
    proptest::collection::vec((path, any::<bool>()), 0..10).prop_map(|wanted| {
        let mut paths = BTreeMap::new();
        for (path, is_dir) in wanted {
            let within_file = parents(&path).any(|parent| paths.get(parent) == Some(&false));
            let over_dir = !is_dir && paths.keys().any(|other: &String| is_within(other, &path));
            if !within_file && !over_dir && !paths.contains_key(&path) {
                paths.insert(path, is_dir);
            }
        }
        paths
    })
}

/// An upper layer: its paths, what it hides, and the directories whose lower content it hides.
fn upper() -> impl Strategy<Value = (Paths, BTreeSet<String>, BTreeSet<String>)> {
    (paths(), paths(), paths()).prop_map(|(paths, hidden, opaque)| {
        let within_file =
            |path: &String| parents(path).any(|parent| paths.get(parent) == Some(&false));
        let hidden = hidden
            .into_keys()
            .filter(|path| !within_file(path))
            .collect();
        let opaque = opaque
            .into_keys()
            .filter(|path| !within_file(path) && paths.get(path) != Some(&false))
            .collect();
        (paths, hidden, opaque)
    })
}

fn parents(path: &str) -> impl Iterator<Item = &str> {
    path.match_indices('/').map(|(at, _)| &path[..at])
}

fn is_within(path: &str, dir: &str) -> bool {
    path.strip_prefix(dir)
        .is_some_and(|rest| rest.starts_with('/'))
}

fn add_paths(layer: Layer, paths: &Paths, content: &str) -> Layer {
    paths
        .iter()
        .fold(layer, |layer, (path, is_dir)| match is_dir {
            true => layer.dir(path),
            false => layer.file(path, content),
        })
}

/// Everything in the tree, directories that are only implied included.
fn with_parents(paths: &Paths, content: &str) -> BTreeMap<String, String> {
    let own = paths.iter().map(|(path, is_dir)| {
        (
            path.clone(),
            if *is_dir { "dir" } else { content }.to_owned(),
        )
    });
    let implied = paths
        .keys()
        .flat_map(|path| parents(path))
        .map(|path| (path.to_owned(), "dir".to_owned()));
    implied.chain(own).collect()
}

fn upper_layer(
    upper: &Paths,
    hidden: &BTreeSet<String>,
    opaque: &BTreeSet<String>,
    whiteouts_first: bool,
) -> Layer {
    let whiteouts = |layer: Layer| {
        let layer = hidden
            .iter()
            .fold(layer, |layer, path| match path.rsplit_once('/') {
                Some((parent, name)) => layer.file(&format!("{parent}/.wh.{name}"), ""),
                None => layer.file(&format!(".wh.{path}"), ""),
            });
        opaque.iter().fold(layer, |layer, path| {
            layer.file(&format!("{path}/.wh..wh..opq"), "")
        })
    };
    match whiteouts_first {
        true => add_paths(whiteouts(Layer::new()), upper, "upper"),
        false => whiteouts(add_paths(Layer::new(), upper, "upper")),
    }
}

/// What there is when the upper layer lies over the lower one.
fn merged(
    lower: &Paths,
    upper: &Paths,
    hidden: &BTreeSet<String>,
    opaque: &BTreeSet<String>,
) -> BTreeMap<String, String> {
    let mut upper = with_parents(upper, "upper");
    // Whiteouts imply the directories that they are in.
    let implied = opaque.iter().map(String::as_str);
    let implied = implied.chain(hidden.iter().chain(opaque).flat_map(|path| parents(path)));
    upper.extend(implied.map(|path| (path.to_owned(), "dir".to_owned())));
    let mut merged = with_parents(lower, "lower");
    merged.retain(|path, kind| {
        let gone = |over: &String| path == over || is_within(path, over);
        let replaced = upper.iter().any(|(over, new)| {
            // A file replaces everything, a directory what is none.
            gone(over) && new != "dir" || path == over && kind != "dir"
        });
        !hidden.iter().any(gone) && !opaque.iter().any(|over| is_within(path, over)) && !replaced
    });
    merged.extend(upper);
    merged
}

proptest! {
    #[test]
    fn nothing_gets_out(layers in proptest::collection::vec(hostile_layer(), 1..3)) {
        for whiteouts in [Whiteouts::Apply, Whiteouts::Overlay(Marks::Trusted)] {
            let tree = Tree::new();
            for layer in &layers {
                // Refused or turned inwards: either is right.
                let _ = unpack(Cursor::new(layer), PLAIN, &tree.root(), &options(whiteouts));
            }
            tree.check_outside();
        }
    }

    /// Wherever the whiteouts stand in the layer, they are about what was there before it.
    #[test]
    fn a_layer_over_another_is_what_an_overlay_would_show(
        lower in paths(),
        (upper, hidden, opaque) in upper(),
        whiteouts_first: bool,
    ) {
        let tree = Tree::new();
        apply(add_paths(Layer::new(), &lower, "lower"), &tree.root()).unwrap();
        let layer = upper_layer(&upper, &hidden, &opaque, whiteouts_first);
        apply(layer, &tree.root()).unwrap();

        let expected = merged(&lower, &upper, &hidden, &opaque);
        prop_assert_eq!(tree.listing(), expected);
    }
}

/// Needs root: overlayfs itself shows what the layers come to.
#[test]
fn privileged_an_overlay_shows_the_same() {
    if std::env::var_os("CAPROCK_TEST_PRIVILEGED").is_none() {
        eprintln!("skipped: set CAPROCK_TEST_PRIVILEGED=1 and be root");
        return;
    }
    let mut runner = TestRunner::new(ProptestConfig::with_cases(100));
    let strategy = (paths(), upper(), any::<bool>());
    let ran = runner.run(
        &strategy,
        |(lower, (upper, hidden, opaque), whiteouts_first)| {
            let tree = Tree::new();
            let layers = [
                add_paths(Layer::new(), &lower, "lower"),
                upper_layer(&upper, &hidden, &opaque, whiteouts_first),
            ];
            let dirs = ["lower", "upper"].map(|name| tree.dir.path().join(name));
            for (layer, dir) in layers.into_iter().zip(&dirs) {
                fs::create_dir(dir).unwrap();
                let options = Options {
                    privilege: Privilege::Full,
                    ..options(Whiteouts::Overlay(Marks::Trusted))
                };
                unpack(Cursor::new(layer.finish()), PLAIN, dir, &options).unwrap();
            }
            let dirs = format!("lowerdir={}:{}", dirs[1].display(), dirs[0].display());
            let mount = ["-t", "overlay", "overlay", "-o", &dirs];
            assert!(
                Command::new("mount")
                    .args(mount)
                    .arg(tree.root())
                    .status()
                    .unwrap()
                    .success()
            );
            let shown = std::panic::catch_unwind(|| tree.listing());
            assert!(
                Command::new("umount")
                    .arg(tree.root())
                    .status()
                    .unwrap()
                    .success()
            );
            prop_assert_eq!(shown.unwrap(), merged(&lower, &upper, &hidden, &opaque));
            Ok(())
        },
    );
    ran.unwrap();
}
