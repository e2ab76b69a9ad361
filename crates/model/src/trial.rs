//! Whether a deployment that is not well is left for the one before it.
//!
//! A deployment is on trial from when it is made until it was found well once. Only a trial ends in a way back, and it
//! ends only once, so that two deployments that are both unwell cannot send a node to and fro.

use std::fmt;
use std::time::Duration;

use crate::node::Target;

/// Boots that a deployment has to be found well in.
pub const BOOTS: u32 = 3;
/// What a node has, above the deadline of its health, to boot and to reach its API server.
pub const GRACE: Duration = Duration::from_secs(600);

/// A deployment on trial, as it is kept on the node: lines of `key=value`, which a shell reads as easily.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trial {
    /// The deployment.
    pub deployment: String,
    /// The one that ran when it was made: where the way back leads.
    pub previous: String,
    /// How often it was booted.
    pub boots: u32,
    /// How often it may be booted without being found well.
    pub limit: u32,
    /// Seconds of one boot in which it has to be found well.
    pub deadline: u64,
}

impl Trial {
    /// The trial of a deployment that was not booted yet.
    pub fn new(deployment: String, previous: String, health: Duration) -> Self {
        Self {
            deployment,
            previous,
            boots: 0,
            limit: BOOTS,
            deadline: (health + GRACE).as_secs(),
        }
    }

    /// Reads what [`fmt::Display`] wrote; none when it is anything else.
    pub fn parse(text: &str) -> Option<Self> {
        let value = |key: &str| {
            text.lines()
                .find_map(|line| line.strip_prefix(key)?.strip_prefix('='))
        };
        Some(Self {
            deployment: value("deployment")?.to_owned(),
            previous: value("previous")?.to_owned(),
            boots: value("boots")?.parse().ok()?,
            limit: value("limit")?.parse().ok()?,
            deadline: value("deadline")?.parse().ok()?,
        })
    }
}

impl fmt::Display for Trial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "deployment={}", self.deployment)?;
        writeln!(f, "previous={}", self.previous)?;
        writeln!(f, "boots={}", self.boots)?;
        writeln!(f, "limit={}", self.limit)?;
        writeln!(f, "deadline={}", self.deadline)
    }
}

/// What the decision is made from, when the running deployment is not well.
#[derive(Debug, Clone, Copy)]
pub struct Standing<'a> {
    /// The running deployment.
    pub booted: &'a str,
    /// What it was configured with.
    pub target: &'a Target,
    /// The trial that is kept on the node.
    pub trial: Option<&'a Trial>,
    /// Every deployment of the node, with what it was configured with when that was by us.
    pub deployments: &'a [(String, Option<Target>)],
    /// What was taken back last.
    pub failed: Option<&'a Target>,
}

/// What becomes of a deployment that is not well.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// The node boots this deployment instead.
    Back(String),
    /// It stays, for this reason.
    Stay(&'static str),
}

/// Decides whether a deployment that is not well is left.
pub fn judge(standing: Standing<'_>) -> Verdict {
    let Standing {
        booted,
        target,
        trial,
        deployments,
        failed,
    } = standing;
    let Some(trial) = trial.filter(|trial| trial.deployment == booted) else {
        return Verdict::Stay(
            "the running deployment is not on trial: it was well before, or was not made by Caprock",
        );
    };
    let Some((previous, before)) = deployments
        .iter()
        .find(|(id, _)| *id == trial.previous && id != booted)
    else {
        return Verdict::Stay("the deployment that ran before it is gone");
    };
    match before {
        Some(before) if before == target => {
            Verdict::Stay("the deployment that ran before it has the same configuration and image")
        }
        Some(before) if failed == Some(before) => {
            Verdict::Stay("the deployment that ran before it was taken back itself")
        }
        Some(_) | None => Verdict::Back(previous.clone()),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use proptest::prelude::*;

    use super::*;

    fn target(name: &str) -> Target {
        Target {
            config: name.to_owned(),
            image: None,
        }
    }

    #[test]
    fn a_trial_is_read_as_it_was_written() {
        let trial = Trial {
            boots: 2,
            ..Trial::new("b.0".into(), "a.0".into(), Duration::from_secs(120))
        };
        assert_eq!(
            trial.to_string(),
            "deployment=b.0\nprevious=a.0\nboots=2\nlimit=3\ndeadline=720\n"
        );
        assert_eq!(Trial::parse(&trial.to_string()), Some(trial));
        for damaged in [
            "",
            "deployment=b.0",
            "deployment=b.0\nprevious=a.0\nboots=x\nlimit=3\ndeadline=1",
        ] {
            assert_eq!(Trial::parse(damaged), None, "{damaged}");
        }
    }

    #[test]
    fn only_a_deployment_on_trial_is_left_and_only_for_the_one_before() {
        let trial = Trial::new("b".into(), "a".into(), Duration::ZERO);
        let other = Trial::new("c".into(), "a".into(), Duration::ZERO);
        let both = [
            ("b".to_owned(), Some(target("new"))),
            ("a".to_owned(), Some(target("old"))),
        ];
        let (new, old) = (target("new"), target("old"));
        let standing = Standing {
            booted: "b",
            target: &new,
            trial: Some(&trial),
            deployments: &both,
            failed: None,
        };
        let check = |standing: Standing<'_>, expected: &str| {
            let found = match judge(standing) {
                Verdict::Back(id) => format!("back to {id}"),
                Verdict::Stay(why) => why.to_owned(),
            };
            assert!(found.contains(expected), "{found}");
        };
        check(standing, "back to a");
        check(
            Standing {
                trial: None,
                ..standing
            },
            "not on trial",
        );
        check(
            Standing {
                trial: Some(&other),
                ..standing
            },
            "not on trial",
        );
        check(
            Standing {
                deployments: &both[..1],
                ..standing
            },
            "is gone",
        );
        check(
            Standing {
                failed: Some(&old),
                ..standing
            },
            "taken back itself",
        );
        check(
            Standing {
                failed: Some(&new),
                ..standing
            },
            "back to a",
        );
        check(
            Standing {
                target: &old,
                ..standing
            },
            "same configuration",
        );
        // The machine's first deployment, which no config of ours ever touched, is a way back too.
        let first = [both[0].clone(), ("a".to_owned(), None)];
        check(
            Standing {
                deployments: &first,
                ..standing
            },
            "back to a",
        );
    }

    /// A node as far as the decision goes: two deployments at most, of which any may turn out to be unwell at any boot.
    #[derive(Debug, Default)]
    struct Node {
        deployments: Vec<(String, Option<Target>)>,
        booted: String,
        trial: Option<Trial>,
        failed: Option<Target>,
        made: u32,
        ways_back: u32,
    }

    impl Node {
        fn deploy(&mut self, wanted: &Target) {
            let (booted, running) = self
                .deployments
                .iter()
                .find(|(id, _)| *id == self.booted)
                .unwrap()
                .clone();
            // As the agent's plan has it: what was taken back is not tried again, what runs needs no deployment.
            if self.failed.as_ref() == Some(wanted) || running.as_ref() == Some(wanted) {
                return;
            }
            self.made += 1;
            let id = format!("d{}", self.made);
            self.deployments = vec![
                (id.clone(), Some(wanted.clone())),
                (booted.clone(), running),
            ];
            self.trial = Some(Trial::new(id.clone(), booted, Duration::ZERO));
            self.booted = id;
        }

        fn look(&mut self, well: bool) {
            let target = self
                .deployments
                .iter()
                .find(|(id, _)| *id == self.booted)
                .unwrap()
                .1
                .clone();
            let Some(target) = target else { return };
            if well {
                self.trial = self
                    .trial
                    .take()
                    .filter(|trial| trial.deployment != self.booted);
                return;
            }
            let verdict = judge(Standing {
                booted: &self.booted,
                target: &target,
                trial: self.trial.as_ref(),
                deployments: &self.deployments,
                failed: self.failed.as_ref(),
            });
            if let Verdict::Back(id) = verdict {
                self.ways_back += 1;
                self.failed = Some(target);
                self.trial = None;
                self.booted = id;
            }
        }
    }

    proptest! {
        #[test]
        fn no_node_goes_to_and_fro(events in proptest::collection::vec((0..4_u8, any::<bool>()), 1..60)) {
            let mut node = Node {
                deployments: vec![("d0".to_owned(), None)],
                booted: "d0".to_owned(),
                ..Node::default()
            };
            for (what, well) in events {
                let (before, ways) = (node.booted.clone(), node.ways_back);
                match what {
                    0 => node.look(well),
                    wanted => node.deploy(&target(&wanted.to_string())),
                }
                // However unwell the node is from here on, it settles after one more way back at the latest.
                let mut rest = Node { trial: node.trial.clone(), failed: node.failed.clone(), booted: node.booted.clone(),
                    deployments: node.deployments.clone(), made: 0, ways_back: 0 };
                for _ in 0..10 {
                    rest.look(false);
                }
                prop_assert!(rest.ways_back <= 1);
                prop_assert!(node.ways_back <= node.made, "every way back is of a deployment of its own");
                if node.ways_back > ways {
                    prop_assert_ne!(&node.booted, &before);
                }
            }
        }
    }
}
