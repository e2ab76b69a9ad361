//! What `sshd` takes as a line of `authorized_keys`.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

const TYPES: &[&str] = &[
    "ssh-ed25519",
    "ssh-rsa",
    "ssh-dss",
    "ecdsa-sha2-nistp256",
    "ecdsa-sha2-nistp384",
    "ecdsa-sha2-nistp521",
    "sk-ssh-ed25519@openssh.com",
    "sk-ecdsa-sha2-nistp256@openssh.com",
    "ssh-ed25519-cert-v01@openssh.com",
    "ssh-rsa-cert-v01@openssh.com",
    "ecdsa-sha2-nistp256-cert-v01@openssh.com",
    "ecdsa-sha2-nistp384-cert-v01@openssh.com",
    "ecdsa-sha2-nistp521-cert-v01@openssh.com",
];

/// Why `line` is not a public key, or nothing when it is one. Options may stand before the key and a comment after it.
pub(super) fn problem(line: &str) -> Option<String> {
    if line.chars().any(|c| c.is_control() && c != '\t') {
        return Some("expected one public key on one line".into());
    }
    let words: Vec<&str> = line.split_whitespace().collect();
    let Some(at) = words.iter().position(|word| TYPES.contains(word)) else {
        return Some(format!(
            "expected a public key such as `{} AAAA... comment`",
            TYPES[0]
        ));
    };
    let blob = words
        .get(at + 1)
        .and_then(|blob| STANDARD.decode(blob).ok());
    match blob {
        Some(blob) if blob_type(&blob) == Some(words[at].as_bytes()) => None,
        _ => Some(format!(
            "the text after `{}` is not a key of that type; was it cut off?",
            words[at]
        )),
    }
}

/// The type that the key itself names, in its first field.
fn blob_type(blob: &[u8]) -> Option<&[u8]> {
    let (length, rest) = blob.split_first_chunk::<4>()?;
    rest.get(..usize::try_from(u32::from_be_bytes(*length)).ok()?)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    /// A key of thirty-two zero bytes: well formed and of no use.
    const KEY: &str =
        "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";

    #[test]
    fn keys() {
        for good in [
            KEY.to_owned(),
            format!("{KEY} admin@example.com"),
            format!("from=\"10.0.0.0/8\",no-pty {KEY} x"),
        ] {
            assert_eq!(problem(&good), None, "{good}");
        }
        let refused: Vec<String> = [
            "not a key".to_owned(),
            String::new(),
            "ssh-ed25519".to_owned(),
            "ssh-rsa AAAAC3NzaC1lZDI1NTE5AAAAIAAA".to_owned(),
            format!("{KEY}\n{KEY}"),
        ]
        .into_iter()
        .map(|bad| format!("{bad:?}: {}", problem(&bad).unwrap()))
        .collect();
        insta::assert_snapshot!(refused.join("\n"));
    }
}
