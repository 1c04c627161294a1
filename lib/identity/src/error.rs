//! What can go wrong with keys, certificates and the CA's state: one enum at the crate's boundary, each variant naming
//! the operation, the object and the source.

use std::{io, path::PathBuf};

use underpass_core::Identity;

use crate::certificate::SanError;

/// An operation of this crate that failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The cryptographic library made no key.
    #[error("cannot make a P-256 key")]
    MakeKey(#[source] aws_lc_rs::error::Unspecified),
    /// The bytes are no private key of ours.
    #[error("cannot read a P-256 key from PKCS#8")]
    ReadKey(#[source] aws_lc_rs::error::KeyRejected),
    /// The identity has names that no certificate can carry.
    #[error(
        "{identity} cannot stand in a certificate: its namespace or service account has characters outside A-Z a-z 0-9 . - _"
    )]
    NotIssuable {
        /// Whose certificate was wanted.
        identity: Identity,
    },
    /// The request could not be written.
    #[error("cannot write a certificate request for {identity}")]
    WriteRequest {
        /// Whose certificate was wanted.
        identity: Identity,
        /// What the writer said.
        source: rcgen::Error,
    },
    /// The request could not be read, or is not signed by the key it carries.
    #[error("cannot read the certificate request for {identity}")]
    ReadRequest {
        /// Whose certificate was wanted.
        identity: Identity,
        /// What the reader said.
        source: rcgen::Error,
    },
    /// Requests carry P-256 keys, nothing else.
    #[error("the certificate request for {identity} carries another key than a P-256 key")]
    RequestKey {
        /// Whose certificate was wanted.
        identity: Identity,
    },
    /// The certificate could not be written.
    #[error("cannot write a certificate for {subject}")]
    WriteCertificate {
        /// Whose certificate was wanted.
        subject: String,
        /// What the writer said.
        source: rcgen::Error,
    },
    /// Bytes that are no X.509 certificate.
    #[error("cannot read a certificate: {reason}")]
    ReadCertificate {
        /// What the reader said.
        reason: String,
    },
    /// Text that is no PEM.
    #[error("cannot read certificates from PEM")]
    ReadPem(#[source] rustls_pki_types::pem::Error),
    /// A chain or a bundle needs at least one.
    #[error("there is no certificate in {what}")]
    NoCertificate {
        /// `a chain`, `a bundle of roots`.
        what: &'static str,
    },
    /// More than anybody needs, and every one is tried for every peer.
    #[error("a bundle of roots has {found} certificates, at most {limit} are allowed")]
    TooManyRoots {
        /// In the bundle.
        found: usize,
        /// [`crate::roots::ROOTS_MAX`].
        limit: usize,
    },
    /// A leaf in the bundle would be trusted as it is.
    #[error("a bundle of roots has a certificate that is no CA's (serial {serial})")]
    RootIsNoCa {
        /// Its serial number.
        serial: crate::Serial,
    },
    /// The leaf's names.
    #[error("a workload's certificate (serial {serial}) has no identity")]
    NoIdentity {
        /// Its serial number.
        serial: crate::Serial,
        /// What it has instead.
        source: SanError,
    },
    /// The leaf was made for another key.
    #[error("the certificate of {identity} does not belong to the private key")]
    KeyMismatch {
        /// Whose certificate.
        identity: Identity,
    },
    /// The CA's own certificate is over, or the clock is wrong.
    #[error("the CA in {} is not valid now", path.display())]
    AuthorityNotValid {
        /// The state directory.
        path: PathBuf,
    },
    /// The identity belongs to another trust domain than the CA.
    #[error("{identity} is not in this CA's trust domain {trust_domain}")]
    OtherTrustDomain {
        /// Whose certificate was wanted.
        identity: Identity,
        /// The CA's.
        trust_domain: underpass_core::TrustDomain,
    },
    /// A system call on the state directory.
    #[error("cannot {operation} {}", path.display())]
    State {
        /// `open`, `lock`, ...
        operation: &'static str,
        /// What it was done to.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A step of a rotation that cannot be taken now.
    #[error("cannot {step} in {}: {fault}", path.display())]
    Rotation {
        /// `prepare a new CA`, `sign with the new CA`, `retire the old CA`.
        step: &'static str,
        /// The state directory.
        path: PathBuf,
        /// Why not.
        fault: RotationFault,
    },
    /// The state directory is not as this crate leaves it. It is never repaired or overwritten.
    #[error("{} is not a usable CA: {fault}", path.display())]
    StateFault {
        /// The file or directory.
        path: PathBuf,
        /// What is wrong with it.
        fault: StateFault,
    },
}

/// Why a step of a rotation is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RotationFault {
    /// The one before is not at its end.
    #[error("a rotation is under way: {}", .0.next_step())]
    UnderWay(crate::rotation::Phase),
    /// There is nothing to go on with.
    #[error("no rotation has come so far: {}", .0.next_step())]
    NotSoFar(crate::rotation::Phase),
    /// Somebody may not have noticed the step before.
    #[error("too early: wait for {} more seconds", left.as_secs_f64().ceil())]
    TooEarly {
        /// How long.
        left: std::time::Duration,
    },
}

/// Why a state directory is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StateFault {
    /// Somebody else's directory.
    #[error("the directory has no CA but other files ({entry}); choose an empty one")]
    Foreign {
        /// The first of them.
        entry: String,
    },
    /// Others could read the key or replace the files.
    #[error("its mode is {mode:04o}, allowed is at most {allowed:04o}")]
    Mode {
        /// As found.
        mode: u32,
        /// As it should be.
        allowed: u32,
    },
    /// Not the directory's owner's.
    #[error("it belongs to user {found}, its directory to {expected}")]
    Owner {
        /// The file's user id.
        found: u32,
        /// The directory's user id.
        expected: u32,
    },
    /// No plain file or directory.
    #[error("it is no {expected}")]
    Kind {
        /// `regular file` or `directory`.
        expected: &'static str,
    },
    /// Nothing that was written here.
    #[error("it is longer than {limit} bytes")]
    TooLong {
        /// In bytes.
        limit: u64,
    },
    /// It has gone.
    #[error("it is not there")]
    Missing,
    /// Bytes that are no text.
    #[error("it is no text")]
    NotText,
    /// No key in it, or none that can be read.
    #[error("it has no readable private key")]
    Key,
    /// No certificate in it, or none that can be read.
    #[error("it has no readable certificate")]
    Certificate,
    /// A certificate that may sign nothing.
    #[error("its certificate is no CA's")]
    NotACa,
    /// Key and certificate are not a pair.
    #[error("its key does not belong to its certificate")]
    Mismatch,
    /// Made for another mesh.
    #[error("it is the CA of trust domain `{found}`, not of `{expected}`")]
    TrustDomain {
        /// In its certificate.
        found: String,
        /// In the settings.
        expected: String,
    },
}
