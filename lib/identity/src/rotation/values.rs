//! Rotation of a CA that is an object of a cluster: values by key, which an operator exchanges as a whole, so that no reader
//! sees half of a step. Steps are functions from values to values; the caller writes them, and keeps when a phase began.

use std::{
    str,
    time::{Duration, SystemTime},
};

use underpass_core::TrustDomain;
use zeroize::Zeroizing;

use super::{Phase, Status, Step};
use crate::{
    Authority, CaFault, Certificate, Error,
    certificate::{certificates_from_pem, pem},
    state,
};

/// The values of such a CA, texts in PEM.
#[derive(Clone)]
pub struct Values {
    /// [`Values::CA`]: key and certificate that sign.
    pub ca: Zeroizing<String>,
    /// [`Values::NEXT`]: key and certificate that will sign, and are trusted already.
    pub next: Option<Zeroizing<String>>,
    /// [`Values::OLD`]: certificates that signed, and are still trusted.
    pub old: Option<String>,
}

impl std::fmt::Debug for Values {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Values")
    }
}

/// What of a CA its values do not say.
#[derive(Clone, Copy, Debug)]
pub struct Origin<'a> {
    /// The object that holds it, for errors: `Secret underpass-system/underpass-ca`.
    pub name: &'a str,
    /// The trust domain of the mesh.
    pub trust_domain: &'a TrustDomain,
    /// The start of the phase.
    pub since: SystemTime,
}

impl Values {
    /// The Secret, in the namespace of the control plane.
    pub const SECRET: &str = "underpass-ca";
    /// The key of the signing CA.
    pub const CA: &str = state::CA;
    /// The key of the next one.
    pub const NEXT: &str = state::NEXT;
    /// The key of the former ones.
    pub const OLD: &str = state::OLD;

    /// A CA alone, as [`Authority::make`] writes it.
    #[must_use]
    pub const fn alone(ca: Zeroizing<String>) -> Self {
        Self { ca, next: None, old: None }
    }

    /// The values of the object `name`, by key.
    ///
    /// # Errors
    /// [`Error::CaFault`]: one of them is not text.
    pub fn read<'a>(name: &str, value: impl Fn(&str) -> Option<&'a [u8]>) -> Result<Self, Error> {
        let text = |key: &str| match value(key).map(str::from_utf8) {
            None => Ok(None),
            Some(Ok(text)) => Ok(Some(text)),
            Some(Err(_)) => Err(Error::CaFault { origin: format!("{name}, {key}").into(), fault: CaFault::NotText }),
        };
        let secret = |key| Ok::<_, Error>(text(key)?.map(|text| Zeroizing::new(text.to_owned())));
        Ok(Self {
            ca: secret(Self::CA)?.unwrap_or_default(),
            next: secret(Self::NEXT)?,
            old: text(Self::OLD)?.map(str::to_owned),
        })
    }

    /// The trust domain that the signing CA is made for.
    ///
    /// # Errors
    /// [`Error::CaFault`]: it has no readable certificate, or that names none.
    pub fn trust_domain(&self, name: &str) -> Result<TrustDomain, Error> {
        let named = || {
            let found = certificates_from_pem(&self.ca).ok()?;
            Certificate::parse(found.first()?).ok()?.organization()?.parse().ok()
        };
        let origin = || format!("{name}, {}", Self::CA).into();
        named().ok_or_else(|| Error::CaFault { origin: origin(), fault: CaFault::Certificate })
    }

    /// Every key and its value; none: the object has no such key.
    #[must_use]
    pub fn entries(&self) -> [(&'static str, Option<&str>); 3] {
        let next = self.next.as_ref().map(|text| text.as_str());
        [(Self::CA, Some(&self.ca)), (Self::NEXT, next), (Self::OLD, self.old.as_deref())]
    }

    /// The phase of a rotation, and the roots.
    ///
    /// # Errors
    /// As [`Authority::from_values`].
    pub fn status(&self, origin: Origin<'_>, now: SystemTime) -> Result<Status, Error> {
        let authority = Authority::from_values(origin.name, self, origin.trust_domain, now)?;
        let phase = Phase::of(self.next.is_some(), self.old.is_some());
        Status::of(&authority, phase, origin.since, self.old.as_deref())
    }

    /// Step 1: a new root, which everyone trusts from now on. The old one signs.
    ///
    /// # Errors
    /// As [`Values::status`], or a rotation is under way.
    pub fn prepare(self, origin: Origin<'_>, now: SystemTime) -> Result<Self, Error> {
        self.status(origin, now)?.must_be_before(Step::Prepare, origin.name, now, Duration::ZERO)?;
        Ok(Self { next: Some(Authority::make(origin.trust_domain, now)?), ..self })
    }

    /// Step 2: the new root signs. The old one is trusted for as long as something that it signed may be in use; its key is
    /// gone.
    ///
    /// # Errors
    /// As [`Values::status`], or nothing is prepared.
    pub fn activate(self, origin: Origin<'_>, now: SystemTime) -> Result<Self, Error> {
        self.status(origin, now)?.must_be_before(Step::Activate, origin.name, now, Duration::ZERO)?;
        let authority = Authority::from_values(origin.name, &self, origin.trust_domain, now)?;
        let signed = authority.root_certificates().first().map(|root| pem(root).to_string());
        let Some(next) = self.next else { return Ok(self) };
        Ok(Self { ca: next, next: None, old: signed })
    }

    /// Step 3: the old root is not trusted any more. Connections whose peers have no other root end.
    ///
    /// # Errors
    /// As [`Values::status`], no old root is trusted, or the new one has signed for less than `settled`.
    pub fn retire(self, origin: Origin<'_>, now: SystemTime, settled: Duration) -> Result<Self, Error> {
        self.status(origin, now)?.must_be_before(Step::Retire, origin.name, now, settled)?;
        Ok(Self { old: None, ..self })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rotation::Role;

    const SETTLED: Duration = Duration::from_secs(60);

    fn origin(since: SystemTime, trust_domain: &TrustDomain) -> Origin<'_> {
        Origin { name: "Secret mesh/underpass-ca", trust_domain, since }
    }

    fn make(trust_domain: &TrustDomain, now: SystemTime) -> Values {
        Values::alone(Authority::make(trust_domain, now).unwrap())
    }

    fn roles(values: &Values) -> Vec<(Role, String)> {
        let (now, domain) = (SystemTime::now(), TrustDomain::default());
        let status = values.status(origin(now, &domain), now).unwrap();
        status.roots.into_iter().map(|(role, root)| (role, root.serial().to_string())).collect()
    }

    fn refused(result: Result<Values, Error>, want: &str) {
        let error = result.unwrap_err();
        assert!(matches!(error, Error::Rotation { .. }), "{error}");
        assert!(error.to_string().contains(want), "{error}");
    }

    #[test]
    fn a_rotation_step_by_step() {
        let (now, domain) = (SystemTime::now(), TrustDomain::default());
        let at = origin(now, &domain);
        let first = make(&domain, now);
        let [(Role::Signs, old)] = &roles(&first)[..] else { panic!("one root") };
        refused(
            first.clone().activate(at, now),
            "cannot sign with the new CA in Secret mesh/underpass-ca: no rotation",
        );
        refused(first.clone().retire(at, now, SETTLED), "cannot retire the old CA");

        let prepared = first.clone().prepare(at, now).unwrap();
        let [(Role::Signs, signs), (Role::Next, next)] = &roles(&prepared)[..] else { panic!("two roots") };
        assert_eq!(signs, old);
        assert_eq!(prepared.ca, first.ca);
        refused(prepared.clone().prepare(at, now), "a rotation is under way: next is `activate`");
        refused(prepared.clone().retire(at, now, SETTLED), "next is `activate`");

        let activated = prepared.activate(at, now).unwrap();
        assert_eq!(roles(&activated), [(Role::Signs, next.clone()), (Role::Old, old.clone())]);
        let kept = activated.old.as_deref().unwrap();
        assert!(!kept.contains("PRIVATE KEY"), "the key that signed before is kept");
        refused(activated.clone().retire(at, now + SETTLED / 2, SETTLED), "too early: wait for 30 more seconds");
        let retired = activated.retire(at, now + SETTLED, SETTLED).unwrap();
        assert_eq!(roles(&retired), [(Role::Signs, next.clone())]);
    }

    #[test]
    fn what_signs_is_the_first_of_the_roots() {
        let (now, domain) = (SystemTime::now(), TrustDomain::default());
        let prepared = make(&domain, now).prepare(origin(now, &domain), now).unwrap();
        let authority = Authority::from_values("a", &prepared, &domain, now).unwrap();
        assert_eq!(authority.root_certificates().len(), 2);
        let first = Authority::from_values("a", &Values { next: None, ..prepared }, &domain, now).unwrap();
        assert_eq!(authority.root_certificates()[0], first.root_certificates()[0]);
        assert_eq!(authority.certificate().serial(), first.certificate().serial());
    }

    #[test]
    fn broken_values_are_named() {
        let (now, domain) = (SystemTime::now(), TrustDomain::default());
        let good = make(&domain, now);
        let other = make(&"other.org".parse().unwrap(), now);
        let check = |values: Values, want: &str| {
            let error = Authority::from_values("Secret a/b", &values, &domain, now).unwrap_err().to_string();
            assert!(error.starts_with("Secret a/b, ") && error.contains(want), "{error}");
        };
        check(Values { ca: Zeroizing::new(String::new()), ..good.clone() }, "ca.pem");
        check(Values { next: Some(Zeroizing::new("x".to_owned())), ..good.clone() }, "next.pem");
        check(Values { next: Some(other.ca.clone()), ..good.clone() }, "other.org");
        check(Values { old: Some("x".to_owned()), ..good.clone() }, "old.pem");
        check(Values { old: Some(String::new()), ..good.clone() }, "old.pem");
        let read = |key: &str| (key == Values::NEXT).then_some(&b"\xff"[..]);
        let error = Values::read("Secret a/b", read).unwrap_err();
        assert_eq!(error.to_string(), "Secret a/b, next.pem is not a usable CA: it is not text");
        assert!(matches!(other.prepare(origin(now, &domain), now), Err(Error::CaFault { .. })));
    }

    #[test]
    fn what_is_written_is_what_is_read() {
        let (now, domain) = (SystemTime::now(), TrustDomain::default());
        let at = origin(now, &domain);
        let prepared = make(&domain, now).prepare(at, now).unwrap();
        for values in [prepared.clone(), prepared.activate(at, now).unwrap()] {
            let entries = values.entries();
            let value = |wanted: &str| {
                let (_, value) = entries.iter().find(|(key, _)| *key == wanted)?;
                value.map(str::as_bytes)
            };
            let read = Values::read("a", value).unwrap();
            assert_eq!((read.entries(), read.trust_domain("a").unwrap()), (entries, domain.clone()));
        }
    }
}
