//! Rotation of the embedded CA's root by an operator, without a failed connection: in three steps, each of which every
//! running agent notices by itself.
//!
//! ```text
//!           prepare                    activate                        retire
//!  Steady ----------> Prepared -------------------------> Activated ------------> Steady
//!  trusted: old        old and new                         old and new              new
//!  signs:   old        old                                 new                      new
//! ```
//! What must hold: all verifiers trust a root before anything is signed with it, and for as long as anything that was
//! signed with it is in use. Therefore a step that comes too soon after the one before is refused, unless the operator
//! overrides it. A crash between two changes of files leaves a directory that trusts both.
//!
//! The key that signed before is gone with `activate`: its file is replaced. (Remains on the disk below are not wiped.)

use std::{
    fmt,
    path::Path,
    time::{Duration, SystemTime},
};

use rustls_pki_types::CertificateDer;
use underpass_core::TrustDomain;

use crate::{
    Authority, Certificate, Error, RotationFault,
    certificate::{certificates_from_pem, pem},
    state::{self, StateDir},
};

/// An agent looks at the state directory every second; the rest is for clocks and for file systems that are shared.
pub const NOTICED_AFTER: Duration = Duration::from_secs(10);

/// The phase of a rotation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// None is under way.
    Steady,
    /// The new root is trusted; the old one signs.
    Prepared,
    /// The new root signs; the old one is trusted.
    Activated,
}

impl Phase {
    /// A word: `steady`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Steady => "steady",
            Self::Prepared => "prepared",
            Self::Activated => "activated",
        }
    }

    /// The next step.
    #[must_use]
    pub const fn next_step(self) -> &'static str {
        match self {
            Self::Steady => "`prepare` begins one",
            Self::Prepared => "next is `activate`",
            Self::Activated => "next is `retire`",
        }
    }
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The role of a root.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Its key signs.
    Signs,
    /// Its key will sign.
    Next,
    /// Its key signed; it is still trusted.
    Old,
}

impl Role {
    /// A word: `signs`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Signs => "signs",
            Self::Next => "next",
            Self::Old => "old",
        }
    }
}

/// The content of a state directory.
#[derive(Debug)]
pub struct Status {
    /// The phase of a rotation.
    pub phase: Phase,
    /// The start of the phase; for [`Phase::Steady`], when the CA was made or the rotation ended with `activate`.
    pub since: SystemTime,
    /// Every root.
    pub roots: Vec<(Role, Certificate)>,
}

/// Reads a state directory.
///
/// # Errors
/// There is no CA, or it cannot be read.
pub fn status(dir: &Path, trust_domain: &TrustDomain, now: SystemTime) -> Result<Status, Error> {
    Ok(Found::read(StateDir::look(dir)?, trust_domain, now)?.status)
}

/// Step 1: makes a new root, which every agent trusts from now on. The old one signs.
///
/// # Errors
/// As [`status`], a rotation is under way, or the file cannot be written.
pub fn prepare(dir: &Path, trust_domain: &TrustDomain, now: SystemTime) -> Result<Status, Error> {
    let found = Found::read(StateDir::change(dir)?, trust_domain, now)?;
    found.must_be(dir, "prepare a new CA", Phase::Steady)?;
    found.state.write(state::NEXT, &Authority::make(trust_domain, now)?)?;
    found.again(trust_domain, now)
}

/// Step 2: the new root signs. The old one is trusted for as long as something that it signed may be in use.
///
/// # Errors
/// As [`status`], nothing is prepared, it was prepared less than `settled` ago, or a file cannot be written.
pub fn activate(dir: &Path, trust_domain: &TrustDomain, now: SystemTime, settled: Duration) -> Result<Status, Error> {
    const STEP: &str = "sign with the new CA";
    let found = Found::read(StateDir::change(dir)?, trust_domain, now)?;
    found.must_be(dir, STEP, Phase::Prepared)?;
    found.must_be_settled(dir, STEP, now, settled)?;
    found.state.write(state::OLD, &pem(&found.signs))?;
    found.state.rename(state::NEXT, state::CA)?;
    found.again(trust_domain, now)
}

/// Step 3: the old root is not trusted any more. Connections whose peers have no other root end.
///
/// # Errors
/// As [`status`], no old root is trusted, the new one has signed for less than `settled`, or a file cannot be removed.
pub fn retire(dir: &Path, trust_domain: &TrustDomain, now: SystemTime, settled: Duration) -> Result<Status, Error> {
    const STEP: &str = "retire the old CA";
    let found = Found::read(StateDir::change(dir)?, trust_domain, now)?;
    found.must_be(dir, STEP, Phase::Activated)?;
    found.must_be_settled(dir, STEP, now, settled)?;
    found.state.remove(state::OLD)?;
    found.again(trust_domain, now)
}

/// A directory as it was found, locked.
struct Found {
    state: StateDir,
    status: Status,
    signs: CertificateDer<'static>,
}

impl Found {
    fn read(state: StateDir, trust_domain: &TrustDomain, now: SystemTime) -> Result<Self, Error> {
        let authority = Authority::read(&state, trust_domain, now)?;
        let written = |name: &str| Ok::<_, Error>(state.read(name)?.map(|(_, written)| written));
        let (next, old) = (written(state::NEXT)?, written(state::OLD)?);
        let (phase, since) = match (next, old) {
            // Both: a crash in the middle of `activate`, which is to be done again.
            (Some(next), _) => (Phase::Prepared, next),
            (None, Some(old)) => (Phase::Activated, old),
            (None, None) => (Phase::Steady, written(state::CA)?.unwrap_or(now)),
        };
        let mut trusted = authority.root_certificates().into_iter();
        let Some(signs) = trusted.next() else { return Err(Error::NoCertificate { what: "a CA" }) };
        let retired = match state.read(state::OLD)? {
            Some((text, _)) => certificates_from_pem(&text)?,
            None => Vec::new(),
        };
        let mut roots = vec![(Role::Signs, authority.certificate().clone())];
        for der in trusted {
            let role = if retired.contains(&der) { Role::Old } else { Role::Next };
            roots.push((role, Certificate::parse(&der)?));
        }
        Ok(Self { state, status: Status { phase, since, roots }, signs })
    }

    fn again(self, trust_domain: &TrustDomain, now: SystemTime) -> Result<Status, Error> {
        Ok(Self::read(self.state, trust_domain, now)?.status)
    }

    fn must_be(&self, dir: &Path, step: &'static str, phase: Phase) -> Result<(), Error> {
        let found = self.status.phase;
        let fault = match (phase, found) {
            _ if phase == found => return Ok(()),
            (Phase::Steady, _) => RotationFault::UnderWay(found),
            _ => RotationFault::NotSoFar(found),
        };
        Err(Error::Rotation { step, path: dir.to_path_buf(), fault })
    }

    fn must_be_settled(&self, dir: &Path, step: &'static str, now: SystemTime, settled: Duration) -> Result<(), Error> {
        // After the clock was set back the wait is no longer than from now on.
        let passed = now.duration_since(self.status.since).unwrap_or_default();
        match settled.checked_sub(passed).filter(|left| !left.is_zero()) {
            None => Ok(()),
            Some(left) => {
                Err(Error::Rotation { step, path: dir.to_path_buf(), fault: RotationFault::TooEarly { left } })
            }
        }
    }
}
