//! The query of a request, parsed once (WHATWG URL, application/x-www-form-urlencoded).

/// The reason why a query is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum QueryError {
    #[error("query: {0:?} is not percent-encoded UTF-8")]
    Encoding(String),
    #[error("query: {0:?} is given twice")]
    Twice(String),
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Query(Vec<(String, String)>);

impl Query {
    pub(super) fn parse(text: &str) -> Result<Self, QueryError> {
        let mut pairs: Vec<(String, String)> = Vec::new();
        for part in text.split('&').filter(|part| !part.is_empty()) {
            // A filter is written as `level=info,hyper=debug`: only the first `=` separates.
            let (key, value) = part.split_once('=').unwrap_or((part, ""));
            let decoded = |text: &str| decode(text).ok_or_else(|| QueryError::Encoding(text.to_owned()));
            let (key, value) = (decoded(key)?, decoded(value)?);
            if pairs.iter().any(|(k, _)| *k == key) {
                return Err(QueryError::Twice(key));
            }
            pairs.push((key, value));
        }
        Ok(Self(pairs))
    }

    pub(super) fn find(&self, key: &str) -> Option<&str> {
        self.0.iter().find(|(k, _)| k == key).map(|(_, v)| v.as_str())
    }
}

fn decode(text: &str) -> Option<String> {
    let mut bytes = text.bytes();
    let mut out = Vec::with_capacity(text.len());
    while let Some(b) = bytes.next() {
        out.push(match b {
            b'+' => b' ',
            b'%' => {
                let mut digit = || char::from(bytes.next()?).to_digit(16);
                let (high, low) = (digit()?, digit()?);
                u8::try_from(high * 16 + low).ok()?
            }
            b => b,
        });
    }
    String::from_utf8(out).ok()
}

/// `text` as a value of a query.
#[must_use]
pub fn encode(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for b in text.bytes() {
        if b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_' | b'~') {
            out.push(char::from(b));
        } else {
            out.push_str(&format!("%{b:02X}"));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn queries() {
        let good = |text: &str, key: &str, want: Option<&str>| {
            assert_eq!(Query::parse(text).unwrap().find(key), want, "{text}")
        };
        good("", "level", None);
        good("level=info", "level", Some("info"));
        good("level", "level", Some(""));
        good("a=1&level=info,hyper=debug&", "level", Some("info,hyper=debug"));
        good("level=info%2Chyper%3ddebug+x", "level", Some("info,hyper=debug x"));
        good("%6cevel=a", "level", Some("a"));

        let bad = |text: &str, want: QueryError| assert_eq!(Query::parse(text), Err(want));
        bad("a=%", QueryError::Encoding("%".into()));
        bad("a=%4", QueryError::Encoding("%4".into()));
        bad("a=%zz", QueryError::Encoding("%zz".into()));
        bad("a=%ff", QueryError::Encoding("%ff".into()));
        bad("a=1&a=2", QueryError::Twice("a".into()));
        bad("a=1&%61=2", QueryError::Twice("a".into()));
    }

    proptest! {
        #[test]
        fn an_encoded_value_is_decoded(value in ".{0,20}") {
            let text = format!("a=1&level={}", encode(&value));
            let query = Query::parse(&text).unwrap();
            prop_assert_eq!(query.find("level"), Some(value.as_str()));
        }

        #[test]
        fn nothing_panics(text in "[a&=%+0-9\u{e9}]{0,20}") {
            let _ = Query::parse(&text);
        }
    }
}
