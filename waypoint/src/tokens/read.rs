//! The text of a token: three parts of base64url, two of them JSON (RFC 7519, 7.2). Pure. What it says is only read here: nothing
//! of it counts before its signature does.

use serde::{Deserialize, de::IgnoredAny};
use serde_json::Value;
use underpass_core::jwt::{Algorithm, Claim, Claims, TokenFault, base64url};

/// A token, read.
#[derive(Debug)]
pub(super) struct ReadToken<'t> {
    pub(super) algorithm: Algorithm,
    /// The id of the key that has signed it.
    pub(super) key: Option<String>,
    pub(super) claims: Claims,
    /// As it stands there.
    pub(super) payload: &'t str,
    /// What is signed.
    pub(super) signed: &'t str,
    pub(super) signature: Vec<u8>,
}

impl ReadToken<'_> {
    /// Who says that it has made it.
    pub(super) fn issuer(&self) -> &str {
        match self.claims.get("iss") {
            Some(Claim::Text(issuer)) => issuer,
            _ => "",
        }
    }
}

/// The members of a header that count.
#[derive(Deserialize)]
struct Header {
    alg: String,
    kid: Option<String>,
    /// What has to be understood, and is not (RFC 7515, 4.1.11).
    crit: Option<IgnoredAny>,
}

/// Reads a token.
pub(super) fn read(text: &str) -> Result<ReadToken<'_>, TokenFault> {
    let (signed, signature) = text.rsplit_once('.').ok_or(TokenFault::Malformed)?;
    let (header, payload) = signed.split_once('.').ok_or(TokenFault::Malformed)?;
    let header: Header = json(header)?;
    if header.crit.is_some() {
        return Err(TokenFault::Malformed);
    }
    let Value::Object(claims) = json(payload)? else { return Err(TokenFault::Malformed) };
    let algorithm = Algorithm::parse(&header.alg).ok_or(TokenFault::Algorithm)?;
    let signature = base64url(signature).ok_or(TokenFault::Malformed)?;
    let claims = claims.into_iter().map(|(name, value)| (name.into(), claim(value))).collect();
    Ok(ReadToken { algorithm, key: header.kid, claims, payload, signed, signature })
}

/// A part with a dot in it is no base64url.
fn json<T: serde::de::DeserializeOwned>(part: &str) -> Result<T, TokenFault> {
    let bytes = base64url(part).ok_or(TokenFault::Malformed)?;
    serde_json::from_slice(&bytes).map_err(|_| TokenFault::Malformed)
}

fn claim(value: Value) -> Claim {
    match value {
        Value::Null => Claim::Null,
        Value::Bool(is) => Claim::Bool(is),
        Value::Number(number) => number.as_f64().map_or(Claim::Null, Claim::Number),
        Value::String(text) => Claim::Text(text.into()),
        Value::Array(all) => Claim::List(all.into_iter().map(claim).collect()),
        Value::Object(all) => Claim::Map(all.into_iter().map(|(name, value)| (name.into(), claim(value))).collect()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tokens::testing::base64url as encoded;

    #[test]
    fn texts_of_tokens() {
        let check = |header: &str, payload: &str, signature: &str, expect: Result<&str, TokenFault>| {
            let text = format!("{}.{}.{signature}", encoded(header.as_bytes()), encoded(payload.as_bytes()));
            let got = read(&text);
            let shown = got.as_ref().map(|t| format!("{:?} {:?} {} {:?}", t.algorithm, t.key, t.issuer(), t.signature));
            assert_eq!(shown.as_deref().map_err(|fault| **fault), expect, "{header} {payload}");
            if let Ok(token) = got {
                assert_eq!(format!("{}.{signature}", token.signed), text);
                assert_eq!(base64url(token.payload).unwrap(), payload.as_bytes());
            }
        };
        let (header, payload) = (r#"{"alg":"ES256","kid":"a","typ":"JWT"}"#, r#"{"iss":"i"}"#);
        check(header, payload, "AQI", Ok(r#"ES256 Some("a") i [1, 2]"#));
        check(r#"{"alg":"EdDSA"}"#, "{}", "", Ok("EdDSA None  []"));
        for alg in ["none", "None", "HS256", "rs256", ""] {
            check(&format!(r#"{{"alg":"{alg}"}}"#), payload, "AQI", Err(TokenFault::Algorithm));
        }
        for header in [r#"{"kid":"a"}"#, r#"{"alg":1}"#, r#"{"alg":"RS256","kid":1}"#, "[]", "", "x"] {
            check(header, payload, "AQI", Err(TokenFault::Malformed));
        }
        check(r#"{"alg":"RS256","alg":"none"}"#, payload, "AQI", Err(TokenFault::Malformed));
        check(r#"{"alg":"RS256","crit":["exp"]}"#, payload, "AQI", Err(TokenFault::Malformed));
        for payload in ["[]", "1", "", "{", "\"a\""] {
            check(header, payload, "AQI", Err(TokenFault::Malformed));
        }
        check(header, payload, "AQI=", Err(TokenFault::Malformed));
        check(header, payload, "A.QI", Err(TokenFault::Malformed));
        for text in ["", ".", "..", "a", "a.b", "a.b.c.d"] {
            assert_eq!(read(text).unwrap_err(), TokenFault::Malformed, "{text}");
        }
    }

    #[test]
    fn values_of_claims() {
        let payload = r#"{"a":null,"b":true,"c":1.5,"d":"x","e":[1,"y"],"f":{"g":{}}}"#;
        let text = format!("{}.{}.", encoded(br#"{"alg":"ES256"}"#), encoded(payload.as_bytes()));
        let got: Vec<_> = read(&text).unwrap().claims.into_values().collect();
        let list = Claim::List(vec![Claim::Number(1.0), Claim::Text("y".into())]);
        let map = Claim::Map([("g".into(), Claim::Map(Claims::new()))].into());
        assert_eq!(got, [Claim::Null, Claim::Bool(true), Claim::Number(1.5), Claim::Text("x".into()), list, map]);
    }
}
