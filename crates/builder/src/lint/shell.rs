//! The shell text of `RUN`, taken apart roughly.

use super::instructions;
use crate::containerfile::{Command, Containerfile, Instruction, Kind};

/// The shell text of every `RUN` in shell form, here-documents included.
pub(super) fn texts(file: &Containerfile) -> impl Iterator<Item = (&Instruction, String)> {
    instructions(file).filter_map(|(_, _, instruction)| {
        let Kind::Run(run) = &instruction.kind else {
            return None;
        };
        let Command::Shell(text) = &run.command else {
            return None;
        };
        let documents: Vec<&str> = run
            .heredocs
            .iter()
            .map(|doc| doc.content.as_str())
            .collect();
        Some((instruction, format!("{text}\n{}", documents.join("\n"))))
    })
}

/// The words of each simple command, roughly: what lies between `&&`, `||`, `;`, `|` and line ends, without the
/// variables that are set for it.
pub(super) fn commands(text: &str) -> Vec<Vec<&str>> {
    text.split(['\n', ';', '|', '&'])
        .map(|command| {
            command
                .trim()
                .trim_start_matches(['(', '{', ' '])
                .split_whitespace()
                .skip_while(|word| word.contains('='))
                .collect()
        })
        .filter(|command: &Vec<&str>| !command.is_empty())
        .collect()
}
