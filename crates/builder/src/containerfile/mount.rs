//! `RUN --mount`.

use super::flags::{clip, nearest};
use super::{Position, Problem, Word};

/// A mount that exists only while a `RUN` executes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mount {
    pub at: Position,
    pub kind: MountKind,
    /// Where it appears; a secret has `/run/secrets/<id>` when absent, an agent a place of its own.
    pub target: Option<Word>,
    pub readonly: bool,
}

/// What is mounted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MountKind {
    /// A directory kept between builds on this machine.
    Cache {
        id: Option<Word>,
        from: Option<Word>,
        source: Option<Word>,
        sharing: Sharing,
        owner: Owner,
    },
    /// Files of the context, a stage or an image.
    Bind {
        from: Option<Word>,
        source: Option<Word>,
    },
    /// Memory, empty at first; size in bytes.
    Tmpfs { size: Option<u64> },
    /// A file with a secret of the request, or an environment variable.
    Secret {
        id: Word,
        env: Option<String>,
        required: bool,
        owner: Owner,
    },
    /// The socket of an SSH agent.
    Ssh {
        id: Word,
        required: bool,
        owner: Owner,
    },
}

/// How two builds use one cache mount.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Sharing {
    #[default]
    Shared,
    /// One after the other.
    Locked,
    /// The second gets a fresh one.
    Private,
}

/// Owner and permission bits of a mount; `None` keeps the default.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Owner {
    pub uid: Option<u32>,
    pub gid: Option<u32>,
    pub mode: Option<u32>,
}

const FIELDS: [&str; 17] = [
    "type",
    "target",
    "dst",
    "destination",
    "source",
    "src",
    "from",
    "id",
    "sharing",
    "readonly",
    "ro",
    "rw",
    "readwrite",
    "required",
    "uid",
    "gid",
    "mode",
];

/// Parses the value of one `--mount`.
pub(super) fn parse(word: &Word, problems: &mut Vec<Problem>) -> Option<Mount> {
    let before = problems.len();
    let fields = Fields::read(word, problems);
    let kind = fields.text(&["type"]).unwrap_or_else(|| "bind".into());
    let target = fields.word(&["target", "dst", "destination"]);
    let from = fields.word(&["from"]);
    let source = fields.word(&["source", "src"]);
    let readonly = fields.flag(&["readonly", "ro"], problems);
    let writable = fields.flag(&["rw", "readwrite"], problems);
    let owner = Owner {
        uid: fields.number("uid", 10, problems),
        gid: fields.number("gid", 10, problems),
        mode: fields.number("mode", 8, problems),
    };
    let kind = match kind.as_str() {
        "bind" => MountKind::Bind { from, source },
        "cache" => MountKind::Cache {
            id: fields.word(&["id"]),
            from,
            source,
            owner,
            sharing: fields.sharing(problems),
        },
        "tmpfs" => MountKind::Tmpfs {
            size: fields.size(problems),
        },
        "secret" => {
            let id = fields.word(&["id"]).or_else(|| {
                let name = target.as_ref()?.raw.rsplit('/').next()?.to_string();
                (!name.is_empty()).then_some(Word {
                    raw: name,
                    at: word.at,
                })
            });
            let Some(id) = id else {
                problems.push(Problem::new(
                    word.at,
                    "`--mount`: a secret needs a field `id` or `target`",
                ));
                return None;
            };
            MountKind::Secret {
                id,
                env: fields.text(&["env"]),
                required: fields.flag(&["required"], problems),
                owner,
            }
        }
        "ssh" => MountKind::Ssh {
            id: fields.word(&["id"]).unwrap_or(Word {
                raw: "default".into(),
                at: word.at,
            }),
            required: fields.flag(&["required"], problems),
            owner,
        },
        other => {
            let problem = Problem::new(
                word.at,
                format!("`--mount`: unknown type `{}`", clip(other)),
            );
            problems.push(problem.hint("expected bind, cache, tmpfs, secret or ssh"));
            return None;
        }
    };
    let has_default = matches!(kind, MountKind::Secret { .. } | MountKind::Ssh { .. });
    if target.is_none() && !has_default {
        problems.push(Problem::new(
            word.at,
            "`--mount`: expected a field `target`",
        ));
    }
    // A bind mount never changes its source: writes go to a layer that is thrown away, so `rw` is allowed.
    let readonly = readonly || (matches!(kind, MountKind::Bind { .. }) && !writable);
    (problems.len() == before).then_some(Mount {
        at: word.at,
        kind,
        target,
        readonly,
    })
}

struct Fields {
    at: Position,
    found: Vec<(String, Option<String>)>,
}

impl Fields {
    fn read(word: &Word, problems: &mut Vec<Problem>) -> Self {
        let mut fields = Fields {
            at: word.at,
            found: Vec::new(),
        };
        for field in csv(&word.raw) {
            let (key, value) = match field.split_once('=') {
                Some((key, value)) => (key.to_ascii_lowercase(), Some(value.to_string())),
                None => (field.to_ascii_lowercase(), None),
            };
            let known = FIELDS.iter().copied().chain(["size", "env"]);
            if !known.clone().any(|known| known == key) {
                let problem = Problem::new(
                    word.at,
                    format!("`--mount`: unknown field `{}`", clip(&key)),
                );
                problems.push(match nearest(&key, known) {
                    Some(name) => problem.hint(format!("did you mean `{name}`?")),
                    None => problem,
                });
            }
            fields.found.push((key, value));
        }
        fields
    }

    fn sharing(&self, problems: &mut Vec<Problem>) -> Sharing {
        match self.text(&["sharing"]).as_deref() {
            None | Some("shared") => Sharing::Shared,
            Some("locked") => Sharing::Locked,
            Some("private") => Sharing::Private,
            Some(other) => {
                problems.push(self.unexpected("sharing", "shared, locked or private", other));
                Sharing::Shared
            }
        }
    }

    fn size(&self, problems: &mut Vec<Problem>) -> Option<u64> {
        let text = self.text(&["size"])?;
        let parsed = bytes(&text);
        if parsed.is_none() {
            problems.push(self.unexpected("size", "bytes such as `64m`", &text));
        }
        parsed
    }

    fn text(&self, names: &[&str]) -> Option<String> {
        let (_, value) = self
            .found
            .iter()
            .rev()
            .find(|(key, _)| names.contains(&key.as_str()))?;
        Some(value.clone().unwrap_or_default())
    }

    fn word(&self, names: &[&str]) -> Option<Word> {
        Some(Word {
            raw: self.text(names)?,
            at: self.at,
        })
    }

    fn flag(&self, names: &[&str], problems: &mut Vec<Problem>) -> bool {
        match self.text(names).as_deref() {
            None | Some("false" | "0") => false,
            Some("" | "true" | "1") => true,
            Some(other) => {
                problems.push(self.unexpected(names[0], "true or false", other));
                false
            }
        }
    }

    fn number(&self, name: &str, radix: u32, problems: &mut Vec<Problem>) -> Option<u32> {
        let text = self.text(&[name])?;
        let parsed = u32::from_str_radix(&text, radix).ok();
        if parsed.is_none() {
            problems.push(self.unexpected(name, "a number", &text));
        }
        parsed
    }

    fn unexpected(&self, field: &str, expected: &str, found: &str) -> Problem {
        let found = clip(found);
        let message = format!("`--mount`: field `{field}`: expected {expected}, found `{found}`");
        Problem::new(self.at, message)
    }
}

/// Splits on commas outside double quotes, which are removed.
fn csv(text: &str) -> Vec<String> {
    let mut fields = vec![String::new()];
    let mut quoted = false;
    for c in text.chars() {
        match c {
            '"' => quoted = !quoted,
            ',' if !quoted => fields.push(String::new()),
            c => fields.last_mut().expect("there is always a field").push(c),
        }
    }
    fields.retain(|field| !field.is_empty());
    fields
}

/// `512`, `64k`, `16m`, `1g`.
fn bytes(text: &str) -> Option<u64> {
    let text = text.trim_end_matches(['b', 'B']);
    let (digits, unit) = match text.char_indices().last()? {
        (at, 'k' | 'K') => (&text[..at], 1 << 10),
        (at, 'm' | 'M') => (&text[..at], 1 << 20),
        (at, 'g' | 'G') => (&text[..at], 1 << 30),
        _ => (text, 1),
    };
    digits.parse::<u64>().ok()?.checked_mul(unit)
}
