//! An issuer of tokens: keys of every algorithm, their public halves as JSON Web Keys, and the tokens that they sign.

use std::sync::Arc;

use aws_lc_rs::{
    rand::SystemRandom,
    rsa::KeySize,
    signature::{
        ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P384_SHA384_FIXED_SIGNING, ECDSA_P521_SHA512_FIXED_SIGNING,
        EcdsaKeyPair, Ed25519KeyPair, KeyPair as _, RSA_PKCS1_SHA256, RSA_PKCS1_SHA384, RSA_PKCS1_SHA512,
        RSA_PSS_SHA256, RSA_PSS_SHA384, RSA_PSS_SHA512, RsaEncoding, RsaKeyPair, RsaPublicKeyComponents,
    },
};
use serde_json::{Value, json};

/// Base64url without padding.
pub(crate) fn base64url(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let mut text = String::new();
    for group in bytes.chunks(3) {
        let bits = group.iter().fold(0_u32, |bits, byte| bits << 8 | u32::from(*byte)) << (8 * (3 - group.len()));
        for digit in 0..=group.len() {
            text.push(char::from(DIGITS[(bits >> (18 - 6 * digit) & 63) as usize]));
        }
    }
    text
}

enum Key {
    Rsa(RsaKeyPair),
    Ec(EcdsaKeyPair),
    Ed25519(Ed25519KeyPair),
}

/// A key, the algorithm that it is used for, and its id.
#[derive(Clone)]
pub(crate) struct Signer {
    key: Arc<Key>,
    algorithm: String,
    id: String,
}

impl Signer {
    /// A new key.
    pub(crate) fn new(algorithm: &str, id: &str) -> Self {
        let key = match algorithm {
            "ES256" => Key::Ec(EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).expect("generated")),
            "ES384" => Key::Ec(EcdsaKeyPair::generate(&ECDSA_P384_SHA384_FIXED_SIGNING).expect("generated")),
            "ES512" => Key::Ec(EcdsaKeyPair::generate(&ECDSA_P521_SHA512_FIXED_SIGNING).expect("generated")),
            "EdDSA" => Key::Ed25519(Ed25519KeyPair::generate().expect("generated")),
            _ => Key::Rsa(RsaKeyPair::generate(KeySize::Rsa2048).expect("generated")),
        };
        Self { key: Arc::new(key), algorithm: algorithm.into(), id: id.into() }
    }

    /// The same key for another algorithm.
    pub(crate) fn speaking(&self, algorithm: &str) -> Self {
        Self { algorithm: algorithm.into(), ..self.clone() }
    }

    /// The same key under another id.
    pub(crate) fn named(&self, id: &str) -> Self {
        Self { id: id.into(), ..self.clone() }
    }

    /// Its public half.
    pub(crate) fn jwk(&self) -> Value {
        let mut jwk = match &*self.key {
            Key::Rsa(pair) => {
                let parts = RsaPublicKeyComponents::<Vec<u8>>::from(pair.public_key());
                json!({"kty": "RSA", "n": base64url(&parts.n), "e": base64url(&parts.e)})
            }
            Key::Ec(pair) => {
                let point = &pair.public_key().as_ref()[1..];
                let (x, y) = point.split_at(point.len() / 2);
                let curve = format!("P-{}", if x.len() == 66 { 521 } else { x.len() * 8 });
                json!({"kty": "EC", "crv": curve, "x": base64url(x), "y": base64url(y)})
            }
            Key::Ed25519(pair) => {
                json!({"kty": "OKP", "crv": "Ed25519", "x": base64url(pair.public_key().as_ref())})
            }
        };
        for (name, value) in [("kid", &self.id), ("alg", &self.algorithm)] {
            jwk[name] = json!(value);
        }
        jwk
    }

    /// A token with this payload.
    pub(crate) fn token(&self, payload: &str) -> String {
        let header = json!({"alg": self.algorithm, "kid": self.id, "typ": "JWT"}).to_string();
        let signed = format!("{}.{}", base64url(header.as_bytes()), base64url(payload.as_bytes()));
        let signature = self.sign(signed.as_bytes());
        format!("{signed}.{}", base64url(&signature))
    }

    fn sign(&self, message: &[u8]) -> Vec<u8> {
        let random = SystemRandom::new();
        match &*self.key {
            Key::Rsa(pair) => {
                let encoding: &'static dyn RsaEncoding = match self.algorithm.as_str() {
                    "RS256" => &RSA_PKCS1_SHA256,
                    "RS384" => &RSA_PKCS1_SHA384,
                    "RS512" => &RSA_PKCS1_SHA512,
                    "PS256" => &RSA_PSS_SHA256,
                    "PS384" => &RSA_PSS_SHA384,
                    _ => &RSA_PSS_SHA512,
                };
                let mut signature = vec![0; pair.public_modulus_len()];
                pair.sign(encoding, &random, message, &mut signature).expect("signed");
                signature
            }
            Key::Ec(pair) => pair.sign(&random, message).expect("signed").as_ref().to_vec(),
            Key::Ed25519(pair) => pair.sign(message).as_ref().to_vec(),
        }
    }
}
