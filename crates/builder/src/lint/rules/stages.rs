//! Stages and their names.

use std::collections::BTreeSet;

use crate::containerfile::{Kind, Word};
use crate::lint::{Level, Rule, instructions};

pub(super) static LATER_STAGE: Rule = Rule {
    id: "later-stage",
    level: Level::Error,
    explanation: "`COPY --from` takes files from stages that stand before it in the file, by name, or by number counted \
                  from 0. Move the stage up, or correct its name.",
    check: |file, report| {
        for (index, _, instruction) in instructions(file) {
            let Kind::Copy(copy) = &instruction.kind else {
                continue;
            };
            let Some(word) = &copy.from else { continue };
            let name = word.raw.to_lowercase();
            let (earlier, later) = file.stages.split_at(index);
            let has = |stages: &[crate::containerfile::Stage]| {
                stages
                    .iter()
                    .any(|stage| stage.name.as_deref() == Some(&name))
            };
            if has(later) && !has(earlier) {
                let message = format!(
                    "`--from`: stage `{}` does not stand before this one",
                    word.raw
                );
                report.tell(word.at, message, "move it up, or correct the name");
            }
            if name.parse::<usize>().is_ok_and(|number| number >= index) {
                let message = format!("`--from`: there is no stage {name} before this one");
                report.tell(word.at, message, "stages are counted from 0");
            }
        }
    },
};

pub(super) static STAGE_NAMED_TWICE: Rule = Rule {
    id: "stage-named-twice",
    level: Level::Warning,
    explanation: "Of two stages with one name, what follows sees the second only; case does not count. Give each stage a \
                  name of its own.",
    check: |file, report| {
        let mut names = BTreeSet::new();
        for stage in &file.stages {
            if let Some(name) = &stage.name
                && !names.insert(name)
            {
                let message = format!("there is an earlier stage `{name}`, which this one hides");
                report.tell(stage.at, message, "give each stage a name of its own");
            }
        }
    },
};

pub(super) static UNUSED_STAGE: Rule = Rule {
    id: "unused-stage",
    level: Level::Warning,
    explanation: "A stage that no later one starts from, copies from or mounts is not built at all. Remove it; or, when it \
                  is meant to be built by itself, do so with `--target NAME` and silence this rule above it.",
    check: |file, report| {
        let Some((_, others)) = file.stages.split_last() else {
            return;
        };
        for (index, stage) in others.iter().enumerate() {
            let Some(name) = &stage.name else { continue };
            let used = file.stages[index + 1..].iter().any(|later| {
                let mentions = |word: &Word| {
                    let raw = word.raw.to_lowercase();
                    raw == *name || raw == index.to_string() || raw.contains('$')
                };
                mentions(&later.image) || crate::stages::sources(later).any(mentions)
            });
            if !used {
                let message = format!("no later stage uses `{name}`: it is not built");
                report.tell(stage.at, message, "remove it, or build it with `--target`");
            }
        }
    },
};
