//! Tokens of pods whose life is any: an API server gives none for less than ten minutes. They are signed by its own
//! key.

use std::{
    fs,
    time::{SystemTime, UNIX_EPOCH},
};

use anyhow::{Context, Result, ensure};
use rcgen::{KeyPair, SigningKey as _};
use serde_json::{Value, json};

use super::{ApiServer, ISSUER};

/// The length of each of the two numbers of a signature by P-256.
const NUMBER_BYTES: usize = 32;
/// RFC 4648, section 5.
const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

impl ApiServer {
    /// A token of a pod's service account for this audience, bound to the pod (`namespace/name`). It begins an hour
    /// ago, and ends so many seconds from now: with a negative number it has ended.
    pub fn token_that_ends(&self, pod: &str, audience: &str, in_s: i64) -> Result<String> {
        let (namespace, name) = pod.split_once('/').with_context(|| format!("{pod} is no namespace/name"))?;
        let object = self.kubectl().get(&["pod", name, "-n", namespace])?;
        let account = object["spec"]["serviceAccountName"].as_str().context("an account")?;
        let of_account = self.kubectl().get(&["serviceaccount", account, "-n", namespace])?;
        let now = i64::try_from(SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs())?;
        let begun = now - 3600;
        let claims = json!({
            "iss": ISSUER,
            "sub": format!("system:serviceaccount:{namespace}:{account}"),
            "aud": [audience],
            "iat": begun, "nbf": begun, "exp": now + in_s,
            "kubernetes.io": {
                "namespace": namespace,
                "pod": { "name": name, "uid": object["metadata"]["uid"] },
                "serviceaccount": { "name": account, "uid": of_account["metadata"]["uid"] },
            },
        });
        let key = fs::read_to_string(&self.pki.signing).context("the key of tokens")?;
        signed(&KeyPair::from_pem(&key)?, &claims)
    }
}

/// A JWS in its compact form (RFC 7515), signed by ES256 (RFC 7518, section 3.4).
fn signed(key: &KeyPair, claims: &Value) -> Result<String> {
    let header = json!({ "alg": "ES256" });
    let text = [&header, claims].map(|part| base64url(part.to_string().as_bytes())).join(".");
    let signature = numbers(&key.sign(text.as_bytes())?)?;
    Ok(format!("{text}.{}", base64url(&signature)))
}

/// The two numbers of a signature in DER (RFC 3279, section 2.2.3), one after the other.
fn numbers(der: &[u8]) -> Result<Vec<u8>> {
    let mut all = Vec::new();
    // Behind the SEQUENCE's tag and length come two INTEGERs, each shorter than 128 bytes.
    let mut rest = der.get(2..).context("a sequence")?;
    while let [tag, length, after @ ..] = rest {
        ensure!(*tag == 2, "no INTEGER in {der:?}");
        let (number, next) = after.split_at_checked((*length).into()).context("a number")?;
        let significant = number.iter().position(|byte| *byte != 0).map_or(&[][..], |first| &number[first..]);
        let missing = NUMBER_BYTES.checked_sub(significant.len()).context("a number of P-256")?;
        all.extend(std::iter::repeat_n(0, missing));
        all.extend(significant);
        rest = next;
    }
    ensure!(all.len() == 2 * NUMBER_BYTES, "two numbers in {der:?}");
    Ok(all)
}

/// Without padding.
fn base64url(bytes: &[u8]) -> String {
    let mut text = String::new();
    for three in bytes.chunks(3) {
        let bits = three.iter().fold(0_usize, |bits, byte| bits << 8 | usize::from(*byte)) << (8 * (3 - three.len()));
        let letters = (0..=three.len()).map(|at| char::from(LETTERS[bits >> (18 - 6 * at) & 63]));
        text.extend(letters);
    }
    text
}
