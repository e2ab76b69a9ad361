//! What commands print: results to standard output, words to standard error.

use std::io::{IsTerminal, Write};

use clap::ValueEnum;
use serde::Serialize;

/// How a result is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    Text,
    Json,
    Yaml,
}

/// Whether standard error may be coloured.
pub(crate) fn colour() -> bool {
    std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none()
}

/// Writes a result as it is. A reader that went away (`| head`) is not an error.
pub(crate) fn result(text: &str) -> anyhow::Result<()> {
    match std::io::stdout().write_all(text.as_bytes()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => Err(error.into()),
        _ => Ok(()),
    }
}

/// Writes a value as JSON or YAML, or as the text that `text` makes of it.
pub(crate) fn value<T: Serialize>(
    format: Format,
    value: &T,
    text: impl FnOnce(&T) -> String,
) -> anyhow::Result<()> {
    match format {
        Format::Text => result(&text(value)),
        Format::Json => result(&format!("{}\n", serde_json::to_string_pretty(value)?)),
        Format::Yaml => result(&yaml(value)?),
    }
}

/// A value as one YAML document.
pub(crate) fn yaml<T: Serialize>(value: &T) -> anyhow::Result<String> {
    let mut text = serde_saphyr::to_string(value)?;
    if !text.ends_with('\n') {
        text.push('\n');
    }
    Ok(text)
}

/// Writes words for a person. Nothing can be done when standard error is gone.
pub(crate) fn words(text: &str) {
    let _closed = std::io::stderr().write_all(text.as_bytes());
}

/// Columns as `kubectl` prints them: upper-case headings, three spaces between.
pub(crate) fn table(headings: &[&str], rows: &[Vec<String>]) -> String {
    let mut widths: Vec<usize> = headings.iter().map(|h| h.chars().count()).collect();
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let line = |cells: &mut dyn Iterator<Item = &str>| {
        let mut text = String::new();
        for (cell, width) in cells.zip(&widths) {
            text.push_str(&format!("{cell:<width$}   "));
        }
        text.truncate(text.trim_end().len());
        text.push('\n');
        text
    };
    let mut text = line(&mut headings.iter().copied());
    for row in rows {
        text.push_str(&line(&mut row.iter().map(String::as_str)));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_is_as_wide_as_its_widest_cell() {
        let rows = vec![vec!["worker-1".to_owned(), "reboot".to_owned()]];
        assert_eq!(
            table(&["NODE", "DISRUPTION"], &rows),
            "NODE       DISRUPTION\nworker-1   reboot\n"
        );
    }
}
