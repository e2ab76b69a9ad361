//! Which client certificates the API accepts: those of our own authority, which is replaced while the server runs, and
//! of an authority that the administrator named.

use std::sync::{Arc, RwLock};

use anyhow::Context;
use camino::Utf8Path;
use rustls::client::danger::HandshakeSignatureValid;
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{DigitallySignedStruct, DistinguishedName, RootCertStore, SignatureScheme};

use super::pki;

const LOCK: &str = "no code panics while it holds the lock of the authorities";

/// Asks every client for a certificate, and lets in who has none too: a token does as well.
#[derive(Debug)]
pub(crate) struct Clients {
    /// Authorities of the administrator.
    others: Vec<CertificateDer<'static>>,
    present: RwLock<Arc<dyn ClientCertVerifier>>,
}

impl Clients {
    /// Trusts the authorities in `bundle` (PEM) and in the file.
    pub(crate) fn new(bundle: &str, file: Option<&Utf8Path>) -> anyhow::Result<Self> {
        let others = match file {
            None => Vec::new(),
            Some(path) => std::fs::read_to_string(path)
                .map_err(anyhow::Error::from)
                .and_then(|pem| pki::certificates(&pem))
                .with_context(|| {
                    format!("`{path}` has no authority for the certificates of clients")
                })?,
        };
        let present = RwLock::new(verifier(bundle, &others)?);
        Ok(Self { others, present })
    }

    /// Trusts these authorities (PEM) in place of those of our own before.
    pub(crate) fn trust(&self, bundle: &str) -> anyhow::Result<()> {
        let next = verifier(bundle, &self.others)?;
        *self.present.write().expect(LOCK) = next;
        Ok(())
    }

    fn present(&self) -> Arc<dyn ClientCertVerifier> {
        self.present.read().expect(LOCK).clone()
    }
}

fn verifier(
    bundle: &str,
    others: &[CertificateDer<'static>],
) -> anyhow::Result<Arc<dyn ClientCertVerifier>> {
    let mut roots = RootCertStore::empty();
    for authority in pki::certificates(bundle)?
        .into_iter()
        .chain(others.to_vec())
    {
        roots
            .add(authority)
            .context("not a certificate of an authority")?;
    }
    WebPkiClientVerifier::builder(Arc::new(roots))
        .allow_unauthenticated()
        .build()
        .context("the certificates of clients cannot be checked")
}

impl ClientCertVerifier for Clients {
    fn client_auth_mandatory(&self) -> bool {
        false
    }

    /// No hints: they could not change, and clients with one certificate send it then.
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        certificate: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        self.present()
            .verify_client_cert(certificate, intermediates, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.present()
            .verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.present()
            .verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.present().supported_verify_schemes()
    }
}
