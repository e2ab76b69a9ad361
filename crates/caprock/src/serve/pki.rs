//! The certificate authority of one data directory, and how it is replaced.
//!
//! One CA signs both the API's and the registry's certificate, so that a kubeconfig carries all the trust a client needs.
//! A new CA is first *introduced*: clients are told to trust both, while the old one still signs. Then it signs and the
//! former one *retires*: still trusted, until every client has certificates of the new one in front of it. Everything
//! is in one file, so that a restart finds one phase or the other.

use anyhow::Context;
use camino::Utf8Path;
use jiff::{SignedDuration, Timestamp};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose, SanType,
};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use serde::{Deserialize, Serialize};
use std::net::IpAddr;

use super::credentials::{hash, lock, short_id};
use super::files;

/// How long an authority is valid.
const AUTHORITY_LIFE: SignedDuration = SignedDuration::from_hours(24 * 365 * 10);
/// An authority with less than this left is replaced without being asked.
const AUTHORITY_RESERVE: SignedDuration = SignedDuration::from_hours(24 * 365);
/// Names that clients of `caprock serve` may use.
pub(super) const SERVER_NAMES: &[&str] = &["localhost", "kubernetes", "kubernetes.default.svc"];
/// How long a certificate of the servers is valid.
pub(super) const SERVING_LIFE: SignedDuration = SignedDuration::from_hours(24 * 90);
/// Clocks differ: certificates are valid from a little before they were made.
const BACKDATED: SignedDuration = SignedDuration::from_hours(1);
/// A phase is ended without the nodes that have not followed after this many times its length.
const PATIENCE: i32 = 7;

/// The authority's file, as PEM and times. Never leaves the data directory.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Authority {
    signing: Pair,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    rotation: Option<Rotation>,
}

#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Pair {
    /// Common name: no two authorities share one, so that no client mistakes one for the other.
    #[serde(default = "Pair::first_name")]
    name: String,
    certificate: String,
    key: String,
    /// When the certificate ends; those that were made before this was kept practically never do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    expires: Option<Timestamp>,
}

#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Rotation {
    #[serde(flatten)]
    phase: Phase,
    since: Timestamp,
    /// How long the phase lasts at least.
    overlap: SignedDuration,
}

#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "phase", rename_all = "lowercase")]
enum Phase {
    Introducing { next: Pair },
    Retiring { former: String },
}

/// Whom a server's certificate is for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Subject {
    /// DNS names.
    pub(crate) names: Vec<String>,
    pub(crate) addresses: Vec<IpAddr>,
}

/// A certificate for the servers with its key.
pub(crate) struct Serving {
    pub(crate) chain: Vec<CertificateDer<'static>>,
    pub(crate) key: PrivateKeyDer<'static>,
    pub(crate) ends: Timestamp,
}

impl Authority {
    /// A new authority, kept nowhere.
    pub(crate) fn new(now: Timestamp) -> anyhow::Result<Self> {
        Ok(Authority {
            signing: Pair::make(now)?,
            rotation: None,
        })
    }

    /// Loads the authority of a data directory, or makes it on the first start. Keys never leave `pki/authority.json`
    /// (0600); `pki/ca.crt` is what clients are to trust.
    pub(crate) fn load_or_create(data_dir: &Utf8Path, now: Timestamp) -> anyhow::Result<Self> {
        let _lock = lock(data_dir)?;
        let authority = match Self::load(data_dir)? {
            Some(authority) => authority,
            None => match former_layout(data_dir)? {
                Some(signing) => Authority {
                    signing,
                    rotation: None,
                },
                None => Authority::new(now)?,
            },
        };
        authority.store(data_dir)?;
        Ok(authority)
    }

    /// The authority of a data directory that a server was started on.
    pub(crate) fn load(data_dir: &Utf8Path) -> anyhow::Result<Option<Self>> {
        let path = data_dir.join("pki/authority.json");
        files::read_if_present(&path)?
            .map(|text| {
                // The text has keys in it, and so may an error's excerpt.
                serde_json::from_str(&text)
                    .map_err(|error| anyhow::anyhow!("line {}", error.line()))
                    .with_context(|| format!("`{path}` is not a certificate authority"))
            })
            .transpose()
    }

    fn store(&self, data_dir: &Utf8Path) -> anyhow::Result<()> {
        let pki = data_dir.join("pki");
        files::write_private(
            &pki.join("authority.json"),
            &serde_json::to_string_pretty(self)?,
        )?;
        files::write_public(&pki.join("ca.crt"), &self.bundle())
    }

    /// What clients are to trust, PEM: one certificate, or two while one replaces the other.
    pub(crate) fn bundle(&self) -> String {
        let other = self
            .rotation
            .as_ref()
            .map(|rotation| match &rotation.phase {
                Phase::Introducing { next } => next.certificate.as_str(),
                Phase::Retiring { former } => former.as_str(),
            });
        [self.signing.certificate.as_str()]
            .into_iter()
            .chain(other)
            .collect()
    }

    /// Tells bundles apart; what nodes say that they trust.
    pub(crate) fn fingerprint(&self) -> String {
        fingerprint(&self.bundle())
    }

    /// Tells whether another authority signs.
    pub(crate) fn signs_like(&self, other: &Authority) -> bool {
        self.signing == other.signing
    }

    /// Starts the replacement of the authority. Nothing when one is under way.
    pub(crate) fn rotate(
        data_dir: &Utf8Path,
        overlap: SignedDuration,
        now: Timestamp,
    ) -> anyhow::Result<bool> {
        Self::change(data_dir, |authority| authority.introduced(overlap, now))
            .map(|changed| changed.is_some())
    }

    /// Does the next step of a replacement when it is due. `followed`: every node trusts the present bundle.
    pub(crate) fn advance(
        data_dir: &Utf8Path,
        followed: bool,
        now: Timestamp,
    ) -> anyhow::Result<Option<Self>> {
        Self::change(data_dir, |authority| authority.advanced(followed, now))
    }

    fn change(
        data_dir: &Utf8Path,
        change: impl FnOnce(&Self) -> anyhow::Result<Option<Self>>,
    ) -> anyhow::Result<Option<Self>> {
        let _lock = lock(data_dir)?;
        let authority = Self::load(data_dir)?.with_context(|| {
            format!("`{data_dir}` has no certificate authority; start `caprock serve` on it first")
        })?;
        let changed = change(&authority)?;
        if let Some(changed) = &changed {
            changed.store(data_dir)?;
        }
        Ok(changed)
    }

    fn introduced(&self, overlap: SignedDuration, now: Timestamp) -> anyhow::Result<Option<Self>> {
        if self.rotation.is_some() {
            return Ok(None);
        }
        let phase = Phase::Introducing {
            next: Pair::make(now)?,
        };
        Ok(Some(Authority {
            signing: self.signing.clone(),
            rotation: Some(Rotation {
                phase,
                since: now,
                overlap,
            }),
        }))
    }

    /// What follows when the next step of a replacement is due.
    pub(crate) fn advanced(&self, followed: bool, now: Timestamp) -> anyhow::Result<Option<Self>> {
        let Some(rotation) = &self.rotation else {
            let ends_soon = |end: Timestamp| end.duration_since(now) < AUTHORITY_RESERVE;
            return match self.signing.expires.is_some_and(ends_soon) {
                true => self.introduced(SignedDuration::from_hours(24), now),
                false => Ok(None),
            };
        };
        let lasted = now.duration_since(rotation.since);
        let patience = rotation.overlap.max(SignedDuration::from_hours(1)) * PATIENCE;
        if !(lasted >= rotation.overlap && followed || lasted >= patience) {
            return Ok(None);
        }
        Ok(Some(match &rotation.phase {
            Phase::Introducing { next } => Authority {
                signing: next.clone(),
                rotation: Some(Rotation {
                    phase: Phase::Retiring {
                        former: self.signing.certificate.clone(),
                    },
                    since: now,
                    overlap: rotation.overlap,
                }),
            },
            Phase::Retiring { .. } => Authority {
                signing: self.signing.clone(),
                rotation: None,
            },
        }))
    }

    /// How far a replacement is, for people; none when there is none.
    pub(crate) fn progress(&self) -> Option<(&'static str, Timestamp, SignedDuration)> {
        self.rotation.as_ref().map(|rotation| {
            let phase = match rotation.phase {
                Phase::Introducing { .. } => "introducing",
                Phase::Retiring { .. } => "retiring",
            };
            (phase, rotation.since, rotation.overlap)
        })
    }

    /// When the authority that signs ends.
    pub(crate) fn expires(&self) -> Option<Timestamp> {
        self.signing.expires
    }

    /// A certificate by which a client is this user in this group, with a new key.
    pub(crate) fn client(
        &self,
        user: &str,
        group: Option<&str>,
        life: SignedDuration,
        now: Timestamp,
    ) -> anyhow::Result<Client> {
        let key = KeyPair::generate().context("failed to make the client's key")?;
        let mut params = CertificateParams::default();
        params.distinguished_name = name(user);
        if let Some(group) = group {
            params
                .distinguished_name
                .push(DnType::OrganizationName, group);
        }
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        validity(&mut params, now, self.no_later(now.checked_add(life)?))?;
        let certificate = params
            .signed_by(&key, &self.issuer()?)
            .context("failed to sign the client's certificate")?;
        Ok(Client {
            chain: certificate.pem(),
            key: key.serialize_pem(),
        })
    }

    fn issuer(&self) -> anyhow::Result<Issuer<'static, KeyPair>> {
        let key =
            KeyPair::from_pem(&self.signing.key).context("the authority's key is not a key")?;
        Ok(Issuer::new(authority_params(&self.signing.name), key))
    }

    /// No certificate outlives its issuer.
    fn no_later(&self, end: Timestamp) -> Timestamp {
        self.signing.expires.map_or(end, |last| end.min(last))
    }

    /// A certificate for a server, with a new key.
    pub(crate) fn serving(&self, subject: &Subject, now: Timestamp) -> anyhow::Result<Serving> {
        let key = KeyPair::generate().context("failed to make the server's key")?;
        let end = self.no_later(now.checked_add(SERVING_LIFE)?);
        let mut params = server_params(subject)?;
        validity(&mut params, now, end)?;
        let certificate = params
            .signed_by(&key, &self.issuer()?)
            .context("failed to sign the server's certificate")?;
        Serving::new(&certificate, &key, end)
    }
}

/// A client's certificate with its key, both PEM.
pub(crate) struct Client {
    pub(crate) chain: String,
    pub(crate) key: String,
}

impl Pair {
    /// What the one authority was called before there could be two.
    fn first_name() -> String {
        "caprock".to_owned()
    }

    fn make(now: Timestamp) -> anyhow::Result<Pair> {
        let name = format!("caprock-{}", short_id()?);
        let key = KeyPair::generate().context("failed to make the CA's key")?;
        let expires = now.checked_add(AUTHORITY_LIFE)?;
        let mut params = authority_params(&name);
        validity(&mut params, now, expires)?;
        let certificate = params
            .self_signed(&key)
            .context("failed to sign the CA's certificate")?;
        Ok(Pair {
            name,
            certificate: certificate.pem(),
            key: key.serialize_pem(),
            expires: Some(expires),
        })
    }
}

impl Serving {
    fn new(
        certificate: &rcgen::Certificate,
        key: &KeyPair,
        ends: Timestamp,
    ) -> anyhow::Result<Serving> {
        Ok(Serving {
            chain: vec![certificate.der().clone()],
            key: PrivateKeyDer::from_pem_slice(key.serialize_pem().as_bytes())
                .context("the server's key is not readable")?,
            ends,
        })
    }
}

/// Tells bundles apart.
fn fingerprint(bundle: &str) -> String {
    hash(bundle)[..16].to_owned()
}

/// The authority as it was kept in two files.
fn former_layout(data_dir: &Utf8Path) -> anyhow::Result<Option<Pair>> {
    let read = |name: &str| files::read_if_present(&data_dir.join("pki").join(name));
    Ok(match (read("ca.crt")?, read("ca.key")?) {
        (Some(certificate), Some(key)) => Some(Pair {
            name: Pair::first_name(),
            certificate,
            key,
            expires: None,
        }),
        _ => None,
    })
}

/// Every authority of ours looks like this but for its name, key and times.
fn authority_params(common_name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = name(common_name);
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params
}

fn server_params(subject: &Subject) -> anyhow::Result<CertificateParams> {
    let mut params = CertificateParams::default();
    params.distinguished_name = name("caprock-serve");
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    for host in &subject.names {
        let host = host.as_str().try_into().context("not a DNS name")?;
        params.subject_alt_names.push(SanType::DnsName(host));
    }
    let addresses = subject.addresses.iter().copied().map(SanType::IpAddress);
    params.subject_alt_names.extend(addresses);
    Ok(params)
}

fn validity(params: &mut CertificateParams, now: Timestamp, end: Timestamp) -> anyhow::Result<()> {
    let from = now.checked_sub(BACKDATED)?;
    params.not_before = time::OffsetDateTime::from_unix_timestamp(from.as_second())?;
    params.not_after = time::OffsetDateTime::from_unix_timestamp(end.as_second())?;
    Ok(())
}

fn name(common: &str) -> DistinguishedName {
    let mut name = DistinguishedName::new();
    name.push(DnType::CommonName, common);
    name
}

/// Checks that a PEM text holds at least one certificate.
pub(crate) fn certificates(pem: &str) -> anyhow::Result<Vec<CertificateDer<'static>>> {
    let found = CertificateDer::pem_slice_iter(pem.as_bytes())
        .collect::<Result<Vec<_>, _>>()
        .context("not a PEM certificate")?;
    anyhow::ensure!(!found.is_empty(), "no certificate in the PEM text");
    Ok(found)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn at(hours: i64) -> Timestamp {
        Timestamp::from_second(1_700_000_000 + 3600 * hours).unwrap()
    }

    fn hours(hours: i64) -> SignedDuration {
        SignedDuration::from_hours(hours)
    }

    #[test]
    fn the_authority_survives_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        let path = Utf8Path::from_path(dir.path()).unwrap();
        let first = Authority::load_or_create(path, at(0)).unwrap();
        let second = Authority::load_or_create(path, at(1)).unwrap();
        assert!(first == second);
        assert_eq!(certificates(&second.bundle()).unwrap().len(), 1);
        let public = std::fs::read_to_string(path.join("pki/ca.crt")).unwrap();
        assert_eq!(public, second.bundle());
    }

    #[test]
    fn one_of_the_former_layout_is_taken_over() {
        let dir = tempfile::tempdir().unwrap();
        let path = Utf8Path::from_path(dir.path()).unwrap();
        let pair = Pair::make(at(0)).unwrap();
        files::write_public(&path.join("pki/ca.crt"), &pair.certificate).unwrap();
        files::write_private(&path.join("pki/ca.key"), &pair.key).unwrap();
        let authority = Authority::load_or_create(path, at(0)).unwrap();
        assert_eq!(authority.bundle(), pair.certificate);
        assert!(authority.serving(&Subject::default(), at(0)).is_ok());
    }

    /// Every step, with a load from disk between any two, as restarts make them.
    #[test]
    fn a_rotation_goes_by_two_phases_that_both_wait_for_time_and_nodes() {
        let dir = tempfile::tempdir().unwrap();
        let path = Utf8Path::from_path(dir.path()).unwrap();
        let old = Authority::load_or_create(path, at(0)).unwrap();
        let advance = |followed, now| Authority::advance(path, followed, at(now)).unwrap();
        assert!(advance(true, 0).is_none());

        assert!(Authority::rotate(path, hours(24), at(0)).unwrap());
        assert!(!Authority::rotate(path, hours(24), at(1)).unwrap());
        let introducing = Authority::load(path).unwrap().unwrap();
        assert!(introducing.signs_like(&old));
        assert_eq!(certificates(&introducing.bundle()).unwrap().len(), 2);
        assert_ne!(introducing.fingerprint(), old.fingerprint());

        // Time without nodes, nodes without time.
        assert!(advance(false, 30).is_none());
        assert!(advance(true, 23).is_none());
        let retiring = advance(true, 24).unwrap();
        assert!(!retiring.signs_like(&old));
        assert!(retiring.bundle().contains(&old.bundle()));

        assert!(advance(true, 30).is_none());
        let done = advance(true, 48).unwrap();
        assert!(done.signs_like(&retiring));
        assert_eq!(certificates(&done.bundle()).unwrap().len(), 1);
        assert!(!done.bundle().contains(&old.bundle()));
        assert!(done.progress().is_none());
    }

    #[test]
    fn a_node_that_is_gone_does_not_hold_a_rotation_for_ever() {
        let dir = tempfile::tempdir().unwrap();
        let path = Utf8Path::from_path(dir.path()).unwrap();
        Authority::load_or_create(path, at(0)).unwrap();
        Authority::rotate(path, hours(24), at(0)).unwrap();
        assert!(
            Authority::advance(path, false, at(24 * 7 - 1))
                .unwrap()
                .is_none()
        );
        assert!(
            Authority::advance(path, false, at(24 * 7))
                .unwrap()
                .is_some()
        );
    }

    #[test]
    fn an_authority_that_is_about_to_end_is_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let path = Utf8Path::from_path(dir.path()).unwrap();
        Authority::load_or_create(path, at(0)).unwrap();
        assert!(
            Authority::advance(path, true, at(24 * 365 * 8))
                .unwrap()
                .is_none()
        );
        let begun = Authority::advance(path, true, at(24 * 365 * 9 + 1)).unwrap();
        assert_eq!(begun.unwrap().progress().unwrap().0, "introducing");
    }
}
