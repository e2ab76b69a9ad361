//! Commands that do in a build not what they do in a shell.

use crate::containerfile::{Command, Kind};
use crate::lint::shell::{commands, texts};
use crate::lint::{Level, Rule, instructions};

pub(super) static LOST_CD: Rule = Rule {
    id: "lost-cd",
    level: Level::Warning,
    explanation: "Each `RUN` starts a new shell in the working directory of the image: a `cd` ends with its step. Use \
                  `WORKDIR`, which also makes the directory, or `cd DIR && COMMAND` in one step.",
    check: |file, report| {
        for (instruction, text) in texts(file) {
            let alone = !text.contains("&&") && !text.contains(';') && !text.trim().contains('\n');
            if text.split_whitespace().next() == Some("cd") && alone {
                let message = "`cd` has no effect on the steps that follow";
                report.tell(instruction.at, message, "use `WORKDIR`");
            }
        }
    },
};

pub(super) static SUDO: Rule = Rule {
    id: "sudo",
    level: Level::Warning,
    explanation: "Steps run as root unless `USER` says otherwise, so `sudo` does nothing, or fails because the image has \
                  none or it asks for a password. Write `USER root` before the step and `USER NAME` after it.",
    check: |file, report| {
        for (instruction, text) in texts(file) {
            for command in commands(&text) {
                if command.first() == Some(&"sudo") {
                    let hint = "steps run as root unless `USER` says otherwise";
                    report.tell(instruction.at, "`sudo` in a `RUN`", hint);
                }
            }
        }
    },
};

pub(super) static NO_SYSTEMD: Rule = Rule {
    id: "no-systemd",
    level: Level::Warning,
    explanation: "While an image is built there is no systemd, so `systemctl start`, `restart`, `daemon-reload` and \
                  `--now` fail or do nothing. `systemctl enable UNIT` works: the unit starts when the image boots. In a \
                  pool, enable it with a MachineConfig instead: then Caprock proves that it is active.",
    check: |file, report| {
        const LIVE: [&str; 4] = ["start", "restart", "daemon-reload", "--now"];
        for (instruction, text) in texts(file) {
            for command in commands(&text) {
                if command.first() == Some(&"systemctl")
                    && command.iter().any(|word| LIVE.contains(word))
                {
                    let message = "nothing is started while an image is built: there is no systemd";
                    let hint =
                        "`systemctl enable` without `--now` takes effect when the image boots";
                    report.tell(instruction.at, message, hint);
                }
            }
        }
    },
};

pub(super) static NO_SELINUX: Rule = Rule {
    id: "no-selinux",
    level: Level::Warning,
    explanation: "`setsebool` refuses to work where SELinux is not running, and in a build it is not. Set the boolean on \
                  the node: a oneshot unit with `ExecStart=/usr/sbin/setsebool NAME on` and `ConditionSecurity=selinux`, \
                  before what needs it. Without `-P` that takes milliseconds at each boot and leaves the policy of the \
                  image alone.",
    check: |file, report| {
        for (instruction, text) in texts(file) {
            for command in commands(&text) {
                let name = command.first().and_then(|name| name.rsplit('/').next());
                if name == Some("setsebool") {
                    let message = "`setsebool` fails in a build: SELinux is not running there";
                    let hint = "set the boolean on the node, with a oneshot unit";
                    report.tell(instruction.at, message, hint);
                }
            }
        }
    },
};

pub(super) static NOT_JSON: Rule = Rule {
    id: "not-json",
    level: Level::Warning,
    explanation: "The exec form is a JSON list: double quotes, commas, nothing after the bracket. What is not JSON is run \
                  by the shell as it stands, brackets included, which hardly ever is what was meant.",
    check: |file, report| {
        for (_, _, instruction) in instructions(file) {
            let command = match &instruction.kind {
                Kind::Run(run) => &run.command,
                Kind::Cmd(command) | Kind::Entrypoint(command) => command,
                _ => continue,
            };
            if let Command::Shell(text) = command
                && looks_like_a_list(text.trim())
            {
                let message =
                    "this looks like a list of arguments but is not JSON, so the shell runs it";
                let hint = "put each argument into double quotes, with commas between them";
                report.tell(instruction.at, message, hint);
            }
        }
    },
};

fn looks_like_a_list(text: &str) -> bool {
    text.starts_with('[')
        && text.ends_with(']')
        && text.contains([',', '\'', '"'])
        && !text.starts_with("[[")
        && !text.starts_with("[ ")
}
