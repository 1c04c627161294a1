//! Rotation in the state directory of the embedded CA. A crash between two changes of files leaves a directory that trusts
//! both roots.
//!
//! The key that signed before is gone with [`activate`]: its file is replaced. (Remains on the disk below are not wiped.)

use std::{
    path::Path,
    time::{Duration, SystemTime},
};

use rustls_pki_types::CertificateDer;
use underpass_core::TrustDomain;

use super::{Phase, Status, Step};
use crate::{
    Authority, Error,
    certificate::pem,
    state::{self, StateDir},
};

/// An agent looks at the state directory every second; the rest is for clocks and for file systems that are shared.
pub const NOTICED_AFTER: Duration = Duration::from_secs(10);

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
    found.status.must_be_before(Step::Prepare, &name(dir), now, Duration::ZERO)?;
    found.state.write(state::NEXT, &Authority::make(trust_domain, now)?)?;
    found.again(trust_domain, now)
}

/// Step 2: the new root signs. The old one is trusted for as long as something that it signed may be in use.
///
/// # Errors
/// As [`status`], nothing is prepared, it was prepared less than `settled` ago, or a file cannot be written.
pub fn activate(dir: &Path, trust_domain: &TrustDomain, now: SystemTime, settled: Duration) -> Result<Status, Error> {
    let found = Found::read(StateDir::change(dir)?, trust_domain, now)?;
    found.status.must_be_before(Step::Activate, &name(dir), now, settled)?;
    found.state.write(state::OLD, &pem(&found.signs))?;
    found.state.rename(state::NEXT, state::CA)?;
    found.again(trust_domain, now)
}

/// Step 3: the old root is not trusted any more. Connections whose peers have no other root end.
///
/// # Errors
/// As [`status`], no old root is trusted, the new one has signed for less than `settled`, or a file cannot be removed.
pub fn retire(dir: &Path, trust_domain: &TrustDomain, now: SystemTime, settled: Duration) -> Result<Status, Error> {
    let found = Found::read(StateDir::change(dir)?, trust_domain, now)?;
    found.status.must_be_before(Step::Retire, &name(dir), now, settled)?;
    found.state.remove(state::OLD)?;
    found.again(trust_domain, now)
}

fn name(dir: &Path) -> String {
    dir.display().to_string()
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
        let (next, old) = (written(state::NEXT)?, state.read(state::OLD)?);
        let phase = Phase::of(next.is_some(), old.is_some());
        let since = match phase {
            Phase::Prepared => next,
            Phase::Activated => old.as_ref().map(|(_, written)| *written),
            Phase::Steady => written(state::CA)?,
        };
        let old = old.as_ref().map(|(text, _)| text.as_str());
        let status = Status::of(&authority, phase, since.unwrap_or(now), old)?;
        let Some(signs) = authority.root_certificates().into_iter().next() else {
            return Err(Error::NoCertificate { what: "a CA" });
        };
        Ok(Self { state, status, signs })
    }

    fn again(self, trust_domain: &TrustDomain, now: SystemTime) -> Result<Status, Error> {
        Ok(Self::read(self.state, trust_domain, now)?.status)
    }
}
