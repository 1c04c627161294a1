//! The public keys of an issuer (RFC 7517, RFC 7518, RFC 8037). Their own file because they come from two sources, a policy
//! and an issuer's server, and are good or not in both by the same rules.
//!
//! What must hold: a key that could verify nothing, or that is not public, is refused with the field that says so.

use std::sync::{Arc, Weak};

use serde::{Deserialize, Serialize};

/// The least size of an RSA key, in bytes of its modulus (RFC 7518, 3.3).
const LEAST_RSA_BYTES: usize = 256;
/// The greatest, beyond which a signature costs too much.
const MOST_RSA_BYTES: usize = 1024;

/// The members of a JSON Web Key that are read.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct JwkText {
    /// Its type: RSA, EC or OKP.
    pub kty: String,
    /// Its id.
    pub kid: Option<String>,
    /// The only algorithm that it is for.
    pub alg: Option<String>,
    /// `sig`, or something else.
    #[serde(rename = "use")]
    pub purpose: Option<String>,
    /// The modulus of an RSA key.
    pub n: Option<String>,
    /// Its exponent.
    pub e: Option<String>,
    /// The curve of any other.
    pub crv: Option<String>,
    /// The point, or one half of it.
    pub x: Option<String>,
    /// Its other half.
    pub y: Option<String>,
    /// The private part: none may be here.
    pub d: Option<serde::de::IgnoredAny>,
    /// The key of a symmetric one, which is secret too.
    pub k: Option<serde::de::IgnoredAny>,
}

/// An algorithm of signatures.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum Algorithm {
    /// RSASSA-PKCS1-v1_5 with SHA-256.
    RS256,
    /// With SHA-384.
    RS384,
    /// With SHA-512.
    RS512,
    /// RSASSA-PSS with SHA-256.
    PS256,
    /// With SHA-384.
    PS384,
    /// With SHA-512.
    PS512,
    /// ECDSA over P-256 with SHA-256.
    ES256,
    /// Over P-384 with SHA-384.
    ES384,
    /// Over P-521 with SHA-512.
    ES512,
    /// Ed25519.
    EdDSA,
}

impl Algorithm {
    /// From the `alg` of a key or a token. `none` and those of shared secrets are none of them.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        Some(match text {
            "RS256" => Self::RS256,
            "RS384" => Self::RS384,
            "RS512" => Self::RS512,
            "PS256" => Self::PS256,
            "PS384" => Self::PS384,
            "PS512" => Self::PS512,
            "ES256" => Self::ES256,
            "ES384" => Self::ES384,
            "ES512" => Self::ES512,
            "EdDSA" => Self::EdDSA,
            _ => return None,
        })
    }
}

/// A curve of ECDSA.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum Curve {
    /// P-256.
    P256,
    /// P-384.
    P384,
    /// P-521.
    P521,
}

impl Curve {
    /// The bytes of a coordinate.
    #[must_use]
    pub const fn bytes(self) -> usize {
        match self {
            Self::P256 => 32,
            Self::P384 => 48,
            Self::P521 => 66,
        }
    }
}

/// A public key. Numbers are big-endian.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub enum PublicKey {
    /// Of RSA.
    Rsa {
        /// The modulus, without zeros in front.
        modulus: Arc<[u8]>,
        /// The exponent, without zeros in front.
        exponent: Arc<[u8]>,
    },
    /// Of ECDSA; whether its point is on the curve, who verifies says.
    Ec {
        /// The curve.
        curve: Curve,
        /// The point, of the curve's size.
        x: Arc<[u8]>,
        /// Its other half.
        y: Arc<[u8]>,
    },
    /// Ed25519.
    Ed25519([u8; 32]),
}

impl PublicKey {
    /// A signature of this algorithm can be verified by it.
    #[must_use]
    pub const fn fits(&self, algorithm: Algorithm) -> bool {
        use Algorithm::{ES256, ES384, ES512, EdDSA, PS256, PS384, PS512, RS256, RS384, RS512};
        match self {
            Self::Rsa { .. } => matches!(algorithm, RS256 | RS384 | RS512 | PS256 | PS384 | PS512),
            Self::Ec { curve: Curve::P256, .. } => matches!(algorithm, ES256),
            Self::Ec { curve: Curve::P384, .. } => matches!(algorithm, ES384),
            Self::Ec { curve: Curve::P521, .. } => matches!(algorithm, ES512),
            Self::Ed25519(_) => matches!(algorithm, EdDSA),
        }
    }
}

/// A key of a set.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Jwk {
    /// Its id.
    pub id: Option<Arc<str>>,
    /// The only algorithm that it is for; none: any that fits.
    pub algorithm: Option<Algorithm>,
    /// It.
    pub key: PublicKey,
}

/// What is wrong with a key.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{says}")]
pub struct KeyFault {
    /// The member.
    pub member: &'static str,
    /// What it should be.
    pub says: &'static str,
}

impl Jwk {
    /// Reads a key. None: it is good, and not for signatures (`use: enc`).
    ///
    /// # Errors
    /// Of a member that is wrong, or missing.
    pub fn parse(text: &JwkText) -> Result<Option<Self>, KeyFault> {
        if text.d.is_some() || text.k.is_some() {
            let member = if text.d.is_some() { "d" } else { "k" };
            return Err(KeyFault { member, says: "is secret: a key set has public keys alone" });
        }
        if text.purpose.as_deref().is_some_and(|purpose| purpose != "sig") {
            return Ok(None);
        }
        let key = match text.kty.as_str() {
            "RSA" => rsa(text)?,
            "EC" => ec(text)?,
            "OKP" => ed25519(text)?,
            _ => return Err(KeyFault { member: "kty", says: "is not one of RSA, EC, OKP" }),
        };
        let algorithm = match text.alg.as_deref() {
            None => None,
            Some(alg) => match Algorithm::parse(alg) {
                Some(algorithm) if key.fits(algorithm) => Some(algorithm),
                _ => return Err(KeyFault { member: "alg", says: "is no algorithm of signatures by such a key" }),
            },
        };
        Ok(Some(Self { id: text.kid.as_deref().map(Arc::from), algorithm, key }))
    }
}

fn rsa(text: &JwkText) -> Result<PublicKey, KeyFault> {
    let number = |member, value: Option<&String>| {
        let bytes = member_of(member, value)?;
        let zeros = bytes.iter().take_while(|byte| **byte == 0).count();
        Ok(Arc::from(bytes.get(zeros..).unwrap_or_default()))
    };
    let (modulus, exponent): (Arc<[u8]>, Arc<[u8]>) = (number("n", text.n.as_ref())?, number("e", text.e.as_ref())?);
    if !(LEAST_RSA_BYTES..=MOST_RSA_BYTES).contains(&modulus.len()) {
        return Err(KeyFault { member: "n", says: "is not a number of 2048 to 8192 bits" });
    }
    match exponent.last() {
        Some(last) if last % 2 == 1 && exponent.len() <= 8 && *exponent != [1] => {
            Ok(PublicKey::Rsa { modulus, exponent })
        }
        _ => Err(KeyFault { member: "e", says: "is not an odd number from 3" }),
    }
}

fn ec(text: &JwkText) -> Result<PublicKey, KeyFault> {
    let curve = match text.crv.as_deref() {
        Some("P-256") => Curve::P256,
        Some("P-384") => Curve::P384,
        Some("P-521") => Curve::P521,
        _ => return Err(KeyFault { member: "crv", says: "is not one of P-256, P-384, P-521" }),
    };
    let coordinate = |member, value: Option<&String>| match member_of(member, value)? {
        bytes if bytes.len() == curve.bytes() => Ok(Arc::from(bytes)),
        _ => Err(KeyFault { member, says: "does not have the size of the curve" }),
    };
    Ok(PublicKey::Ec { curve, x: coordinate("x", text.x.as_ref())?, y: coordinate("y", text.y.as_ref())? })
}

fn ed25519(text: &JwkText) -> Result<PublicKey, KeyFault> {
    if text.crv.as_deref() != Some("Ed25519") {
        return Err(KeyFault { member: "crv", says: "is not Ed25519" });
    }
    let bytes = member_of("x", text.x.as_ref())?;
    let bytes = bytes.try_into().map_err(|_| KeyFault { member: "x", says: "does not have 32 bytes" })?;
    Ok(PublicKey::Ed25519(bytes))
}

fn member_of(member: &'static str, value: Option<&String>) -> Result<Vec<u8>, KeyFault> {
    let text = value.ok_or(KeyFault { member, says: "is missing" })?;
    base64url(text).filter(|bytes| !bytes.is_empty()).ok_or(KeyFault { member, says: "is not base64url" })
}

/// The bytes of base64url without padding (RFC 7515, 2); none: it is another text.
#[must_use]
pub fn base64url(text: &str) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(text.len() / 4 * 3 + 2);
    for group in text.as_bytes().chunks(4) {
        let mut bits = 0_u32;
        for digit in group {
            let value = match digit {
                b'A'..=b'Z' => digit - b'A',
                b'a'..=b'z' => digit - b'a' + 26,
                b'0'..=b'9' => digit - b'0' + 52,
                b'-' => 62,
                b'_' => 63,
                _ => return None,
            };
            bits = bits << 6 | u32::from(value);
        }
        let whole = bits << (6 * (4 - group.len()));
        let [_, a, b, c] = whole.to_be_bytes();
        match group.len() {
            4 => bytes.extend([a, b, c]),
            // What is left over of the last digit is zero, or two texts would be one number.
            3 if c == 0 => bytes.extend([a, b]),
            2 if b == 0 && c == 0 => bytes.push(a),
            _ => return None,
        }
    }
    Some(bytes)
}

/// Keys of one issuer.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Jwks(Arc<[Jwk]>);

impl Jwks {
    /// The keys that may have signed a token with this header: of its id, where it names one, and for its algorithm.
    pub fn candidates<'a>(&'a self, id: Option<&'a str>, algorithm: Algorithm) -> impl Iterator<Item = &'a Jwk> {
        self.0.iter().filter(move |key| {
            let is_named = id.is_none() || key.id.is_none() || key.id.as_deref() == id;
            is_named && key.key.fits(algorithm) && key.algorithm.is_none_or(|only| only == algorithm)
        })
    }

    /// One has this id.
    #[must_use]
    pub fn has(&self, id: &str) -> bool {
        self.0.iter().any(|key| key.id.as_deref() == Some(id))
    }

    /// There is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Tells this set from others.
    #[must_use]
    pub fn mark(&self) -> JwksMark {
        JwksMark(Arc::downgrade(&self.0))
    }
}

/// Says which set of keys it was, without keeping the keys.
#[derive(Clone, Debug)]
pub struct JwksMark(Weak<[Jwk]>);

impl JwksMark {
    /// It was this set. Another one with the same keys is another one, and so is every later one when it is gone.
    #[must_use]
    pub fn is_of(&self, keys: &Jwks) -> bool {
        // What a Weak points to is not given away before it is dropped.
        std::ptr::addr_eq(self.0.as_ptr(), Arc::as_ptr(&keys.0))
    }
}

impl FromIterator<Jwk> for Jwks {
    fn from_iter<I: IntoIterator<Item = Jwk>>(keys: I) -> Self {
        Self(keys.into_iter().collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(kty: &str, members: &[(&str, &str)]) -> JwkText {
        let mut text = JwkText { kty: kty.into(), ..JwkText::default() };
        for (name, value) in members {
            let value = Some((*value).to_owned());
            match *name {
                "kid" => text.kid = value,
                "alg" => text.alg = value,
                "use" => text.purpose = value,
                "n" => text.n = value,
                "e" => text.e = value,
                "crv" => text.crv = value,
                "x" => text.x = value,
                "y" => text.y = value,
                "d" => text.d = Some(serde::de::IgnoredAny),
                other => panic!("{other}"),
            }
        }
        text
    }

    fn of(bytes: usize) -> String {
        // Digits of all ones; the last one with zeros behind it.
        let mut text = "_".repeat(bytes / 3 * 4);
        text.push_str(["", "_w", "__8"][bytes % 3]);
        text
    }

    #[test]
    fn texts_of_bytes() {
        for (text, expect) in [
            ("", Some(&b""[..])),
            ("AQAB", Some(&[1, 0, 1])),
            ("-_8", Some(&[0xfb, 0xff])),
            ("TWE", Some(b"Ma")),
            ("TQ", Some(b"M")),
            ("TR", None),
            ("TWF", None),
            ("T", None),
            ("TQ==", None),
            ("+/8", None),
            ("T Q", None),
        ] {
            assert_eq!(base64url(text).as_deref(), expect, "{text}");
        }
        assert_eq!([31, 32, 33].map(|n| base64url(&of(n)).unwrap().len()), [31, 32, 33]);
    }

    #[test]
    fn keys_by_their_members() {
        let check = |kty: &str, members: &[(&str, &str)], expect: Result<bool, &str>| {
            let got = Jwk::parse(&text(kty, members));
            let got = got.map(|key| key.is_some()).map_err(|fault| format!("{} {fault}", fault.member));
            assert_eq!(got, expect.map_err(str::to_owned), "{kty} {members:?}");
        };
        let (n, half) = (of(256), of(32));
        let rsa = [("n", n.as_str()), ("e", "AQAB")];
        check("RSA", &rsa, Ok(true));
        check("RSA", &[&rsa[..], &[("alg", "RS256"), ("kid", "1"), ("use", "sig")]].concat(), Ok(true));
        check("RSA", &[&rsa[..], &[("use", "enc")]].concat(), Ok(false));
        check("RSA", &[&rsa[..], &[("alg", "ES256")]].concat(), Err("alg is no algorithm of signatures by such a key"));
        check("RSA", &[&rsa[..], &[("alg", "none")]].concat(), Err("alg is no algorithm of signatures by such a key"));
        check("RSA", &[&rsa[..], &[("d", "x")]].concat(), Err("d is secret: a key set has public keys alone"));
        check("RSA", &[("e", "AQAB")], Err("n is missing"));
        check("RSA", &[("n", &of(128)), ("e", "AQAB")], Err("n is not a number of 2048 to 8192 bits"));
        check("RSA", &[("n", "a+b"), ("e", "AQAB")], Err("n is not base64url"));
        check("RSA", &[("n", &n), ("e", "AQ")], Err("e is not an odd number from 3"));
        check("RSA", &[("n", &n), ("e", "Ag")], Err("e is not an odd number from 3"));
        check("EC", &[("crv", "P-256"), ("x", &half), ("y", &half)], Ok(true));
        check("EC", &[("crv", "P-384"), ("x", &half), ("y", &half)], Err("x does not have the size of the curve"));
        check("EC", &[("crv", "P-521"), ("x", &of(66)), ("y", &half)], Err("y does not have the size of the curve"));
        check("EC", &[("crv", "secp256k1")], Err("crv is not one of P-256, P-384, P-521"));
        check("OKP", &[("crv", "Ed25519"), ("x", &half), ("alg", "EdDSA")], Ok(true));
        check("OKP", &[("crv", "Ed25519"), ("x", &of(33))], Err("x does not have 32 bytes"));
        check("OKP", &[("crv", "X25519"), ("x", &half)], Err("crv is not Ed25519"));
        check("oct", &[], Err("kty is not one of RSA, EC, OKP"));
    }

    #[test]
    fn a_mark_is_of_one_set_alone() {
        let set =
            || -> Jwks { [Jwk { id: None, algorithm: None, key: PublicKey::Ed25519([1; 32]) }].into_iter().collect() };
        let keys = set();
        let mark = keys.mark();
        assert!(mark.is_of(&keys.clone()) && !mark.is_of(&set()));
        drop(keys);
        assert!(!(0..100).any(|_| mark.is_of(&set())), "in its place");
    }

    #[test]
    fn keys_that_may_have_signed() {
        let half = of(32);
        let ec = |more: &[(&str, &str)]| {
            let all = [&[("crv", "P-256"), ("x", half.as_str()), ("y", half.as_str())][..], more].concat();
            Jwk::parse(&text("EC", &all)).unwrap().unwrap()
        };
        let ed = Jwk::parse(&text("OKP", &[("crv", "Ed25519"), ("x", &half), ("kid", "c")])).unwrap().unwrap();
        let keys: Jwks =
            [ec(&[("kid", "a")]), ec(&[("kid", "b"), ("alg", "ES256")]), ec(&[]), ed].into_iter().collect();
        let ids = |id: Option<&str>, algorithm| {
            let found = keys.candidates(id, algorithm).map(|key| key.id.as_deref().unwrap_or("-").to_owned());
            found.collect::<Vec<_>>().join(" ")
        };
        assert_eq!(ids(None, Algorithm::ES256), "a b -");
        assert_eq!(ids(Some("a"), Algorithm::ES256), "a -");
        assert_eq!(ids(Some("z"), Algorithm::ES256), "-");
        assert_eq!(ids(Some("c"), Algorithm::EdDSA), "c");
        assert_eq!(ids(Some("a"), Algorithm::RS256), "");
    }
}
