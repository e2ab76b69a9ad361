//! Instructions of which only the last in a stage counts.

use crate::containerfile::{Containerfile, Instruction, Kind};
use crate::lint::{Level, Report, Rule};

pub(super) static CMD: Rule = Rule {
    id: "overridden-cmd",
    level: Level::Warning,
    explanation: "An image has one `CMD`: a second one in the same stage takes the place of the first, which therefore \
                  has no effect. To run several programs write a script, or a unit for each.",
    check: |file, report| twice(file, report, "CMD", |kind| matches!(kind, Kind::Cmd(_))),
};

pub(super) static ENTRYPOINT: Rule = Rule {
    id: "overridden-entrypoint",
    level: Level::Warning,
    explanation: "An image has one `ENTRYPOINT`: a second one in the same stage takes the place of the first, which \
                  therefore has no effect.",
    check: |file, report| {
        twice(file, report, "ENTRYPOINT", |kind| {
            matches!(kind, Kind::Entrypoint(_))
        })
    },
};

pub(super) static HEALTHCHECK: Rule = Rule {
    id: "overridden-healthcheck",
    level: Level::Warning,
    explanation: "An image has one `HEALTHCHECK`: a second one in the same stage takes the place of the first, which \
                  therefore has no effect.",
    check: |file, report| {
        twice(file, report, "HEALTHCHECK", |kind| {
            matches!(kind, Kind::Healthcheck(_))
        })
    },
};

fn twice(file: &Containerfile, report: &mut Report, keyword: &str, is: fn(&Kind) -> bool) {
    for stage in &file.stages {
        let same: Vec<&Instruction> = stage
            .instructions
            .iter()
            .filter(|instruction| is(&instruction.kind))
            .collect();
        for pair in same.windows(2) {
            let message = format!(
                "`{keyword}` has no effect: the one in line {} takes its place",
                pair[1].at.line
            );
            report.tell(pair[0].at, message, "remove one of them");
        }
    }
}
