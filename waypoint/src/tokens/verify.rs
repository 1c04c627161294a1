//! Signatures of tokens. The only user of a library of cryptography here. Its own file because it must do one thing, and nothing
//! that a token says may have a part in which key it is, beyond [`Jwks::candidates`].

use aws_lc_rs::{
    digest::{self, Context, SHA256},
    signature::{
        ECDSA_P256_SHA256_FIXED, ECDSA_P384_SHA384_FIXED, ECDSA_P521_SHA512_FIXED, ED25519, EcdsaVerificationAlgorithm,
        RSA_PKCS1_2048_8192_SHA256, RSA_PKCS1_2048_8192_SHA384, RSA_PKCS1_2048_8192_SHA512, RSA_PSS_2048_8192_SHA256,
        RSA_PSS_2048_8192_SHA384, RSA_PSS_2048_8192_SHA512, RsaParameters, RsaPublicKeyComponents, UnparsedPublicKey,
    },
};
use underpass_core::jwt::{Algorithm, Curve, Jwks, PublicKey};

use super::read::ReadToken;

/// The bytes of a digest.
pub(super) const DIGEST_BYTES: usize = digest::SHA256_OUTPUT_LEN;

/// SHA-256 of all that verifying a token reads of it: what is signed, which has the algorithm and the id of the key, and the
/// signature. No other token has the same.
pub(super) fn digest(token: &ReadToken<'_>) -> [u8; DIGEST_BYTES] {
    let mut context = Context::new(&SHA256);
    for part in [token.signed.as_bytes(), b".", &token.signature] {
        context.update(part); // what is signed has one dot, so the next one is here
    }
    let mut digest = [0; DIGEST_BYTES];
    digest.copy_from_slice(context.finish().as_ref());
    digest
}

/// A key of the set has signed the token.
pub(super) fn is_signed(token: &ReadToken<'_>, keys: &Jwks) -> bool {
    let mut candidates = keys.candidates(token.key.as_deref(), token.algorithm);
    candidates.any(|jwk| is_signed_by(&jwk.key, token.algorithm, token.signed.as_bytes(), &token.signature))
}

fn is_signed_by(key: &PublicKey, algorithm: Algorithm, message: &[u8], signature: &[u8]) -> bool {
    match key {
        PublicKey::Rsa { modulus, exponent } => rsa(algorithm).is_some_and(|parameters| {
            let components = RsaPublicKeyComponents { n: &**modulus, e: &**exponent };
            components.verify(parameters, message, signature).is_ok()
        }),
        PublicKey::Ec { curve, x, y } => {
            // An uncompressed point (SEC 1, 2.3.3). A signature is r and s, each of the curve's size (RFC 7518, 3.4).
            let point = [&[4], &**x, &**y].concat();
            UnparsedPublicKey::new(ec(*curve), point).verify(message, signature).is_ok()
        }
        PublicKey::Ed25519(point) => UnparsedPublicKey::new(&ED25519, point).verify(message, signature).is_ok(),
    }
}

const fn rsa(algorithm: Algorithm) -> Option<&'static RsaParameters> {
    Some(match algorithm {
        Algorithm::RS256 => &RSA_PKCS1_2048_8192_SHA256,
        Algorithm::RS384 => &RSA_PKCS1_2048_8192_SHA384,
        Algorithm::RS512 => &RSA_PKCS1_2048_8192_SHA512,
        Algorithm::PS256 => &RSA_PSS_2048_8192_SHA256,
        Algorithm::PS384 => &RSA_PSS_2048_8192_SHA384,
        Algorithm::PS512 => &RSA_PSS_2048_8192_SHA512,
        Algorithm::ES256 | Algorithm::ES384 | Algorithm::ES512 | Algorithm::EdDSA => return None,
    })
}

const fn ec(curve: Curve) -> &'static EcdsaVerificationAlgorithm {
    match curve {
        Curve::P256 => &ECDSA_P256_SHA256_FIXED,
        Curve::P384 => &ECDSA_P384_SHA384_FIXED,
        Curve::P521 => &ECDSA_P521_SHA512_FIXED,
    }
}

#[cfg(test)]
mod tests {
    use underpass_core::jwt::Jwk;

    use super::*;
    use crate::tokens::{
        read::read,
        testing::{Signer, base64url},
    };

    const ALL: [Algorithm; 10] = [
        Algorithm::RS256,
        Algorithm::RS384,
        Algorithm::RS512,
        Algorithm::PS256,
        Algorithm::PS384,
        Algorithm::PS512,
        Algorithm::ES256,
        Algorithm::ES384,
        Algorithm::ES512,
        Algorithm::EdDSA,
    ];

    fn keys(signers: &[&Signer]) -> Jwks {
        signers
            .iter()
            .map(|signer| Jwk::parse(&serde_json::from_value(signer.jwk()).unwrap()).unwrap().unwrap())
            .collect()
    }

    #[test]
    fn every_algorithm_is_verified_by_its_own_keys_alone() {
        let rsa = Signer::new("RS256", "rsa");
        for algorithm in ALL {
            let name = format!("{algorithm:?}");
            let (own, other) = match name.starts_with(['R', 'P']) {
                true => (rsa.speaking(&name), Signer::new(&name, "rsa")),
                false => (Signer::new(&name, "a"), Signer::new(&name, "a")),
            };
            let token = own.token(r#"{"iss":"i"}"#);
            let check = |token: &str, keys: &Jwks| is_signed(&read(token).unwrap(), keys);
            assert!(check(&token, &keys(&[&own])), "{name}");
            assert!(check(&token, &keys(&[&other, &own])), "{name}: another key of the same id");
            assert!(!check(&token, &keys(&[&other])), "{name}: another key");
            assert!(!check(&token, &Jwks::default()), "{name}");
            // One bit of what is signed, or of the signature.
            let (signed, signature) = token.rsplit_once('.').unwrap();
            let payload = base64url(br#"{"iss":"j"}"#);
            let header = signed.split_once('.').unwrap().0;
            assert!(!check(&format!("{header}.{payload}.{signature}"), &keys(&[&own])), "{name}: another payload");
            let mut bytes = underpass_core::jwt::base64url(signature).unwrap();
            bytes[10] ^= 1;
            assert!(!check(&format!("{signed}.{}", base64url(&bytes)), &keys(&[&own])), "{name}: another signature");
            assert!(!check(&format!("{signed}."), &keys(&[&own])), "{name}: none");
        }
    }

    #[test]
    fn a_key_is_chosen_by_its_id_and_for_its_algorithm() {
        let (a, b) = (Signer::new("ES256", "a"), Signer::new("ES256", "b"));
        let both = keys(&[&a, &b]);
        let of = |signer: &Signer, id: &str| signer.named(id).token("{}");
        assert!(is_signed(&read(&of(&b, "b")).unwrap(), &both));
        assert!(!is_signed(&read(&of(&b, "a")).unwrap(), &both), "another key's name");
        // An RSA key that is for RS256 alone verifies nothing else.
        let rsa = Signer::new("RS256", "r");
        assert!(is_signed(&read(&rsa.token("{}")).unwrap(), &keys(&[&rsa])));
        assert!(!is_signed(&read(&rsa.speaking("PS256").token("{}")).unwrap(), &keys(&[&rsa])));
    }
}
