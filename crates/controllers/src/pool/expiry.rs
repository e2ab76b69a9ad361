//! When the certificates end that nodes trust, in the pool's status, and a warning in time.

use std::collections::HashMap;
use std::sync::Mutex;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::ResourceExt;
use model::api::{CertExpiry, MachineConfigPool};
use model::keys;
use x509_parser::pem::Pem;

use crate::cache::Cache;
use crate::context::Context;
use crate::event::Tone;

/// How often a pool is looked at when nothing changes, and how often it is warned about the same certificate.
pub(crate) const INTERVAL: Duration = Duration::from_secs(3600);
/// How long before its end a certificate is warned about.
const NOTICE: SignedDuration = SignedDuration::from_hours(30 * 24);
/// Certificates of a status; a bundle of the whole world's would not fit into an object.
const MAX_CERTIFICATES: usize = 200;
/// Longest subject that is told.
const MAX_SUBJECT: usize = 256;

/// When each pool was warned last.
pub(crate) type Warnings = Mutex<HashMap<String, Timestamp>>;

/// The certificates of all bundles that nodes are given; what is no certificate is left out.
pub(super) fn of(cache: &Cache) -> Vec<CertExpiry> {
    let bundles = [keys::API_CA, keys::REGISTRY_CERTS, keys::USER_CA_BUNDLE];
    let mut found: Vec<CertExpiry> = bundles
        .into_iter()
        .filter_map(|name| Some((name, cache.config_map(name)?)))
        .flat_map(|(name, map)| {
            let texts: Vec<String> = map
                .data
                .iter()
                .flatten()
                .map(|(_, pem)| pem.clone())
                .collect();
            texts
                .into_iter()
                .flat_map(move |pem| certificates(name, &pem))
                .collect::<Vec<_>>()
        })
        .collect();
    found.sort_by(|a, b| order(a).cmp(&order(b)));
    found.dedup();
    found.truncate(MAX_CERTIFICATES);
    found
}

fn order(expiry: &CertExpiry) -> (&str, &str, Option<Timestamp>) {
    let end = expiry.expiry.as_ref().map(|end| end.0);
    (&expiry.bundle, &expiry.subject, end)
}

/// The certificates in a PEM text of a bundle.
pub(crate) fn certificates(bundle: &str, pem: &str) -> Vec<CertExpiry> {
    Pem::iter_from_buffer(pem.as_bytes())
        .filter_map(Result::ok)
        .filter_map(|block| {
            let certificate = block.parse_x509().ok()?;
            let end = certificate.validity().not_after.timestamp();
            let mut subject = certificate.subject().to_string();
            subject.truncate(subject.floor_char_boundary(MAX_SUBJECT.min(subject.len())));
            Some(CertExpiry {
                bundle: bundle.to_owned(),
                subject,
                expiry: Timestamp::from_second(end).ok().map(Time),
            })
        })
        .collect()
}

/// Warns about certificates that end soon or have ended.
pub(super) async fn warn(
    ctx: &Context,
    pool: &MachineConfigPool,
    expirys: &[CertExpiry],
    now: Timestamp,
) {
    let ending: Vec<String> = expirys
        .iter()
        .filter_map(|expiry| ending(expiry, now))
        .collect();
    if ending.is_empty() || !is_due(&ctx.warnings, &pool.name_any(), now) {
        return;
    }
    for message in ending {
        ctx.events
            .publish(pool, Tone::Warning, "CertificateExpiring", &message)
            .await;
    }
}

fn is_due(warnings: &Warnings, pool: &str, now: Timestamp) -> bool {
    let mut warned = warnings
        .lock()
        .expect("no panic happens while the lock is held");
    let due = warned
        .get(pool)
        .is_none_or(|last| now.duration_since(*last).unsigned_abs() >= INTERVAL);
    if due {
        warned.insert(pool.to_owned(), now);
    }
    due
}

fn ending(expiry: &CertExpiry, now: Timestamp) -> Option<String> {
    let end = expiry.expiry.as_ref()?.0;
    if end.duration_since(now) > NOTICE {
        return None;
    }
    let (
        verb,
        CertExpiry {
            bundle, subject, ..
        },
    ) = (if end > now { "ends" } else { "ended" }, expiry);
    Some(format!(
        "certificate `{subject}` in ConfigMap `{bundle}` {verb} at {end}; replace it there"
    ))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    /// Of an authority named `site`, valid for a year.
    const SITE: &str = include_str!("testdata/site.crt");

    #[test]
    fn a_certificate_is_warned_about_a_month_before_its_end_and_after() {
        let found = certificates("user-ca-bundle", &format!("# ours\n{SITE}garbage"));
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].subject, "CN=site");
        let end = found[0].expiry.clone().unwrap().0;
        let days = |days: i64| SignedDuration::from_hours(24 * days);
        assert_eq!(ending(&found[0], end - days(31)), None);
        let soon = ending(&found[0], end - days(29)).unwrap();
        assert!(soon.contains("ends at"), "{soon}");
        let gone = ending(&found[0], end + days(1)).unwrap();
        assert!(gone.contains("ended at"), "{gone}");
    }

    #[test]
    fn what_is_no_certificate_is_left_out() {
        let broken = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        assert!(certificates("b", broken).is_empty());
        assert!(certificates("b", "").is_empty());
    }

    #[test]
    fn a_pool_is_warned_once_an_hour() {
        let warnings = Warnings::default();
        let now = Timestamp::from_second(1_700_000_000).unwrap();
        assert!(is_due(&warnings, "worker", now));
        assert!(!is_due(
            &warnings,
            "worker",
            now + SignedDuration::from_mins(59)
        ));
        assert!(is_due(&warnings, "other", now));
        assert!(is_due(
            &warnings,
            "worker",
            now + SignedDuration::from_mins(60)
        ));
    }
}
