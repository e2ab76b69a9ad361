//! Variables in words.

use std::collections::BTreeSet;

/// Whether a name is set by the builder.
pub(super) fn is_automatic(name: &str) -> bool {
    ["TARGET", "BUILD"].iter().any(|prefix| {
        name.strip_prefix(prefix)
            .is_some_and(|rest| matches!(rest, "PLATFORM" | "OS" | "ARCH" | "VARIANT"))
    })
}

/// The names of variables in a word, quotes and escapes left aside.
pub(super) fn variables(word: &str) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    let mut rest = word;
    while let Some(at) = rest.find('$') {
        let escaped = rest[..at].ends_with('\\');
        rest = &rest[at + 1..];
        let body = rest.strip_prefix('{').unwrap_or(rest);
        let end = body
            .find(|c: char| !c.is_ascii_alphanumeric() && c != '_')
            .unwrap_or(body.len());
        // A default makes a variable that is not set harmless.
        let defaulted = body[end..].starts_with([':', '-', '+']);
        if end > 0 && !escaped && !defaulted {
            names.insert(body[..end].to_string());
        }
    }
    names
}
