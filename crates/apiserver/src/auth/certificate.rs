//! Client certificates: the common name is the user, organisations are its groups.

use jiff::Timestamp;
use rustls::pki_types::CertificateDer;
use x509_parser::prelude::{FromDer, X509Certificate, X509Name};

use super::User;

/// The user that a certificate stands for at this time. Whether a trusted authority signed it was checked when the
/// connection was made; a connection may outlive its certificate, so the time is checked at every request.
pub(super) fn user(certificate: &CertificateDer<'_>, now: Timestamp) -> Option<User> {
    let (_, parsed) = X509Certificate::from_der(certificate).ok()?;
    let validity = parsed.validity();
    let (from, until) = (
        validity.not_before.timestamp(),
        validity.not_after.timestamp(),
    );
    if !(from..=until).contains(&now.as_second()) {
        return None;
    }
    let name = first_common_name(parsed.subject()).filter(|name| !name.is_empty())?;
    let groups = parsed
        .subject()
        .iter_organization()
        .map(|group| group.as_str().map(String::from))
        .collect::<Result<_, _>>()
        .ok()?;
    Some(User::new(name, groups))
}

fn first_common_name(subject: &X509Name<'_>) -> Option<String> {
    let name = subject.iter_common_name().next()?;
    name.as_str().ok().map(String::from)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use rcgen::{CertificateParams, DnType, KeyPair};

    use super::*;

    #[test]
    fn subject_and_validity() {
        let mut params = CertificateParams::default();
        params
            .distinguished_name
            .push(DnType::CommonName, "system:node:worker-1");
        params
            .distinguished_name
            .push(DnType::OrganizationName, "system:nodes");
        params.not_before = rcgen::date_time_ymd(2025, 1, 1);
        params.not_after = rcgen::date_time_ymd(2026, 1, 1);
        let certificate = params.self_signed(&KeyPair::generate().unwrap()).unwrap();
        let at = |time: &str| user(certificate.der(), time.parse().unwrap());
        let found = at("2025-06-01T00:00:00Z").unwrap();
        assert_eq!(found.name, "system:node:worker-1");
        assert_eq!(found.groups, ["system:nodes", "system:authenticated"]);
        assert_eq!(at("2024-12-31T00:00:00Z"), None);
        assert_eq!(at("2026-01-02T00:00:00Z"), None);
    }
}
