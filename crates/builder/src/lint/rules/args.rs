//! `ARG` and `ENV`.

use std::collections::BTreeSet;

use crate::containerfile::{Instruction, Kind, Position, Source, Word};
use crate::lint::variables::{is_automatic, variables};
use crate::lint::{Level, Report, Rule, instructions};

pub(super) static SECRET_IN_IMAGE: Rule = Rule {
    id: "secret-in-image",
    level: Level::Warning,
    explanation: "Values of `ENV` are in the configuration of the image, and those of `ARG` in its history and in the \
                  cache: everybody who can pull the image can read them. Give secrets with `--secret` and take them \
                  with `RUN --mount=type=secret,id=NAME`; they reach that step alone. Names that end with `_FILE` are \
                  taken for paths.",
    check: |file, report| {
        for (_, _, instruction) in instructions(file) {
            match &instruction.kind {
                Kind::Arg(decls) => decls
                    .iter()
                    .for_each(|decl| secret(&decl.name, decl.at, "ARG", report)),
                Kind::Env(pairs) => pairs
                    .iter()
                    .for_each(|(key, _)| secret(&key.raw, key.at, "ENV", report)),
                _ => {}
            }
        }
    },
};

fn secret(name: &str, at: Position, keyword: &str, report: &mut Report) {
    const WORDS: [&str; 6] = ["PASSWORD", "PASSWD", "SECRET", "TOKEN", "APIKEY", "API_KEY"];
    let upper = name.to_ascii_uppercase();
    if WORDS.iter().any(|word| upper.contains(word)) && !upper.ends_with("_FILE") {
        let message =
            format!("`{keyword} {name}`: values of `{keyword}` can be read from the image");
        report.tell(at, message, "use `RUN --mount=type=secret`");
    }
}

pub(super) static ARG_NOT_IN_STAGE: Rule = Rule {
    id: "arg-not-in-stage",
    level: Level::Warning,
    explanation: "An `ARG` before the first `FROM` holds for `FROM` lines alone. In a stage its variable is empty until \
                  the stage declares it again: `ARG NAME`, without a value, takes the one from above. The same goes for \
                  `TARGETARCH` and the other variables that the builder sets.",
    check: |file, report| {
        for stage in &file.stages {
            let mut known: BTreeSet<&str> = BTreeSet::new();
            for instruction in &stage.instructions {
                match &instruction.kind {
                    Kind::Arg(decls) => known.extend(decls.iter().map(|decl| decl.name.as_str())),
                    Kind::Env(pairs) => known.extend(pairs.iter().map(|(key, _)| key.raw.as_str())),
                    _ => {}
                }
                for word in paths(instruction) {
                    for name in variables(&word.raw) {
                        let global = file.args.iter().any(|arg| arg.name == name);
                        if !known.contains(name.as_str()) && (global || is_automatic(&name)) {
                            let message = format!(
                                "`${name}` is empty here: an `ARG` before the first `FROM` is not seen in stages"
                            );
                            report.tell(word.at, message, "repeat `ARG NAME` after `FROM`");
                        }
                    }
                }
            }
        }
    },
};

/// The words of an instruction in which an empty variable is a mistake; in others it may be meant.
fn paths(instruction: &Instruction) -> Vec<&Word> {
    match &instruction.kind {
        Kind::Copy(copy) => {
            let sources = copy.sources.iter().filter_map(|source| match source {
                Source::Path(word) => Some(word),
                Source::Heredoc(_) => None,
            });
            sources.chain([&copy.dest]).collect()
        }
        Kind::Workdir(word) | Kind::User(word) => vec![word],
        _ => Vec::new(),
    }
}

pub(super) static UNUSED_ARG: Rule = Rule {
    id: "unused-arg",
    level: Level::Warning,
    explanation: "An `ARG` before the first `FROM` that no `FROM` uses and no stage declares again has no effect. \
                  Remove it, or write `ARG NAME` in the stage that should see it.",
    check: |file, report| {
        for arg in &file.args {
            let name = &arg.name;
            let mentions = |word: &Option<Word>| {
                word.as_ref()
                    .is_some_and(|word| variables(&word.raw).contains(name))
            };
            let in_from = file.stages.iter().any(|stage| {
                variables(&stage.image.raw).contains(name) || mentions(&stage.platform)
            });
            let in_args = file.args.iter().any(|other| mentions(&other.default));
            let in_stages = instructions(file).any(|(_, _, instruction)| match &instruction.kind {
                Kind::Arg(decls) => decls.iter().any(|decl| decl.name == *name),
                Kind::Copy(copy) => mentions(&copy.from),
                _ => false,
            });
            if !(in_from || in_args || in_stages) {
                let message = format!("`ARG {name}` is used by no `FROM` and no stage");
                report.tell(
                    arg.at,
                    message,
                    "stages see it only after an `ARG` of their own",
                );
            }
        }
    },
};
