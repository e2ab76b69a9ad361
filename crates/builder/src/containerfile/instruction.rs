//! One logical line to one instruction.

mod healthcheck;

use super::flags::{Flags, clip, nearest};
use super::lines::Line;
use super::{
    ArgDecl, Command, Copy, Instruction, Kind, Network, Problem, Run, Source, Stage, Word, mount,
    words,
};

/// What a line is.
#[derive(Debug)]
pub(super) enum Parsed {
    From(Box<Stage>),
    In(Box<Instruction>),
}

const KEYWORDS: [&str; 18] = [
    "FROM",
    "RUN",
    "CMD",
    "LABEL",
    "MAINTAINER",
    "EXPOSE",
    "ENV",
    "ADD",
    "COPY",
    "ENTRYPOINT",
    "VOLUME",
    "USER",
    "WORKDIR",
    "ARG",
    "ONBUILD",
    "STOPSIGNAL",
    "HEALTHCHECK",
    "SHELL",
];

/// Parses a line; all its problems at once.
pub(super) fn parse(line: &Line, escape: char) -> Result<Parsed, Vec<Problem>> {
    let keyword_end = line
        .text
        .find(char::is_whitespace)
        .unwrap_or(line.text.len());
    let keyword = line.text[..keyword_end].to_ascii_uppercase();
    let mut parser = Parser {
        line,
        escape,
        keyword: &keyword,
        problems: Vec::new(),
    };
    let rest = line.text[keyword_end..]
        .find(|c: char| !c.is_whitespace())
        .map(|offset| keyword_end + offset);
    let Some(rest) = rest else {
        return Err(match KEYWORDS.contains(&keyword.as_str()) {
            true => vec![Problem::new(
                line.at(0),
                format!("`{keyword}`: expected an argument"),
            )],
            false => vec![unknown(line, &keyword)],
        });
    };
    let parsed = parser.dispatch(rest);
    match parsed {
        Some(parsed) if parser.problems.is_empty() => Ok(parsed),
        _ => Err(parser.problems),
    }
}

fn unknown(line: &Line, keyword: &str) -> Problem {
    let problem = Problem::new(
        line.at(0),
        format!("unknown instruction `{}`", clip(keyword)),
    );
    match nearest(keyword, KEYWORDS.iter().copied()) {
        Some(known) => problem.hint(format!("did you mean `{known}`?")),
        None => {
            problem.hint("a line that continues the one above needs a `\\` at the end of that line")
        }
    }
}

struct Parser<'a> {
    line: &'a Line,
    escape: char,
    keyword: &'a str,
    problems: Vec<Problem>,
}

impl Parser<'_> {
    fn dispatch(&mut self, rest: usize) -> Option<Parsed> {
        let (mut flags, args) = Flags::read(self.line, rest, self.escape);
        let known: &[&str] = match self.keyword {
            "FROM" => &["platform"],
            "RUN" => &["mount", "network", "security"],
            "COPY" => &["from", "chown", "chmod", "link", "parents", "exclude"],
            "ADD" => &[
                "chown",
                "chmod",
                "link",
                "exclude",
                "checksum",
                "keep-git-dir",
                "unpack",
            ],
            "HEALTHCHECK" => &[
                "interval",
                "timeout",
                "start-period",
                "start-interval",
                "retries",
            ],
            _ => &[],
        };
        let kind = match self.keyword {
            "FROM" => {
                let platform = flags.one("platform", &mut self.problems);
                flags.finish(self.keyword, known, &mut self.problems);
                return self
                    .from(platform, args)
                    .map(|stage| Parsed::From(Box::new(stage)));
            }
            "RUN" => self.run(&mut flags, args),
            "COPY" => self.copy(&mut flags, args, false),
            "ADD" => self.copy(&mut flags, args, true),
            "HEALTHCHECK" => self.healthcheck(&mut flags, args),
            "ARG" => self.arg(rest),
            "ENV" => self.pairs(rest).map(Kind::Env),
            "LABEL" => self.pairs(rest).map(Kind::Label),
            "WORKDIR" => Some(Kind::Workdir(self.whole(rest))),
            "USER" => Some(Kind::User(self.whole(rest))),
            "STOPSIGNAL" => Some(Kind::StopSignal(self.whole(rest))),
            "MAINTAINER" => Some(Kind::Maintainer(self.line.text[rest..].to_string())),
            "EXPOSE" => Some(Kind::Expose(self.words(rest))),
            "VOLUME" => Some(Kind::Volume(self.list(rest))),
            "ENTRYPOINT" => Some(Kind::Entrypoint(self.command(rest))),
            "CMD" => Some(Kind::Cmd(self.command(rest))),
            "SHELL" => self.shell(rest),
            "ONBUILD" => self.onbuild(rest),
            keyword => {
                self.problems.push(unknown(self.line, keyword));
                return None;
            }
        };
        if !known.is_empty() {
            flags.finish(self.keyword, known, &mut self.problems);
        }
        let instruction = Instruction {
            at: self.line.at(0),
            text: self.line.text.clone(),
            kind: kind?,
        };
        Some(Parsed::In(Box::new(instruction)))
    }

    fn problem(&mut self, offset: usize, message: impl Into<String>) {
        self.problems
            .push(Problem::new(self.line.at(offset), message));
    }

    fn wrong(&mut self, word: &Word, message: impl Into<String>) {
        self.problems.push(Problem::new(word.at, message));
    }

    fn word(&self, offset: usize, raw: &str) -> Word {
        Word {
            raw: raw.to_string(),
            at: self.line.at(offset),
        }
    }

    fn words(&self, from: usize) -> Vec<Word> {
        let found = words::split(&self.line.text[from..], self.escape);
        found
            .into_iter()
            .map(|(offset, raw)| self.word(from + offset, raw))
            .collect()
    }

    /// Everything that is left, as one word.
    fn whole(&self, from: usize) -> Word {
        self.word(from, &self.line.text[from..])
    }

    fn from(&mut self, platform: Option<Word>, args: usize) -> Option<Stage> {
        let words = self.words(args);
        let name = match words.as_slice() {
            [_] => None,
            [_, as_, name] if as_.raw.eq_ignore_ascii_case("as") => Some(name),
            [] => {
                self.problem(0, "`FROM`: expected an image");
                return None;
            }
            [_, second, ..] => {
                self.wrong(
                    second,
                    "`FROM`: expected `FROM IMAGE` or `FROM IMAGE AS NAME`",
                );
                return None;
            }
        };
        if let Some(name) = name.filter(|name| !stage_name(&name.raw)) {
            let message = format!("`FROM`: `{}` is not a stage name", clip(&name.raw));
            let hint = "expected a letter, then letters, digits, `_`, `-` and `.`";
            self.problems
                .push(Problem::new(name.at, message).hint(hint));
        }
        Some(Stage {
            at: self.line.at(0),
            text: self.line.text.clone(),
            platform,
            image: words[0].clone(),
            name: name.map(|name| name.raw.to_lowercase()),
            instructions: Vec::new(),
        })
    }

    fn run(&mut self, flags: &mut Flags, args: usize) -> Option<Kind> {
        let mut mounts = Vec::new();
        for word in flags.all("mount", &mut self.problems) {
            mounts.extend(mount::parse(&word, &mut self.problems));
        }
        let network = match flags.one("network", &mut self.problems) {
            None => Network::default(),
            Some(word) => match word.raw.as_str() {
                "default" | "host" => Network::Host,
                "none" => Network::None,
                other => {
                    let message = format!(
                        "`--network`: expected default, host or none, found `{}`",
                        clip(other)
                    );
                    self.wrong(&word, message);
                    Network::default()
                }
            },
        };
        if let Some(word) = flags.one("security", &mut self.problems)
            && word.raw != "sandbox"
        {
            let message = format!(
                "`--security`: `{}` is not allowed, expected sandbox",
                clip(&word.raw)
            );
            self.wrong(&word, message);
        }
        if args >= self.line.text.len() {
            self.problem(0, "`RUN`: expected a command");
            return None;
        }
        let command = self.command(args);
        Some(Kind::Run(Run {
            command,
            heredocs: self.line.heredocs.clone(),
            mounts,
            network,
        }))
    }

    fn copy(&mut self, flags: &mut Flags, args: usize, add: bool) -> Option<Kind> {
        let from = if add {
            None
        } else {
            flags.one("from", &mut self.problems)
        };
        let chown = flags.one("chown", &mut self.problems);
        let chmod = flags.one("chmod", &mut self.problems);
        let exclude = flags.all("exclude", &mut self.problems);
        // A hint to builders that stack layers instead of copying: the files are the same.
        flags.switch("link", &mut self.problems);
        let parents = !add && flags.switch("parents", &mut self.problems);
        let checksum = match add {
            true => flags.one("checksum", &mut self.problems),
            false => None,
        };
        let keep_git_dir = add && flags.switch("keep-git-dir", &mut self.problems);
        let unpack = match add {
            true => flags.choice("unpack", &mut self.problems),
            false => Some(false),
        };
        let mut words = self.list(args);
        let Some(dest) = words.pop().filter(|_| !words.is_empty()) else {
            self.problem(
                0,
                format!(
                    "`{}`: expected at least one source and a destination",
                    self.keyword
                ),
            );
            return None;
        };
        let mut heredocs = self.line.heredocs.iter();
        let mut sources = Vec::new();
        for word in words {
            if word.raw.starts_with("<<")
                && let Some(heredoc) = heredocs.next()
            {
                sources.push(Source::Heredoc(heredoc.clone()));
                continue;
            }
            sources.push(Source::Path(word));
        }
        Some(Kind::Copy(Copy {
            add,
            checksum,
            keep_git_dir,
            unpack,
            from,
            chown,
            chmod,
            exclude,
            parents,
            sources,
            dest,
        }))
    }

    fn arg(&mut self, rest: usize) -> Option<Kind> {
        let mut decls = Vec::new();
        for word in self.words(rest) {
            let (name, default) = match word.raw.split_once('=') {
                Some((name, default)) => (
                    name,
                    Some(Word {
                        raw: default.to_string(),
                        at: word.at,
                    }),
                ),
                None => (word.raw.as_str(), None),
            };
            if !variable_name(name) {
                let message = format!("`ARG`: `{}` is not a variable name", clip(name));
                self.wrong(&word, message);
            }
            decls.push(ArgDecl {
                name: name.to_string(),
                default,
                at: word.at,
            });
        }
        Some(Kind::Arg(decls))
    }

    /// `key=value …`, or the old `key value with spaces`.
    fn pairs(&mut self, rest: usize) -> Option<Vec<(Word, Word)>> {
        let words = self.words(rest);
        let first = words.first()?;
        if !first.raw.contains('=') {
            let after = rest + first.raw.len();
            let value = self.line.text[after..].trim_start();
            if value.is_empty() {
                self.problem(rest, format!("`{}`: expected `NAME=VALUE`", self.keyword));
                return None;
            }
            let offset = self.line.text.len() - value.len();
            return Some(vec![(first.clone(), self.word(offset, value))]);
        }
        let mut pairs = Vec::new();
        for word in words {
            match word.raw.split_once('=') {
                Some(("", _)) | None => {
                    let message = format!(
                        "`{}`: expected `NAME=VALUE`, found `{}`",
                        self.keyword,
                        clip(&word.raw)
                    );
                    let hint = "put a value that has spaces into double quotes";
                    self.problems
                        .push(Problem::new(word.at, message).hint(hint));
                }
                Some((key, value)) => {
                    let key = Word {
                        raw: key.to_string(),
                        at: word.at,
                    };
                    pairs.push((
                        key,
                        Word {
                            raw: value.to_string(),
                            at: word.at,
                        },
                    ));
                }
            }
        }
        Some(pairs)
    }

    /// A JSON array of strings, or words.
    fn list(&self, from: usize) -> Vec<Word> {
        match self.json(from) {
            Some(items) => items
                .into_iter()
                .map(|raw| self.word(from, &quote(&raw, self.escape)))
                .collect(),
            None => self.words(from),
        }
    }

    fn json(&self, from: usize) -> Option<Vec<String>> {
        let text = &self.line.text[from..];
        if !text.starts_with('[') {
            return None;
        }
        serde_json::from_str(text).ok()
    }

    fn command(&self, from: usize) -> Command {
        match self.json(from) {
            Some(args) => Command::Exec(args),
            None => Command::Shell(self.line.text[from..].to_string()),
        }
    }

    fn shell(&mut self, rest: usize) -> Option<Kind> {
        match self.json(rest) {
            Some(args) if !args.is_empty() => Some(Kind::Shell(args)),
            _ => {
                self.problem(
                    rest,
                    "`SHELL`: expected a JSON array such as `[\"/bin/sh\", \"-c\"]`",
                );
                None
            }
        }
    }

    fn onbuild(&mut self, rest: usize) -> Option<Kind> {
        let text = &self.line.text[rest..];
        let keyword = text
            .split_whitespace()
            .next()
            .unwrap_or_default()
            .to_ascii_uppercase();
        if matches!(keyword.as_str(), "ONBUILD" | "FROM" | "MAINTAINER") {
            self.problem(
                rest,
                format!("`ONBUILD`: `{keyword}` is not allowed as a trigger"),
            );
            return None;
        }
        if !KEYWORDS.contains(&keyword.as_str()) {
            self.problem(
                rest,
                format!("`ONBUILD`: unknown instruction `{}`", clip(&keyword)),
            );
            return None;
        }
        let mut trigger = text.to_string();
        for heredoc in &self.line.heredocs {
            trigger.push('\n');
            trigger.push_str(&heredoc.content);
            trigger.push_str(&heredoc.name);
        }
        Some(Kind::Onbuild(trigger))
    }
}

/// Protects a string of a JSON array from word splitting; variables in it are still expanded.
fn quote(raw: &str, escape: char) -> String {
    let mut quoted = String::with_capacity(raw.len() + 2);
    quoted.push('"');
    for c in raw.chars() {
        if c == '"' || c == escape {
            quoted.push(escape);
        }
        quoted.push(c);
    }
    quoted.push('"');
    quoted
}

fn stage_name(name: &str) -> bool {
    name.starts_with(|c: char| c.is_ascii_alphabetic())
        && name
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.'))
}

fn variable_name(name: &str) -> bool {
    name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
}
