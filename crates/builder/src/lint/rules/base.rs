//! What stages start from.

use crate::lint::variables::{is_automatic, variables};
use crate::lint::{Level, Rule};

pub(super) static UNDEFINED_ARG_IN_FROM: Rule = Rule {
    id: "undefined-arg-in-from",
    level: Level::Error,
    explanation: "`FROM` sees the `ARG`s before the first `FROM`, and the variables of the platform. One that is declared \
                  in a stage ends with that stage. Move the `ARG` to the top of the file; with a default, so that the \
                  file builds without arguments.",
    check: |file, report| {
        for stage in &file.stages {
            for name in variables(&stage.image.raw) {
                let declared = file.args.iter().any(|arg| arg.name == name);
                if !declared && !is_automatic(&name) {
                    let message = format!("`FROM`: no `ARG {name}` stands before the first `FROM`");
                    let hint =
                        "declare it above the first `FROM`; `ARG`s of stages do not count here";
                    report.tell(stage.image.at, message, hint);
                }
            }
        }
    },
};

pub(super) static UNTAGGED_BASE: Rule = Rule {
    id: "untagged-base",
    level: Level::Warning,
    explanation: "Without a tag, or with `latest`, the base image is whatever was pushed last: the same Containerfile \
                  gives another image tomorrow, on some machines. Name a version (`FROM debian:12`), or a digest \
                  (`FROM debian@sha256:…`), which needs no registry once it is in the cache.",
    check: |file, report| {
        for (index, stage) in file.stages.iter().enumerate() {
            let image = stage.image.raw.as_str();
            let earlier = file.stages[..index]
                .iter()
                .any(|other| other.name.as_deref() == Some(&image.to_lowercase()));
            // `configs` is what pools build on: the base image with their configuration.
            let named = ["scratch", "configs"].contains(&image);
            if earlier || named || image.contains(['$', '@']) {
                continue;
            }
            let name = image.rsplit('/').next().unwrap_or(image);
            let what = match name.split_once(':') {
                None => "has no tag: what `latest` is changes",
                Some((_, "latest")) => "changes without notice",
                Some(_) => continue,
            };
            let hint = "name a version, or a digest for the same image every time";
            report.tell(stage.image.at, format!("base image `{image}` {what}"), hint);
        }
    },
};
