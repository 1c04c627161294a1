//! The CA in a state directory that all agents of one machine share, so that they trust each other and survive
//! restarts. The next and the former CA are trusted as well ([`rotation`](crate::rotation)).

use std::{path::Path, time::SystemTime};

use underpass_core::TrustDomain;

use super::{Authority, CaFault};
use crate::{
    Error, Roots, StateFault,
    certificate::certificates_from_pem,
    state::{self, StateDir},
};

impl Authority {
    /// The CA in `dir`, a directory of its own; a new one where `dir` is empty or missing.
    ///
    /// # Errors
    /// The directory cannot be used, has other content, is readable or writable by others, its CA is broken,
    /// expired or another trust domain's. Nothing that was there is changed.
    pub fn open(dir: &Path, trust_domain: &TrustDomain, now: SystemTime) -> Result<Self, Error> {
        let state = StateDir::make(dir)?;
        if state.read(state::CA)?.is_none() {
            state.must_be_empty()?;
            state.write(state::CA, &Self::make(trust_domain, now)?)?;
        }
        Self::read(&state, trust_domain, now)
    }

    /// The CA that is in `dir` now. Never makes one: a CA that has gone is an error, not replaced.
    ///
    /// # Errors
    /// As [`Authority::open`], and where there is none.
    pub fn load(dir: &Path, trust_domain: &TrustDomain, now: SystemTime) -> Result<Self, Error> {
        Self::read(&StateDir::look(dir)?, trust_domain, now)
    }

    pub(crate) fn read(state: &StateDir, trust_domain: &TrustDomain, now: SystemTime) -> Result<Self, Error> {
        let file = |name: &str| Ok::<_, Error>(state.read(name)?.map(|(text, _)| text));
        let fault = |name: &str, fault| Error::StateFault { path: state.file(name), fault };
        let parse = |name: &str, text: &str| {
            let origin = state.file(name).display().to_string().into();
            Self::parse(origin, text, trust_domain).map_err(|ca| fault(name, ca.into()))
        };
        let text = file(state::CA)?.ok_or_else(|| fault(state::CA, StateFault::Missing))?;
        let mut authority = parse(state::CA, &text)?;
        authority.must_be_valid(now)?;
        if let Some(text) = file(state::NEXT)? {
            authority.trusted.extend(parse(state::NEXT, &text)?.trusted);
        }
        if let Some(text) = file(state::OLD)? {
            let old =
                certificates_from_pem(&text).map_err(|_| fault(state::OLD, StateFault::Ca(CaFault::Certificate)))?;
            Roots::new(0, old.clone()).map_err(|_| fault(state::OLD, StateFault::Ca(CaFault::NotACa)))?;
            authority.trusted.extend(old);
        }
        // Duplicates and the limit are checked here, where the directory can be named.
        authority.trusted = authority.roots(0)?.certificates().to_vec();
        Ok(authority)
    }
}
