//! Here-documents of `RUN`, `COPY` and `ADD`.

use super::Position;
use super::lines::Line;

/// `<<NAME` and the lines up to `NAME`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Heredoc {
    pub name: String,
    /// Unquoted name: variables in the content are expanded.
    pub expand: bool,
    /// `<<-`: leading tabs of each line are dropped.
    pub chomp: bool,
    /// As written, each line with its newline.
    pub content: String,
    pub at: Position,
}

impl Heredoc {
    /// The content with the tabs of `<<-` removed.
    pub fn text(&self) -> String {
        if !self.chomp {
            return self.content.clone();
        }
        self.content
            .split_inclusive('\n')
            .map(|line| line.trim_start_matches('\t'))
            .collect()
    }
}

/// The here-documents a line announces, still without content.
pub(super) fn find(line: &Line, escape: char) -> Vec<Heredoc> {
    let mut words = line.text.split_whitespace().map(str::to_ascii_uppercase);
    let keyword = match words.next().as_deref() {
        Some("ONBUILD") => words.next(),
        first => first.map(str::to_string),
    };
    if !matches!(keyword.as_deref(), Some("RUN" | "COPY" | "ADD")) {
        return Vec::new();
    }
    let mut found = Vec::new();
    let mut word_start = true;
    let mut quote = None;
    let mut chars = line.text.char_indices().peekable();
    while let Some((offset, c)) = chars.next() {
        match quote {
            Some('\'') if c == '\'' => quote = None,
            Some('"') if c == '"' => quote = None,
            Some('"') | None if c == escape => {
                chars.next();
                word_start = false;
            }
            Some(_) => {}
            None if c == '\'' || c == '"' => {
                quote = Some(c);
                word_start = false;
            }
            None if c.is_whitespace() => word_start = true,
            // A file descriptor may stand before the marker.
            None if word_start && c.is_ascii_digit() => {}
            None if word_start && line.text[offset..].starts_with("<<") => {
                if let Some((heredoc, length)) = marker(&line.text[offset..], line.at(offset)) {
                    found.push(heredoc);
                    while chars.next_if(|(next, _)| *next < offset + length).is_some() {}
                }
                word_start = false;
            }
            None => word_start = false,
        }
    }
    found
}

/// Reads `<<[-]NAME` and how many bytes it takes; `None` for `<<<` and `<<` without a name.
fn marker(text: &str, at: Position) -> Option<(Heredoc, usize)> {
    let rest = text.strip_prefix("<<")?;
    let chomp = rest.starts_with('-');
    let rest = if chomp { &rest[1..] } else { rest };
    let mut name = String::new();
    let mut quote = None;
    let mut expand = true;
    let mut end = rest.len();
    for (offset, c) in rest.char_indices() {
        match quote {
            Some(open) if c == open => quote = None,
            Some(_) => name.push(c),
            None if c == '\'' || c == '"' => {
                quote = Some(c);
                expand = false;
            }
            None if c.is_whitespace() || "<>|&;()".contains(c) => {
                end = offset;
                break;
            }
            None => name.push(c),
        }
    }
    if name.is_empty() || quote.is_some() || name.contains('$') {
        return None;
    }
    let length = text.len() - rest.len() + end;
    Some((
        Heredoc {
            name,
            expand,
            chomp,
            content: String::new(),
            at,
        },
        length,
    ))
}

/// Reads the content from the physical lines that follow. False when the closing line is missing.
pub(super) fn read(heredoc: &mut Heredoc, physical: &[&str], next: &mut usize) -> bool {
    while let Some(raw) = physical.get(*next) {
        *next += 1;
        let candidate = if heredoc.chomp {
            raw.trim_start_matches('\t')
        } else {
            raw
        };
        if candidate == heredoc.name {
            return true;
        }
        heredoc.content.push_str(raw);
        heredoc.content.push('\n');
    }
    false
}
