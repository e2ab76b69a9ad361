//! Credentials and certificates of a MachineOSConfig that end: told ahead, once for each stage.

use std::collections::BTreeSet;
use std::time::Duration;

use jiff::Timestamp;
use model::api::{MachineOSConfig, Named};
use model::condition::{BuildReason, Status};
use model::expiry::{Life, Stage};
use model::keys;
use model::pull_spec::PullSpec;

use super::question::{self, Check, name};
use crate::cache::Cache;
use crate::pool::expiry::certificates;
use crate::registry;

/// Something with an end.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Ending {
    /// For people.
    what: String,
    until: Timestamp,
    from: Option<Timestamp>,
}

impl Ending {
    fn life(&self) -> Life {
        Life {
            from: self.from,
            until: self.until,
        }
    }
}

/// What the condition says.
pub(super) fn condition(
    cache: &Cache,
    config: &MachineOSConfig,
    now: Timestamp,
) -> (Status, BuildReason, String) {
    told(&all(cache, config), now)
}

fn told(endings: &BTreeSet<Ending>, now: Timestamp) -> (Status, BuildReason, String) {
    let stage = |ending: &Ending| ending.life().stage(now);
    let worst = endings.iter().map(stage).max();
    let reason = match worst.unwrap_or(Stage::Lasting) {
        Stage::Lasting => return (Status::False, BuildReason::AsExpected, String::new()),
        Stage::Ending => BuildReason::Expiring,
        Stage::EndingSoon => BuildReason::ExpiringSoon,
        Stage::Ended => BuildReason::Expired,
    };
    let messages: Vec<String> = endings
        .iter()
        .filter_map(|ending| {
            let verb = match stage(ending) {
                Stage::Lasting => return None,
                Stage::Ending | Stage::EndingSoon => "ends",
                Stage::Ended => "ended",
            };
            Some(format!(
                "{} {verb} at {}; replace it there",
                ending.what, ending.until
            ))
        })
        .collect();
    (Status::True, reason, messages.join("\n"))
}

/// How long until something comes nearer to its end.
pub(super) fn next(cache: &Cache, config: &MachineOSConfig, now: Timestamp) -> Option<Duration> {
    let endings = all(cache, config);
    let next = endings
        .iter()
        .filter_map(|ending| ending.life().next_stage(now));
    let wait = next.min()?.duration_since(now);
    Some(Duration::try_from(wait).unwrap_or_default())
}

/// Everything of a MachineOSConfig's registries that says when it ends.
fn all(cache: &Cache, config: &MachineOSConfig) -> BTreeSet<Ending> {
    let mut found = BTreeSet::new();
    for question in question::of(cache, config) {
        let secret: &Option<Named> = match question.check {
            Check::Base => &config.spec.base_image_pull_secret,
            Check::Push => &config.spec.rendered_image_push_secret,
            Check::Nodes => &Some(Named {
                name: keys::NODE_PULL_SECRET.to_owned(),
            }),
        };
        found.extend(of_secret(cache, name(secret), &question.image));
        found.extend(of_trust(cache, &question.image));
    }
    found
}

fn of_secret(cache: &Cache, secret: &str, image: &PullSpec) -> Option<Ending> {
    // What is wrong with a Secret is told where it is used.
    let auth = registry::credentials(cache, secret).ok()??;
    let life = auth.credentials_for(image.host(), image.path())?.life()?;
    let at = |second: i64| Timestamp::from_second(second).ok();
    Some(Ending {
        what: format!(
            "the token for `{}` in Secret `{secret}` (namespace `{}`, key `{}`)",
            image.host(),
            keys::NAMESPACE,
            keys::DOCKER_CONFIG_KEY
        ),
        until: at(life.until)?,
        from: life.from.and_then(at),
    })
}

fn of_trust(cache: &Cache, image: &PullSpec) -> Vec<Ending> {
    let pem = registry::trust(cache).remove(image.host());
    let pem = pem
        .and_then(|pem| String::from_utf8(pem).ok())
        .unwrap_or_default();
    let ending = |certificate: model::api::CertExpiry| {
        Some(Ending {
            what: format!(
                "certificate `{}` for `{}` in ConfigMap `{}` (namespace `{}`)",
                certificate.subject,
                image.host(),
                keys::REGISTRY_CERTS,
                keys::NAMESPACE
            ),
            until: certificate.expiry?.0,
            from: None,
        })
    };
    let found = certificates(keys::REGISTRY_CERTS, &pem);
    found.into_iter().filter_map(ending).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_end_gives_the_reason() {
        let now = Timestamp::constant(1_700_000_000, 0);
        let ending = |what: &str, hours: i64| Ending {
            what: what.to_owned(),
            until: now + jiff::SignedDuration::from_hours(hours),
            from: None,
        };
        let of = |endings: &[Ending]| {
            let (status, reason, message) = told(&endings.iter().cloned().collect(), now);
            format!("{status} {reason}: {message}")
        };
        assert_eq!(of(&[]), "False AsExpected: ");
        assert_eq!(of(&[ending("a", 24 * 40)]), "False AsExpected: ");
        assert_eq!(
            of(&[ending("a", 24 * 40), ending("b", 24 * 20), ending("c", 24)]),
            "True ExpiringSoon: b ends at 2023-12-04T22:13:20Z; replace it there\n\
             c ends at 2023-11-15T22:13:20Z; replace it there"
        );
        assert_eq!(
            of(&[ending("a", -1)]),
            "True Expired: a ended at 2023-11-14T21:13:20Z; replace it there"
        );
    }
}
