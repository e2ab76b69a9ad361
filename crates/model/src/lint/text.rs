//! What stands in the files of a config, read as their programs do, as far as rules need it.

/// A line `key = value` of a file with sections.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Entry<'t> {
    /// From 0.
    pub(super) line: usize,
    /// The section that it is in, without brackets.
    pub(super) section: Option<&'t str>,
    pub(super) key: &'t str,
    pub(super) value: &'t str,
}

/// The entries of a file with sections, as sssd and systemd have them.
pub(super) fn entries(text: &str) -> impl Iterator<Item = Entry<'_>> {
    let mut section = None;
    significant(text).filter_map(move |(line, text)| {
        if let Some(name) = text.strip_prefix('[') {
            section = Some(name.trim_end_matches(']').trim());
            return None;
        }
        let (key, value) = text.split_once('=')?;
        Some(Entry {
            line,
            section,
            key: key.trim(),
            value: value.trim(),
        })
    })
}

/// Lines that are neither empty nor comments.
pub(super) fn significant(text: &str) -> impl Iterator<Item = (usize, &str)> {
    text.lines()
        .enumerate()
        .map(|(line, text)| (line, text.trim()))
        .filter(|(_, text)| !text.is_empty() && !text.starts_with(['#', ';']))
}

/// The mount points of a master map, each with its line.
pub(super) fn mount_points(text: &str) -> impl Iterator<Item = (usize, &str)> {
    significant(text).filter_map(|(line, text)| {
        let point = text.split_whitespace().next()?;
        // `+auto.master` includes another map, `/-` has its mount points in the map.
        (point.starts_with('/') && point != "/-").then_some((line, point))
    })
}

/// The words of a Containerfile that are no comments.
pub(super) fn words(containerfile: &str) -> impl Iterator<Item = &str> {
    significant(containerfile)
        .flat_map(|(_, text)| text.split([' ', '\t', '"', '\'', ',', ';', '&', '|', '(', ')']))
        .filter(|word| !word.is_empty() && *word != "\\")
}

/// Whether an enabled word says yes.
pub(super) fn is_true(value: &str) -> bool {
    ["true", "yes", "1", "on"]
        .iter()
        .any(|yes| value.eq_ignore_ascii_case(yes))
}

/// The first line that holds a password or a token, by the name of its key or inside a URL; from 0.
pub(super) fn credential(text: &str) -> Option<usize> {
    const KEYS: [&str; 6] = [
        "password",
        "passwd",
        "passphrase",
        "authtok",
        "token",
        "secret",
    ];
    let found = significant(text).find(|(_, line)| {
        let named = line.split_once('=').is_some_and(|(key, value)| {
            let key = key.trim().to_ascii_lowercase();
            let value = value.trim();
            let literal = !value.is_empty() && !value.starts_with(['$', '/']);
            literal && KEYS.iter().any(|end| key.ends_with(end))
        });
        named || line.split("://").skip(1).any(has_userinfo)
    });
    found.map(|(line, _)| line)
}

/// Whether what follows `://` begins with `NAME:PASSWORD@`.
fn has_userinfo(rest: &str) -> bool {
    let authority = rest.split(['/', ' ', '"', '\'']).next().unwrap_or_default();
    authority
        .rsplit_once('@')
        .and_then(|(login, _)| login.split_once(':'))
        .is_some_and(|(_, password)| !password.is_empty() && !password.starts_with('$'))
}
