//! Kernel arguments: split, in order, none twice.

/// The arguments of several MachineConfigs as one list.
///
/// An entry that holds several arguments is split at the white space outside double quotes. An argument that is there
/// already is not added again, unless another value of the same key came between: the kernel takes the last.
pub fn arguments<'a>(entries: impl IntoIterator<Item = &'a str>) -> Vec<String> {
    let mut all: Vec<String> = Vec::new();
    for argument in entries.into_iter().flat_map(split) {
        if let Some(at) = all.iter().position(|known| *known == argument) {
            let overridden = all[at + 1..]
                .iter()
                .any(|later| key(later) == key(&argument));
            if !overridden {
                continue;
            }
            all.remove(at);
        }
        all.push(argument);
    }
    all
}

fn key(argument: &str) -> &str {
    argument.split('=').next().unwrap_or(argument)
}

/// A line of arguments as the kernel reads it: white space in double quotes is part of an argument.
pub fn split(entry: &str) -> Vec<String> {
    let mut arguments = Vec::new();
    let mut current = String::new();
    let mut quoted = false;
    for c in entry.chars() {
        if c == '"' {
            quoted = !quoted;
        }
        if c.is_whitespace() && !quoted {
            if !current.is_empty() {
                arguments.push(std::mem::take(&mut current));
            }
        } else {
            current.push(c);
        }
    }
    if !current.is_empty() {
        arguments.push(current);
    }
    arguments
}

/// Why an entry holds no kernel arguments, or nothing when it does.
pub(super) fn problem(entry: &str) -> Option<&'static str> {
    if entry.trim().is_empty() {
        return Some("expected a kernel argument, found nothing");
    }
    if entry.chars().any(char::is_control) {
        return Some("expected a kernel argument without control characters");
    }
    if !entry.matches('"').count().is_multiple_of(2) {
        return Some("expected a closing `\"`");
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_are_split_and_kept_once() {
        for (entries, expected) in [
            (vec!["nosmt", "mitigations=auto"], "nosmt|mitigations=auto"),
            (
                vec!["nosmt mitigations=auto", "nosmt"],
                "nosmt|mitigations=auto",
            ),
            (vec!["dyndbg=\"file a +p\"  x"], "dyndbg=\"file a +p\"|x"),
            (
                vec!["console=tty0", "console=ttyS0", "console=ttyS0"],
                "console=tty0|console=ttyS0",
            ),
            (vec!["a=1", "a=2", "a=1"], "a=2|a=1"),
            (vec!["a=1", "b", "a=1"], "a=1|b"),
        ] {
            assert_eq!(
                arguments(entries.iter().copied()).join("|"),
                expected,
                "{entries:?}"
            );
        }
    }

    #[test]
    fn others_are_refused() {
        for entry in ["", "  ", "a\nb", "a\0", "a=\"b"] {
            assert!(problem(entry).is_some(), "{entry:?}");
        }
    }
}
