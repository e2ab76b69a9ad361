//! The programs that the tests run, and what they print.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;

/// The repository.
pub(crate) fn root() -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    root.canonicalize().unwrap()
}

/// A tool of `demo/deps.sh clients`, or of the machine. Without it the test is skipped.
pub(crate) fn tool(name: &str) -> Option<PathBuf> {
    let own = root().join("target/tools").join(name);
    let tool = if own.exists() { own } else { name.into() };
    let version = Command::new(&tool).args(["version", "--client"]).output();
    if version.is_err() {
        eprintln!("skipped: there is no `{name}`; `demo/deps.sh clients` gets one");
        return None;
    }
    Some(tool)
}

pub(crate) fn caprock() -> PathBuf {
    env!("CARGO_BIN_EXE_caprock").into()
}

pub(crate) fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// A command that sees this cluster alone, in the repository.
pub(crate) fn command(tool: &Path, kubeconfig: &Path, line: &str) -> Command {
    let mut command = Command::new(tool);
    command
        .args(line.split_whitespace())
        .env("KUBECONFIG", kubeconfig)
        .env("HOME", kubeconfig.parent().unwrap())
        .current_dir(root());
    command
}

/// Standard output of a command that must succeed.
pub(crate) fn ok(command: &mut Command) -> String {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", words(&output));
    text(&output.stdout)
}

/// The object that `kubectl` answers with; nothing when it fails, as for what is not there.
pub(crate) fn json_of(kubectl: &Path, kubeconfig: &Path, line: &str) -> Option<Value> {
    let output = command(kubectl, kubeconfig, line)
        .args(["-o", "json"])
        .output()
        .unwrap();
    let object = || serde_json::from_slice(&output.stdout).unwrap();
    output.status.success().then(object)
}

pub(crate) fn words(output: &Output) -> String {
    text(&output.stdout) + &text(&output.stderr)
}

/// The objects in YAML documents.
pub(crate) fn documents(text: &str) -> Vec<Value> {
    let documents: Vec<Value> = serde_saphyr::from_multiple(text).unwrap();
    documents
        .into_iter()
        .filter(|object| !object.is_null())
        .collect()
}
