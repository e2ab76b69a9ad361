//! Whom the client trusts: the system's certificate authorities, those given, or, for hosts listed as insecure,
//! anyone.

use std::path::Path;
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{DigitallySignedStruct, RootCertStore, SignatureScheme};
use rustls_native_certs::{CertificateResult, load_certs_from_paths, load_native_certs};

use super::ClientError;

/// The system's authorities and `extra` ones. Unreadable files of the system are passed over with a warning, as one
/// broken file must not cut off every registry; unreadable `extra` ones are errors.
pub(super) fn base_roots(extra: &[Vec<u8>]) -> Result<RootCertStore, ClientError> {
    let mut roots = RootCertStore::empty();
    let system = system();
    for error in &system.errors {
        tracing::warn!(%error, "a certificate authority of the system cannot be read");
    }
    roots.add_parsable_certificates(system.certs);
    for pem in extra {
        add_pem(&mut roots, pem, "every registry")?;
    }
    Ok(roots)
}

/// The system's authorities. Most systems keep them twice, in one file and one by one; reading the file is much faster.
fn system() -> CertificateResult {
    const BUNDLES: [&str; 2] = [
        "/etc/ssl/certs/ca-certificates.crt",
        "/etc/pki/tls/certs/ca-bundle.crt",
    ];
    let chosen = ["SSL_CERT_FILE", "SSL_CERT_DIR"]
        .iter()
        .any(|name| std::env::var_os(name).is_some());
    let bundle = BUNDLES.iter().map(Path::new).find(|path| path.is_file());
    match bundle {
        Some(bundle) if !chosen => load_certs_from_paths(Some(bundle), None),
        _ => load_native_certs(),
    }
}

/// Adds the authorities in `pem`, which must be at least one.
pub(super) fn add_pem(
    roots: &mut RootCertStore,
    pem: &[u8],
    whose: &str,
) -> Result<(), ClientError> {
    let invalid = |reason: String| {
        ClientError::Config(format!(
            "certificate authority for {whose} is not PEM of a certificate: {reason}"
        ))
    };
    let mut found = false;
    for certificate in CertificateDer::pem_slice_iter(pem) {
        let certificate = certificate.map_err(|error| invalid(error.to_string()))?;
        roots
            .add(certificate)
            .map_err(|error| invalid(error.to_string()))?;
        found = true;
    }
    match found {
        true => Ok(()),
        false => Err(invalid("it holds none".to_owned())),
    }
}

/// TLS that trusts `roots`. HTTP/2 is not offered: blobs travel side by side on connections of their own.
pub(super) fn verifying(roots: RootCertStore) -> Result<rustls::ClientConfig, ClientError> {
    Ok(builder()?
        .with_root_certificates(roots)
        .with_no_client_auth())
}

/// TLS that trusts anyone, for hosts that the user listed as insecure.
pub(super) fn trusting() -> Result<rustls::ClientConfig, ClientError> {
    let verifier = Arc::new(TrustAnyone(Arc::new(ring::default_provider())));
    Ok(builder()?
        .dangerous()
        .with_custom_certificate_verifier(verifier)
        .with_no_client_auth())
}

fn builder()
-> Result<rustls::ConfigBuilder<rustls::ClientConfig, rustls::WantsVerifier>, ClientError> {
    rustls::ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| ClientError::Config(error.to_string()))
}

#[derive(Debug)]
struct TrustAnyone(Arc<CryptoProvider>);

impl ServerCertVerifier for TrustAnyone {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls12_signature(
            message,
            cert,
            dss,
            &self.0.signature_verification_algorithms,
        )
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(
            message,
            cert,
            dss,
            &self.0.signature_verification_algorithms,
        )
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
