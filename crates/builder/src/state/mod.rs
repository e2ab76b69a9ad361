//! What an instruction means in its place: variables expanded, the image configuration changed, and what is
//! left to be done to the file system as an [`Action`]. Pure.

mod chmod;
mod copy;
mod run;

use std::collections::BTreeMap;

use oci::Digest;
use serde::Serialize;
use serde_json::{Value, json};

use crate::config::ImageConfig;
use crate::containerfile::{
    Command, ExpandError, Healthcheck, Instruction, Kind, Position, Problem, Sharing, Word, expand,
};
use crate::remote::Git;

pub(crate) use chmod::Chmod;

/// Search path of a `RUN` in an image that sets none.
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Arguments that may be given without being declared; they never change what is cached.
const PROXIES: [&str; 6] = [
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "FTP_PROXY",
    "NO_PROXY",
    "ALL_PROXY",
    "SOURCE_DATE_EPOCH",
];

/// The work that an instruction leaves to do. Everything in it decides what its result is, so its serialised
/// form is part of the cache key.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Action {
    /// Only the configuration changed.
    None,
    Mkdir {
        path: String,
        user: String,
    },
    Run(RunAction),
    Copy(CopyAction),
}

/// A command to execute.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct RunAction {
    pub args: Vec<String>,
    /// A here-document with an interpreter line: it is the program.
    pub script: Option<String>,
    pub env: BTreeMap<String, String>,
    /// Proxy settings: in the environment, but not in the key.
    #[serde(skip)]
    pub proxies: BTreeMap<String, String>,
    pub user: String,
    pub cwd: String,
    pub mounts: Vec<MountAction>,
    pub offline: bool,
}

/// A mount of a `RUN`, with its fields expanded.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct MountAction {
    #[serde(skip)]
    pub at: Position,
    pub target: String,
    pub readonly: bool,
    #[serde(flatten)]
    pub source: MountSource,
}

/// What is mounted.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "lowercase", tag = "type")]
pub(crate) enum MountSource {
    Cache(CacheMount),
    Bind {
        #[serde(skip)]
        from: Option<Word>,
        source: String,
    },
    Tmpfs {
        size: Option<u64>,
    },
    Secret {
        id: String,
        env: Option<String>,
        required: bool,
        #[serde(flatten)]
        access: Access,
    },
    Ssh {
        id: String,
        required: bool,
        #[serde(flatten)]
        access: Access,
    },
}

/// A directory that outlives the build.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct CacheMount {
    pub id: String,
    #[serde(skip)]
    pub sharing: Sharing,
    /// What it starts with a copy of.
    #[serde(skip)]
    pub from: Option<Word>,
    #[serde(skip)]
    pub source: Option<String>,
    #[serde(flatten)]
    pub access: Access,
}

/// Whose a mounted file or directory is, and who may use it.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub(crate) struct Access {
    pub uid: u32,
    pub gid: u32,
    pub mode: u32,
}

/// Files to copy.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct CopyAction {
    /// Which archives are unpacked.
    pub unpack: Unpack,
    #[serde(skip)]
    pub from: Option<Word>,
    pub sources: Vec<CopySource>,
    /// Absolute; with a slash at the end it is a directory whether it exists or not.
    pub dest: String,
    pub chown: Option<String>,
    pub chmod: Option<Chmod>,
    pub exclude: Vec<String>,
    pub parents: bool,
}

/// Which archives a copy unpacks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Unpack {
    None,
    Local,
    All,
}

/// One source of a copy.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum CopySource {
    Path(String),
    Inline {
        name: String,
        content: String,
    },
    /// A file by its URL.
    Url {
        url: String,
        name: String,
        checksum: Option<Digest>,
    },
    Git(Git),
}

/// A stage while it is evaluated.
#[derive(Debug, Clone)]
pub(crate) struct State {
    pub config: ImageConfig,
    args: BTreeMap<String, String>,
    globals: BTreeMap<String, String>,
    build_args: BTreeMap<String, String>,
    escape: char,
    /// `CMD` was set in this stage, so that `ENTRYPOINT` keeps it.
    own_cmd: bool,
}

impl State {
    /// The state after `FROM`. `globals` are the `ARG`s before the first `FROM` and the platform's.
    pub(crate) fn new(
        config: ImageConfig,
        globals: &BTreeMap<String, String>,
        build_args: &BTreeMap<String, String>,
        escape: char,
    ) -> Self {
        State {
            config,
            args: BTreeMap::new(),
            globals: globals.clone(),
            build_args: build_args.clone(),
            escape,
            own_cmd: false,
        }
    }

    /// Takes the triggers of the base image, which run once in an image built on it.
    pub(crate) fn take_triggers(&mut self) -> Vec<String> {
        std::mem::take(&mut self.config.config.on_build)
    }

    /// Evaluates one instruction.
    pub(crate) fn apply(&mut self, instruction: &Instruction) -> Result<Action, Problem> {
        match &instruction.kind {
            Kind::Arg(decls) => {
                let mut declared = BTreeMap::new();
                for decl in decls {
                    let value = match (self.build_args.get(&decl.name), &decl.default) {
                        (Some(value), _) => Some(value.clone()),
                        (None, Some(default)) => Some(self.expand(default)?),
                        (None, None) => self.globals.get(&decl.name).cloned(),
                    };
                    if let Some(value) = value {
                        declared.insert(decl.name.clone(), value);
                    }
                }
                // As with `ENV`, all values are expanded before any is set.
                self.args.extend(declared);
            }
            Kind::Env(pairs) => {
                for (name, value) in self.pairs(pairs)? {
                    self.config.set_env(&name, &value);
                }
            }
            Kind::Label(pairs) => {
                let pairs = self.pairs(pairs)?;
                self.config.config.labels.extend(pairs);
            }
            Kind::Run(run) => return self.run(run).map(Action::Run),
            Kind::Copy(copy) => return self.copy(copy).map(Action::Copy),
            Kind::Workdir(word) => {
                let path = self.absolute(word, "`WORKDIR`")?;
                self.config.config.working_dir = path.clone();
                return Ok(Action::Mkdir {
                    path,
                    user: self.config.config.user.clone(),
                });
            }
            Kind::User(word) => {
                let user = self.expand(word)?;
                if user.is_empty() {
                    return Err(Problem::new(
                        word.at,
                        "`USER`: expected a user, found nothing",
                    ));
                }
                self.config.config.user = user;
            }
            Kind::Expose(words) => {
                for word in words {
                    for port in ports(&self.expand(word)?, word.at)? {
                        self.config.config.exposed_ports.insert(port, json!({}));
                    }
                }
            }
            Kind::Volume(words) => {
                for word in words {
                    let path = self.expand(word)?;
                    if path.is_empty() {
                        return Err(Problem::new(
                            word.at,
                            "`VOLUME`: expected a path, found nothing",
                        ));
                    }
                    self.config.config.volumes.insert(path, json!({}));
                }
            }
            Kind::Entrypoint(command) => {
                self.config.config.entrypoint = self.arguments(command);
                if !self.own_cmd {
                    self.config.config.cmd = None;
                }
            }
            Kind::Cmd(command) => {
                self.config.config.cmd = self.arguments(command);
                self.own_cmd = true;
            }
            Kind::Shell(args) => self.config.config.shell = Some(args.clone()),
            Kind::StopSignal(word) => self.config.config.stop_signal = Some(self.expand(word)?),
            Kind::Healthcheck(check) => self.config.config.healthcheck = Some(healthcheck(check)),
            Kind::Onbuild(trigger) => self.config.config.on_build.push(trigger.clone()),
            Kind::Maintainer(author) => self.config.author = Some(author.clone()),
        }
        Ok(Action::None)
    }

    fn lookup(&self, name: &str) -> Option<String> {
        self.config
            .env(name)
            .map(str::to_string)
            .or_else(|| self.args.get(name).cloned())
    }

    fn expand(&self, word: &Word) -> Result<String, Problem> {
        let failed = |error: ExpandError| Problem::new(word.at, error.to_string());
        expand(&word.raw, &|name| self.lookup(name), self.escape).map_err(failed)
    }

    /// All values are expanded before any is set: `ENV a=1 b=$a` sees the old `a`.
    fn pairs(&self, pairs: &[(Word, Word)]) -> Result<Vec<(String, String)>, Problem> {
        pairs
            .iter()
            .map(|(key, value)| Ok((self.expand(key)?, self.expand(value)?)))
            .collect()
    }

    fn absolute(&self, word: &Word, what: &str) -> Result<String, Problem> {
        let path = self.expand(word)?;
        if path.is_empty() || path.contains('\0') {
            return Err(Problem::new(
                word.at,
                format!("{what}: expected a path, found `{path}`"),
            ));
        }
        Ok(join(&self.config.config.working_dir, &path))
    }

    fn shell(&self) -> Vec<String> {
        let default = || vec!["/bin/sh".to_string(), "-c".to_string()];
        self.config
            .config
            .shell
            .clone()
            .filter(|shell| !shell.is_empty())
            .unwrap_or_else(default)
    }

    fn arguments(&self, command: &Command) -> Option<Vec<String>> {
        match command {
            Command::Exec(args) if args.is_empty() => None,
            Command::Exec(args) => Some(args.clone()),
            Command::Shell(text) => {
                let mut args = self.shell();
                args.push(text.clone());
                Some(args)
            }
        }
    }
}

/// Joins a path to the working directory and resolves `.` and `..` by their names.
fn join(cwd: &str, path: &str) -> String {
    let full = if path.starts_with('/') {
        path.to_string()
    } else {
        format!("{cwd}/{path}")
    };
    let mut parts: Vec<&str> = Vec::new();
    for part in full.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop();
            }
            part => parts.push(part),
        }
    }
    format!("/{}", parts.join("/"))
}

/// `80`, `80/udp`, `8000-8010/tcp`.
fn ports(text: &str, at: Position) -> Result<Vec<String>, Problem> {
    let problem = || {
        let shown: String = text.chars().take(60).collect();
        Problem::new(
            at,
            format!("`EXPOSE`: expected a port such as `80` or `8000-8010/udp`, found `{shown}`"),
        )
    };
    let (range, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
    let protocol = protocol.to_ascii_lowercase();
    if !matches!(protocol.as_str(), "tcp" | "udp" | "sctp") {
        return Err(problem());
    }
    let (first, last) = range.split_once('-').unwrap_or((range, range));
    let first: u16 = first.parse().map_err(|_| problem())?;
    let last: u16 = last.parse().map_err(|_| problem())?;
    if first > last {
        return Err(problem());
    }
    Ok((first..=last)
        .map(|port| format!("{port}/{protocol}"))
        .collect())
}

fn healthcheck(check: &Healthcheck) -> Value {
    let test: Vec<String> = match &check.command {
        None => return json!({"Test": ["NONE"]}),
        Some(Command::Shell(text)) => vec!["CMD-SHELL".into(), text.clone()],
        Some(Command::Exec(args)) => std::iter::once("CMD".to_string())
            .chain(args.iter().cloned())
            .collect(),
    };
    let mut value = json!({ "Test": test });
    let numbers = [
        ("Interval", check.interval),
        ("Timeout", check.timeout),
        ("StartPeriod", check.start_period),
        ("StartInterval", check.start_interval),
        ("Retries", check.retries.map(u64::from)),
    ];
    for (name, number) in numbers {
        if let Some(number) = number {
            value[name] = number.into();
        }
    }
    value
}

#[cfg(test)]
mod tests;
