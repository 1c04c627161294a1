//! The bundle of roots that peers are verified against. A list, because a root is rotated by trusting old and new
//! together for a while; numbered, because TLS configurations and stored peers are checked again when it changes.

use std::{collections::BTreeSet, sync::Arc};

use rustls_pki_types::CertificateDer;

use crate::{Certificate, Error, certificate::certificates_from_pem};

/// More than any rotation needs: Istio's guides have two or three.
pub const ROOTS_MAX: usize = 64;

/// Roots of trust, none twice, in the order given. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Roots {
    generation: u64,
    certificates: Arc<[CertificateDer<'static>]>,
}

impl Roots {
    /// A bundle. `generation` tells bundles of one process apart: the same number means the same bundle.
    ///
    /// # Errors
    /// It is empty, longer than [`ROOTS_MAX`], or has a certificate that is not a CA certificate.
    pub fn new(generation: u64, certificates: Vec<CertificateDer<'static>>) -> Result<Self, Error> {
        let mut seen = BTreeSet::new();
        let mut unique = Vec::with_capacity(certificates.len());
        for certificate in certificates {
            let read = Certificate::parse(&certificate)?;
            if !read.is_ca() {
                return Err(Error::RootIsNoCa { serial: read.serial().clone() });
            }
            if seen.insert(certificate.to_vec()) {
                unique.push(certificate);
            }
        }
        match unique.len() {
            0 => Err(Error::NoCertificate { what: "a bundle of roots" }),
            found if found > ROOTS_MAX => Err(Error::TooManyRoots { found, limit: ROOTS_MAX }),
            _ => Ok(Self { generation, certificates: unique.into() }),
        }
    }

    /// A bundle from PEM.
    ///
    /// # Errors
    /// As [`Roots::new`], and [`Error::ReadPem`].
    pub fn from_pem(generation: u64, text: &str) -> Result<Self, Error> {
        Self::new(generation, certificates_from_pem(text)?)
    }

    /// The bundle that follows this one, or `None` where `certificates` are the same set: a bundle that is only read
    /// again must not make every tunnel verify its peer.
    ///
    /// # Errors
    /// As [`Roots::new`].
    pub fn successor(&self, certificates: Vec<CertificateDer<'static>>) -> Result<Option<Self>, Error> {
        let next = Self::new(self.generation + 1, certificates)?;
        let set = |roots: &Self| roots.certificates.iter().map(|c| c.to_vec()).collect::<BTreeSet<_>>();
        Ok((set(self) != set(&next)).then_some(next))
    }

    /// The bundle's number.
    #[must_use]
    pub const fn generation(&self) -> u64 {
        self.generation
    }

    /// The roots.
    #[must_use]
    pub fn certificates(&self) -> &[CertificateDer<'static>] {
        &self.certificates
    }
}
