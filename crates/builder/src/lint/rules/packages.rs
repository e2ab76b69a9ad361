//! Package managers in `RUN`.

use crate::lint::shell::{commands, texts};
use crate::lint::{Level, Rule};

pub(super) static UPDATE_ALONE: Rule = Rule {
    id: "update-alone",
    level: Level::Warning,
    explanation: "A `RUN apt-get update` of its own is cached: the step that installs later works with an index that \
                  grows old, until packages it names are gone from the mirror. Update and install in one `RUN`.",
    check: |file, report| {
        for (instruction, text) in texts(file) {
            let commands = commands(&text);
            let does = |what: &str| {
                commands.iter().any(|command| {
                    matches!(command.first(), Some(&("apt-get" | "apt"))) && command.contains(&what)
                })
            };
            if does("update") && !does("install") {
                let message = "the package index of a cached `apt-get update` grows old";
                report.tell(instruction.at, message, "update and install in one `RUN`");
            }
        }
    },
};

pub(super) static INSTALL_ASKS: Rule = Rule {
    id: "install-asks",
    level: Level::Warning,
    explanation: "Package managers ask before they install. In a build nobody answers, so that the step fails or hangs. \
                  Add `-y` (`--non-interactive` for zypper).",
    check: |file, report| {
        for (instruction, text) in texts(file) {
            for command in commands(&text) {
                let asks = matches!(
                    command.first(),
                    Some(&("apt-get" | "apt" | "dnf" | "yum" | "microdnf" | "zypper"))
                );
                if asks
                    && command.contains(&"install")
                    && !command.iter().any(|word| says_yes(word))
                {
                    let message = format!(
                        "`{} install` asks a question that nobody answers",
                        command[0]
                    );
                    report.tell(instruction.at, message, "add `-y`");
                }
            }
        }
    },
};

fn says_yes(word: &str) -> bool {
    match word.strip_prefix("--") {
        Some(long) => matches!(long, "yes" | "assumeyes" | "assume-yes" | "non-interactive"),
        // Also among other short options.
        None => word.starts_with('-') && word.contains('y'),
    }
}

pub(super) static LEFT_OVER_CACHE: Rule = Rule {
    id: "left-over-cache",
    level: Level::Warning,
    explanation: "`rpm-ostree install` leaves its metadata cache below `/var`, which makes the layer larger and is never \
                  delivered to nodes. End the step with `&& ostree container commit`, which removes it and checks the \
                  image.",
    check: |file, report| {
        for (instruction, text) in texts(file) {
            let installs = commands(&text)
                .iter()
                .any(|command| command.starts_with(&["rpm-ostree", "install"]));
            let cleans =
                text.contains("ostree container commit") || text.contains("rpm-ostree cleanup");
            if installs && !cleans {
                let message = "`rpm-ostree install` leaves its cache in the image";
                report.tell(
                    instruction.at,
                    message,
                    "end the step with `&& ostree container commit`",
                );
            }
        }
    },
};
