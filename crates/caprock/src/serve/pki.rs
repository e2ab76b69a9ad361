//! The certificate authority of one data directory and the certificate its servers show.
//!
//! One CA signs both the API's and the registry's certificate, so that a kubeconfig carries all the trust a client needs.

use std::net::IpAddr;
use std::sync::Arc;

use anyhow::Context;
use camino::Utf8Path;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose, SanType,
};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

use super::files;

/// The authority's certificate and key, as PEM.
pub(crate) struct Authority {
    certificate: String,
    key: String,
}

impl Authority {
    /// Loads the authority of a data directory, or makes it on the first start. The key never leaves `pki/ca.key` (0600).
    pub(crate) fn load_or_create(pki: &Utf8Path) -> anyhow::Result<Self> {
        let (certificate_path, key_path) = (pki.join("ca.crt"), pki.join("ca.key"));
        if let (Some(certificate), Some(key)) = (
            files::read_if_present(&certificate_path)?,
            files::read_if_present(&key_path)?,
        ) {
            return Ok(Authority { certificate, key });
        }
        let key = KeyPair::generate().context("failed to make the CA's key")?;
        let certificate = authority_params()
            .self_signed(&key)
            .context("failed to sign the CA's certificate")?;
        let authority = Authority {
            certificate: certificate.pem(),
            key: key.serialize_pem(),
        };
        // The key first: a certificate without its key would be taken for a complete authority.
        files::write_private(&key_path, &authority.key)?;
        files::write_public(&certificate_path, &authority.certificate)?;
        Ok(authority)
    }

    /// The certificate that clients trust, PEM.
    pub(crate) fn certificate(&self) -> &str {
        &self.certificate
    }

    /// A server configuration for the given addresses, with a key made for this run only.
    pub(crate) fn server_config(
        &self,
        addresses: &[IpAddr],
    ) -> anyhow::Result<Arc<rustls::ServerConfig>> {
        let issuer_key = KeyPair::from_pem(&self.key).context("`pki/ca.key` is not a key")?;
        let issuer = Issuer::new(authority_params(), &issuer_key);
        let key = KeyPair::generate().context("failed to make the server's key")?;
        let mut params = CertificateParams::default();
        params.distinguished_name = name("caprock-serve");
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        for host in ["localhost", "kubernetes", "kubernetes.default.svc"] {
            let host = host.try_into().context("not a DNS name")?;
            params.subject_alt_names.push(SanType::DnsName(host));
        }
        params
            .subject_alt_names
            .extend(addresses.iter().copied().map(SanType::IpAddress));
        let certificate = params
            .signed_by(&key, &issuer)
            .context("failed to sign the server's certificate")?;
        let chain = vec![certificate.der().clone()];
        let key = PrivateKeyDer::from_pem_slice(key.serialize_pem().as_bytes())
            .context("the server's key is not readable")?;
        let mut config = rustls::ServerConfig::builder()
            .with_no_client_auth()
            .with_single_cert(chain, key)
            .context("the server's certificate does not fit its key")?;
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Ok(Arc::new(config))
    }
}

/// Every authority of ours looks like this but for its key.
fn authority_params() -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = name("caprock");
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params
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

    #[test]
    fn the_authority_survives_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        let pki = Utf8Path::from_path(dir.path()).unwrap();
        let first = Authority::load_or_create(pki).unwrap();
        let second = Authority::load_or_create(pki).unwrap();
        assert_eq!(first.certificate(), second.certificate());
        assert_eq!(certificates(second.certificate()).unwrap().len(), 1);
    }
}
