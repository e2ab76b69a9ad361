//! Where secrets get to.

use serde_json::Value;

use crate::keys;
use crate::layering::Reads;
use crate::lint::seen::{File, Seen};
use crate::lint::text::credential;
use crate::lint::{Level, Rule};
use crate::manifest::Object;

pub(in crate::lint) static PASSWORD_IN_IMAGE_INPUT: Rule = Rule {
    id: "password-in-image-input",
    level: Level::Warning,
    explanation: "Package repositories of a MachineConfig are inputs of the build: they are files of the image, which \
                  everybody who may pull it can read. Take the password out, and give it to the step that needs it: the \
                  annotation `build-secret.caprock.dev/NAME` of the MachineOSConfig with `RUN --mount=type=secret,id=NAME`, \
                  or for apt a file in `/etc/apt/auth.conf.d`, which is in no image.",
    check: |seen, report| {
        for file in seen.files().filter(|file| is_input(seen, file)) {
            if let Some(line) = credential(&file.text()) {
                let message = format!(
                    "`{}` becomes part of the image, with the password in it",
                    file.node.path
                );
                let hint = "give it to the build with `build-secret.caprock.dev/NAME`";
                report.tell_content(&file, line, message, hint);
            }
        }
    },
};

pub(in crate::lint) static READABLE_SECRET: Rule = Rule {
    id: "readable-secret",
    level: Level::Warning,
    explanation: "A file with a password, a token or a private key that everybody on the node may read, containers that \
                  mount the directory included. Write `mode: 0600`, and an owner when another account than root needs it.",
    check: |seen, report| {
        for file in seen.files() {
            let sssd = super::sssd::is_config(&file.node.path);
            if file.node.mode() & 0o004 == 0 || sssd || is_input(seen, &file) {
                continue;
            }
            let text = file.text();
            let key = text
                .lines()
                .position(|line| line.contains("PRIVATE KEY-----"));
            if let Some(line) = key.or_else(|| credential(&text)) {
                let message = format!(
                    "`{}` holds a secret, and everybody on the node may read it",
                    file.node.path
                );
                let field = match file.item.place(&format!("{}.mode", file.field))
                    == file.item.place(&file.field)
                {
                    true => file.contents_field(),
                    false => format!("{}.mode", file.field),
                };
                report.tell_line(file.item, (&field, line), message, "write `mode: 0600`");
            }
        }
    },
};

pub(in crate::lint) static PASSWORD_IN_MACHINECONFIG: Rule = Rule {
    id: "password-in-machineconfig",
    level: Level::Warning,
    explanation: "Only root may read the file on the node, but everybody who may read MachineConfigs reads the password here: \
                  `view` on the cluster is enough. Put the content into a Secret of `openshift-machine-config-operator` with \
                  the label `caprock.dev/node-files: \"true\"`, and write `contents: {source: secret:NAME/KEY}`.",
    check: |seen, report| {
        for file in seen.files() {
            if file.node.mode() & 0o004 != 0 || is_input(seen, &file) {
                continue;
            }
            if let Some(line) = credential(&file.text()) {
                let message = format!(
                    "whoever may read MachineConfigs reads the password in `{}`",
                    file.node.path
                );
                let hint = "put it into a Secret, and write `source: secret:NAME/KEY`";
                report.tell_content(&file, line, message, hint);
            }
        }
    },
};

pub(in crate::lint) static SECRET_NOT_FOR_NODES: Rule = Rule {
    id: "secret-not-for-nodes",
    level: Level::Warning,
    explanation: "A file takes its content from a Secret that is among these manifests, and no node gets it: the Secret lacks \
                  the label `caprock.dev/node-files: \"true\"`, by which somebody says that nodes may have what it holds, or it \
                  has no such key. The pool waits, with the condition `FilesDegraded`.",
    check: |seen, report| {
        for file in seen.files() {
            let Some(from) = file.node.secret() else {
                continue;
            };
            let secret = seen.items.iter().find_map(|item| match &item.object {
                Ok(Object::Other(secret)) if is_secret(secret, &from.name) => Some(secret),
                _ => None,
            });
            let Some(secret) = secret else {
                continue;
            };
            let has = |data: &str| secret[data].get(&from.key).is_some();
            let labelled = secret["metadata"]["labels"][keys::NODE_FILES_LABEL] == "true";
            let (what, hint) = match (labelled, has("data") || has("stringData")) {
                (true, true) => continue,
                (false, _) => (
                    "is not for nodes",
                    "label it `caprock.dev/node-files: \"true\"`",
                ),
                (true, false) => ("has no such key", "add the key, or name another one"),
            };
            let message = format!(
                "`{}` takes its content from `{from}`, and Secret `{}` {what}",
                file.node.path, from.name
            );
            report.tell(file.item, &file.contents_field(), message, hint);
        }
    },
};

fn is_secret(object: &Value, name: &str) -> bool {
    let metadata = &object["metadata"];
    object["kind"] == "Secret"
        && object["apiVersion"] == "v1"
        && metadata["name"] == name
        && metadata["namespace"] == keys::NAMESPACE
}

/// Whether a build of some pool that takes the file's MachineConfig puts it into the image.
fn is_input(seen: &Seen<'_>, file: &File<'_, '_>) -> bool {
    let Some(config) = file.item.config() else {
        return false;
    };
    let images = seen.pools().filter_map(|pool| {
        let taken = pool
            .configs
            .iter()
            .any(|item| std::ptr::eq(*item, file.item));
        let (_, image) = pool.image.filter(|_| taken)?;
        Some(
            image
                .spec
                .container_file
                .iter()
                .map(|file| file.content.clone())
                .collect::<String>(),
        )
    });
    let mut containerfiles = images.chain([String::new()]);
    containerfiles.any(|text| Reads::new(&text, config).is_build_input(&file.node.path))
}
