//! Which versions of Caprock's parts work together: an agent or a builder is of the controllers' minor version or of the
//! one before. So the controllers are upgraded first, and nodes follow one by one.

use std::collections::BTreeMap;

/// The version of this program.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// The rule, for people.
pub const RULE: &str =
    "agents and builders may be of the controllers' minor version or of the one before";

/// How a part's version relates to the controllers'.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Skew {
    /// They work together.
    Supported,
    /// The part is too old: upgrade it.
    TooOld,
    /// The part is newer than the controllers: upgrade those.
    Newer,
    /// A version that cannot be read.
    Unknown,
}

/// Compares a part with the controllers.
pub fn skew(controllers: &str, part: &str) -> Skew {
    let (Some(controllers), Some(part)) = (minor(controllers), minor(part)) else {
        return Skew::Unknown;
    };
    match (part.cmp(&controllers), controllers.0 == part.0) {
        (std::cmp::Ordering::Greater, _) => Skew::Newer,
        (std::cmp::Ordering::Equal, _) => Skew::Supported,
        (std::cmp::Ordering::Less, true) if controllers.1 - part.1 == 1 => Skew::Supported,
        (std::cmp::Ordering::Less, _) => Skew::TooOld,
    }
}

fn minor(version: &str) -> Option<(u32, u32)> {
    let mut numbers = version.split(['.', '-', '+']);
    let mut next = || numbers.next()?.parse().ok();
    Some((next()?, next()?))
}

/// What to say of parts that the rule does not allow, by their names; none when all are allowed. Parts that say no version are
/// older than this rule, and allowed.
pub fn broken<'a>(
    controllers: &str,
    parts: impl IntoIterator<Item = (&'a str, &'a str)>,
) -> Option<String> {
    let mut found: BTreeMap<(&str, &str), Vec<String>> = BTreeMap::new();
    for (name, version) in parts {
        let remedy = match skew(controllers, version) {
            Skew::Supported => continue,
            Skew::TooOld => "too old; upgrade it",
            Skew::Newer => "newer than the controllers; upgrade those first",
            Skew::Unknown => "no version that is known",
        };
        let named = found.entry((version, remedy)).or_default();
        named.push(format!("`{name}`"));
    }
    const NAMED: usize = 5;
    let told: Vec<String> = found
        .into_iter()
        .map(|((version, remedy), names)| {
            let more = match names.len() > NAMED {
                true => format!(" and {} more", names.len() - NAMED),
                false => String::new(),
            };
            let names = names[..names.len().min(NAMED)].join(", ");
            format!("{names}{more} at {version}, which is {remedy}")
        })
        .collect();
    (!told.is_empty()).then(|| {
        format!(
            "the controllers are {controllers}: {}; {RULE}",
            told.join("; ")
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_minor_version_older_is_supported() {
        for (controllers, part, expected) in [
            ("0.2.0", "0.2.9", Skew::Supported),
            ("0.2.0", "0.1.9", Skew::Supported),
            ("0.3.0", "0.1.0", Skew::TooOld),
            ("0.2.0", "0.3.0", Skew::Newer),
            ("1.0.0", "0.9.0", Skew::TooOld),
            ("1.4.0", "2.0.0", Skew::Newer),
            ("1.4.0-rc.1", "1.3.2+debian", Skew::Supported),
            ("1.4.0", "latest", Skew::Unknown),
            ("1.4.0", "1", Skew::Unknown),
        ] {
            assert_eq!(skew(controllers, part), expected, "{controllers} {part}");
        }
    }

    #[test]
    fn those_that_break_the_rule_are_named() {
        assert_eq!(broken("0.3.0", [("a", "0.3.1"), ("b", "0.2.0")]), None);
        assert_eq!(
            broken("0.3.0", [("a", "0.1.0"), ("b", "0.1.0"), ("c", "0.4.0")]).as_deref(),
            Some(
                "the controllers are 0.3.0: `a`, `b` at 0.1.0, which is too old; upgrade it; \
                 `c` at 0.4.0, which is newer than the controllers; upgrade those first; \
                 agents and builders may be of the controllers' minor version or of the one before"
            )
        );
    }
}
