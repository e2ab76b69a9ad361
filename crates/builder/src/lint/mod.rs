//! Judges a Containerfile without building it: what is not well-formed, and what is but will not do what its author
//! expects. Pure.
//!
//! A [`Rule`] has an id, an explanation and a check; `rules` has them by what they are about.

mod rules;
mod shell;
mod silence;
mod variables;

use crate::containerfile::{Containerfile, Instruction, Position, Problem, Stage};
use silence::Silenced;

/// How bad it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// It builds, but probably not what was meant.
    Warning,
    /// It does not build.
    Error,
}

impl Level {
    /// The level as a word.
    pub fn as_str(self) -> &'static str {
        match self {
            Level::Warning => "warning",
            Level::Error => "error",
        }
    }
}

/// One thing to look at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// The rule that it breaks.
    pub id: &'static str,
    /// How bad it is.
    pub level: Level,
    /// Where it is.
    pub at: Position,
    /// What it is.
    pub message: String,
    /// What to do about it.
    pub hint: Option<String>,
}

/// One kind of finding.
#[derive(Debug)]
pub struct Rule {
    /// Its name; stable, in words joined by `-`.
    pub id: &'static str,
    /// How bad it is to break it.
    pub level: Level,
    /// What goes wrong when it is broken, why, and what to write instead.
    pub explanation: &'static str,
    check: fn(&Containerfile, &mut Report),
}

/// Takes what the check of one rule finds.
#[derive(Debug)]
struct Report {
    id: &'static str,
    level: Level,
    findings: Vec<Finding>,
}

impl Report {
    fn tell(&mut self, at: Position, message: impl Into<String>, hint: impl Into<String>) {
        self.findings.push(Finding {
            id: self.id,
            level: self.level,
            at,
            message: message.into(),
            hint: Some(hint.into()),
        });
    }
}

/// The parser's findings have one rule for all of them: where the language is broken nothing else can be judged.
static SYNTAX: Rule = Rule {
    id: "syntax",
    level: Level::Error,
    explanation: "The text is not a Containerfile: an unknown instruction, flag or field, a missing argument, a \
                  here-document or quote that nobody closes. The message says what was expected. Other rules are \
                  looked at when the whole file is well-formed.",
    check: |_, _| {},
};

/// Every rule, those that stop a build first.
pub fn rules() -> impl Iterator<Item = &'static Rule> {
    std::iter::once(&SYNTAX).chain(rules::ALL.iter().copied())
}

/// Everything there is to say about a Containerfile, in order of position.
///
/// A comment `# lint ignore=ID[,ID…]` on the line above an instruction leaves warnings of that kind out there; at the
/// top of the file, before anything but comments, it leaves them out everywhere.
pub fn lint(text: &str) -> Vec<Finding> {
    let mut findings: Vec<Finding> = match crate::containerfile::parse(text) {
        Err(problems) => problems.into_iter().map(error).collect(),
        Ok(file) => rules().flat_map(|rule| broken(rule, &file)).collect(),
    };
    let silenced = Silenced::read(text);
    findings.retain(|finding| finding.level == Level::Error || !silenced.covers(finding));
    findings.sort_by_key(|finding| finding.at);
    findings
}

fn broken(rule: &Rule, file: &Containerfile) -> Vec<Finding> {
    let mut report = Report {
        id: rule.id,
        level: rule.level,
        findings: Vec::new(),
    };
    (rule.check)(file, &mut report);
    report.findings
}

fn error(problem: Problem) -> Finding {
    Finding {
        id: SYNTAX.id,
        level: SYNTAX.level,
        at: problem.at,
        message: problem.message,
        hint: problem.hint,
    }
}

/// Every instruction with its stage and the stage's index.
fn instructions(file: &Containerfile) -> impl Iterator<Item = (usize, &Stage, &Instruction)> {
    let stages = file.stages.iter().enumerate();
    stages.flat_map(|(index, stage)| {
        stage
            .instructions
            .iter()
            .map(move |instruction| (index, stage, instruction))
    })
}

#[cfg(test)]
mod tests;
