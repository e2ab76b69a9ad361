//! From JSON to [`Config`].

use std::collections::BTreeSet;

use serde_json::Value;

use super::fields::{Fields, Problems};
use super::{
    Config, Contents, CoreUser, Dropin, MAX_CONTENT_BYTES, Node, NodeKind, Owner, Unit, data_url,
    path, ssh_key, unit,
};
use crate::file_secret::SCHEME;
use crate::problem::Problem;

/// Versions of the Ignition specification that are read.
pub const VERSIONS: &[&str] = &["3.0.0", "3.1.0", "3.2.0", "3.3.0", "3.4.0", "3.5.0"];

/// The one user whose keys and password are kept up to date on nodes.
const CORE: &str = "core";
/// The highest user or group number; one more means "no change" to the kernel.
const MAX_ID: u32 = u32::MAX - 1;

/// Reads an Ignition config.
///
/// # Errors
/// Everything that is wrong with it, in the order of reading: unknown fields, wrong types, values that a node cannot apply.
pub fn parse(config: &Value) -> Result<Config, Vec<Problem>> {
    let mut reader = Reader {
        problems: Problems::default(),
        bytes_left: MAX_CONTENT_BYTES,
    };
    let config = reader.config(config);
    reader.problems.into_result(config)
}

struct Reader {
    problems: Problems,
    bytes_left: usize,
}

impl Reader {
    fn config(&mut self, value: &Value) -> Config {
        let known = &[
            "ignition",
            "kernelArguments",
            "passwd",
            "storage",
            "systemd",
        ];
        let root = Fields::open(value, String::new(), known, &mut self.problems);
        self.version(&root);
        root.refuse(
            "kernelArguments",
            "nodes apply kernel arguments from the MachineConfig's own `spec.kernelArguments` only; move them there",
            &mut self.problems,
        );
        Config {
            nodes: self.storage(&root),
            units: self.systemd(&root),
            core: self.passwd(&root),
        }
    }

    fn version(&mut self, root: &Fields<'_>) {
        let known = &["config", "proxy", "security", "timeouts", "version"];
        let Some(ignition) = root.object("ignition", known, &mut self.problems) else {
            self.problems.add(
                "ignition.version",
                "expected the version of the config, such as `3.4.0`",
            );
            return;
        };
        match ignition.string("version", &mut self.problems) {
            Some(version) if VERSIONS.contains(&version) => {}
            Some(version) if version.starts_with("2.") => self.problems.add(
                "ignition.version",
                format!(
                    "version `{version}` is of the old specification 2; convert the config to 3.x"
                ),
            ),
            Some(version) => self.problems.add(
                "ignition.version",
                format!(
                    "expected one of `{}`, found `{version}`",
                    VERSIONS.join("`, `")
                ),
            ),
            // Of another type, which is told already, or not there at all.
            None if ignition.value("version").is_some() => {}
            None => self.problems.add(
                "ignition.version",
                "expected the version of the config, such as `3.4.0`",
            ),
        }
        let fetch = "nodes fetch nothing; what it would fetch must be in the MachineConfig";
        for key in ["config", "proxy", "security", "timeouts"] {
            ignition.refuse(key, fetch, &mut self.problems);
        }
    }

    fn storage(&mut self, root: &Fields<'_>) -> Vec<Node> {
        let known = &[
            "directories",
            "disks",
            "files",
            "filesystems",
            "links",
            "luks",
            "raid",
        ];
        let Some(storage) = root.object("storage", known, &mut self.problems) else {
            return Vec::new();
        };
        for key in ["disks", "filesystems", "luks", "raid"] {
            storage.refuse(
                key,
                "disks are laid out when a node is installed and cannot change on a running node",
                &mut self.problems,
            );
        }
        let mut nodes = self.files(&storage);
        nodes.extend(self.directories(&storage));
        nodes.extend(self.links(&storage));
        nodes
    }

    fn files(&mut self, storage: &Fields<'_>) -> Vec<Node> {
        let known = &[
            "append",
            "contents",
            "group",
            "mode",
            "overwrite",
            "path",
            "user",
        ];
        let mut nodes = Vec::new();
        for fields in storage.objects("files", known, &mut self.problems) {
            fields.refuse(
                "append",
                "appending would repeat at every update; give the whole contents, or a file of its own in a `.d` directory",
                &mut self.problems,
            );
            // Nodes always replace a file: what a config says of it is what it should be.
            fields.boolean("overwrite", &mut self.problems);
            let kind = NodeKind::File {
                mode: self.mode(&fields),
                contents: self.contents(&fields),
            };
            nodes.extend(self.node(&fields, kind));
        }
        self.refuse_repeats("storage.files", nodes.iter().map(|node| node.path.as_str()));
        nodes
    }

    fn directories(&mut self, storage: &Fields<'_>) -> Vec<Node> {
        let known = &["group", "mode", "overwrite", "path", "user"];
        let mut nodes = Vec::new();
        for fields in storage.objects("directories", known, &mut self.problems) {
            if fields.boolean("overwrite", &mut self.problems) == Some(true) {
                self.problems.add(
                    fields.at("overwrite"),
                    "would delete what the directory holds; leave it out",
                );
            }
            let kind = NodeKind::Directory {
                mode: self.mode(&fields),
            };
            nodes.extend(self.node(&fields, kind));
        }
        self.refuse_repeats(
            "storage.directories",
            nodes.iter().map(|node| node.path.as_str()),
        );
        nodes
    }

    fn links(&mut self, storage: &Fields<'_>) -> Vec<Node> {
        let known = &["group", "hard", "overwrite", "path", "target", "user"];
        let mut nodes = Vec::new();
        for fields in storage.objects("links", known, &mut self.problems) {
            fields.boolean("overwrite", &mut self.problems);
            if fields.boolean("hard", &mut self.problems) == Some(true) {
                self.problems.add(
                    fields.at("hard"),
                    "hard links do not survive the change to another deployment; make it a symbolic link",
                );
            }
            let target = fields.string("target", &mut self.problems);
            if let Some(target) = target
                && (target.is_empty()
                    || target.chars().any(char::is_control)
                    || target.len() > 4095)
            {
                self.problems.add(
                    fields.at("target"),
                    format!("expected a path of 1 to 4095 bytes without control characters, found {target:?}"),
                );
            }
            let kind = NodeKind::Link {
                target: target.map(str::to_owned),
            };
            nodes.extend(self.node(&fields, kind));
        }
        self.refuse_repeats("storage.links", nodes.iter().map(|node| node.path.as_str()));
        nodes
    }

    fn node(&mut self, fields: &Fields<'_>, kind: NodeKind) -> Option<Node> {
        let user = self.owner(fields, "user");
        let group = self.owner(fields, "group");
        let Some(text) = fields.string("path", &mut self.problems) else {
            if fields.value("path").is_none() {
                self.problems.add(
                    fields.at("path"),
                    "expected an absolute path, found nothing",
                );
            }
            return None;
        };
        let is_directory = matches!(kind, NodeKind::Directory { .. });
        if let Some(reason) = path::problem(text, is_directory) {
            self.problems.add(fields.at("path"), reason);
            return None;
        }
        Some(Node {
            path: text.to_owned(),
            user,
            group,
            kind,
        })
    }

    fn owner(&mut self, fields: &Fields<'_>, key: &str) -> Option<Owner> {
        let owner = fields.object(key, &["id", "name"], &mut self.problems)?;
        let id = owner.number("id", MAX_ID, &mut self.problems);
        let name = owner.string("name", &mut self.problems);
        match (id, name) {
            (Some(_), Some(_)) => {
                self.problems
                    .add(fields.at(key), "expected `id` or `name`, found both");
                None
            }
            (Some(id), None) => Some(Owner::Id(id)),
            (None, Some("root")) => Some(Owner::Id(0)),
            (None, Some(name)) => {
                if let Some(reason) = account_name_problem(name) {
                    self.problems.add(owner.at("name"), reason);
                }
                Some(Owner::Name(name.to_owned()))
            }
            (None, None) => None,
        }
    }

    fn mode(&mut self, fields: &Fields<'_>) -> Option<u32> {
        let mode = fields.number("mode", 0o7777, &mut self.problems)?;
        // 600 to 777 in decimal are modes with a sticky bit and odd permissions, which nobody means: the leading 0 is missing.
        if (0o1000..=777).contains(&mode) && mode.to_string().bytes().all(|digit| digit < b'8') {
            let meant = u32::from_str_radix(&mode.to_string(), 8).expect("every digit is octal");
            self.problems.add(
                fields.at("mode"),
                format!("{mode} is decimal for 0{mode:o}; for permissions {mode} write 0{mode} in YAML, {meant} in JSON"),
            );
        }
        Some(mode)
    }

    fn contents(&mut self, fields: &Fields<'_>) -> Option<Contents> {
        let known = &["compression", "httpHeaders", "source", "verification"];
        let contents = fields.object("contents", known, &mut self.problems)?;
        contents.refuse("httpHeaders", "nodes fetch nothing", &mut self.problems);
        let compression = contents
            .string("compression", &mut self.problems)
            .unwrap_or("");
        if !["", "gzip"].contains(&compression) {
            self.problems.add(
                contents.at("compression"),
                format!("expected `gzip` or nothing, found `{compression}`"),
            );
        }
        let verification = contents.object("verification", &["hash"], &mut self.problems);
        let hash = verification
            .as_ref()
            .and_then(|verification| verification.string("hash", &mut self.problems));
        let about_data = [
            ("compression", !compression.is_empty()),
            ("verification", hash.is_some()),
        ];
        let refuse_each = |problems: &mut Problems, why: &str| {
            for (key, _) in about_data.iter().filter(|(_, given)| *given) {
                problems.add(contents.at(key), why);
            }
        };
        let Some(source) = contents.string("source", &mut self.problems) else {
            refuse_each(
                &mut self.problems,
                "belongs to the `source` beside it, and there is none; a hash or compression cannot be set for another MachineConfig's contents",
            );
            return None;
        };
        if let Some(from) = source.strip_prefix(SCHEME) {
            refuse_each(
                &mut self.problems,
                "cannot be said of what a Secret holds, which may change; the file is written as it is there",
            );
            let from = from.parse().map_err(|reason: String| {
                self.problems.add(contents.at("source"), reason);
            });
            return Some(Contents::Secret {
                from: from.ok()?,
                value: None,
            });
        }
        let bytes = data_url::decode(source, self.bytes_left).and_then(|bytes| match compression {
            "gzip" => data_url::gunzip(&bytes, self.bytes_left),
            _ => Ok(bytes),
        });
        let bytes = match bytes {
            Ok(bytes) => bytes,
            Err(reason) => {
                self.problems.add(contents.at("source"), reason);
                return None;
            }
        };
        self.bytes_left -= bytes.len();
        if let (Some(hash), Some(verification)) = (hash, verification)
            && let Err(reason) = data_url::verify(&bytes, hash)
        {
            self.problems.add(verification.at("hash"), reason);
        }
        Some(Contents::Inline(bytes))
    }

    fn systemd(&mut self, root: &Fields<'_>) -> Vec<Unit> {
        let Some(systemd) = root.object("systemd", &["units"], &mut self.problems) else {
            return Vec::new();
        };
        let known = &["contents", "dropins", "enabled", "mask", "name"];
        let mut units = Vec::new();
        for fields in systemd.objects("units", known, &mut self.problems) {
            let name = fields
                .string("name", &mut self.problems)
                .unwrap_or_default();
            if let Some(reason) = unit::unit_name_problem(name) {
                self.problems.add(fields.at("name"), reason);
            }
            let unit = Unit {
                name: name.to_owned(),
                contents: self.unit_text(&fields),
                enabled: fields.boolean("enabled", &mut self.problems),
                mask: fields.boolean("mask", &mut self.problems),
                dropins: self.dropins(&fields),
            };
            if unit.masked() && unit.enabled == Some(true) {
                self.problems.add(
                    fields.at("mask"),
                    "a masked unit cannot be enabled; leave out one of the two",
                );
            }
            units.push(unit);
        }
        self.refuse_repeats("systemd.units", units.iter().map(|unit| unit.name.as_str()));
        units
    }

    fn dropins(&mut self, unit_fields: &Fields<'_>) -> Vec<Dropin> {
        let mut dropins = Vec::new();
        for fields in unit_fields.objects("dropins", &["contents", "name"], &mut self.problems) {
            let name = fields
                .string("name", &mut self.problems)
                .unwrap_or_default();
            if let Some(reason) = unit::dropin_name_problem(name) {
                self.problems.add(fields.at("name"), reason);
            }
            dropins.push(Dropin {
                name: name.to_owned(),
                contents: self.unit_text(&fields),
            });
        }
        self.refuse_repeats(
            &unit_fields.at("dropins"),
            dropins.iter().map(|dropin| dropin.name.as_str()),
        );
        dropins
    }

    fn unit_text(&mut self, fields: &Fields<'_>) -> Option<String> {
        let text = fields.string("contents", &mut self.problems)?;
        if let Some(reason) = unit::text_problem(text) {
            self.problems.add(fields.at("contents"), reason);
        }
        Some(text.to_owned())
    }

    fn passwd(&mut self, root: &Fields<'_>) -> CoreUser {
        let mut core = CoreUser::default();
        let Some(passwd) = root.object("passwd", &["groups", "users"], &mut self.problems) else {
            return core;
        };
        passwd.refuse(
            "groups",
            "nodes create no groups; add a file to `/etc/sysusers.d`, or create the group in the Containerfile",
            &mut self.problems,
        );
        const ELSEWHERE: &[&str] = &[
            "gecos",
            "groups",
            "homeDir",
            "noCreateHome",
            "noLogInit",
            "noUserGroup",
            "primaryGroup",
            "shell",
            "shouldExist",
            "system",
            "uid",
        ];
        let known: Vec<&str> = ["name", "passwordHash", "sshAuthorizedKeys"]
            .iter()
            .chain(ELSEWHERE)
            .copied()
            .collect();
        let users = passwd.objects("users", &known, &mut self.problems);
        let mut names = Vec::new();
        for fields in &users {
            let name = fields
                .string("name", &mut self.problems)
                .unwrap_or_default();
            names.push(name);
            if name != CORE {
                self.problems.add(
                    fields.at("name"),
                    format!("expected `{CORE}`, found `{name}`; for other users add a file to `/etc/sysusers.d`, or create them in the Containerfile"),
                );
                continue;
            }
            for key in ELSEWHERE {
                fields.refuse(
                    key,
                    "only the ssh keys and the password of `core` can change on a running node",
                    &mut self.problems,
                );
            }
            for (path, key) in fields.strings("sshAuthorizedKeys", &mut self.problems) {
                let key = key.trim();
                if let Some(reason) = ssh_key::problem(key) {
                    self.problems.add(path, reason);
                }
                if !core.ssh_keys.iter().any(|known| known == key) {
                    core.ssh_keys.push(key.to_owned());
                }
            }
            if let Some(hash) = fields.string("passwordHash", &mut self.problems) {
                if let Some(reason) = password_hash_problem(hash) {
                    self.problems.add(fields.at("passwordHash"), reason);
                }
                core.password_hash = Some(hash.to_owned());
            }
        }
        self.refuse_repeats("passwd.users", names.into_iter());
        core
    }

    fn refuse_repeats<'n>(&mut self, field: &str, names: impl Iterator<Item = &'n str>) {
        let mut seen = BTreeSet::new();
        for name in names {
            if !seen.insert(name) {
                self.problems
                    .add(field, format!("`{name}` stands there twice; keep one"));
            }
        }
    }
}

/// The rule of `useradd`, so that the name can be looked up and never looks like a number or a path.
fn account_name_problem(name: &str) -> Option<String> {
    let first = |c: char| c.is_ascii_alphabetic() || c == '_';
    let legal = |c: char| c.is_ascii_alphanumeric() || "_-.$".contains(c);
    let good = name.len() <= 32 && name.starts_with(first) && name.chars().all(legal);
    (!good).then(|| format!("expected the name of a user or group, found {name:?}"))
}

fn password_hash_problem(hash: &str) -> Option<String> {
    let fits = hash.is_empty() || hash.starts_with(['$', '*', '!']);
    let breaks_shadow = hash.contains(':') || hash.chars().any(char::is_control);
    (!fits || breaks_shadow).then(|| {
        "expected a password hash such as `$6$...`, or `*` for none; make one with `mkpasswd`"
            .into()
    })
}
