//! `--name=value` words between an instruction and its arguments.

use super::lines::Line;
use super::{Position, Problem, Word, words};

/// The flags of one instruction, taken one by one; what nobody takes is a problem.
#[derive(Debug)]
pub(super) struct Flags {
    found: Vec<Flag>,
}

#[derive(Debug)]
struct Flag {
    name: String,
    value: Option<String>,
    at: Position,
}

impl Flags {
    /// Reads the flags that start at `from`; returns them and the offset of the first argument.
    pub(super) fn read(line: &Line, mut from: usize, escape: char) -> (Flags, usize) {
        let mut found = Vec::new();
        while let Some((start, end)) = words::next(&line.text, from, escape) {
            let word = &line.text[start..end];
            if word == "--" {
                return (Flags { found }, end);
            }
            let Some(body) = word.strip_prefix("--") else {
                return (Flags { found }, start);
            };
            let (name, value) = match body.split_once('=') {
                Some((name, value)) => (name, Some(value.to_string())),
                None => (body, None),
            };
            found.push(Flag {
                name: name.to_string(),
                value,
                at: line.at(start),
            });
            from = end;
        }
        (Flags { found }, line.text.len())
    }

    fn take(&mut self, name: &str) -> Vec<Flag> {
        self.found
            .extract_if(.., |flag| flag.name == name)
            .collect()
    }

    /// All values of a flag that may be repeated.
    pub(super) fn all(&mut self, name: &str, problems: &mut Vec<Problem>) -> Vec<Word> {
        let mut values = Vec::new();
        for flag in self.take(name) {
            match flag.value {
                Some(raw) => values.push(Word { raw, at: flag.at }),
                None => problems.push(Problem::new(
                    flag.at,
                    format!("flag `--{name}`: expected `--{name}=VALUE`"),
                )),
            }
        }
        values
    }

    /// The value of a flag that may stand once.
    pub(super) fn one(&mut self, name: &str, problems: &mut Vec<Problem>) -> Option<Word> {
        let mut values = self.all(name, problems);
        if let Some(second) = values.get(1) {
            problems.push(Problem::new(
                second.at,
                format!("flag `--{name}` is given twice"),
            ));
        }
        values.drain(..).next()
    }

    /// A flag without a value, or with `true` or `false`; not set when it is not there.
    pub(super) fn switch(&mut self, name: &str, problems: &mut Vec<Problem>) -> bool {
        self.choice(name, problems).unwrap_or(false)
    }

    /// A flag without a value, or with `true` or `false`, that may be left out.
    pub(super) fn choice(&mut self, name: &str, problems: &mut Vec<Problem>) -> Option<bool> {
        let mut set = None;
        for flag in self.take(name) {
            match flag.value.as_deref() {
                None | Some("true") => set = Some(true),
                Some("false") => set = Some(false),
                Some(other) => problems.push(Problem::new(
                    flag.at,
                    format!("flag `--{name}`: expected `true` or `false`, found `{other}`"),
                )),
            }
        }
        set
    }

    /// Reports every flag that was not taken.
    pub(super) fn finish(self, instruction: &str, known: &[&str], problems: &mut Vec<Problem>) {
        for flag in self.found {
            let problem = Problem::new(
                flag.at,
                format!("unknown flag `--{}` of `{instruction}`", clip(&flag.name)),
            );
            problems.push(match nearest(&flag.name, known.iter().copied()) {
                Some(name) => problem.hint(format!("did you mean `--{name}`?")),
                None if known.is_empty() => problem.hint(format!("`{instruction}` takes no flags")),
                None => problem.hint(format!("known flags: {}", known.join(", "))),
            });
        }
    }
}

/// Messages quote the author's text; this bounds how much of it.
pub(super) fn clip(text: &str) -> String {
    text.chars().take(60).collect()
}

/// The most similar of some known words, if one is similar enough to be what was meant.
pub(super) fn nearest<'a>(word: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    known
        .map(|candidate| {
            (
                strsim::damerau_levenshtein(&clip(word), candidate),
                candidate,
            )
        })
        .filter(|(distance, candidate)| *distance <= (candidate.len() / 3).max(1))
        .min()
        .map(|(_, candidate)| candidate)
}
