//! What systemd takes as the name and the text of a unit.

/// Suffixes of units.
const SUFFIXES: &[&str] = &[
    "service",
    "socket",
    "device",
    "mount",
    "automount",
    "swap",
    "target",
    "path",
    "timer",
    "slice",
    "scope",
];

/// Longest name that systemd takes.
const MAX_NAME_BYTES: usize = 255;

/// Why systemd would not take `name` as the name of a unit, or nothing when it would.
pub fn unit_name_problem(name: &str) -> Option<String> {
    let Some((prefix, suffix)) = name.rsplit_once('.') else {
        return Some(format!(
            "expected a unit name with a suffix such as `.service`, found `{name}`"
        ));
    };
    if !SUFFIXES.contains(&suffix) {
        return Some(format!(
            "expected a unit name that ends in one of `.{}`, found `{name}`",
            SUFFIXES.join("`, `.")
        ));
    }
    if prefix.is_empty() || prefix.starts_with('@') {
        return Some(format!("expected a name before the suffix, found `{name}`"));
    }
    if name.len() > MAX_NAME_BYTES {
        return Some(format!("expected at most {MAX_NAME_BYTES} bytes"));
    }
    let legal = |c: char| c.is_ascii_alphanumeric() || ":-_.\\@".contains(c);
    if !name.chars().all(legal) {
        return Some(format!(
            "expected letters, digits and `:-_.\\@` only, found {name:?}"
        ));
    }
    None
}

/// Why `name` cannot be the name of a drop-in, or nothing when it can.
pub(super) fn dropin_name_problem(name: &str) -> Option<String> {
    let stem = name.strip_suffix(".conf").unwrap_or_default();
    if stem.is_empty() || name.contains('/') || name.starts_with('.') {
        return Some(format!(
            "expected a file name that ends in `.conf`, found `{name}`"
        ));
    }
    if name.len() > MAX_NAME_BYTES || name.chars().any(char::is_control) {
        return Some(format!(
            "expected at most {MAX_NAME_BYTES} bytes without control characters, found {name:?}"
        ));
    }
    None
}

/// Why systemd would not read `text`, or nothing when it would: assignments stand in sections, one a line.
pub(super) fn text_problem(text: &str) -> Option<String> {
    if text.contains('\0') {
        return Some("expected text without NUL bytes".into());
    }
    let mut in_section = false;
    let mut continued = false;
    for (number, line) in text.lines().enumerate().map(|(at, line)| (at + 1, line)) {
        let trimmed = line.trim();
        let comment = trimmed.starts_with(['#', ';']);
        if continued {
            // A comment between continued lines is skipped, the next line still continues.
            continued = comment || trimmed.ends_with('\\');
            continue;
        }
        if trimmed.is_empty() || comment {
            continue;
        }
        if let Some(rest) = trimmed.strip_prefix('[') {
            let name = rest.strip_suffix(']').unwrap_or_default();
            if name.is_empty() || name.contains(['[', ']']) {
                return Some(format!(
                    "line {number}: expected a section such as `[Service]`, found `{trimmed}`"
                ));
            }
            in_section = true;
            continue;
        }
        if !in_section {
            return Some(format!(
                "line {number}: `{trimmed}` stands outside a section; begin with one, such as `[Service]`"
            ));
        }
        match trimmed.split_once('=') {
            Some((key, _)) if !key.trim().is_empty() => continued = trimmed.ends_with('\\'),
            _ => {
                return Some(format!(
                    "line {number}: expected `Key=value`, found `{trimmed}`"
                ));
            }
        }
    }
    None
}

/// Whether `text` says what `systemctl enable` should do: an `[Install]` section with at least one setting.
pub fn has_install_section(text: &str) -> bool {
    let mut inside = false;
    text.lines().map(str::trim).any(|line| {
        if line.starts_with('[') {
            inside = line == "[Install]";
            return false;
        }
        inside && !line.starts_with(['#', ';']) && line.contains('=')
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn unit_names() {
        for name in [
            "autofs.service",
            "var-mnt-home.automount",
            "getty@tty1.service",
            "getty@.service",
            "dev-disk-by\\x2dlabel-x.swap",
        ] {
            assert_eq!(unit_name_problem(name), None, "{name}");
        }
        let refused: Vec<String> = [
            "a/b.service",
            "../../evil.service",
            ".service",
            "@.service",
            "autofs",
            "autofs.conf",
            "a b.service",
            "a\n.service",
        ]
        .into_iter()
        .map(|name| format!("{name:?}: {}", unit_name_problem(name).unwrap()))
        .collect();
        insta::assert_snapshot!(refused.join("\n"));
    }

    #[test]
    fn dropin_names() {
        assert_eq!(dropin_name_problem("10-wait.conf"), None);
        for name in [
            "../../../etc/evil.conf",
            ".conf",
            "10-wait",
            "a/b.conf",
            ".hidden.conf",
            "a\0.conf",
        ] {
            assert!(dropin_name_problem(name).is_some(), "{name}");
        }
    }

    #[test]
    fn text() {
        for good in [
            "",
            "# only a comment\n",
            "[Unit]\nDescription=x\n",
            "[Service]\nExecStart=/bin/sh -c \\\n  # a comment\n  'true'\nType=oneshot\n",
            "[X-Own]\nA = b\n",
        ] {
            assert_eq!(text_problem(good), None, "{good}");
        }
        let refused: Vec<String> = [
            "Wants=a\n[Unit]\n",
            "[Unit\nA=b",
            "[Unit]\nnonsense\n",
            "[Unit]\n=x",
            "[]\n",
            "a\0",
        ]
        .into_iter()
        .map(|bad| format!("{bad:?}: {}", text_problem(bad).unwrap()))
        .collect();
        insta::assert_snapshot!(refused.join("\n"));
    }

    #[test]
    fn install_section() {
        assert!(has_install_section(
            "[Unit]\nA=b\n[Install]\nWantedBy=multi-user.target\n"
        ));
        for text in [
            "",
            "[Unit]\nWantedBy=x\n",
            "[Install]\n",
            "[Install]\n# WantedBy=x\n",
            "[Install]\n[Unit]\nA=b\n",
        ] {
            assert!(!has_install_section(text), "{text}");
        }
    }
}
