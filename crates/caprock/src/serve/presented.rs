//! The certificate that a server shows: renewed in time, and made anew when its signer or its names change.

use std::sync::{Arc, RwLock};

use anyhow::Context;
use jiff::{SignedDuration, Timestamp};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;

use super::pki::{Authority, SERVING_LIFE, Serving, Subject};

const LOCK: &str = "no code panics while it holds the lock of the certificate";

/// What TLS sessions begin with from now on.
#[derive(Debug)]
struct Shown(RwLock<(Arc<CertifiedKey>, Timestamp)>);

impl ResolvesServerCert for Shown {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.0.read().expect(LOCK).0.clone())
    }
}

/// A server's certificate, whom it is for and who signed it.
pub(crate) struct Presented {
    shown: Arc<Shown>,
    authority: Authority,
    subject: Subject,
    /// When the certificate that is shown was made.
    made: Timestamp,
}

impl Presented {
    pub(crate) fn new(
        authority: Authority,
        subject: Subject,
        now: Timestamp,
    ) -> anyhow::Result<Self> {
        let shown = Shown(RwLock::new(certified(authority.serving(&subject, now)?)?));
        Ok(Presented {
            shown: Arc::new(shown),
            authority,
            subject,
            made: now,
        })
    }

    /// The authority that signs.
    pub(crate) fn authority(&self) -> &Authority {
        &self.authority
    }

    /// Says when the present certificate ends, also later.
    pub(crate) fn ends(&self) -> impl Fn() -> Option<Timestamp> + use<> {
        let shown = self.shown.clone();
        move || Some(shown.0.read().expect(LOCK).1)
    }

    /// Always answers with the present certificate.
    pub(super) fn resolver(&self) -> Arc<dyn ResolvesServerCert> {
        self.shown.clone()
    }

    /// A server configuration that always shows the present certificate and asks for none.
    pub(crate) fn server_config(&self) -> Arc<rustls::ServerConfig> {
        let mut config = rustls::ServerConfig::builder()
            .with_no_client_auth()
            .with_cert_resolver(self.resolver());
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Arc::new(config)
    }

    /// Shows a new certificate when the present one is due, or no longer what authority and subject say. Returns
    /// whether it did.
    pub(crate) fn follow(
        &mut self,
        authority: Authority,
        subject: Subject,
        now: Timestamp,
    ) -> anyhow::Result<bool> {
        let stays = authority.signs_like(&self.authority)
            && subject == self.subject
            && !is_due(self.made, now);
        if !stays {
            let next = certified(authority.serving(&subject, now)?)?;
            *self.shown.0.write().expect(LOCK) = next;
            self.made = now;
        }
        self.authority = authority;
        self.subject = subject;
        Ok(!stays)
    }
}

/// With the end of the certificate.
fn certified(serving: Serving) -> anyhow::Result<(Arc<CertifiedKey>, Timestamp)> {
    let key = rustls::crypto::ring::sign::any_supported_type(&serving.key)
        .context("the server's key cannot sign")?;
    let certified = CertifiedKey::new(serving.chain, key);
    Ok((Arc::new(certified), serving.ends))
}

/// A certificate is renewed when a third of its life is left.
fn is_due(made: Timestamp, now: Timestamp) -> bool {
    let age = now.duration_since(made);
    age < SignedDuration::ZERO || age >= SERVING_LIFE * 2 / 3
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn day(days: i64) -> Timestamp {
        let made = Timestamp::from_second(1_700_000_000).unwrap();
        made.checked_add(SignedDuration::from_hours(24 * days))
            .unwrap()
    }

    #[test]
    fn a_certificate_is_renewed_with_a_third_of_its_life_left() {
        for (days, due) in [(0, false), (59, false), (60, true), (90, true), (-1, true)] {
            assert_eq!(is_due(day(0), day(days)), due, "{days}");
        }
    }

    #[test]
    fn another_name_or_signer_gives_another_certificate() {
        let subject = |name: &str| Subject {
            names: vec![name.to_owned()],
            addresses: Vec::new(),
        };
        let first = Authority::new(day(0)).unwrap();
        let second = Authority::new(day(0)).unwrap();
        let mut presented = Presented::new(first.clone(), subject("a"), day(0)).unwrap();
        assert!(
            !presented
                .follow(first.clone(), subject("a"), day(1))
                .unwrap()
        );
        assert!(
            presented
                .follow(first.clone(), subject("b"), day(1))
                .unwrap()
        );
        assert!(
            presented
                .follow(second.clone(), subject("b"), day(1))
                .unwrap()
        );
        assert!(!presented.follow(second, subject("b"), day(2)).unwrap());
    }
}
