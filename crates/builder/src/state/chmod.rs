//! The value of `--chmod`: an octal mode, or symbolic changes such as `u+x,go-w`. Pure.

use serde::Serialize;

/// Permissions, set-user-id, set-group-id and sticky bits.
const ALL: u32 = 0o7777;
/// What a change that names nobody leaves alone, as the file mode creation mask usually is for `chmod`.
const MASK: u32 = 0o022;

/// How copied files get their modes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Chmod {
    Octal(u32),
    /// In order; each sees what those before it made.
    Symbolic(Vec<Change>),
}

/// One operator of a symbolic mode, with whom it is about.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Change {
    /// The bits that may change.
    who: u32,
    operator: char,
    what: What,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum What {
    /// Bits for everybody, and whether `X` is among them: execution, of directories and what somebody may execute.
    Bits { bits: u32, execute: bool },
    /// What the user (6), the group (3) or others (0) may do: how far their bits are shifted.
    CopyOf(u32),
}

impl Chmod {
    /// Reads a mode; `None` when it is none.
    pub(crate) fn parse(text: &str) -> Option<Chmod> {
        if text.starts_with(|c: char| c.is_ascii_digit()) {
            let mode = u32::from_str_radix(text, 8).ok()?;
            return (mode <= ALL).then_some(Chmod::Octal(mode));
        }
        let mut changes = Vec::new();
        for clause in text.split(',') {
            let operators = clause.find(['+', '-', '='])?;
            let (who, mut rest) = clause.split_at(operators);
            let who = who.chars().try_fold(0, |who, c| {
                Some(
                    who | match c {
                        'u' => 0o4700,
                        'g' => 0o2070,
                        'o' => 0o1007,
                        'a' => ALL,
                        _ => return None,
                    },
                )
            })?;
            // The sticky bit belongs to nobody.
            let who = match who {
                0 => ALL & !MASK,
                who => who | 0o1000,
            };
            while let Some(operator) = rest.chars().next() {
                let end = rest[1..]
                    .find(['+', '-', '='])
                    .map_or(rest.len(), |at| at + 1);
                let what = What::parse(&rest[1..end])?;
                changes.push(Change {
                    who,
                    operator,
                    what,
                });
                rest = &rest[end..];
            }
        }
        Some(Chmod::Symbolic(changes))
    }

    /// The mode of a file that had `mode`.
    pub(crate) fn apply(&self, mode: u32, directory: bool) -> u32 {
        match self {
            Chmod::Octal(mode) => *mode,
            Chmod::Symbolic(changes) => changes
                .iter()
                .fold(mode & ALL, |mode, change| change.apply(mode, directory)),
        }
    }
}

impl What {
    fn parse(text: &str) -> Option<What> {
        match text {
            "u" => return Some(What::CopyOf(6)),
            "g" => return Some(What::CopyOf(3)),
            "o" => return Some(What::CopyOf(0)),
            _ => {}
        }
        let (mut bits, mut execute) = (0, false);
        for c in text.chars() {
            match c {
                'r' => bits |= 0o444,
                'w' => bits |= 0o222,
                'x' => bits |= 0o111,
                'X' => execute = true,
                's' => bits |= 0o6000,
                't' => bits |= 0o1000,
                _ => return None,
            }
        }
        Some(What::Bits { bits, execute })
    }
}

impl Change {
    fn apply(&self, mode: u32, directory: bool) -> u32 {
        let bits = match self.what {
            What::Bits { bits, execute } if execute && (directory || mode & 0o111 != 0) => {
                bits | 0o111
            }
            What::Bits { bits, .. } => bits,
            What::CopyOf(shift) => (mode >> shift & 0o7) * 0o111,
        } & self.who;
        match self.operator {
            '+' => mode | bits,
            '-' => mode & !bits,
            // As `chmod` does, a directory keeps set-user-id and set-group-id unless they are named.
            _ if directory => mode & !(self.who & 0o1777) | bits,
            _ => mode & !self.who | bits,
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn modes_change_as_chmod_changes_them() {
        for (text, directory, before, after) in [
            ("755", false, 0o600, 0o755),
            ("04755", false, 0o600, 0o4755),
            ("u+x,go-w", false, 0o666, 0o744),
            ("a=rX", false, 0o664, 0o444),
            ("a=rX", false, 0o764, 0o555),
            ("a=rX", true, 0o700, 0o555),
            ("u=rwX,go=rX", true, 0o700, 0o755),
            ("+x", false, 0o600, 0o711),
            ("+w", false, 0o444, 0o644),
            ("=r", false, 0o777, 0o466),
            ("g=u,o=", false, 0o741, 0o770),
            ("u=g-x", false, 0o071, 0o671),
            ("u+s,g+s,+t", false, 0o755, 0o7755),
            ("a-st", false, 0o7755, 0o755),
            ("g=rx", true, 0o2775, 0o2755),
            ("g=rx", false, 0o2775, 0o755),
            ("ug+rw-x", false, 0o111, 0o661),
            ("o+t", true, 0o777, 0o1777),
        ] {
            let chmod = Chmod::parse(text).unwrap();
            let found = chmod.apply(before, directory);
            assert_eq!(found, after, "{text}: {found:04o}, expected {after:04o}");
        }
    }

    #[test]
    fn what_is_no_mode_is_refused() {
        for text in [
            "", "8", "10000", "0o755", "u", "u+q", "x+r", "u+x,", ",u+x", "u+x go-w", "u=gx",
        ] {
            assert_eq!(Chmod::parse(text), None, "{text}");
        }
    }
}
