//! `ADD` and `WORKDIR`.

use crate::containerfile::{Kind, Source};
use crate::lint::{Level, Rule, instructions};
use crate::remote;

pub(super) static UNCHECKED_DOWNLOAD: Rule = Rule {
    id: "unchecked-download",
    level: Level::Warning,
    explanation: "`ADD` of a URL takes whatever the server sends. With `--checksum=sha256:…` the build fails when that \
                  changes, and the file is not fetched again while it is in the cache.",
    check: |file, report| {
        for (_, _, instruction) in instructions(file) {
            let Kind::Copy(copy) = &instruction.kind else {
                continue;
            };
            if !copy.add || copy.checksum.is_some() {
                continue;
            }
            for source in &copy.sources {
                if let Source::Path(word) = source
                    && remote::is_url(&word.raw)
                    && !matches!(remote::git(&word.raw), Ok(Some(_)))
                {
                    let message = format!("`{}` is taken as it comes", word.raw);
                    report.tell(word.at, message, "add `--checksum=sha256:…`");
                }
            }
        }
    },
};

pub(super) static RELATIVE_WORKDIR: Rule = Rule {
    id: "relative-workdir",
    level: Level::Warning,
    explanation: "The first `WORKDIR` of a stage continues the one of its base image, which you may not know and which \
                  may change. Write an absolute path first; later ones may be relative to it.",
    check: |file, report| {
        for stage in &file.stages {
            let first = stage
                .instructions
                .iter()
                .find_map(|instruction| match &instruction.kind {
                    Kind::Workdir(word) => Some(word),
                    _ => None,
                });
            if let Some(word) = first.filter(|word| !word.raw.starts_with(['/', '$', '"', '\''])) {
                let message = format!("`WORKDIR {}` depends on the base image's", word.raw);
                report.tell(word.at, message, "write an absolute path");
            }
        }
    },
};
