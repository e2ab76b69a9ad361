//! One case: a text file of sections, each headed by `-- NAME --`.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// What a case says. Its sections:
///
/// - `Containerfile`;
/// - `context/PATH`: a file of the context;
/// - `prepare`: a shell script that is run in the context after its files were written;
/// - `arguments`: a build argument a line, `NAME=VALUE`;
/// - `target`: the stage to build;
/// - `buildah differs`: why buildah's result is another one, so that it is not compared;
/// - `expected`: the configuration and the files of the image.
#[derive(Debug, Default)]
pub(crate) struct Case {
    /// All but the expected result, as it was written.
    given: String,
    pub(crate) containerfile: String,
    context: Vec<(String, String)>,
    prepare: String,
    pub(crate) args: BTreeMap<String, String>,
    pub(crate) target: Option<String>,
    pub(crate) differs: Option<String>,
    pub(crate) expected: String,
}

/// The files of all cases, sorted. With `CAPROCK_TEST_CASE`, those whose name contains it.
pub(crate) fn all(dir: &Path) -> Vec<PathBuf> {
    let wanted = std::env::var("CAPROCK_TEST_CASE").unwrap_or_default();
    let entries = fs::read_dir(dir).unwrap();
    let mut paths: Vec<PathBuf> = entries
        .map(|entry| entry.unwrap().path())
        .filter(|path| {
            path.to_string_lossy()
                .rsplit('/')
                .next()
                .unwrap()
                .contains(&wanted)
        })
        .collect();
    paths.sort();
    paths
}

impl Case {
    pub(crate) fn read(path: &Path) -> Case {
        let text = fs::read_to_string(path).unwrap();
        let mut case = Case::default();
        let mut sections: Vec<(String, String)> = Vec::new();
        for line in text.split_inclusive('\n') {
            let title = line.trim_end().strip_prefix("-- ");
            match title.and_then(|title| title.strip_suffix(" --")) {
                Some(title) => sections.push((title.to_string(), String::new())),
                None => sections.last_mut().unwrap().1.push_str(line),
            }
        }
        for (title, body) in sections {
            if title == "expected" {
                case.expected = body;
                continue;
            }
            case.given += &format!("-- {title} --\n{body}");
            match title.as_str() {
                "Containerfile" => case.containerfile = body,
                "prepare" => case.prepare = body,
                "target" => case.target = Some(body.trim().to_string()),
                "buildah differs" => case.differs = Some(body),
                "arguments" => {
                    let pairs = body.lines().map(|line| line.split_once('=').unwrap());
                    case.args = pairs.map(|(k, v)| (k.to_string(), v.to_string())).collect();
                }
                title => match title.strip_prefix("context/") {
                    Some(path) => case.context.push((path.to_string(), body)),
                    None => panic!("{}: unknown section `{title}`", path.display()),
                },
            }
        }
        case
    }

    pub(crate) fn write(&self, path: &Path) {
        fs::write(
            path,
            format!("{}-- expected --\n{}", self.given, self.expected),
        )
        .unwrap();
    }

    /// Makes the context below a directory.
    pub(crate) fn prepare(&self, dir: &Path) {
        let context = dir.join("context");
        fs::create_dir_all(&context).unwrap();
        for (path, text) in &self.context {
            let path = context.join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        let script = format!("set -eu; umask 022\n{}", self.prepare);
        let status = Command::new("/bin/sh")
            .args(["-c", &script])
            .current_dir(&context)
            .status();
        assert!(status.unwrap().success(), "{}", self.prepare);
    }
}
