//! From text to logical lines: directives, comments, continuations and here-documents.

use super::heredoc::{self, Heredoc};
use super::{Position, Problem};

/// Larger than any Containerfile a person writes; bounds what a parse can cost.
pub const MAX_TEXT: usize = 1 << 20;

/// What `# key=value` lines at the top ask for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Directives {
    pub(super) escape: char,
}

/// One instruction: its physical lines joined, and where each part came from.
#[derive(Debug, Clone)]
pub(super) struct Line {
    pub(super) text: String,
    /// Byte offset in `text` → position, ascending; the first is at offset 0.
    pieces: Vec<(usize, Position)>,
    pub(super) heredocs: Vec<Heredoc>,
}

impl Line {
    /// The position of a byte offset of `text`.
    pub(super) fn at(&self, offset: usize) -> Position {
        let piece = self
            .pieces
            .partition_point(|(start, _)| *start <= offset)
            .saturating_sub(1);
        let (start, at) = self.pieces.get(piece).copied().unwrap_or_default();
        let skipped = self
            .text
            .get(start..offset)
            .map_or(0, |s| s.chars().count());
        Position {
            line: at.line,
            column: at.column + skipped as u32,
        }
    }
}

/// Splits a text into logical lines, with the problems of the splitting itself.
pub(super) fn split(text: &str) -> (Directives, Vec<Line>, Vec<Problem>) {
    let mut problems = Vec::new();
    if text.len() > MAX_TEXT {
        let at = Position { line: 1, column: 1 };
        problems.push(Problem::new(
            at,
            format!("expected at most {MAX_TEXT} bytes, found {}", text.len()),
        ));
        return (Directives { escape: '\\' }, Vec::new(), problems);
    }
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let physical: Vec<&str> = text.lines().collect();
    let (directives, mut next) = directives(&physical, &mut problems);
    let mut lines = Vec::new();
    while next < physical.len() {
        let blank = physical[next].trim().is_empty();
        if blank || is_comment(physical[next]) {
            next += 1;
            continue;
        }
        let mut line = join(&physical, &mut next, directives.escape);
        for mut heredoc in heredoc::find(&line, directives.escape) {
            if heredoc::read(&mut heredoc, &physical, &mut next) {
                line.heredocs.push(heredoc);
            } else {
                let message = format!(
                    "expected a line `{}` that closes the here-document",
                    heredoc.name
                );
                problems.push(Problem::new(heredoc.at, message));
            }
        }
        lines.push(line);
    }
    (directives, lines, problems)
}

fn is_comment(line: &str) -> bool {
    line.trim_start().starts_with('#')
}

/// Directives stand before anything else, blank lines and ordinary comments included.
fn directives(physical: &[&str], problems: &mut Vec<Problem>) -> (Directives, usize) {
    let mut directives = Directives { escape: '\\' };
    let mut seen: Vec<String> = Vec::new();
    for (index, line) in physical.iter().enumerate() {
        let parsed = line
            .trim_start()
            .strip_prefix('#')
            .and_then(|rest| rest.split_once('='));
        let Some((key, value)) = parsed else {
            return (directives, index);
        };
        let (key, value) = (key.trim().to_ascii_lowercase(), value.trim());
        if !matches!(key.as_str(), "escape" | "syntax" | "check") {
            return (directives, index);
        }
        let at = Position {
            line: index as u32 + 1,
            column: 1,
        };
        if seen.contains(&key) {
            problems.push(Problem::new(
                at,
                format!("directive `{key}` is given twice"),
            ));
        }
        if key == "escape" {
            match value {
                "\\" => directives.escape = '\\',
                "`" => directives.escape = '`',
                other => problems.push(Problem::new(
                    at,
                    format!(
                        "directive `escape`: expected a backslash or a backtick, found `{other}`"
                    ),
                )),
            }
        }
        seen.push(key);
    }
    (directives, physical.len())
}

/// Joins a line with its continuations. Comments and blank lines between them are dropped.
fn join(physical: &[&str], next: &mut usize, escape: char) -> Line {
    let mut line = Line {
        text: String::new(),
        pieces: Vec::new(),
        heredocs: Vec::new(),
    };
    while let Some(raw) = physical.get(*next) {
        let number = *next as u32 + 1;
        *next += 1;
        let first = line.pieces.is_empty();
        if !first && (is_comment(raw) || raw.trim().is_empty()) {
            continue;
        }
        let body = if first { raw.trim_start() } else { raw };
        let column = raw.chars().count() - body.chars().count() + 1;
        line.pieces.push((
            line.text.len(),
            Position {
                line: number,
                column: column as u32,
            },
        ));
        match continued(body, escape) {
            Some(body) => line.text.push_str(body),
            None => {
                line.text.push_str(body.trim_end());
                return line;
            }
        }
    }
    line.text.truncate(line.text.trim_end().len());
    line
}

/// The line without its continuation character, if it has one: an escape that is last on the line and not
/// escaped itself.
fn continued(line: &str, escape: char) -> Option<&str> {
    let body = line.trim_end_matches([' ', '\t']).strip_suffix(escape)?;
    (!body.ends_with(escape)).then_some(body)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn check(text: &str, expected: &[&str]) {
        let (_, lines, problems) = split(text);
        assert_eq!(problems, vec![]);
        let found: Vec<&str> = lines.iter().map(|line| line.text.as_str()).collect();
        assert_eq!(found, expected);
    }

    #[test]
    fn continuations_join_and_comments_between_them_vanish() {
        check("RUN a \\\n  b\n", &["RUN a   b"]);
        check("RUN a \\\n# note\n\n  && b", &["RUN a   && b"]);
        check("RUN a \\  \n  b", &["RUN a   b"]);
        check("RUN a \\\\\nENV x=1", &["RUN a \\\\", "ENV x=1"]);
        check("  # c\n\nRUN a \\", &["RUN a"]);
        check("# escape=`\nRUN dir c:\\ `\n x", &["RUN dir c:\\  x"]);
        check("\u{feff}FROM a\r\nRUN b\r\n", &["FROM a", "RUN b"]);
    }

    #[test]
    fn a_directive_after_a_comment_is_a_comment() {
        check("# hello\n# escape=`\nRUN a `\nRUN b", &["RUN a `", "RUN b"]);
    }

    #[test]
    fn positions_survive_joining() {
        let (_, lines, _) = split("\n  RUN ä \\\n    bb\n");
        let line = &lines[0];
        assert_eq!(line.at(0), Position { line: 2, column: 3 });
        assert_eq!(
            line.at(line.text.find("bb").unwrap()),
            Position { line: 3, column: 5 }
        );
    }

    #[test]
    fn heredocs_follow_their_line_in_order() {
        let (_, lines, problems) = split("RUN cat <<A <<-'B'\nx # y\nA\n\tz\\\n\tB\nENV a=1");
        assert_eq!(problems, vec![]);
        assert_eq!(lines.len(), 2);
        assert_eq!(lines[0].heredocs[0].content, "x # y\n");
        assert!(lines[0].heredocs[0].expand);
        assert_eq!(lines[0].heredocs[1].content, "\tz\\\n");
        assert_eq!(lines[0].heredocs[1].text(), "z\\\n");
        assert!(!lines[0].heredocs[1].expand);
    }

    #[test]
    fn an_open_heredoc_is_a_problem_at_its_marker() {
        let (_, _, problems) = split("RUN cat <<EOF\nx");
        assert_eq!(
            problems[0].to_string(),
            "1:9: expected a line `EOF` that closes the here-document"
        );
    }
}
