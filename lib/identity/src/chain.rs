//! The answer of a CA on the wire (`IstioCertificateResponse.cert_chain`): texts in PEM, the leaf first, then what certifies
//! it, one certificate a text; the whole bundle of roots is the last text. A file of its own because both ends need it.

use rustls_pki_types::CertificateDer;

use crate::{
    Error,
    certificate::{certificates_from_pem, pem},
};

/// More certificates than any chain needs, the leaf included; every one is sent in every handshake.
pub const CHAIN_MAX: usize = 10;
/// The limit of all texts of a chain, or of a bundle, together.
pub const TEXT_MAX_BYTES: usize = 256 * 1024;

/// The answer of a CA.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// The leaf, then what certifies it, without roots.
    pub chain: Vec<CertificateDer<'static>>,
    /// The roots to trust.
    pub roots: Vec<CertificateDer<'static>>,
}

impl Answer {
    /// The answer as texts.
    #[must_use]
    pub fn to_pem(&self) -> Vec<String> {
        let mut texts: Vec<String> = self.chain.iter().map(|certificate| pem(certificate).to_string()).collect();
        texts.push(self.roots.iter().map(|root| pem(root).to_string()).collect());
        texts
    }

    /// The answer in `texts`. What istiod sends is understood too: several certificates in a text between the first
    /// and the last one, roots among them.
    ///
    /// # Errors
    /// A text is not PEM, there is no leaf or no root, or more than the limits allow. Whether the certificates fit
    /// together is not known here.
    pub fn from_pem(texts: &[String]) -> Result<Self, Error> {
        if texts.iter().map(String::len).sum::<usize>() > TEXT_MAX_BYTES {
            return Err(Error::TooLong { what: "the answer of the CA", limit: TEXT_MAX_BYTES });
        }
        let (bundle, before) = texts.split_last().ok_or(Error::NoCertificate { what: "the answer of the CA" })?;
        let roots = certificates_from_pem(bundle)?;
        if roots.is_empty() {
            return Err(Error::NoCertificate { what: "the last text of the CA's answer, its roots" });
        }
        let mut chain = Vec::new();
        for text in before {
            chain.extend(certificates_from_pem(text)?);
        }
        chain.retain(|certificate| !roots.contains(certificate));
        match chain.len() {
            0 => Err(Error::NoCertificate { what: "the CA's answer before its roots" }),
            found if found > CHAIN_MAX => Err(Error::TooManyCertificates { found, limit: CHAIN_MAX }),
            _ => Ok(Self { chain, roots }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Leaf, TestCa};

    /// A leaf below an intermediate, and two roots.
    fn answer() -> Answer {
        let (root, other) = (TestCa::new("root"), TestCa::new("other"));
        let (_, chain) = root.intermediate("between").sign(&Leaf::of("spiffe://td/ns/a/sa/b"));
        Answer { chain, roots: vec![root.root(), other.root()] }
    }

    #[test]
    fn one_certificate_a_text_and_the_bundle_last() {
        let answer = answer();
        let texts = answer.to_pem();
        let counts: Vec<_> = texts.iter().map(|text| text.matches("-----BEGIN CERTIFICATE-----").count()).collect();
        assert_eq!(counts, [1, 1, 2]);
        assert!(texts.iter().all(|text| text.ends_with('\n')));
        assert_eq!(Answer::from_pem(&texts).unwrap(), answer);
    }

    #[test]
    fn answers_of_istiod_are_understood() {
        let answer = answer();
        let [leaf, between, roots] = answer.to_pem().try_into().unwrap();
        let root = pem(&answer.roots[0]).to_string();
        // Its chain in one text, with the root; its chain in texts of their own, with the root.
        for texts in [
            vec![leaf.clone(), format!("{between}{root}"), roots.clone()],
            vec![leaf.clone(), between.clone(), root.clone(), roots.clone()],
        ] {
            assert_eq!(Answer::from_pem(&texts).unwrap(), answer);
        }
    }

    #[test]
    fn answers_that_are_refused() {
        let [leaf, between, roots] = answer().to_pem().try_into().unwrap();
        let check = |texts: &[&String], want: &str| {
            let texts: Vec<_> = texts.iter().map(|text| (*text).clone()).collect();
            assert_eq!(Answer::from_pem(&texts).unwrap_err().to_string(), want);
        };
        let (nothing, broken) = (String::new(), leaf.replace("-----END", "----"));
        check(&[], "no certificate in the answer of the CA");
        check(&[&leaf, &nothing], "no certificate in the last text of the CA's answer, its roots");
        check(&[&roots], "no certificate in the CA's answer before its roots");
        check(&[&leaf, &broken, &roots], "cannot read PEM");
        let long = |count| [vec![&leaf], vec![&between; count - 1], vec![&roots]].concat();
        let longest: Vec<_> = long(CHAIN_MAX).into_iter().cloned().collect();
        assert_eq!(Answer::from_pem(&longest).unwrap().chain.len(), CHAIN_MAX);
        check(&long(CHAIN_MAX + 1), "the certificate chain has 11 certificates, more than the limit of 10");
        check(&[&leaf, &" ".repeat(TEXT_MAX_BYTES), &roots], "the answer of the CA is longer than 262144 bytes");
    }
}
