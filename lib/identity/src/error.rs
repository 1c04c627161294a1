//! Errors of keys, certificates and the CA's state: one enum at the crate's boundary, each variant with operation,
//! object and source.

use std::{io, path::PathBuf, sync::Arc};

use underpass_core::Identity;

use crate::{
    authority::{CaFault, CacertsFault},
    certificate::SanError,
    request::RequestFault,
};

/// An operation of this crate that failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The cryptographic library made no key.
    #[error("cannot make a P-256 key")]
    MakeKey(#[source] aws_lc_rs::error::Unspecified),
    /// The bytes are not a P-256 private key.
    #[error("cannot read a P-256 key from PKCS#8")]
    ReadKey(#[source] aws_lc_rs::error::KeyRejected),
    /// The identity has names that no certificate can carry.
    #[error(
        "{identity} cannot be certified: its namespace or service account has characters outside A-Z a-z 0-9 . - _"
    )]
    NotIssuable {
        /// The identity of the certificate.
        identity: Identity,
    },
    /// The request could not be written.
    #[error("cannot write a certificate request for {identity}")]
    WriteRequest {
        /// The identity of the certificate.
        identity: Identity,
        /// The error of the encoder.
        source: rcgen::Error,
    },
    /// The request could not be read, or is not signed by the P-256 key it carries.
    #[error("the certificate request for {identity} is refused")]
    Request {
        /// The identity of the certificate.
        identity: Identity,
        /// The reason.
        source: RequestFault,
    },
    /// A server needs names that its clients can ask for.
    #[error("cannot certify a server as `{name}`: it is not a DNS name")]
    NotADnsName {
        /// As given.
        name: String,
    },
    /// The certificate could not be written.
    #[error("cannot write a certificate for {subject}")]
    WriteCertificate {
        /// The identity of the certificate.
        subject: String,
        /// The error of the encoder.
        source: rcgen::Error,
    },
    /// Bytes that are not an X.509 certificate.
    #[error("cannot read a certificate: {reason}")]
    ReadCertificate {
        /// The error of the parser.
        reason: String,
    },
    /// Text that is not PEM.
    #[error("cannot read PEM")]
    ReadPem(#[source] rustls_pki_types::pem::Error),
    /// A chain or a bundle needs at least one.
    #[error("no certificate in {what}")]
    NoCertificate {
        /// `a chain`, `a bundle of roots`.
        what: &'static str,
    },
    /// A text that is longer than any chain.
    #[error("{what} is longer than {limit} bytes")]
    TooLong {
        /// `a certificate chain`.
        what: &'static str,
        /// In bytes.
        limit: usize,
    },
    /// More than any chain needs; every one is sent in every handshake.
    #[error("the certificate chain has {found} certificates, more than the limit of {limit}")]
    TooManyCertificates {
        /// In the chain.
        found: usize,
        /// [`crate::chain::CHAIN_MAX`].
        limit: usize,
    },
    /// More than any rotation needs; every one is tried for every peer.
    #[error("the bundle of roots has {found} certificates, more than the limit of {limit}")]
    TooManyRoots {
        /// In the bundle.
        found: usize,
        /// [`crate::roots::ROOTS_MAX`].
        limit: usize,
    },
    /// A leaf in the bundle would be trusted as it is.
    #[error("the bundle of roots has a certificate that is not a CA certificate (serial {serial})")]
    RootIsNoCa {
        /// Its serial number.
        serial: crate::Serial,
    },
    /// The leaf's names.
    #[error("the certificate with serial {serial} does not name a workload")]
    NoIdentity {
        /// Its serial number.
        serial: crate::Serial,
        /// The reason.
        source: SanError,
    },
    /// The leaf was made for another key.
    #[error("the certificate of {identity} does not match the private key")]
    KeyMismatch {
        /// The identity in the certificate.
        identity: Identity,
    },
    /// The leaf was made for another key.
    #[error("the certificate with serial {serial} does not match the private key")]
    ServingKeyMismatch {
        /// Its serial number.
        serial: crate::Serial,
    },
    /// The CA's own certificate has expired, or the clock is wrong.
    #[error("the CA certificate in {origin} has expired or is not yet valid: check the clock, or rotate the CA")]
    AuthorityNotValid {
        /// The file, or the object in the cluster.
        origin: Arc<str>,
    },
    /// A CA of ours that cannot be used.
    #[error("{origin} is not a usable CA: {fault}")]
    CaFault {
        /// The object in the cluster.
        origin: Arc<str>,
        /// The fault.
        fault: CaFault,
    },
    /// A plugged-in CA that cannot be used.
    #[error("{origin} is not a usable CA: {fault}")]
    CacertsFault {
        /// The object in the cluster.
        origin: Arc<str>,
        /// The place and the fault.
        fault: CacertsFault,
    },
    /// The identity belongs to another trust domain than the CA.
    #[error("{identity} is not in the CA's trust domain {trust_domain}")]
    OtherTrustDomain {
        /// The identity of the certificate.
        identity: Identity,
        /// The CA's.
        trust_domain: underpass_core::TrustDomain,
    },
    /// A system call on the state directory.
    #[error("cannot {operation} {}", path.display())]
    State {
        /// `open`, `lock`, ...
        operation: &'static str,
        /// The path.
        path: PathBuf,
        /// The error of the system.
        source: io::Error,
    },
    /// A step of a rotation that cannot be taken now.
    #[error("cannot {step} in {origin}: {fault}")]
    Rotation {
        /// `prepare a new CA`, `sign with the new CA`, `retire the old CA`.
        step: &'static str,
        /// The state directory, or the object in the cluster.
        origin: String,
        /// The reason.
        fault: RotationFault,
    },
    /// The state directory is not as this crate leaves it. It is never repaired or overwritten.
    #[error("{} is not a usable CA: {fault}", path.display())]
    StateFault {
        /// The file or directory.
        path: PathBuf,
        /// The fault.
        fault: StateFault,
    },
}

/// The reason why a step of a rotation is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RotationFault {
    /// The rotation before has not ended.
    #[error("a rotation is under way: {}", .0.next_step())]
    UnderWay(crate::rotation::Phase),
    /// The step before has not been taken.
    #[error("no rotation is at this step: {}", .0.next_step())]
    NotSoFar(crate::rotation::Phase),
    /// An agent may not have noticed the step before.
    #[error("too early: wait for {} more seconds, until all agents have noticed the step before", left.as_secs_f64().ceil())]
    TooEarly {
        /// The remaining time.
        left: std::time::Duration,
    },
}

/// The reason why a state directory is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StateFault {
    /// A directory with other content.
    #[error("the directory has other files ({entry}) and no CA; choose an empty one")]
    Foreign {
        /// The first of them.
        entry: String,
    },
    /// Others could read the key or replace the files.
    #[error("its mode is {mode:04o}, at most {allowed:04o} is allowed")]
    Mode {
        /// As found.
        mode: u32,
        /// As it should be.
        allowed: u32,
    },
    /// It belongs to another user than the directory.
    #[error("it belongs to user {found}, but its directory to user {expected}")]
    Owner {
        /// The file's user id.
        found: u32,
        /// The directory's user id.
        expected: u32,
    },
    /// Not a plain file or directory.
    #[error("it is not a {expected}")]
    Kind {
        /// `regular file` or `directory`.
        expected: &'static str,
    },
    /// Larger than any file of this crate.
    #[error("it is longer than {limit} bytes")]
    TooLong {
        /// In bytes.
        limit: u64,
    },
    /// It does not exist.
    #[error("it does not exist")]
    Missing,
    /// Bytes that are not text.
    #[error("it is not text")]
    NotText,
    /// Its content.
    #[error(transparent)]
    Ca(#[from] CaFault),
}
