#![allow(clippy::unwrap_used)]
use std::os::unix::fs::symlink;

use super::*;

fn tree() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for path in ["a/keep/x", "a/drop/y", "a/z.md", "b.txt", "c/.hidden"] {
        let path = dir.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, "content").unwrap();
    }
    symlink("a", dir.path().join("to-a")).unwrap();
    symlink("/a/z.md", dir.path().join("to-z")).unwrap();
    dir
}

fn action(sources: &[&str]) -> CopyAction {
    CopyAction {
        sources: sources
            .iter()
            .map(|source| CopySource::Path(source.to_string()))
            .collect(),
        ..CopyAction::everything_at("/")
    }
}

fn nothing_remote(_: &CopySource) -> Result<Fetched, Failure> {
    panic!("no source is remote")
}

/// What a source gives: the name of each source, and the paths in it.
fn check(dir: &Path, sources: &[&str], ignore: &str, expected: &str) {
    let ignore = Ignore::parse(ignore);
    let text = match find(
        &action(sources),
        Tree {
            path: dir,
            ignore: &ignore,
        },
        &mut nothing_remote,
    ) {
        Err(Failure::Refused(reason)) => reason,
        Err(Failure::Io(error)) => panic!("{error}"),
        Ok(found) => {
            let lines = found.iter().map(|source| {
                let Content::Items(items) = &source.content else {
                    return String::new();
                };
                let paths: Vec<_> = items[1..]
                    .iter()
                    .map(|item| item.path.display().to_string())
                    .collect();
                format!("{}[{}]", source.name.display(), paths.join(" "))
            });
            lines.collect::<Vec<_>>().join(", ")
        }
    };
    assert_eq!(text, expected, "{sources:?}");
}

#[test]
fn sources_are_found() {
    let dir = tree();
    let dir = dir.path();
    check(dir, &["b.txt", "/c"], "", "b.txt[], c[.hidden]");
    check(dir, &["a"], "", "a[drop drop/y keep keep/x z.md]");
    check(
        dir,
        &["*"],
        "",
        "a[drop drop/y keep keep/x z.md], b.txt[], c[.hidden], to-a[drop drop/y keep keep/x z.md], to-z[]",
    );
    check(dir, &["a/*/[xy]"], "", "y[], x[]");
    check(dir, &["to-a/z.md", "../../to-z"], "", "z.md[], to-z[]");
    check(dir, &["none"], "", "there is no `none` to copy");
    check(dir, &["x?"], "", "there is no `x?` to copy");
}

#[test]
fn ignored_files_are_not_seen() {
    let dir = tree();
    let dir = dir.path();
    check(dir, &["a"], "**/drop\n*/*.md", "a[keep keep/x]");
    check(dir, &["a"], "a\n!a/keep", "a[keep keep/x]");
    check(dir, &["."], "*\n!a/keep", "[a a/keep a/keep/x]");
    check(
        dir,
        &["b.txt"],
        "b.*",
        "`b.txt` is left out by the ignore file or `--exclude`",
    );
}

#[test]
fn a_digest_is_of_names_modes_and_content() {
    let dir = tree();
    let ignore = Ignore::default();
    let of = |sources: &[&str]| {
        digest(
            &find(
                &action(sources),
                Tree {
                    path: dir.path(),
                    ignore: &ignore,
                },
                &mut nothing_remote,
            )
            .unwrap_or_default(),
        )
        .unwrap()
    };
    let (a, b) = (of(&["a"]), of(&["b.txt"]));
    assert_ne!(a, b);
    let file = File::options()
        .write(true)
        .open(dir.path().join("b.txt"))
        .unwrap();
    file.set_modified(std::time::UNIX_EPOCH).unwrap();
    assert_eq!(of(&["b.txt"]), b);
    fs::set_permissions(
        dir.path().join("b.txt"),
        std::os::unix::fs::PermissionsExt::from_mode(0o600),
    )
    .unwrap();
    assert_ne!(of(&["b.txt"]), b);
    fs::write(dir.path().join("a/z.md"), "other").unwrap();
    assert_ne!(of(&["a"]), a);
}
