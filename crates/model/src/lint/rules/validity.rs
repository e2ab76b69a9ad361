//! What an API server refuses.

use crate::lint::seen::{Item, Seen};
use crate::lint::{Finding, Level, Report, Rule};
use crate::manifest::metadata_problems;
use crate::problem::Problem;

pub(in crate::lint) static NOT_YAML: Rule = Rule {
    id: "not-yaml",
    level: Level::Error,
    explanation: "The text is neither YAML nor JSON, or more of it than a manifest may be: a key twice in one object, an \
                  indentation that does not fit, brackets or quotes that nobody closes. Nothing else is looked at in that \
                  file.",
    check: |seen, report| {
        for (text, at, message) in &seen.broken {
            report.findings.push(Finding {
                text: *text,
                at: *at,
                id: report.rule.id,
                level: report.rule.level,
                message: message.clone(),
                hint: None,
            });
        }
    },
};

pub(in crate::lint) static UNKNOWN_FIELD: Rule = Rule {
    id: "unknown-field",
    level: Level::Error,
    explanation: "No such field exists. An API server drops it in silence unless it is asked to be strict, so that what it \
                  should have said is missing: `metadata.annotation` for `annotations` is the usual one. The message says \
                  what was most likely meant.",
    check: |seen, report| {
        let asked = |problem: &Problem| problem.is_unknown_field();
        problems(seen, report, &asked);
    },
};

pub(in crate::lint) static INVALID_OBJECT: Rule = Rule {
    id: "invalid-object",
    level: Level::Error,
    explanation: "The API server or the render refuses the object: a value of another type, a missing field, a path that \
                  no node can write, contents that are no `data:` URL. The message has the field and what was expected.",
    check: |seen, report| {
        let asked = |problem: &Problem| !problem.is_unknown_field();
        problems(seen, report, &asked);
    },
};

fn problems(seen: &Seen<'_>, report: &mut Report<'_>, asked: &dyn Fn(&Problem) -> bool) {
    let mut tell = |item: &Item<'_>, field: &str, problem: &Problem| {
        if asked(problem) {
            report.tell(item, field, format!("`{field}`: {}", problem.reason), "");
        }
    };
    for item in &seen.items {
        for found in item.object.as_ref().err().into_iter().flatten() {
            tell(item, &found.problem.field, &found.problem);
        }
        for problem in item.config_problems() {
            tell(item, &format!("spec.config.{}", problem.field), problem);
        }
    }
    for (item, value) in seen.others() {
        for problem in metadata_problems(value) {
            tell(item, &problem.field, &problem);
        }
    }
}
