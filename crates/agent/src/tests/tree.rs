//! Everything there is to see of a directory tree, for comparison.

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt;

use camino::Utf8Path;

use crate::root::Root;

/// Each path below `dir` with kind, mode, owner, content or target, and extended attributes. No times: a file that was
/// replaced by the same is the same.
pub(crate) fn tree(dir: &Utf8Path) -> BTreeMap<String, String> {
    let root = Root::open(dir).unwrap();
    let mut found = BTreeMap::new();
    let mut folders = vec![dir.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in folder.read_dir_utf8().unwrap() {
            let entry = entry.unwrap();
            let inside = Utf8Path::new("/").join(entry.path().strip_prefix(dir).unwrap());
            let data = entry.path().symlink_metadata().unwrap();
            let what = if data.is_dir() {
                folders.push(entry.path().to_owned());
                "/".to_owned()
            } else if data.is_symlink() {
                format!("-> {}", entry.path().read_link_utf8().unwrap())
            } else {
                String::from_utf8_lossy(&std::fs::read(entry.path()).unwrap()).into_owned()
            };
            let attributes = serde_json::to_string(&root.attributes(&inside).unwrap()).unwrap();
            let text = format!(
                "{:o} {}:{} {attributes} {what}",
                data.mode(),
                data.uid(),
                data.gid()
            );
            found.insert(inside.to_string(), text);
        }
    }
    found
}

/// Says where two trees differ.
#[track_caller]
pub(crate) fn assert_same(
    found: &BTreeMap<String, String>,
    expected: &BTreeMap<String, String>,
    when: &str,
) {
    let paths = found.keys().chain(expected.keys());
    let different: Vec<String> = paths
        .filter(|path| found.get(*path) != expected.get(*path))
        .map(|path| {
            let (is, was) = (found.get(path), expected.get(path));
            format!("{path}: is {is:?}, expected {was:?}")
        })
        .collect();
    assert!(different.is_empty(), "{when}: {}", different.join("\n"));
}
