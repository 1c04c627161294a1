//! What a plugged-in CA issues, judged by a peer that trusts its roots alone.

use std::time::Duration;

use rcgen::{BasicConstraints, IsCa};
use underpass_identity::{
    Certificate, CertificateDer, CertificateRequest, Credential, Error, PrivateKey, authority::BACKDATE,
    certificate::certificates_from_pem,
};

use crate::world::{Ca, DAY, Kind, Texts, YEAR, alice, now, params, verify};

/// The CA in `texts` issues a leaf that is sent with `sent` and accepted by each peer that trusts one of `trusted` alone.
fn check(what: &str, texts: &Texts, sent: &[&CertificateDer<'static>], trusted: &[&CertificateDer<'static>]) {
    let authority = texts.read().unwrap_or_else(|e| panic!("{what}: {e}"));
    let key = PrivateKey::generate().unwrap();
    let request = CertificateRequest::new(&key, &alice()).unwrap();
    let chain = authority.issue(request.der(), &alice(), DAY, now()).unwrap();
    assert!(chain[1..].iter().eq(sent.iter().copied()), "{what}: {} are sent", chain.len() - 1);
    for root in trusted {
        verify(&chain, &[(*root).clone()], None).unwrap_or_else(|e| panic!("{what}: {e}"));
    }
    let credential = Credential::new(key, chain).unwrap();
    assert_eq!((credential.identity(), credential.not_after()), (&alice(), now() + DAY), "{what}");
    assert_eq!(credential.not_before(), now() - BACKDATE, "{what}");
}

#[test]
fn keys_and_chains_of_every_kind() {
    let pathlen_0 = || {
        let mut params = params("Intermediate CA", 2);
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params
    };
    let kinds = [Kind::P256, Kind::P384, Kind::Rsa2048, Kind::Rsa4096];
    for (kind, root_kind) in kinds.into_iter().zip([Kind::Rsa2048, Kind::P256, Kind::P384, Kind::Rsa4096]) {
        let root = Ca::root(root_kind, params("Root CA", 1));
        let ca = root.below(kind, pathlen_0());
        let makefile = Texts::of(&ca, &[], &root);
        check(&format!("{kind:?} below {root_kind:?}"), &makefile, &[&ca.der], &[&root.der]);
        let empty = Texts { cert_chain: String::new(), ..makefile.clone() };
        check("without a chain", &empty, &[&ca.der], &[&root.der]);
        let itself = Texts::of(&root, &[], &root);
        check("the root signs", &itself, &[], &[&root.der]);
    }
}

#[test]
fn the_chain_is_put_in_order_and_what_is_foreign_is_left_out() {
    let root = Ca::root(Kind::P256, params("root", 1));
    let upper = root.below(Kind::P384, params("upper", 2));
    let lower = upper.below(Kind::P256, params("lower", 3));
    let ca = lower.below(Kind::Rsa2048, params("ca", 4));
    let stranger = Ca::root(Kind::P256, params("stranger", 5)).below(Kind::P256, params("elsewhere", 6));
    // The name of the right one, and another key.
    let namesake = root.below(Kind::P256, params("upper", 7));
    for chain in [[&lower, &upper, &ca, &root], [&root, &ca, &upper, &lower], [&stranger, &namesake, &lower, &upper]] {
        let cert_chain = chain.iter().map(|ca| ca.pem.as_str()).collect();
        let texts = Texts { cert_chain, ..Texts::of(&ca, &[], &root) };
        check("order", &texts, &[&ca.der, &lower.der, &upper.der], &[&root.der]);
    }
}

#[test]
fn while_roots_are_rotated_both_are_trusted() {
    let (old, new) = (Ca::root(Kind::P256, params("old", 1)), Ca::root(Kind::P256, params("new", 2)));
    let ca = new.below(Kind::P256, params("ca", 3));
    let both = format!("{}{}{}", old.pem, new.pem, old.pem);
    let texts = Texts { root_cert: both.clone(), ..Texts::of(&ca, &[], &new) };
    assert_eq!(texts.read().unwrap().root_certificates(), [old.der.clone(), new.der.clone()]);
    assert_eq!(texts.read().unwrap().roots(1).unwrap().certificates().len(), 2);
    check("signed below the new one", &texts, &[&ca.der], &[&new.der]);

    // For peers that do not know the new root yet, the old one vouches for it.
    let bridge = old.cross_sign(&new, &params("new", 4));
    let texts = Texts { cert_chain: bridge.clone(), root_cert: both, ..texts };
    let bridge = certificates_from_pem(&bridge).unwrap();
    check("cross-signed", &texts, &[&ca.der, &bridge[0]], &[&old.der, &new.der]);
}

#[test]
fn a_root_that_was_issued_again_replaces_its_expired_form() {
    let mut expired = params("root", 1);
    expired.not_after = (now() - DAY).into();
    let root = Ca::root(Kind::P256, expired);
    let again = root.again(&params("root", 2));
    let ca = root.below(Kind::P256, params("ca", 3));
    let texts = Texts { root_cert: format!("{}{again}", root.pem), ..Texts::of(&ca, &[], &root) };
    check("issued again", &texts, &[&ca.der], &[&certificates_from_pem(&again).unwrap()[0]]);
}

#[test]
fn no_leaf_outlives_a_certificate_of_its_chain() {
    let ends = |root_days: u32, upper_days: u32, ca_days: u32| {
        let params = |name, serial, days: u32| {
            let mut params = params(name, serial);
            params.not_after = (now() + days * DAY).into();
            params
        };
        let root = Ca::root(Kind::P256, params("root", 1, root_days));
        let upper = root.below(Kind::P256, params("upper", 2, upper_days));
        let ca = upper.below(Kind::P256, params("ca", 3, ca_days));
        Texts::of(&ca, &[&upper], &root).read().unwrap()
    };
    for authority in [ends(3, 9, 9), ends(9, 3, 9), ends(9, 9, 3)] {
        assert_eq!(authority.not_after(), now() + 3 * DAY);
        assert_eq!(authority.credential(&alice(), 2 * DAY, now()).unwrap().not_after(), now() + 2 * DAY);
        assert_eq!(authority.credential(&alice(), 5 * DAY, now()).unwrap().not_after(), now() + 3 * DAY);
        let endless = Duration::MAX;
        assert_eq!(authority.credential(&alice(), endless, now()).unwrap().not_after(), now() + 3 * DAY);
        let over = now() + 3 * DAY + Duration::from_secs(1);
        let error = authority.credential(&alice(), DAY, over).unwrap_err();
        assert!(matches!(&error, Error::AuthorityNotValid { .. }), "{error}");
        assert!(error.to_string().contains("Secret underpass-system/cacerts"), "{error}");
    }
    assert_eq!(ends(9, 9, 9).not_after(), now() + 9 * DAY);
}

#[test]
fn keys_and_names_as_openssl_writes_them() {
    // SEC 1 behind its parameters, a name with two domain components, two units, and two attributes in one set.
    let sec1 = include_str!("../data/openssl-ec-sec1.pem");
    let pkcs1 = include_str!("../data/openssl-rsa-pkcs1.pem");
    for text in [sec1, pkcs1] {
        let root = certificates_from_pem(text).unwrap();
        let texts = Texts {
            ca_cert: text.to_owned(),
            ca_key: text.to_owned(),
            cert_chain: String::new(),
            root_cert: text.to_owned(),
        };
        check("openssl", &texts, &[], &[&root[0]]);
    }
}

#[test]
fn a_serving_certificate_is_found_by_its_names() {
    let root = Ca::root(Kind::P256, params("root", 1));
    let ca = root.below(Kind::P384, params("ca", 2));
    let authority = Texts::of(&ca, &[], &root).read().unwrap();
    let names = ["underpass-control.underpass-system.svc", "istiod.istio-system.svc"];
    let control = "spiffe://cluster.local/ns/underpass-system/sa/underpass-control".parse().unwrap();
    let serving = authority.serving(&names, &control, DAY, now()).unwrap();
    let roots = [root.der.clone()];
    for name in names {
        verify(serving.chain(), &roots, Some(name)).unwrap();
    }
    let error = verify(serving.chain(), &roots, Some("kubernetes.default.svc")).unwrap_err();
    assert!(matches!(error, webpki::Error::CertNotValidForName(_)), "{error:?}");
    let leaf = Certificate::parse(&serving.chain()[0]).unwrap();
    assert_eq!((leaf.identity(), leaf.is_ca()), (Ok(&control), false));
    assert_eq!((serving.chain().len(), serving.not_after()), (2, now() + DAY));
    assert_eq!((serving.serial(), serving.not_before()), (leaf.serial(), now() - BACKDATE));
    assert_eq!(authority.serving(&names, &control, 20 * YEAR, now()).unwrap().not_after(), now() + 5 * YEAR);

    for name in ["", "*", "10.0.0.1", "a b", "http://istiod", &"a".repeat(64)] {
        let error = authority.serving(&[name], &control, DAY, now()).unwrap_err();
        assert!(matches!(&error, Error::NotADnsName { name: found } if found == name), "{name}: {error}");
    }
    let foreign = "spiffe://elsewhere/ns/a/sa/b".parse().unwrap();
    assert!(matches!(authority.serving(&names, &foreign, DAY, now()), Err(Error::OtherTrustDomain { .. })));
    let over = now() + 6 * YEAR;
    assert!(matches!(authority.serving(&names, &control, DAY, over), Err(Error::AuthorityNotValid { .. })));
}
