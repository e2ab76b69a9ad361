//! What is out of date, or hard to read.

use crate::containerfile::Kind;
use crate::lint::{Level, Rule, instructions};

pub(super) static KEYWORD_CASE: Rule = Rule {
    id: "keyword-case",
    level: Level::Warning,
    explanation: "Keywords may be written in any case, but people look for capitals; mixed case is mostly a slip.",
    check: |file, report| {
        for (_, _, instruction) in instructions(file) {
            let keyword = instruction
                .text
                .split_whitespace()
                .next()
                .unwrap_or_default();
            if keyword != keyword.to_uppercase() && keyword != keyword.to_lowercase() {
                let message = format!("`{keyword}` is written in mixed case");
                report.tell(instruction.at, message, "write keywords in capitals");
            }
        }
    },
};

pub(super) static MAINTAINER: Rule = Rule {
    id: "maintainer",
    level: Level::Warning,
    explanation: "`MAINTAINER` is deprecated, and tools that show labels do not show it. Write \
                  `LABEL org.opencontainers.image.authors=\"NAME <ADDRESS>\"`.",
    check: |file, report| {
        for (_, _, instruction) in instructions(file) {
            if matches!(instruction.kind, Kind::Maintainer(_)) {
                let hint = "write `LABEL org.opencontainers.image.authors=…`";
                report.tell(instruction.at, "`MAINTAINER` is deprecated", hint);
            }
        }
    },
};
