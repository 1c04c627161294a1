//! Fetches the keys of issuers: when is [`KeyBook`]'s to say. What is asked for and what the answers mean; to ask is
//! [`super::get`]'s.

use std::{
    collections::{BTreeMap, BTreeSet},
    rc::Rc,
    sync::Arc,
    time::Duration,
};

use http::{StatusCode, Uri, uri::Scheme};
use serde::Deserialize;
use serde_json::Value;
use tokio::{
    sync::watch,
    task::{JoinSet, spawn_local},
    time::{Instant, sleep_until, timeout},
};
use underpass_core::jwt::{Jwk, JwkText, Jwks, KeyBook, KeyPlace};
use underpass_net::tls::{ConfigError, HandshakeError};

use super::{
    Keyring,
    get::{Believed, get},
};
use crate::{configuration::Configuration, way::WayError, worker::Worker};

/// The document of an issuer that names its keys (OpenID Connect Discovery 1.0, 4).
const DISCOVERY: &str = ".well-known/openid-configuration";

/// The reason why keys cannot be had.
#[derive(Debug, thiserror::Error)]
pub(super) enum FetchError {
    #[error("{0} is not an http or https URL")]
    Url(Box<str>),
    #[error("the configuration of an https issuer names keys without TLS, {0}")]
    Downgrade(Box<str>),
    #[error(transparent)]
    Way(#[from] WayError),
    #[error("no TLS")]
    TlsSettings(#[from] ConfigError),
    #[error("no TLS")]
    Tls(#[from] HandshakeError),
    #[error("HTTP failed")]
    Http(#[from] hyper::Error),
    #[error("the answer is too large, or broke off")]
    Body(#[source] Box<dyn std::error::Error + Send + Sync>),
    #[error("the answer is {0}")]
    Status(StatusCode),
    #[error("the answer is not the JSON that is expected")]
    Json(#[from] serde_json::Error),
    #[error("there is no public key for signatures in it")]
    NoKey,
    #[error("not in {0:?}")]
    Late(Duration),
    #[error("the task that fetches broke off")]
    Broken,
}

/// Why keys cannot be had, and what was asked last.
#[derive(Debug)]
struct Failure {
    uri: Box<str>,
    error: FetchError,
}

/// Who fetches.
#[derive(Clone)]
pub(super) struct Fetcher {
    pub(super) worker: Rc<Worker>,
    pub(super) believed: Rc<Believed>,
    configuration: watch::Receiver<Arc<Configuration>>,
}

impl Fetcher {
    fn new(worker: &Rc<Worker>, configuration: &watch::Receiver<Arc<Configuration>>) -> Self {
        let believed = Believed::new(worker.settings.tokens.roots.clone(), worker.settings.tls.clone());
        Self { worker: Rc::clone(worker), believed: Rc::new(believed), configuration: configuration.clone() }
    }

    /// The newest one, which the worker may be about to go by: what is fetched because of a rule is judged by the policies that
    /// came with it.
    pub(super) fn configuration(&self) -> Arc<Configuration> {
        Arc::clone(&self.configuration.borrow())
    }
}

/// Fetches what the configuration and the requests need, for as long as the worker runs.
pub(crate) async fn run(worker: Rc<Worker>, mut configuration: watch::Receiver<Arc<Configuration>>) {
    let fetcher = Fetcher::new(&worker, &configuration);
    let (keyring, mut running) = (&worker.keyring, JoinSet::new());
    let (mut book, mut wanted) = (KeyBook::new(worker.settings.tokens.pace), BTreeMap::new());
    configuration.mark_changed();
    loop {
        // Before the asks: what asks may go by this one already.
        if configuration.has_changed().unwrap_or(false) {
            wanted = want(&mut book, &configuration.borrow_and_update(), worker.now());
            keyring.retain(|place| wanted.contains_key(place));
        }
        asked(&mut book, &wanted, keyring, worker.now());
        for (place, time) in book.begin(worker.now()) {
            let fetched = spawn_local(fetch(fetcher.clone(), place.clone(), time));
            running.spawn_local(async move {
                let broken = |_| Err(Failure { uri: place.text().into(), error: FetchError::Broken });
                let fetched = fetched.await.unwrap_or_else(broken);
                (place, fetched)
            });
        }
        book.known().for_each(|(place, known)| keyring.publish(place, known));
        let next = book.next().map(|at| Instant::now() + at.saturating_sub(worker.now()));
        let due = async {
            match next {
                Some(next) => sleep_until(next).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            Some(Ok((place, fetched))) = running.join_next(), if !running.is_empty() => {
                let is_first = book.of(&place).is_some_and(|known| known.keys.is_none());
                let issuers = issuers(&fetcher.configuration(), &place);
                book.ended(&place, said(&issuers, &place, is_first, fetched), worker.now());
            }
            () = keyring.asked() => {}
            Ok(()) = configuration.changed() => configuration.mark_changed(),
            () = due => {}
        }
    }
}

/// The places of all rules, each with the time of a fetch. The keys of rules that stand before Services are fetched before a token
/// comes, others when one comes; those of no rule are forgotten.
fn want(book: &mut KeyBook, configuration: &Configuration, now: Duration) -> BTreeMap<KeyPlace, Duration> {
    let mut wanted = BTreeMap::new();
    for rule in configuration.sources.request_authentications().flat_map(|policy| &policy.rules) {
        if let Some(place) = KeyPlace::of(rule) {
            let time = wanted.entry(place).or_insert(rule.timeout);
            *time = rule.timeout.max(*time);
        }
    }
    book.retain(|place| wanted.contains_key(place));
    for place in configuration.token_rules().filter_map(KeyPlace::of) {
        if let Some(time) = wanted.get(&place) {
            book.want(place, *time, now);
        }
    }
    wanted
}

/// Takes the asks of all workers. Of a place that no rule names any more, what waits for it is sent away.
fn asked(book: &mut KeyBook, wanted: &BTreeMap<KeyPlace, Duration>, keyring: &Keyring, now: Duration) {
    for place in keyring.asks() {
        match wanted.get(&place) {
            Some(time) => {
                book.ask(&place, now);
                book.want(place, *time, now);
            }
            None => keyring.retain(|known| *known != place),
        }
    }
}

/// The issuers whose keys are there.
fn issuers(configuration: &Configuration, place: &KeyPlace) -> String {
    let rules = configuration.sources.request_authentications().flat_map(|policy| &policy.rules);
    let of_place = rules.filter(|rule| KeyPlace::of(rule).as_ref() == Some(place));
    let issuers: BTreeSet<&str> = of_place.map(|rule| &*rule.issuer).collect();
    issuers.into_iter().collect::<Vec<_>>().join(", ")
}

/// Says what came of a fetch: a failure, and that there are keys at last.
fn said(issuer: &str, place: &KeyPlace, is_first: bool, fetched: Result<Jwks, Failure>) -> Option<Jwks> {
    match fetched {
        Ok(keys) => {
            if is_first {
                tracing::info!(issuer, at = place.text(), "keys of an issuer fetched");
            }
            Some(keys)
        }
        Err(Failure { uri, error }) => {
            let causes = std::iter::successors(std::error::Error::source(&error), |cause| cause.source());
            let cause = causes.map(ToString::to_string).collect::<Vec<_>>().join(": ");
            let effect = if is_first { "its tokens are refused" } else { "its last keys stay" };
            tracing::warn!(issuer, %uri, %error, cause, effect, "keys of an issuer cannot be fetched");
            None
        }
    }
}

async fn fetch(fetcher: Fetcher, place: KeyPlace, time: Duration) -> Result<Jwks, Failure> {
    let failed = |error| Failure { uri: place.text().into(), error };
    let fetching = async {
        let uri = match &place {
            KeyPlace::Uri(uri) => url(uri).map_err(failed)?,
            KeyPlace::Discovery(issuer) => discovered(&fetcher, issuer).await?,
        };
        let asked = async { keys(&get(&fetcher, &uri).await?) };
        asked.await.map_err(|error| Failure { uri: uri.to_string().into(), error })
    };
    timeout(time, fetching).await.unwrap_or_else(|_| Err(failed(FetchError::Late(time))))
}

/// The URI of an issuer's keys, by its own word.
async fn discovered(fetcher: &Fetcher, issuer: &str) -> Result<Uri, Failure> {
    #[derive(Deserialize)]
    struct Document {
        jwks_uri: String,
    }
    let at = format!("{}/{DISCOVERY}", issuer.trim_end_matches('/'));
    let asked = async {
        let asked = url(&at)?;
        let document: Document = serde_json::from_slice(&get(fetcher, &asked).await?)?;
        let uri = url(&document.jwks_uri)?;
        if asked.scheme() == Some(&Scheme::HTTPS) && uri.scheme() != Some(&Scheme::HTTPS) {
            return Err(FetchError::Downgrade(document.jwks_uri.into()));
        }
        Ok(uri)
    };
    asked.await.map_err(|error| Failure { uri: at.as_str().into(), error })
}

fn url(text: &str) -> Result<Uri, FetchError> {
    let uri = text.parse::<Uri>().ok();
    let is_good = |uri: &Uri| {
        matches!(uri.scheme_str(), Some("http" | "https"))
            && uri.authority().is_some_and(|authority| !authority.as_str().contains('@'))
    };
    uri.filter(is_good).ok_or_else(|| FetchError::Url(text.into()))
}

/// The public keys of a set. Of a kind that is not known they are left out (RFC 7517, 5).
fn keys(text: &[u8]) -> Result<Jwks, FetchError> {
    #[derive(Deserialize)]
    struct KeySet {
        keys: Vec<Value>,
    }
    let set: KeySet = serde_json::from_slice(text)?;
    let read = |key: Value| Jwk::parse(&serde_json::from_value::<JwkText>(key).ok()?).ok().flatten();
    let keys: Jwks = set.keys.into_iter().filter_map(read).collect();
    if keys.is_empty() { Err(FetchError::NoKey) } else { Ok(keys) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{tokens::testing::Signer, upstream::ConnectError};

    #[test]
    fn sets_of_keys() {
        let good = Signer::new("ES256", "a").jwk();
        let check = |text: String, expect: Result<bool, &str>| {
            let got = keys(text.as_bytes()).map(|keys| keys.has("a")).map_err(|error| error.to_string());
            assert_eq!(got, expect.map_err(str::to_owned), "{text}");
        };
        check(format!(r#"{{"keys":[{good}]}}"#), Ok(true));
        // What cannot be used is no reason to refuse the others.
        check(format!(r#"{{"keys":[{{"kty":"oct","k":"AQ"}},{{"kty":1}},7,{good}]}}"#), Ok(true));
        check(r#"{"keys":[{"kty":"oct","k":"AQ"}]}"#.into(), Err("there is no public key for signatures in it"));
        check(r#"{"keys":[]}"#.into(), Err("there is no public key for signatures in it"));
        for text in ["", "[]", "{}", "<html>"] {
            check(text.into(), Err("the answer is not the JSON that is expected"));
        }
    }

    #[test]
    fn a_denial_says_so() {
        let check = |error: FetchError, expect: &str| assert_eq!(error.to_string(), expect);
        let policy = underpass_core::testing::name("shop/readers");
        check(WayError::Denied(policy).into(), "denied by policy: shop/readers does not let this waypoint pass");
        let of = |error: ConnectError| FetchError::from(WayError::from(error));
        check(of(ConnectError::Denied), "denied by policy at the endpoint's node");
        check(of(ConnectError::Timeout), "no connection: no connection in time");
    }

    #[test]
    fn uris_of_keys() {
        for (text, is_good) in [
            ("http://a/k", true),
            ("https://a.example:8443/k?x=y", true),
            ("https://[::1]/k", true),
            ("ftp://a/k", false),
            ("issuer", false),
            ("/k", false),
            ("https://user@a/k", false),
            ("", false),
        ] {
            assert_eq!(url(text).is_ok(), is_good, "{text}");
        }
    }
}
