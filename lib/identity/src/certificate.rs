//! Certificates as read: the few properties that the mesh needs. Its own file because own leaves, peers' leaves and
//! roots are all read here and in no other way.

use std::{
    fmt,
    sync::Arc,
    time::{Duration, SystemTime},
};

use rustls_pki_types::{CertificateDer, pem::PemObject as _};
use underpass_core::{Identity, spiffe::ParseIdentityError};
use x509_parser::{
    extensions::GeneralName,
    prelude::{FromDer as _, X509Certificate},
    time::ASN1Time,
};
use zeroize::Zeroizing;

use crate::{Error, base64};

/// A certificate's serial number, big-endian. Prints as hexadecimal. Cheap to clone.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Serial(Arc<[u8]>);

impl fmt::Display for Serial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|b| write!(f, "{b:02x}"))
    }
}

impl Serial {
    /// The serial number that prints like this; none where the text is no hexadecimal of whole bytes.
    #[must_use]
    pub fn from_hex(text: &str) -> Option<Self> {
        let digits: Option<Vec<u8>> = text.chars().map(|c| c.to_digit(16).and_then(|d| d.try_into().ok())).collect();
        let (pairs, rest) = digits.as_deref()?.as_chunks();
        rest.is_empty().then(|| Self(pairs.iter().map(|[high, low]| high << 4 | low).collect()))
    }
}

impl fmt::Debug for Serial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

/// The reason why a certificate names no workload. A workload's certificate has exactly one URI SAN; other kinds of
/// names in it are ignored.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SanError {
    /// No URI among its names.
    #[error("it has no URI SAN")]
    None,
    /// More than one URI among its names.
    #[error("it has {found} URI SANs")]
    Several {
        /// The count.
        found: usize,
    },
    /// Its names cannot be read.
    #[error("its subject alternative names are malformed")]
    Malformed,
    /// A URI that names no workload.
    #[error("its URI SAN `{uri}` is not the identity of a workload")]
    NotAnIdentity {
        /// As found, at most [`underpass_core::spiffe::ID_MAX_BYTES`].
        uri: String,
        /// The fault.
        source: ParseIdentityError,
    },
}

/// A certificate that was read, not verified.
#[derive(Clone, Debug)]
pub struct Certificate {
    serial: Serial,
    not_before: SystemTime,
    not_after: SystemTime,
    identity: Result<Identity, SanError>,
    is_ca: bool,
    public_key: Box<[u8]>,
    organization: Option<String>,
}

impl Certificate {
    /// Reads a certificate in DER.
    ///
    /// # Errors
    /// [`Error::ReadCertificate`] for anything else, trailing bytes included.
    pub fn parse(der: &[u8]) -> Result<Self, Error> {
        let unreadable = |reason: String| Error::ReadCertificate { reason };
        let (rest, x509) = X509Certificate::from_der(der).map_err(|e| unreadable(e.to_string()))?;
        if !rest.is_empty() {
            return Err(unreadable(format!("{} trailing bytes", rest.len())));
        }
        let is_ca = match x509.basic_constraints() {
            Ok(constraints) => constraints.is_some_and(|c| c.value.ca),
            Err(e) => return Err(unreadable(e.to_string())),
        };
        Ok(Self {
            serial: Serial(Arc::from(x509.raw_serial())),
            not_before: system_time(x509.validity().not_before),
            not_after: system_time(x509.validity().not_after),
            identity: read_identity(&x509),
            is_ca,
            public_key: Box::from(x509.public_key().subject_public_key.data.as_ref()),
            organization: x509.subject().iter_organization().find_map(|o| o.as_str().ok()).map(str::to_owned),
        })
    }

    /// The serial number.
    #[must_use]
    pub const fn serial(&self) -> &Serial {
        &self.serial
    }

    /// The first second at which it is valid.
    #[must_use]
    pub const fn not_before(&self) -> SystemTime {
        self.not_before
    }

    /// The last second at which it is valid.
    #[must_use]
    pub const fn not_after(&self) -> SystemTime {
        self.not_after
    }

    /// The workload it names.
    ///
    /// # Errors
    /// The reason why it names none.
    pub const fn identity(&self) -> Result<&Identity, &SanError> {
        self.identity.as_ref()
    }

    /// It may sign others.
    #[must_use]
    pub const fn is_ca(&self) -> bool {
        self.is_ca
    }

    /// The public key's bits, for elliptic curves the point.
    #[must_use]
    pub fn public_key(&self) -> &[u8] {
        &self.public_key
    }

    /// The subject's organization: in certificates of this CA, and of Istio's, the trust domain.
    #[must_use]
    pub fn organization(&self) -> Option<&str> {
        self.organization.as_deref()
    }
}

/// Every certificate in a PEM text, in its order; other sections are skipped.
///
/// # Errors
/// [`Error::ReadPem`] where the text or one section is malformed.
pub fn certificates_from_pem(text: &str) -> Result<Vec<CertificateDer<'static>>, Error> {
    CertificateDer::pem_slice_iter(text.as_bytes()).collect::<Result<_, _>>().map_err(Error::ReadPem)
}

/// A certificate as PEM.
#[must_use]
pub fn pem(der: &CertificateDer<'_>) -> Zeroizing<String> {
    base64::pem("CERTIFICATE", der)
}

fn system_time(time: ASN1Time) -> SystemTime {
    // Dates before 1970 exist in X.509 and are all in the past.
    SystemTime::UNIX_EPOCH + Duration::from_secs(u64::try_from(time.timestamp()).unwrap_or(0))
}

fn read_identity(x509: &X509Certificate<'_>) -> Result<Identity, SanError> {
    let names = match x509.subject_alternative_name() {
        Ok(Some(extension)) => &extension.value.general_names,
        Ok(None) => return Err(SanError::None),
        Err(_) => return Err(SanError::Malformed),
    };
    let mut uris = names.iter().filter_map(|name| match name {
        GeneralName::URI(uri) => Some(Ok(*uri)),
        GeneralName::Invalid(..) => Some(Err(SanError::Malformed)),
        _ => None,
    });
    let uri = uris.next().ok_or(SanError::None)??;
    let others = uris.count();
    if others > 0 {
        return Err(SanError::Several { found: 1 + others });
    }
    uri.parse().map_err(|source| {
        let shown = uri.chars().take(underpass_core::spiffe::ID_MAX_BYTES / 4).collect();
        SanError::NotAnIdentity { uri: shown, source }
    })
}
