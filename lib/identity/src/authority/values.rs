//! The CA as an object of the cluster: values by key, with the next and the former CAs during a
//! [rotation](crate::rotation::values).

use std::time::SystemTime;

use underpass_core::TrustDomain;

use super::{Authority, CaFault};
use crate::{Error, Roots, certificate::certificates_from_pem, rotation::values::Values};

impl Authority {
    /// The CA in these values. `origin` names the object that holds them, for errors: `Secret underpass-system/underpass-ca`.
    ///
    /// # Errors
    /// [`Error::CaFault`], also where it is another trust domain's; [`Error::AuthorityNotValid`].
    pub fn from_values(
        origin: &str,
        values: &Values,
        trust_domain: &TrustDomain,
        now: SystemTime,
    ) -> Result<Self, Error> {
        let fault = |key: &str, fault| Error::CaFault { origin: format!("{origin}, {key}").into(), fault };
        let parse =
            |key: &str, text: &str| Self::parse(origin.into(), text, trust_domain).map_err(|found| fault(key, found));
        let mut authority = parse(Values::CA, &values.ca)?;
        authority.must_be_valid(now)?;
        if let Some(next) = &values.next {
            authority.trusted.extend(parse(Values::NEXT, next)?.trusted);
        }
        if let Some(old) = &values.old {
            let old = certificates_from_pem(old).map_err(|_| fault(Values::OLD, CaFault::Certificate))?;
            Roots::new(0, old.clone()).map_err(|_| fault(Values::OLD, CaFault::NotACa))?;
            authority.trusted.extend(old);
        }
        // Duplicates go, and the limit is checked where the object can be named.
        authority.trusted = authority.roots(0)?.certificates().to_vec();
        Ok(authority)
    }
}
