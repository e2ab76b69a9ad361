//! How long the steps of a node's update may take, and what comes then: for agents to keep, for explanations to tell. The
//! table in `docs/disruption.md` says the same, which a test holds it to.

use std::time::Duration;

/// How long an agent may take to begin what its node was told: it hears of it at once, and looks by itself every minute.
pub const ANSWER: Duration = Duration::from_secs(180);
/// How long a pull may take: one that is cut off goes on with the layer it was at.
pub const PULL: Duration = Duration::from_secs(6 * 3600);
/// How long any other step may take: above the sum of what it waits for by itself.
pub const STEP: Duration = Duration::from_secs(3600);
/// How long a reboot may take to begin.
pub const REBOOT_BEGINS: Duration = Duration::from_secs(300);
/// How long an uncordon may take: above the 40 seconds in which another controller follows one that died.
pub const UNCORDON: Duration = Duration::from_secs(120);
/// How long a job of a service may take: above the 90 seconds that systemd itself gives a unit to start or to stop.
pub const JOB: Duration = Duration::from_secs(200);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::drain::LONG_DRAIN;
    use crate::health::DEFAULT_DEADLINE;
    use crate::trial::{BOOTS, GRACE};

    const DOCUMENT: &str = include_str!("../../../docs/disruption.md");

    #[test]
    fn the_document_tells_the_deadlines() {
        let check = |step: &str, at_most: &str| {
            let row = format!("| {step} | {at_most} |");
            assert!(
                DOCUMENT.contains(&row),
                "docs/disruption.md has no row `{row}`"
            );
        };
        let minutes = |time: Duration| time.as_secs() / 60;
        check("begin", &format!("{} min", minutes(ANSWER)));
        check("pull", &format!("{} h", PULL.as_secs() / 3600));
        check("drain", &format!("told after {} min", LONG_DRAIN.as_mins()));
        check("job of a service", &format!("{} s", JOB.as_secs()));
        check("any other step", &format!("{} min", minutes(STEP)));
        check(
            "begin of the reboot",
            &format!("{} min", minutes(REBOOT_BEGINS)),
        );
        check("uncordon", &format!("{} min", minutes(UNCORDON)));
        check("verification", &format!("{} s", DEFAULT_DEADLINE.as_secs()));
        check(
            "first look after a reboot",
            &format!(
                "{BOOTS} boots, {} min each",
                minutes(GRACE + DEFAULT_DEADLINE)
            ),
        );
    }
}
