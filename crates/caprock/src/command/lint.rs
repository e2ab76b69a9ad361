//! `caprock lint`: every problem of Containerfiles, without building them.

use std::io::Read as _;
use std::process::ExitCode;

use anyhow::anyhow;
use builder::lint::{Finding, Level, Rule, lint, rules};
use serde::Serialize;

use crate::cli;
use crate::exit::{Failure, refused};
use crate::output::{self, Format};

/// Larger than any Containerfile; what is longer is refused by the parser.
const MAX_FILE: u64 = 8 << 20;

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
    let mut reported = Vec::new();
    let mut refuses = false;
    for file in &args.file {
        let text = read(file.as_str())?;
        for finding in lint(&text) {
            refuses |= args.strict || finding.level == Level::Error;
            reported.push(report(file.as_str(), finding));
        }
    }
    output::value(args.output, &reported, |reported| match args.output {
        Format::Text => reported.iter().map(line).collect(),
        Format::Json | Format::Yaml => String::new(),
    })?;
    Ok(ExitCode::from(u8::from(refuses)))
}

/// What a finding with this id means.
pub(super) fn explain(id: &str, format: Format) -> Result<(), Failure> {
    let rule = rules().find(|rule| rule.id == id).ok_or_else(|| {
        let known: Vec<&str> = rules().map(|rule| rule.id).collect();
        refused(anyhow!("there is no finding `{id}`"))
            .hint(format!("there are {}", known.join(", ")))
    })?;
    Ok(output::value(
        format,
        &Explained::from(rule),
        Explained::text,
    )?)
}

/// A rule as programs read it.
#[derive(Debug, Serialize)]
struct Explained {
    id: &'static str,
    level: &'static str,
    explanation: &'static str,
}

impl From<&Rule> for Explained {
    fn from(rule: &Rule) -> Self {
        Explained {
            id: rule.id,
            level: rule.level.as_str(),
            explanation: rule.explanation,
        }
    }
}

impl Explained {
    fn text(&self) -> String {
        format!("{} ({})\n\n{}\n", self.id, self.level, self.explanation)
    }
}

fn read(file: &str) -> Result<String, Failure> {
    let mut text = String::new();
    let read = match file {
        "-" => std::io::stdin().take(MAX_FILE).read_to_string(&mut text),
        file => std::fs::File::open(file)
            .and_then(|opened| opened.take(MAX_FILE).read_to_string(&mut text)),
    };
    read.map_err(|error| refused(anyhow!(error).context(format!("failed to read `{file}`"))))?;
    Ok(text)
}

fn report(file: &str, finding: Finding) -> Reported {
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
