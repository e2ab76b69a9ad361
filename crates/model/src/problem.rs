//! What is wrong with one field, and the guess at what was meant.

use std::fmt;

/// How the reason of a field that nobody knows begins.
pub(crate) const UNKNOWN_FIELD: &str = "unknown field";

/// What is wrong with one field of an object.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Problem {
    /// Path of the field inside the object, such as `storage.files[0].path`.
    pub field: String,
    /// What is wrong, what was expected, and what to do.
    pub reason: String,
}

impl Problem {
    /// A problem of `field`.
    pub fn new(field: impl Into<String>, reason: impl Into<String>) -> Self {
        Problem {
            field: field.into(),
            reason: reason.into(),
        }
    }

    /// Whether the field is one that nobody knows.
    pub fn is_unknown_field(&self) -> bool {
        self.reason.starts_with(UNKNOWN_FIELD)
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{}`: {}", self.field, self.reason)
    }
}

/// Most problems that one message tells; who corrects twenty asks again.
const MAX_LINES: usize = 20;
/// Longest line of a message. A value from a manifest may be a megabyte, a condition's message may not.
const MAX_LINE_CHARS: usize = 500;

/// Several problems as one text, a line for each, of bounded size.
pub fn summary(problems: &[impl fmt::Display]) -> String {
    let mut lines: Vec<String> = problems
        .iter()
        .take(MAX_LINES)
        .map(|problem| shortened(problem.to_string()))
        .collect();
    if problems.len() > MAX_LINES {
        lines.push(format!("and {} more", problems.len() - MAX_LINES));
    }
    lines.join("\n")
}

fn shortened(mut line: String) -> String {
    if let Some((end, _)) = line.char_indices().nth(MAX_LINE_CHARS) {
        line.truncate(end);
        line.push_str("...");
    }
    line
}

/// The known word that `word` was most likely meant to be, if one is near enough.
pub fn nearest<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let lower = word.to_lowercase();
    known
        .into_iter()
        .filter_map(|candidate| {
            let other = candidate.to_lowercase();
            let distance = strsim::damerau_levenshtein(&lower, &other);
            let near = distance <= tolerance(candidate) || is_abbreviation(&lower, &other);
            near.then_some((distance, candidate))
        })
        .min_by_key(|&(distance, _)| distance)
        .map(|(_, candidate)| candidate)
}

/// The sentence part that offers `nearest`, or nothing.
pub fn did_you_mean<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> String {
    match nearest(word, known) {
        Some(candidate) => format!("; did you mean `{candidate}`?"),
        None => String::new(),
    }
}

/// Short words differ by one letter at most, or everything would resemble everything.
fn tolerance(word: &str) -> usize {
    match word.len() {
        0..=4 => 1,
        5..=8 => 2,
        _ => 3,
    }
}

/// Whether one word is most of the other's beginning, as `kernelArgs` is of `kernelArguments`.
fn is_abbreviation(word: &str, other: &str) -> bool {
    word.len() >= 5 && strsim::jaro_winkler(word, other) >= 0.92
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn summaries_are_bounded() {
        assert_eq!(summary(&["a", "b"]), "a\nb");
        let many = vec!["ä".repeat(1_000_000); 1000];
        let text = summary(&many);
        assert!(
            text.ends_with("...\nand 980 more") && text.len() < 21_000,
            "{}",
            text.len()
        );
    }

    #[test]
    fn near_words_are_found() {
        let known = ["contents", "enabled", "mask", "name", "dropins"];
        for (word, expected) in [
            ("enable", Some("enabled")),
            ("Contents", Some("contents")),
            ("dropIns", Some("dropins")),
            ("content", Some("contents")),
            ("exec", None),
        ] {
            assert_eq!(nearest(word, known), expected, "{word}");
        }
        assert_eq!(
            nearest("kernelArgs", ["kernelType", "kernelArguments"]),
            Some("kernelArguments")
        );
    }
}
