//! `.containerignore` and `.dockerignore`: what of a build context a build does not see. Pure.

/// The patterns of an ignore file, in order; the last one that matches decides.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Ignore {
    patterns: Vec<Pattern>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Pattern {
    /// `!`: what it matches is seen after all.
    keep: bool,
    tokens: Vec<Token>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Token {
    Char(char),
    /// `?`
    One,
    /// `*`
    Some,
    /// `**/`: any number of directories.
    Directories,
    /// `**` at the end.
    Rest,
    /// `[a-z]`
    Class {
        negated: bool,
        ranges: Vec<(char, char)>,
    },
}

impl Ignore {
    /// Parses an ignore file. Every line is a pattern, if an odd one.
    pub fn parse(text: &str) -> Ignore {
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        let lines = text
            .lines()
            .filter(|line| !line.starts_with('#'))
            .map(str::trim);
        let patterns = lines.filter_map(|line| {
            let (keep, line) = match line.strip_prefix('!') {
                Some(rest) => (true, rest.trim()),
                None => (false, line),
            };
            let clean = clean(line);
            (!clean.is_empty()).then(|| Pattern {
                keep,
                tokens: tokens(&clean),
            })
        });
        Ignore {
            patterns: patterns.collect(),
        }
    }

    /// Whether a path (relative, `/` between names) is left out.
    pub fn excludes(&self, path: &str) -> bool {
        let mut excluded = false;
        for pattern in &self.patterns {
            // A pattern that matches a directory matches what is in it.
            if pattern.keep == excluded
                && prefixes(path).any(|prefix| matches(&pattern.tokens, prefix))
            {
                excluded = !pattern.keep;
            }
        }
        excluded
    }

    /// Whether nothing below an excluded directory can be seen, so that it need not be read.
    pub fn is_final(&self) -> bool {
        !self.patterns.iter().any(|pattern| pattern.keep)
    }
}

/// Whether a name fits a pattern of `*`, `?`, `[…]` and plain characters.
pub(crate) fn glob(pattern: &str, name: &str) -> bool {
    matches(&tokens(pattern), name)
}

/// Whether a name has characters that mean something in a pattern.
pub(crate) fn is_glob(name: &str) -> bool {
    name.contains(['*', '?', '[', '\\'])
}

/// The path itself and every directory that it lies in, shortest first.
fn prefixes(path: &str) -> impl Iterator<Item = &str> {
    path.match_indices('/')
        .map(|(at, _)| &path[..at])
        .chain(std::iter::once(path))
}

/// Removes `.`, empty names and slashes at the ends, and resolves `..` by name.
fn clean(pattern: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    for part in pattern.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop();
            }
            part => parts.push(part),
        }
    }
    parts.join("/")
}

fn tokens(pattern: &str) -> Vec<Token> {
    let mut tokens = Vec::new();
    let mut rest = pattern;
    while let Some(c) = rest.chars().next() {
        let mut after = &rest[c.len_utf8()..];
        tokens.push(match c {
            '*' if after.starts_with('*') => {
                after = after.trim_start_matches('*');
                match after.strip_prefix('/') {
                    Some(below) => {
                        after = below;
                        Token::Directories
                    }
                    None => Token::Rest,
                }
            }
            '*' => Token::Some,
            '?' => Token::One,
            '\\' => {
                let literal = after.chars().next().unwrap_or('\\');
                after = after.get(literal.len_utf8()..).unwrap_or_default();
                Token::Char(literal)
            }
            '[' => match class(after) {
                Some((class, below)) => {
                    after = below;
                    class
                }
                None => Token::Char('['),
            },
            c => Token::Char(c),
        });
        rest = after;
    }
    tokens
}

/// Reads a class after its `[`; returns it and what follows its `]`.
fn class(text: &str) -> Option<(Token, &str)> {
    let (negated, body) = match text.strip_prefix(['^', '!']) {
        Some(body) => (true, body),
        None => (false, text),
    };
    let mut ranges = Vec::new();
    let mut chars = body.char_indices().peekable();
    while let Some((at, c)) = chars.next() {
        if c == ']' && at > 0 {
            return Some((Token::Class { negated, ranges }, &body[at + 1..]));
        }
        let first = if c == '\\' { chars.next()?.1 } else { c };
        let mut last = first;
        if chars.peek().is_some_and(|(_, c)| *c == '-') && !body[at..].starts_with("-]") {
            let mut ahead = chars.clone();
            ahead.next();
            if let Some((_, end)) = ahead.next().filter(|(_, c)| *c != ']') {
                chars = ahead;
                last = end;
            }
        }
        ranges.push((first, last));
    }
    None
}

/// Matches in time proportional to the product of the lengths.
fn matches(tokens: &[Token], path: &str) -> bool {
    let chars: Vec<char> = path.chars().collect();
    // `reach[i]`: the tokens so far match the first i characters.
    let mut reach = vec![false; chars.len() + 1];
    reach[0] = true;
    for token in tokens {
        let mut next = vec![false; chars.len() + 1];
        match token {
            Token::Rest => {
                let mut any = false;
                for i in 0..=chars.len() {
                    any |= reach[i];
                    next[i] = any;
                }
            }
            Token::Some => {
                let mut any = false;
                for i in 0..=chars.len() {
                    if i > 0 && chars[i - 1] == '/' {
                        any = false;
                    }
                    any |= reach[i];
                    next[i] = any;
                }
            }
            Token::Directories => {
                let mut any = false;
                for i in 0..=chars.len() {
                    next[i] = reach[i] || (any && i > 0 && chars[i - 1] == '/');
                    any |= reach[i];
                }
            }
            single => {
                for i in 0..chars.len() {
                    next[i + 1] = reach[i] && fits(single, chars[i]);
                }
            }
        }
        reach = next;
    }
    reach[chars.len()]
}

fn fits(token: &Token, c: char) -> bool {
    match token {
        Token::Char(own) => *own == c,
        Token::One => c != '/',
        Token::Class { negated, ranges } => {
            c != '/'
                && ranges
                    .iter()
                    .any(|(first, last)| (*first..=*last).contains(&c))
                    != *negated
        }
        Token::Some | Token::Directories | Token::Rest => false,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn patterns_match_as_in_other_builders() {
        for (pattern, path, expected) in [
            ("a", "a", true),
            ("/a/", "a/b", true),
            ("a", "b/a", false),
            ("*.md", "x.md", true),
            ("*.md", "d/x.md", false),
            ("*/x.md", "d/x.md", true),
            ("**/x.md", "x.md", true),
            ("**/x.md", "a/b/x.md", true),
            ("**/x.md", "a/yx.md", false),
            ("a/**", "a/b/c", true),
            ("a/**", "b", false),
            ("a/**/z", "a/z", true),
            ("a/**/z", "a/b/c/z", true),
            ("?at", "cat", true),
            ("[a-c]at", "bat", true),
            ("[^a-c]at", "bat", false),
            ("[", "[", true),
            ("\\*", "*", true),
            ("\\*", "x", false),
            ("./b/../c", "c", true),
            ("# note", "# note", false),
        ] {
            assert_eq!(
                Ignore::parse(pattern).excludes(path),
                expected,
                "{pattern} {path}"
            );
        }
    }

    #[test]
    fn the_last_match_decides() {
        let ignore = Ignore::parse("*\n!keep\nkeep/not\n");
        for (path, excluded) in [("x", true), ("keep/a", false), ("keep/not/a", true)] {
            assert_eq!(ignore.excludes(path), excluded, "{path}");
        }
        assert!(!ignore.is_final());
        assert!(Ignore::parse("a\n\nb").is_final());
    }

    proptest! {
        #[test]
        fn nothing_panics(text in "[a-c*?/\\[\\]!^\\\\é.\n-]{0,20}", path in "[a-c/é.]{0,12}") {
            Ignore::parse(&text).excludes(&path);
        }

        #[test]
        fn a_plain_name_matches_itself(name in "[a-z]{1,8}(/[a-z]{1,8}){0,3}") {
            prop_assert!(Ignore::parse(&name).excludes(&name));
            let below = format!("{}/x", name);
            prop_assert!(Ignore::parse(&name).excludes(&below));
        }
    }
}
