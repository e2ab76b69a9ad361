//! Variable expansion and quote removal, by the rules of the Containerfile shell-like words.

use thiserror::Error;

/// Why a word could not be expanded.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum ExpandError {
    #[error("expected `}}` that closes `${{`")]
    Unclosed,
    #[error("expected a closing `{0}`")]
    Quote(char),
    #[error("expected a variable name after `$`, found `{0}`")]
    Name(String),
    #[error("unsupported modifier `{0}` in a variable expansion")]
    Modifier(String),
    #[error("variable `{name}`: {message}")]
    Required { name: String, message: String },
    #[error("expansions are nested more than {MAX_DEPTH} deep")]
    Depth,
    #[error("the expanded text is longer than {MAX_LENGTH} bytes")]
    Length,
}

/// Deeper nesting than anybody writes by hand; keeps recursion off the end of the stack.
const MAX_DEPTH: usize = 32;
/// `ENV a=$a$a` doubles: without a bound thirty lines exhaust the memory.
const MAX_LENGTH: usize = 1 << 20;
/// Pattern work is quadratic in the value.
const MAX_PATTERN_WORK: usize = 1 << 26;

/// The values an expansion may use: a set variable, possibly empty, or `None`.
pub(crate) type Lookup<'a> = dyn Fn(&str) -> Option<String> + 'a;

/// Expands a word: variables are replaced, quotes and escapes resolved.
pub fn expand(raw: &str, lookup: &Lookup<'_>, escape: char) -> Result<String, ExpandError> {
    Expander {
        lookup,
        escape,
        quotes: true,
    }
    .run(raw, 0)
}

/// Expands the content of a here-document: variables and escaped `$` only, quotes are plain text.
pub fn expand_text(raw: &str, lookup: &Lookup<'_>, escape: char) -> Result<String, ExpandError> {
    Expander {
        lookup,
        escape,
        quotes: false,
    }
    .run(raw, 0)
}

struct Expander<'a> {
    lookup: &'a Lookup<'a>,
    escape: char,
    quotes: bool,
}

impl Expander<'_> {
    fn run(&self, raw: &str, depth: usize) -> Result<String, ExpandError> {
        if depth > MAX_DEPTH {
            return Err(ExpandError::Depth);
        }
        let mut out = String::new();
        let mut quote: Option<char> = None;
        let mut rest = raw;
        while let Some(c) = rest.chars().next() {
            let after = &rest[c.len_utf8()..];
            rest = match quote {
                Some('\'') => {
                    if c == '\'' {
                        quote = None;
                    } else {
                        out.push(c);
                    }
                    after
                }
                _ if c == self.escape => self.escaped(after, quote, &mut out),
                _ if c == '$' => self.variable(after, &mut out, depth)?,
                Some(open) if c == open => {
                    quote = None;
                    after
                }
                None if self.quotes && (c == '\'' || c == '"') => {
                    quote = Some(c);
                    after
                }
                _ => {
                    out.push(c);
                    after
                }
            };
            if out.len() > MAX_LENGTH {
                return Err(ExpandError::Length);
            }
        }
        match quote {
            Some(open) => Err(ExpandError::Quote(open)),
            None => Ok(out),
        }
    }

    /// Resolves what follows an escape character. Inside double quotes and here-documents an escape that
    /// protects nothing stays in the text.
    fn escaped<'t>(&self, after: &'t str, quote: Option<char>, out: &mut String) -> &'t str {
        let Some(next) = after.chars().next() else {
            out.push(self.escape);
            return after;
        };
        let protects = match (quote, self.quotes) {
            (None, true) => true,
            (Some(_), _) => next == '"' || next == '$' || next == self.escape,
            (None, false) => next == '$' || next == self.escape,
        };
        if !protects {
            out.push(self.escape);
        }
        out.push(next);
        &after[next.len_utf8()..]
    }

    /// Expands the variable after a `$`; returns what follows it.
    fn variable<'t>(
        &self,
        after: &'t str,
        out: &mut String,
        depth: usize,
    ) -> Result<&'t str, ExpandError> {
        let Some(body) = after.strip_prefix('{') else {
            let end = name_end(after);
            if end == 0 {
                out.push('$');
                return Ok(after);
            }
            out.push_str(&(self.lookup)(&after[..end]).unwrap_or_default());
            return Ok(&after[end..]);
        };
        let close = self.closing(body)?;
        let (inside, rest) = (&body[..close], &body[close + 1..]);
        let end = name_end(inside);
        if end == 0 {
            return Err(ExpandError::Name(inside.chars().take(20).collect()));
        }
        let (name, modifier) = inside.split_at(end);
        out.push_str(&self.modified(name, modifier, depth)?);
        Ok(rest)
    }

    /// The offset of the `}` that belongs to an open `${`.
    fn closing(&self, body: &str) -> Result<usize, ExpandError> {
        let mut open = 1usize;
        let mut previous = '\0';
        let mut chars = body.char_indices();
        while let Some((offset, c)) = chars.next() {
            match c {
                '{' if previous == '$' => open += 1,
                '}' => open -= 1,
                c if c == self.escape => {
                    chars.next();
                }
                _ => {}
            }
            if open == 0 {
                return Ok(offset);
            }
            previous = c;
        }
        Err(ExpandError::Unclosed)
    }

    /// The two sides of the first `/` that is not escaped.
    fn halves<'t>(&self, word: &'t str) -> (&'t str, &'t str) {
        let mut chars = word.char_indices();
        while let Some((at, c)) = chars.next() {
            if c == '/' {
                return (&word[..at], &word[at + 1..]);
            }
            if c == self.escape {
                chars.next();
            }
        }
        (word, "")
    }

    fn modified(&self, name: &str, modifier: &str, depth: usize) -> Result<String, ExpandError> {
        let value = (self.lookup)(name);
        if modifier.is_empty() {
            return Ok(value.unwrap_or_default());
        }
        // With a colon an empty value counts as not set.
        let (operator, word, value) = match modifier.strip_prefix(':') {
            Some(rest) => (rest.chars().next(), rest, value.filter(|v| !v.is_empty())),
            None => (modifier.chars().next(), modifier, value),
        };
        let colon = modifier.starts_with(':');
        let word = word.get(1..).unwrap_or_default();
        match operator {
            Some('-') => match value {
                Some(value) => Ok(value),
                None => self.run(word, depth + 1),
            },
            Some('+') => match value {
                Some(_) => self.run(word, depth + 1),
                None => Ok(String::new()),
            },
            Some('?') => match value {
                Some(value) => Ok(value),
                None => {
                    let message = self.run(word, depth + 1)?;
                    let message = if message.is_empty() {
                        "expected a value".to_string()
                    } else {
                        message
                    };
                    Err(ExpandError::Required {
                        name: name.to_string(),
                        message,
                    })
                }
            },
            Some(operator @ ('#' | '%')) if !colon => {
                let longest = word.starts_with(operator);
                let pattern = self.run(if longest { &word[1..] } else { word }, depth + 1)?;
                trim(
                    &value.unwrap_or_default(),
                    &pattern,
                    operator == '#',
                    longest,
                )
            }
            Some('/') if !colon => {
                let all = word.starts_with('/');
                let word = if all { &word[1..] } else { word };
                let (pattern, replacement) = self.halves(word);
                let pattern = self.run(pattern, depth + 1)?;
                let replacement = self.run(replacement, depth + 1)?;
                replace(&value.unwrap_or_default(), &pattern, &replacement, all)
            }
            _ => Err(ExpandError::Modifier(modifier.chars().take(8).collect())),
        }
    }
}

/// How many bytes of `text` are a variable name.
fn name_end(text: &str) -> usize {
    let digits = text.starts_with(|c: char| c.is_ascii_digit());
    if digits {
        return 1;
    }
    text.find(|c: char| !c.is_ascii_alphanumeric() && c != '_')
        .unwrap_or(text.len())
}

/// `${v#p}`, `${v##p}`, `${v%p}`, `${v%%p}`.
fn trim(value: &str, pattern: &str, front: bool, longest: bool) -> Result<String, ExpandError> {
    let ordered = |text: &str| -> Vec<char> {
        if front {
            text.chars().collect()
        } else {
            text.chars().rev().collect()
        }
    };
    let (chars, pattern) = (ordered(value), ordered(pattern));
    if chars.len().saturating_mul(pattern.len() + 1) > MAX_PATTERN_WORK {
        return Err(ExpandError::Length);
    }
    let Some(length) = prefix(&chars, &pattern, longest) else {
        return Ok(value.to_string());
    };
    let kept = &chars[length..];
    Ok(if front {
        kept.iter().collect()
    } else {
        kept.iter().rev().collect()
    })
}

/// `${v/p/r}` and `${v//p/r}`.
fn replace(
    value: &str,
    pattern: &str,
    replacement: &str,
    all: bool,
) -> Result<String, ExpandError> {
    let (chars, pattern): (Vec<char>, Vec<char>) =
        (value.chars().collect(), pattern.chars().collect());
    let work = chars
        .len()
        .saturating_mul(chars.len())
        .saturating_mul(pattern.len() + 1);
    if work > MAX_PATTERN_WORK {
        return Err(ExpandError::Length);
    }
    let mut out = String::new();
    let mut at = 0;
    let mut done = pattern.is_empty();
    while at < chars.len() {
        match prefix(&chars[at..], &pattern, true) {
            Some(length) if !done && length > 0 => {
                out.push_str(replacement);
                at += length;
                done = !all;
            }
            _ => {
                out.push(chars[at]);
                at += 1;
            }
        }
        if out.len() > MAX_LENGTH {
            return Err(ExpandError::Length);
        }
    }
    Ok(out)
}

/// The length of the shortest or longest prefix that a pattern of `*`, `?` and plain characters matches.
fn prefix(chars: &[char], pattern: &[char], longest: bool) -> Option<usize> {
    // `states[i]`: the first i pattern characters match what was read.
    let mut states = vec![false; pattern.len() + 1];
    states[0] = true;
    let close = |states: &mut Vec<bool>| {
        for (i, c) in pattern.iter().enumerate() {
            if states[i] && *c == '*' {
                states[i + 1] = true;
            }
        }
    };
    close(&mut states);
    let mut found = states[pattern.len()].then_some(0);
    for (read, c) in chars.iter().enumerate() {
        if found.is_some() && !longest {
            break;
        }
        let mut following = vec![false; pattern.len() + 1];
        for (i, p) in pattern.iter().enumerate() {
            match p {
                '*' if states[i] => following[i] = true,
                '?' if states[i] => following[i + 1] = true,
                p if states[i] && p == c => following[i + 1] = true,
                _ => {}
            }
        }
        close(&mut following);
        states = following;
        if states[pattern.len()] {
            found = Some(read + 1);
        }
        if !states.contains(&true) {
            break;
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lookup(name: &str) -> Option<String> {
        match name {
            "a" => Some("foo".into()),
            "empty" => Some(String::new()),
            "path" => Some("/usr/local/lib.tar.gz".into()),
            _ => None,
        }
    }

    #[test]
    fn words_expand() {
        for (raw, expected) in [
            ("plain", "plain"),
            ("$a-${a}", "foo-foo"),
            ("'$a'", "$a"),
            ("\"$a b\"", "foo b"),
            (r"\$a", "$a"),
            (r#""\$a \n \"""#, r#"$a \n ""#),
            ("$", "$"),
            ("$-", "$-"),
            ("$none.", "."),
            ("${none:-x}", "x"),
            ("${empty:-x}", "x"),
            ("${empty-x}", ""),
            ("${a:+y}${none:+n}${empty+e}", "ye"),
            ("${none:-${a}}", "foo"),
            ("${none:-\"b c\"}", "b c"),
            ("${a:?must}", "foo"),
            ("${path#*/}", "usr/local/lib.tar.gz"),
            ("${path##*/}", "lib.tar.gz"),
            ("${path%.*}", "/usr/local/lib.tar"),
            ("${path%%.*}", "/usr/local/lib"),
            ("${a/o/0}", "f0o"),
            ("${a//o/0}", "f00"),
            ("${a/?o/x}", "xo"),
            (r"${path//\//_}", "_usr_local_lib.tar.gz"),
            ("${path#zzz}", "/usr/local/lib.tar.gz"),
        ] {
            assert_eq!(expand(raw, &lookup, '\\').as_deref(), Ok(expected), "{raw}");
        }
    }

    #[test]
    fn bad_words_are_refused() {
        let deep = "${n:-".repeat(100) + &"}".repeat(100);
        for (raw, expected) in [
            ("${a", "expected `}` that closes `${`"),
            ("'x", "expected a closing `'`"),
            ("${}", "expected a variable name after `$`, found ``"),
            ("${none:?set it}", "variable `none`: set it"),
            (
                "${a^^}",
                "unsupported modifier `^^` in a variable expansion",
            ),
            (deep.as_str(), "expansions are nested more than 32 deep"),
        ] {
            assert_eq!(
                expand(raw, &lookup, '\\').map_err(|e| e.to_string()),
                Err(expected.into()),
                "{raw}"
            );
        }
    }

    #[test]
    fn growth_is_bounded() {
        let big = |_: &str| Some("x".repeat(MAX_LENGTH / 2));
        assert_eq!(expand("$a$a$a", &big, '\\'), Err(ExpandError::Length));
        assert_eq!(expand("${a//x*y/z}", &big, '\\'), Err(ExpandError::Length));
    }

    #[test]
    fn heredoc_text_keeps_quotes() {
        let text = "say \"$a\" and '$a' \\$a \\n\n";
        assert_eq!(
            expand_text(text, &lookup, '\\').as_deref(),
            Ok("say \"foo\" and 'foo' $a \\n\n")
        );
    }
}
