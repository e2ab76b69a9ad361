//! Splitting a line into words without resolving quotes, so that later expansion still sees them.

/// Splits on white space outside quotes; each word with its byte offset, quotes and escapes kept.
pub(super) fn split(text: &str, escape: char) -> Vec<(usize, &str)> {
    let mut words = Vec::new();
    let mut rest = 0;
    while let Some((start, end)) = next(text, rest, escape) {
        words.push((start, &text[start..end]));
        rest = end;
    }
    words
}

/// The bounds of the first word at or after `from`.
pub(super) fn next(text: &str, from: usize, escape: char) -> Option<(usize, usize)> {
    let start = from + text[from..].find(|c: char| !c.is_whitespace())?;
    let mut quote = None;
    let mut chars = text[start..].char_indices();
    while let Some((offset, c)) = chars.next() {
        match quote {
            Some('\'') if c == '\'' => quote = None,
            Some('"') if c == '"' => quote = None,
            Some('"') | None if c == escape => {
                chars.next();
            }
            Some(_) => {}
            None if c == '\'' || c == '"' => quote = Some(c),
            None if c.is_whitespace() => return Some((start, start + offset)),
            None => {}
        }
    }
    Some((start, text.len()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_keep_quotes_and_escapes() {
        let words: Vec<&str> = split(r#" a="b c" 'd  e'f g\ h "#, '\\')
            .into_iter()
            .map(|(_, w)| w)
            .collect();
        assert_eq!(words, [r#"a="b c""#, "'d  e'f", r"g\ h"]);
        assert_eq!(split("  ", '\\'), vec![]);
        assert_eq!(split("x 'open", '\\'), vec![(0, "x"), (2, "'open")]);
    }
}
