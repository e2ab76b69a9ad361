//! `caprock lint`: every problem of Containerfiles and manifests, without building or applying them.

use std::process::ExitCode;

use anyhow::anyhow;
use builder::lint as containerfile;
use model::lint as manifest;
use serde::Serialize;

use crate::cli;
use crate::exit::{Failure, refused};
use crate::manifests::read_all;
use crate::output::{self, Format};

/// One finding as programs read it.
#[derive(Debug, Serialize)]
struct Reported {
    file: String,
    line: u32,
    column: u32,
    level: &'static str,
    id: &'static str,
    message: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    hint: Option<String>,
}

pub(crate) fn run(args: &cli::Lint) -> Result<ExitCode, Failure> {
    let reported = lint(&read_all(&args.file)?);
    let refuses = args.strict && !reported.is_empty()
        || reported
            .iter()
            .any(|found| found.level == manifest::Level::Error.as_str());
    output::value(args.output, &reported, |reported| match args.output {
        Format::Text => reported.iter().map(line).collect(),
        Format::Json | Format::Yaml => String::new(),
    })?;
    Ok(ExitCode::from(u8::from(refuses)))
}

/// Everything about some texts, each with its name: file by file, in order of place. Manifests are judged together.
fn lint(files: &[(String, String)]) -> Vec<Reported> {
    let (manifests, containerfiles): (Vec<usize>, Vec<usize>) =
        (0..files.len()).partition(|&index| is_manifest(&files[index].0, &files[index].1));
    let texts: Vec<&str> = manifests
        .iter()
        .map(|&index| files[index].1.as_str())
        .collect();
    let linted = manifest::lint(&texts);
    let mut all: Vec<(usize, Reported)> = Vec::new();
    for found in linted.findings {
        let index = manifests[found.text];
        all.push((
            index,
            Reported {
                file: files[index].0.clone(),
                line: found.at.line,
                column: found.at.column,
                level: found.level.as_str(),
                id: found.id,
                message: found.message,
                hint: found.hint,
            },
        ));
    }
    for embedded in linted.containerfiles {
        let index = manifests[embedded.text];
        for found in containerfile::lint(&embedded.containerfile) {
            let is_warning = found.level == containerfile::Level::Warning;
            if is_warning && embedded.ignored.iter().any(|id| id == found.id) {
                continue;
            }
            let line = usize::try_from(found.at.line.saturating_sub(1)).unwrap_or(usize::MAX);
            let mut reported = report(&files[index].0, found);
            reported.message = format!("{}: {}", embedded.label, reported.message);
            if let Some(at) = embedded.lines.get(line).or(embedded.lines.last()) {
                reported.line = at.line;
                reported.column += at.column - 1;
            }
            all.push((index, reported));
        }
    }
    for index in containerfiles {
        let (name, text) = &files[index];
        let found = containerfile::lint(text).into_iter();
        all.extend(found.map(|found| (index, report(name, found))));
    }
    all.sort_by_key(|(index, found)| (*index, found.line, found.column));
    all.into_iter().map(|(_, found)| found).collect()
}

/// Whether a text is meant as a manifest: by its name, else because it begins as YAML or JSON do.
fn is_manifest(name: &str, text: &str) -> bool {
    if [".yaml", ".yml", ".json"]
        .iter()
        .any(|end| name.ends_with(end))
    {
        return true;
    }
    let mut lines = text.lines().map(str::trim);
    let first = lines.find(|line| !line.is_empty() && !line.starts_with('#'));
    let word = first.and_then(|line| line.split_whitespace().next());
    word.is_some_and(|word| word == "---" || word.starts_with('{') || word.ends_with(':'))
}

/// What a finding with this id means.
pub(super) fn explain(id: &str, format: Format) -> Result<(), Failure> {
    let all: Vec<Explained> = explanations().collect();
    let rule = all.iter().find(|rule| rule.id == id).ok_or_else(|| {
        let known: Vec<&str> = all.iter().map(|rule| rule.id).collect();
        refused(anyhow!("there is no finding `{id}`"))
            .hint(format!("there are {}", known.join(", ")))
    })?;
    Ok(output::value(format, rule, |rule| rule.text())?)
}

/// A rule as programs read it.
#[derive(Debug, Serialize)]
struct Explained {
    id: &'static str,
    level: &'static str,
    explanation: &'static str,
}

/// The rules for Containerfiles, then those for manifests.
fn explanations() -> impl Iterator<Item = Explained> {
    let containerfiles = containerfile::rules().map(|rule| Explained {
        id: rule.id,
        level: rule.level.as_str(),
        explanation: rule.explanation,
    });
    let manifests = manifest::rules().map(|rule| Explained {
        id: rule.id,
        level: rule.level.as_str(),
        explanation: rule.explanation,
    });
    containerfiles.chain(manifests)
}

impl Explained {
    fn text(&self) -> String {
        format!("{} ({})\n\n{}\n", self.id, self.level, self.explanation)
    }
}

fn report(file: &str, finding: containerfile::Finding) -> Reported {
    Reported {
        file: file.to_owned(),
        line: finding.at.line,
        column: finding.at.column,
        level: finding.level.as_str(),
        id: finding.id,
        message: finding.message,
        hint: finding.hint,
    }
}

/// The form that editors find places in.
fn line(found: &Reported) -> String {
    let hint = found
        .hint
        .as_ref()
        .map_or(String::new(), |hint| format!("\n    hint: {hint}"));
    format!(
        "{}:{}:{}: {}: {} [{}]{hint}\n",
        found.file, found.line, found.column, found.level, found.message, found.id
    )
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn ids_are_of_one_rule_each() {
        let ids: BTreeSet<&str> = explanations().map(|rule| rule.id).collect();
        assert_eq!(ids.len(), explanations().count());
    }

    #[test]
    fn manifests_are_told_from_containerfiles() {
        for (name, text, expected) in [
            ("a.yaml", "FROM a", true),
            ("-", "# x\n\napiVersion: v1", true),
            ("-", "---\na: 1", true),
            ("-", "{\"kind\": 1}", true),
            ("Containerfile", "# syntax=x\nFROM a:1", false),
            ("-", "", false),
        ] {
            assert_eq!(is_manifest(name, text), expected, "{name}: {text}");
        }
    }

    #[test]
    fn containerfiles_inside_manifests_are_judged_in_their_place() {
        let manifest = "apiVersion: machineconfiguration.openshift.io/v1
kind: MachineOSConfig
metadata:
  name: a
  annotations: {caprock.dev/lint-ignore: sudo}
spec:
  machineConfigPool: {name: a}
  imageBuilder: {imageBuilderType: Job}
  renderedImagePushSpec: r.example/a:1
  containerFile:
  - content: |
      FROM configs
      RUN sudo true
      ADD https://x.example/a /
";
        let files = [
            ("Containerfile".to_owned(), "FROM a\n".to_owned()),
            ("a.yaml".to_owned(), manifest.to_owned()),
        ];
        let lines: Vec<String> = lint(&files).iter().map(line).collect();
        assert_eq!(lines.len(), 2, "{lines:?}");
        assert!(
            lines[0].starts_with("Containerfile:1:6: warning: "),
            "{lines:?}"
        );
        let expected = "a.yaml:14:11: warning: MachineOSConfig `a`: `https://x.example/a` is taken as it comes [unchecked-download]";
        assert!(lines[1].starts_with(expected), "{lines:?}");
    }
}
