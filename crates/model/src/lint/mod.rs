//! Judges manifests without a cluster: what an API server refuses, and what it takes but will not do what its author
//! expects.
//!
//! A [`Rule`] has an id, an explanation and a check; `rules` has them by what they are about. All manifests are looked at
//! together, because some mistakes are between two: an automounter without the package that its maps need.

mod rules;
mod seen;
mod text;
mod tree;

use std::fmt;

use seen::{File, Item, Seen};

/// How bad it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// It is taken, but probably does not do what was meant.
    Warning,
    /// It is refused.
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

/// A place in a text, both counted from 1; the column counts characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// The line.
    pub line: u32,
    /// The column.
    pub column: u32,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.line, self.column)
    }
}

/// One thing to look at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// Which of the texts it is in, from 0.
    pub text: usize,
    /// Where it is there.
    pub at: Place,
    /// The rule that is broken.
    pub id: &'static str,
    /// How bad it is.
    pub level: Level,
    /// What it is; names the object.
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
    check: fn(&Seen<'_>, &mut Report<'_>),
}

/// Takes what the check of one rule finds.
#[derive(Debug)]
struct Report<'r> {
    rule: &'r Rule,
    findings: Vec<Finding>,
}

impl Report<'_> {
    /// Tells of a field of an object.
    fn tell(&mut self, item: &Item<'_>, field: &str, message: impl Into<String>, hint: &str) {
        self.tell_at(item, item.place(field), message, hint);
    }

    /// Tells of a line of a text that is the value of a field.
    fn tell_line(
        &mut self,
        item: &Item<'_>,
        (field, line): (&str, usize),
        message: impl Into<String>,
        hint: &str,
    ) {
        self.tell_at(item, item.place_of_line(field, line), message, hint);
    }

    /// Tells of a line of a file's content.
    fn tell_content(
        &mut self,
        file: &File<'_, '_>,
        line: usize,
        message: impl Into<String>,
        hint: &str,
    ) {
        self.tell_line(file.item, (&file.contents_field(), line), message, hint);
    }

    fn tell_at(&mut self, item: &Item<'_>, at: Place, message: impl Into<String>, hint: &str) {
        if self.rule.level == Level::Warning && item.ignores(self.rule.id) {
            return;
        }
        self.findings.push(Finding {
            text: item.text,
            at,
            id: self.rule.id,
            level: self.rule.level,
            message: format!("{}: {}", item.label, message.into()),
            hint: (!hint.is_empty()).then(|| hint.to_owned()),
        });
    }
}

/// A Containerfile inside a manifest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Embedded {
    /// Which of the texts it is in, from 0.
    pub text: usize,
    /// The MachineOSConfig, in words.
    pub label: String,
    /// The Containerfile.
    pub containerfile: String,
    /// Where each of its lines begins in the text.
    pub lines: Vec<Place>,
    /// Ids that the object's annotation asks not to be told.
    pub ignored: Vec<String>,
}

/// What there is to say about manifests.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Linted {
    /// In order of text and place.
    pub findings: Vec<Finding>,
    /// Containerfiles, which are judged elsewhere.
    pub containerfiles: Vec<Embedded>,
}

/// Every rule, those that an API server has first.
pub fn rules() -> impl Iterator<Item = &'static Rule> {
    rules::ALL.iter().copied()
}

/// Everything there is to say about manifests, given as texts of YAML or JSON.
///
/// The annotation `caprock.dev/lint-ignore: ID[,ID…]` of an object leaves warnings of that kind about it out.
pub fn lint(texts: &[&str]) -> Linted {
    let seen = Seen::read(texts);
    let mut findings: Vec<Finding> = rules().flat_map(|rule| broken(rule, &seen)).collect();
    findings.sort_by_key(|finding| (finding.text, finding.at));
    Linted {
        findings,
        containerfiles: seen.containerfiles(),
    }
}

fn broken(rule: &Rule, seen: &Seen<'_>) -> Vec<Finding> {
    let mut report = Report {
        rule,
        findings: Vec::new(),
    };
    (rule.check)(seen, &mut report);
    report.findings
}

#[cfg(test)]
mod tests;
