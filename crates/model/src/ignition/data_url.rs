//! Contents given as `data:` URLs: percent-encoded or base64, plain or gzip, checked against a hash.

use std::io::Read;

use base64::Engine;
use base64::alphabet;
use base64::engine::DecodePaddingMode;
use base64::engine::general_purpose::{GeneralPurpose, GeneralPurposeConfig};
use flate2::read::MultiGzDecoder;
use sha2::{Digest, Sha256, Sha512};

/// Most bytes that the files of one config may have when decoded. Keeps a small object from unpacking into all memory.
pub const MAX_CONTENT_BYTES: usize = 32 * 1024 * 1024;

/// Both spellings of the ends of base64 are in use.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// The bytes of a data URL, at most `limit`.
pub(super) fn decode(source: &str, limit: usize) -> Result<Vec<u8>, String> {
    let rest = match source.split_once(':') {
        Some((scheme, rest)) if scheme.eq_ignore_ascii_case("data") => rest,
        Some((scheme, _)) if is_scheme(scheme) => {
            return Err(format!(
                "expected a `data:` URL, found scheme `{scheme}`; nodes fetch nothing, so the contents must be in the MachineConfig, or in a Secret that `secret:NAME/KEY` names"
            ));
        }
        _ if source.is_empty() => {
            return Err("expected a `data:` URL, found nothing; an empty file is `data:,`".into());
        }
        _ => return Err("expected a `data:` URL, such as `data:,text`".into()),
    };
    let Some((media, payload)) = rest.split_once(',') else {
        return Err("expected a `,` between the type of the data URL and its contents".into());
    };
    let base64 = media
        .rsplit(';')
        .next()
        .is_some_and(|last| last.trim().eq_ignore_ascii_case("base64"));
    let bytes = unescape(payload)?;
    let bytes = if base64 {
        let text: Vec<u8> = bytes
            .into_iter()
            .filter(|byte| !byte.is_ascii_whitespace())
            .collect();
        BASE64
            .decode(text)
            .map_err(|error| format!("expected base64 after the `,`: {error}"))?
    } else {
        bytes
    };
    if bytes.len() > limit {
        return Err(too_large());
    }
    Ok(bytes)
}

/// The bytes of a gzip stream, at most `limit`.
pub(super) fn gunzip(bytes: &[u8], limit: usize) -> Result<Vec<u8>, String> {
    let mut plain = Vec::new();
    let most = u64::try_from(limit).unwrap_or(u64::MAX).saturating_add(1);
    MultiGzDecoder::new(bytes)
        .take(most)
        .read_to_end(&mut plain)
        .map_err(|error| format!("expected contents compressed with gzip: {error}"))?;
    if plain.len() > limit {
        return Err(too_large());
    }
    Ok(plain)
}

/// Checks `bytes` against `hash`, which is `sha256-<hex>` or `sha512-<hex>`. The hash is of the bytes as written to disk.
pub(super) fn verify(bytes: &[u8], hash: &str) -> Result<(), String> {
    let (expected, found) = match hash.split_once('-') {
        Some(("sha256", hex)) => (hex, hex_of(&Sha256::digest(bytes))),
        Some(("sha512", hex)) => (hex, hex_of(&Sha512::digest(bytes))),
        _ => {
            return Err(format!(
                "expected `sha256-<hex>` or `sha512-<hex>`, found `{hash}`"
            ));
        }
    };
    if expected.eq_ignore_ascii_case(&found) {
        Ok(())
    } else {
        Err(format!("the contents do not have this hash, but `{found}`"))
    }
}

pub(crate) fn hex_of(bytes: &[u8]) -> String {
    use std::fmt::Write;
    let mut text = String::with_capacity(bytes.len() * 2);
    for byte in bytes {
        write!(text, "{byte:02x}").expect("writing to a string never fails");
    }
    text
}

fn too_large() -> String {
    format!(
        "expected at most {} MiB of contents in one config",
        MAX_CONTENT_BYTES / (1024 * 1024)
    )
}

fn is_scheme(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_alphabetic())
        && text
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || "+-.".contains(c))
}

fn unescape(text: &str) -> Result<Vec<u8>, String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        rest = after;
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let escaped = rest
            .get(..2)
            .and_then(|pair| std::str::from_utf8(pair).ok())
            .filter(|pair| pair.bytes().all(|b| b.is_ascii_hexdigit()))
            .and_then(|pair| u8::from_str_radix(pair, 16).ok())
            .ok_or("expected two hexadecimal digits after each `%`; a `%` itself is `%25`")?;
        bytes.push(escaped);
        rest = &rest[2..];
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::io::Write;

    use super::*;

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    #[test]
    fn spellings_of_the_same_bytes() {
        for source in [
            "data:,hello%20world%0A",
            "data:,hello world%0a",
            "data:text/plain;charset=utf-8,hello%20world%0a",
            "data:;base64,aGVsbG8gd29ybGQK",
            "data:text/plain;charset=utf-8;base64,aGVsbG8gd29ybGQK",
            "DATA:;BASE64,aGVs bG8g\nd29ybGQK",
            "data:;base64,aGVsbG8gd29ybGQ%4B",
        ] {
            assert_eq!(decode(source, 100).unwrap(), b"hello world\n", "{source}");
        }
        assert_eq!(decode("data:,", 100).unwrap(), b"");
        assert_eq!(decode("data:;base64,YQ", 100).unwrap(), b"a");
    }

    #[test]
    fn others_are_refused() {
        let refused: Vec<String> = [
            "",
            "https://example.com/x",
            "s3://bucket/x",
            "/etc/x",
            "data:text/plain",
            "data:;base64,!!!",
            "data:,100%",
            "data:,%zz",
            "data:,%+1",
        ]
        .into_iter()
        .map(|source| format!("{source}: {}", decode(source, 100).unwrap_err()))
        .collect();
        insta::assert_snapshot!(refused.join("\n"));
    }

    #[test]
    fn gzip_is_bounded_and_checked() {
        assert_eq!(gunzip(&gzip(b"hello"), 5).unwrap(), b"hello");
        assert!(gunzip(&gzip(b"hello!"), 5).unwrap_err().contains("at most"));
        assert!(gunzip(&gzip(&vec![0; 50_000_000]), MAX_CONTENT_BYTES).is_err());
        assert!(gunzip(b"plain", 100).unwrap_err().contains("gzip"));
        let whole = gzip(b"hello");
        assert!(gunzip(&whole[..whole.len() - 4], 100).is_err());
    }

    #[test]
    fn hashes() {
        let sha256 = "sha256-2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824";
        assert_eq!(verify(b"hello", sha256), Ok(()));
        assert!(verify(b"hello!", sha256).is_err());
        assert!(verify(b"hello", "md5-x").is_err());
        let sha512 = format!("sha512-{}", hex_of(&Sha512::digest(b"hello")));
        assert_eq!(verify(b"hello", &sha512), Ok(()));
    }
}
