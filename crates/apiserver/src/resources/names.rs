//! What names may look like.

use crate::kinds::NameRule;

/// RFC 1123 label: what fits one part of a DNS name.
pub(crate) fn is_label(text: &str) -> bool {
    let bytes = text.as_bytes();
    text.len() <= 63
        && bytes
            .iter()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || *b == b'-')
        && bytes.first().is_some_and(|b| *b != b'-')
        && bytes.last().is_some_and(|b| *b != b'-')
}

/// RFC 1123 subdomain.
pub(crate) fn is_subdomain(text: &str) -> bool {
    text.len() <= 253
        && text.split('.').all(|part| {
            let bytes = part.as_bytes();
            bytes
                .iter()
                .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || *b == b'-')
                && bytes.first().is_some_and(|b| *b != b'-')
                && bytes.last().is_some_and(|b| *b != b'-')
        })
}

/// The reason why `name` is refused, worded as Kubernetes words it.
pub(crate) fn check(rule: NameRule, name: &str) -> Result<(), &'static str> {
    let (fits, message) = match rule {
        NameRule::Subdomain => (
            is_subdomain(name),
            "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', \
             and must start and end with an alphanumeric character (e.g. 'example.com', regex used for \
             validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')",
        ),
        NameRule::Label => (
            is_label(name),
            "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must \
             start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for \
             validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')",
        ),
        NameRule::PathSegment => (
            !matches!(name, "." | "..") && !name.contains(['/', '%']),
            "may not be '.' or '..', nor contain '/' or '%'",
        ),
    };
    if fits { Ok(()) } else { Err(message) }
}

/// Five characters that `generateName` appends, without vowels so that no words come out.
pub(crate) fn suffix() -> Result<String, getrandom::Error> {
    const ALPHABET: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
    let mut bytes = [0; 5];
    getrandom::fill(&mut bytes)?;
    let pick = |b: &u8| char::from(ALPHABET[usize::from(*b) % ALPHABET.len()]);
    Ok(bytes.iter().map(pick).collect())
}

/// A random (version 4) UUID.
pub(crate) fn uid() -> Result<String, getrandom::Error> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes)?;
    bytes[6] = (bytes[6] & 0x0f) | 0x40;
    bytes[8] = (bytes[8] & 0x3f) | 0x80;
    let hex: Vec<String> = bytes.iter().map(|b| format!("{b:02x}")).collect();
    let hex = hex.concat();
    Ok(format!(
        "{}-{}-{}-{}-{}",
        &hex[..8],
        &hex[8..12],
        &hex[12..16],
        &hex[16..20],
        &hex[20..]
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        let long = "a".repeat(64);
        for (name, label, subdomain) in [
            ("a", true, true),
            ("worker-1", true, true),
            ("a.b", false, true),
            ("a..b", false, false),
            ("-a", false, false),
            ("a-", false, false),
            ("a.-b", false, false),
            ("A", false, false),
            ("a_b", false, false),
            ("", false, false),
            (&long, false, true),
        ] {
            assert_eq!(is_label(name), label, "{name}");
            assert_eq!(is_subdomain(name), subdomain, "{name}");
        }
    }
}
