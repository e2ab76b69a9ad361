//! Passwords in commands.

use crate::lint::shell::{commands, texts};
use crate::lint::{Level, Rule};

pub(super) static PASSWORD_IN_STEP: Rule = Rule {
    id: "password-in-step",
    level: Level::Warning,
    explanation: "What a step says is in the history of the image and in the cache, and what it writes is in a layer: \
                  everybody who can pull the image can read both. Give passwords and tokens with `--secret`, in a pool with \
                  the annotation `build-secret.caprock.dev/NAME`, and take them with \
                  `RUN --mount=type=secret,id=NAME`. Accounts get their password on the node, not in the image.",
    check: |file, report| {
        for (instruction, text) in texts(file) {
            if commands(&text).iter().any(|command| tells(command))
                || text.split("://").skip(1).any(is_login)
            {
                let message = "a password in a `RUN` can be read from the image";
                report.tell(instruction.at, message, "use `RUN --mount=type=secret`");
            }
        }
    },
};

/// Whether a command is given a password as it stands.
fn tells(command: &[&str]) -> bool {
    let is_literal =
        |value: &str| !value.is_empty() && !value.starts_with(['$', '-', '"', '\'', '`', '/', '<']);
    let sets =
        matches!(command.first(), Some(&"chpasswd")) || command.starts_with(&["passwd", "--stdin"]);
    let option = command.iter().enumerate().any(|(at, word)| {
        const OPTIONS: [&str; 4] = ["--password", "--passwd", "--token", "--http-password"];
        OPTIONS
            .iter()
            .any(|option| match word.strip_prefix(option) {
                Some("") => command.get(at + 1).is_some_and(|value| is_literal(value)),
                Some(rest) => rest.strip_prefix('=').is_some_and(is_literal),
                None => false,
            })
    });
    sets || option
}

/// Whether what follows `://` begins with `NAME:PASSWORD@`.
fn is_login(rest: &str) -> bool {
    let authority = rest
        .split(['/', ' ', '"', '\'', '\n'])
        .next()
        .unwrap_or_default();
    let login = authority
        .rsplit_once('@')
        .and_then(|(login, _)| login.split_once(':'));
    login.is_some_and(|(_, password)| !password.is_empty() && !password.starts_with('$'))
}
