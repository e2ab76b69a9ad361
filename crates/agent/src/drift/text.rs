//! Drift in words: short, and without anything that not everybody on the node may read.

use similar::{ChangeTag, TextDiff};

use crate::configure::Difference;
use crate::root::{Access, Found};

/// Paths that one text names.
const NAMED: usize = 5;
/// Changed lines of one file that are shown.
const LINES: usize = 6;
/// Longest line, in bytes.
const LINE_BYTES: usize = 120;
/// Files above this are not compared line by line.
const COMPARED_BYTES: usize = 256 * 1024;
/// Everybody may read it.
const PUBLIC: u32 = 0o004;
/// Words on a line that is not shown, in lower case.
const DELICATE: [&str; 8] = [
    "passw",
    "secret",
    "token",
    "credential",
    "private",
    "api_key",
    "apikey",
    "auth",
];

/// What differs, in one line.
pub(crate) fn describe(differences: &[Difference]) -> String {
    let mut parts: Vec<String> = differences.iter().take(NAMED).map(one).collect();
    if differences.len() > NAMED {
        parts.push(format!("and {} more", differences.len() - NAMED));
    }
    parts.join("; ")
}

fn one(difference: &Difference) -> String {
    let path = &difference.path;
    match (&difference.wanted, &difference.found) {
        (_, Found::Nothing) => format!("`{path}` is gone"),
        (
            Found::File { bytes, access },
            Found::File {
                bytes: other,
                access: seen,
            },
        ) if bytes == other => format!("`{path}` {}", accesses(*access, *seen)),
        (
            Found::File { bytes, access },
            Found::File {
                bytes: other,
                access: seen,
            },
        ) => {
            let public = access.mode & seen.mode & PUBLIC != 0 && !difference.secret;
            format!(
                "`{path}` has other content{}",
                contents(bytes, other, public)
            )
        }
        (Found::Directory { access }, Found::Directory { access: seen }) => {
            format!("`{path}` {}", accesses(*access, *seen))
        }
        (
            Found::Link { target, .. },
            Found::Link {
                target: elsewhere, ..
            },
        ) if target != elsewhere => {
            format!(
                "`{path}` leads to `{}`, not `{}`",
                shortened(elsewhere),
                shortened(target)
            )
        }
        (Found::Link { .. }, Found::Link { .. }) => format!("`{path}` belongs to somebody else"),
        (wanted, found) => format!("`{path}` is {}, not {}", kind(found), kind(wanted)),
    }
}

fn kind(found: &Found) -> &'static str {
    match found {
        Found::Nothing => "nothing",
        Found::File { .. } => "a file",
        Found::Directory { .. } => "a directory",
        Found::Link { .. } => "a link",
        Found::Other => "a device, socket or pipe",
    }
}

fn accesses(wanted: Access, seen: Access) -> String {
    if wanted.mode != seen.mode {
        return format!("has mode {:04o}, not {:04o}", seen.mode, wanted.mode);
    }
    format!(
        "belongs to {}:{}, not {}:{}",
        seen.uid, seen.gid, wanted.uid, wanted.gid
    )
}

/// The lines that differ, where they are text that everybody may read.
fn contents(wanted: &[u8], found: &[u8], public: bool) -> String {
    if !public {
        return " (not shown, for not everybody may read it)".to_owned();
    }
    let (Ok(wanted), Ok(found)) = (str::from_utf8(wanted), str::from_utf8(found)) else {
        return " (not text)".to_owned();
    };
    if wanted.len().max(found.len()) > COMPARED_BYTES {
        return format!(" ({} bytes, not {})", found.len(), wanted.len());
    }
    let diff = TextDiff::from_lines(wanted, found);
    let changed: Vec<String> = diff
        .iter_all_changes()
        .filter_map(|change| {
            let mark = match change.tag() {
                ChangeTag::Equal => return None,
                ChangeTag::Delete => '-',
                ChangeTag::Insert => '+',
            };
            Some(format!("`{mark}{}`", harmless(change.value().trim_end())))
        })
        .collect();
    let more = match changed.len().saturating_sub(LINES) {
        0 => String::new(),
        more => format!(" and {more} more lines"),
    };
    format!(": {}{more}", changed[..changed.len().min(LINES)].join(" "))
}

/// A line, unless it looks as if it held a secret in a file that should not.
fn harmless(line: &str) -> String {
    let lower = line.to_lowercase();
    match DELICATE.iter().any(|word| lower.contains(word)) {
        true => "(a line that is not shown)".to_owned(),
        false => shortened(line),
    }
}

fn shortened(line: &str) -> String {
    let clean: String = line
        .chars()
        .filter(|c| !c.is_control() && *c != '`')
        .collect();
    match clean.len() > LINE_BYTES {
        true => format!("{}…", &clean[..clean.floor_char_boundary(LINE_BYTES)]),
        false => clean,
    }
}
