//! What the names in a layer mean: pure functions on them.

use super::Marks;

/// The meaning of an entry's name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Name<'a> {
    Plain,
    /// Hides this name, in the same directory, of lower layers.
    Whiteout(&'a [u8]),
    /// Hides all names of lower layers in the same directory.
    Opaque,
    /// Metadata of the file system that once invented whiteouts; of no use to anyone.
    Foreign,
}

/// Deepest path: far more than any system has, and few enough for whoever removes the tree again.
const MAX_PARTS: usize = 256;

/// The path from the tree's root, in the plainest form: no slash at either end, no empty parts, no `.`. A path with `..`
/// or NUL is refused, as no honest writer makes one; the root itself is empty.
pub(super) fn normalise(path: &[u8]) -> Result<Vec<u8>, &'static str> {
    if path.contains(&0) {
        return Err("has a NUL character in its path");
    }
    let parts = path
        .split(|byte| *byte == b'/')
        .filter(|part| !part.is_empty() && *part != b".");
    let mut normal = Vec::with_capacity(path.len());
    for (depth, part) in parts.enumerate() {
        if depth == MAX_PARTS {
            return Err("lies too deep");
        }
        if part == b".." {
            return Err("has `..` in its path");
        }
        if part.len() > 255 {
            return Err("has a name of more than 255 bytes");
        }
        if !normal.is_empty() {
            normal.push(b'/');
        }
        normal.extend_from_slice(part);
    }
    Ok(normal)
}

/// What the last part of a normal path says.
pub(super) fn name(path: &[u8]) -> Result<Name<'_>, &'static str> {
    let mut parts = path.split(|byte| *byte == b'/').rev();
    let last = parts.next().unwrap_or_default();
    let meaning = match last.strip_prefix(b".wh.") {
        None => Name::Plain,
        Some(b".wh..opq") => Name::Opaque,
        Some(rest) if rest.starts_with(b".wh.") => Name::Foreign,
        Some(b"" | b"." | b"..") => return Err("is a whiteout of nothing"),
        Some(hidden) => Name::Whiteout(hidden),
    };
    for parent in parts {
        if parent.starts_with(b".wh..wh.") {
            return Ok(Name::Foreign);
        }
        if parent.starts_with(b".wh.") {
            return Err("lies within a whiteout");
        }
    }
    Ok(meaning)
}

pub(super) fn join(parent: &[u8], name: &[u8]) -> Vec<u8> {
    match parent {
        b"" => name.to_vec(),
        parent => [parent, name].join(&b'/'),
    }
}

/// Whether an extended attribute is a layer's to set. Those of overlayfs would let it show what is not its own, and
/// labels belong to the host's security policy.
pub(super) fn is_layer_xattr(name: &[u8]) -> bool {
    let known = name.starts_with(b"user.")
        || name.starts_with(b"trusted.")
        || matches!(
            name,
            b"security.capability"
                | b"security.ima"
                | b"system.posix_acl_access"
                | b"system.posix_acl_default"
        );
    known && !Marks::is_mark(name) && name.len() <= 255 && !name.contains(&0)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn paths_are_made_plain_or_refused() {
        let cases: [(&str, Result<&str, ()>); 14] = [
            ("a", Ok("a")),
            ("a/b", Ok("a/b")),
            ("/a/b", Ok("a/b")),
            ("./a//b/./", Ok("a/b")),
            ("./", Ok("")),
            ("/", Ok("")),
            ("", Ok("")),
            ("a/...", Ok("a/...")),
            ("..", Err(())),
            ("../a", Err(())),
            ("a/../../b", Err(())),
            ("a/..", Err(())),
            ("/..", Err(())),
            ("a\0b", Err(())),
        ];
        for (path, expected) in cases {
            let found = normalise(path.as_bytes())
                .map(|path| String::from_utf8(path).unwrap())
                .map_err(|_| ());
            assert_eq!(found.as_deref(), expected.as_deref(), "{path}");
        }
        assert!(normalise("a".repeat(256).as_bytes()).is_err());
        assert!(normalise("a/".repeat(256).as_bytes()).is_ok());
        assert!(normalise("a/".repeat(257).as_bytes()).is_err());
    }

    #[test]
    fn names_have_meanings() {
        let cases: [(&str, Result<Name<'_>, ()>); 12] = [
            ("a/b", Ok(Name::Plain)),
            ("", Ok(Name::Plain)),
            (".wh.b", Ok(Name::Whiteout(b"b"))),
            ("a/.wh.b", Ok(Name::Whiteout(b"b"))),
            ("a/.wh..b", Ok(Name::Whiteout(b".b"))),
            ("a/.wh..wh..opq", Ok(Name::Opaque)),
            ("a/.wh..wh.plnk", Ok(Name::Foreign)),
            (".wh..wh.plnk/1.2", Ok(Name::Foreign)),
            ("a/.wh.", Err(())),
            ("a/.wh..", Err(())),
            ("a/.wh...", Err(())),
            (".wh.a/b", Err(())),
        ];
        for (path, expected) in cases {
            assert_eq!(name(path.as_bytes()).map_err(|_| ()), expected, "{path}");
        }
    }

    #[test]
    fn layers_set_their_own_attributes_only() {
        for name in [
            "user.x",
            "security.capability",
            "trusted.x",
            "system.posix_acl_default",
        ] {
            assert!(is_layer_xattr(name.as_bytes()), "{name}");
        }
        for name in [
            "trusted.overlay.opaque",
            "user.overlay.redirect",
            "security.selinux",
            "system.x",
            "x",
            "user.\0",
        ] {
            assert!(!is_layer_xattr(name.as_bytes()), "{name}");
        }
    }
}
