//! The keys and certificates of an API server, made anew for each: a CA of its own, the certificate that clients see, and the
//! key that signs the tokens of service accounts.

use std::{
    fs,
    net::IpAddr,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    SanType,
};

/// The names by which pods know the API server.
const NAMES: [&str; 3] = ["kubernetes.default.svc", "kubernetes.default", "localhost"];

/// Files, all PEM.
#[derive(Debug)]
pub(super) struct Pki {
    /// The certificate of the CA.
    pub(super) authority: PathBuf,
    /// The API server's certificate and its key.
    pub(super) certificate: PathBuf,
    pub(super) key: PathBuf,
    /// The keys that sign the tokens of service accounts, and verify them.
    pub(super) signing: PathBuf,
    pub(super) verifying: PathBuf,
}

impl Pki {
    /// Writes them into a folder, for an API server with these addresses.
    pub(super) fn write(folder: &Path, addresses: &[IpAddr]) -> Result<Self> {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, "testbed");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let authority_key = KeyPair::generate()?;
        let authority = params.self_signed(&authority_key)?.pem();
        let issuer = Issuer::new(params, authority_key);

        let mut params = CertificateParams::new(NAMES.map(str::to_owned))?;
        params.distinguished_name.push(DnType::CommonName, "kube-apiserver");
        params.subject_alt_names.extend(addresses.iter().map(|address| SanType::IpAddress(*address)));
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        let key = KeyPair::generate()?;
        let certificate = params.signed_by(&key, &issuer)?.pem();

        let accounts = KeyPair::generate()?;

        let write = |name: &str, text: String| -> Result<PathBuf> {
            let path = folder.join(name);
            fs::write(&path, text).with_context(|| format!("write {}", path.display()))?;
            Ok(path)
        };
        Ok(Self {
            authority: write("ca.crt", authority)?,
            certificate: write("server.crt", certificate)?,
            key: write("server.key", key.serialize_pem())?,
            signing: write("accounts.key", accounts.serialize_pem())?,
            verifying: write("accounts.pub", accounts.public_key_pem())?,
        })
    }
}
