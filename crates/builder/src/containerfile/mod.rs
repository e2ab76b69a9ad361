//! The Containerfile language: text in, stages of instructions with their positions out.
//!
//! Pure. [`parse`] checks everything that can be known without arguments and reports all problems at once;
//! variables are expanded later, when their values are known ([`expand`]).

mod expand;
mod flags;
mod heredoc;
mod instruction;
mod lines;
mod mount;
mod words;

pub use expand::{ExpandError, expand, expand_text};
pub use heredoc::Heredoc;
pub use lines::MAX_TEXT;
pub use mount::{Mount, MountKind, Owner, Sharing};

use std::fmt;

/// A place in the Containerfile, both counted from 1; the column counts characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Position {
    pub line: u32,
    pub column: u32,
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.line, self.column)
    }
}

/// Something the author must change, with the place and, where one is known, the remedy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    pub at: Position,
    pub message: String,
    pub hint: Option<String>,
}

impl Problem {
    pub(crate) fn new(at: Position, message: impl Into<String>) -> Self {
        Problem {
            at,
            message: message.into(),
            hint: None,
        }
    }

    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.at, self.message)?;
        match &self.hint {
            Some(hint) => write!(f, " ({hint})"),
            None => Ok(()),
        }
    }
}

/// A whole Containerfile.
#[derive(Debug, Clone, PartialEq)]
pub struct Containerfile {
    /// `ARG`s before the first `FROM`.
    pub args: Vec<ArgDecl>,
    pub stages: Vec<Stage>,
    /// The escape character: a backslash unless a directive says a backtick.
    pub escape: char,
}

/// One `FROM` and what follows it.
#[derive(Debug, Clone, PartialEq)]
pub struct Stage {
    pub at: Position,
    pub text: String,
    pub platform: Option<Word>,
    pub image: Word,
    /// The name after `AS`, in lower case.
    pub name: Option<String>,
    pub instructions: Vec<Instruction>,
}

/// One instruction inside a stage.
#[derive(Debug, Clone, PartialEq)]
pub struct Instruction {
    pub at: Position,
    /// As written, continuation lines joined, without here-documents.
    pub text: String,
    pub kind: Kind,
}

/// A piece of text in which variables and quotes have not been resolved yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Word {
    pub raw: String,
    pub at: Position,
}

/// `ARG name[=default]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ArgDecl {
    pub name: String,
    pub default: Option<Word>,
    pub at: Position,
}

/// What an instruction says.
#[derive(Debug, Clone, PartialEq)]
pub enum Kind {
    Arg(Vec<ArgDecl>),
    Env(Vec<(Word, Word)>),
    Label(Vec<(Word, Word)>),
    Run(Run),
    Copy(Copy),
    Workdir(Word),
    User(Word),
    Expose(Vec<Word>),
    Volume(Vec<Word>),
    Entrypoint(Command),
    Cmd(Command),
    Shell(Vec<String>),
    StopSignal(Word),
    Healthcheck(Healthcheck),
    /// The instruction to run in an image built on this one.
    Onbuild(String),
    Maintainer(String),
}

/// Shell form (one string for the shell) or exec form (an argument list).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    Shell(String),
    Exec(Vec<String>),
}

/// `RUN`.
#[derive(Debug, Clone, PartialEq)]
pub struct Run {
    pub command: Command,
    pub heredocs: Vec<Heredoc>,
    pub mounts: Vec<Mount>,
    pub network: Network,
}

/// `RUN --network`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Network {
    /// The network of the machine that builds.
    #[default]
    Host,
    /// Loopback only.
    None,
}

/// `COPY` or `ADD`.
#[derive(Debug, Clone, PartialEq)]
pub struct Copy {
    /// `ADD`: sources may be remote, and local archives are unpacked.
    pub add: bool,
    /// `ADD --checksum`: the digest of the remote file.
    pub checksum: Option<Word>,
    /// `ADD --keep-git-dir`.
    pub keep_git_dir: bool,
    /// `ADD --unpack`: whether archives are unpacked; those that are local when absent.
    pub unpack: Option<bool>,
    pub from: Option<Word>,
    pub chown: Option<Word>,
    pub chmod: Option<Word>,
    pub exclude: Vec<Word>,
    /// `--parents`: source paths keep their directories below the destination.
    pub parents: bool,
    pub sources: Vec<Source>,
    pub dest: Word,
}

/// Where `COPY` takes a file from.
#[derive(Debug, Clone, PartialEq)]
pub enum Source {
    Path(Word),
    Heredoc(Heredoc),
}

/// `HEALTHCHECK`: durations in nanoseconds, as image configurations hold them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Healthcheck {
    /// `None` for `HEALTHCHECK NONE`.
    pub command: Option<Command>,
    pub interval: Option<u64>,
    pub timeout: Option<u64>,
    pub start_period: Option<u64>,
    pub start_interval: Option<u64>,
    pub retries: Option<u32>,
}

/// Parses a Containerfile.
///
/// Every problem found is returned, in order of position; a result means that the text is well-formed, not
/// that its stages and variables exist.
pub fn parse(text: &str) -> Result<Containerfile, Vec<Problem>> {
    let (directives, lines, mut problems) = lines::split(text);
    let mut args = Vec::new();
    let mut stages: Vec<Stage> = Vec::new();
    for line in &lines {
        match instruction::parse(line, directives.escape) {
            Ok(instruction::Parsed::From(stage)) => stages.push(*stage),
            Ok(instruction::Parsed::In(instruction)) => match stages.last_mut() {
                Some(stage) => stage.instructions.push(*instruction),
                None => match instruction.kind {
                    Kind::Arg(decls) => args.extend(decls),
                    _ => problems.push(
                        Problem::new(
                            instruction.at,
                            "expected `FROM` before the first instruction",
                        )
                        .hint("only `ARG` may stand before `FROM`"),
                    ),
                },
            },
            Err(found) => problems.extend(found),
        }
    }
    if stages.is_empty() && problems.is_empty() {
        let at = Position { line: 1, column: 1 };
        problems.push(Problem::new(
            at,
            "expected at least one `FROM`, found no instruction that starts a stage",
        ));
    }
    if problems.is_empty() {
        return Ok(Containerfile {
            args,
            stages,
            escape: directives.escape,
        });
    }
    problems.sort_by_key(|problem| problem.at);
    problems.truncate(MAX_PROBLEMS);
    Err(problems)
}

/// Enough to mend a file in one go, few enough to read.
const MAX_PROBLEMS: usize = 50;

/// Parses the instruction of an `ONBUILD` trigger that a base image carries.
pub(crate) fn parse_trigger(text: &str) -> Result<Vec<Instruction>, Vec<Problem>> {
    let file = parse(&format!("FROM scratch\n{text}"))?;
    Ok(file
        .stages
        .into_iter()
        .flat_map(|stage| stage.instructions)
        .collect())
}

#[cfg(test)]
mod tests;
