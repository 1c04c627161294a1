//! The pages of the bookinfo sample as its user sees them, shared by both demos: productpage calls details and reviews, and
//! versions v2 and v3 of reviews call ratings. An answer has the answers of the called services in it.

use std::collections::BTreeSet;

use anyhow::Result;
use serde_json::Value;

use super::screen::Screen;

/// Every service of the sample.
pub(crate) const PORT: u16 = 9080;
/// A part of the answer of details, as a packet capture shows it without a mesh.
pub(crate) const MARKER: &str = "\"service\": \"details\"";
pub(crate) const RATINGS_URL: &str = "http://ratings.bookinfo:9080/ratings";
/// Which version of reviews a call reaches is not the demo's to choose: so many calls reach all three.
const CALLS_MAX: usize = 60;
const VERSIONS: usize = 3;

/// The answer to a GET; without an answer, the reason.
pub(crate) type Answer = std::result::Result<Value, String>;

/// The page that a client asks for.
pub(crate) fn url() -> String {
    format!("http://productpage.bookinfo:{PORT}/productpage")
}

/// The URL by which an application of the sample calls another one.
pub(crate) fn url_of(service: &str) -> String {
    format!("http://{service}:{PORT}/{service}")
}

/// Shows a call (`action`: in a user's words), again until every version of reviews has answered; every answer is complete.
pub(crate) fn visit(screen: &mut Screen, action: &str, get: impl FnMut() -> Result<Answer>) -> Result<()> {
    screen.does(action);
    let promised = "productpage answers, with details and reviews v1, v2 and v3 in turn";
    match tour(get)? {
        Ok(calls) => screen.expect(&format!("{promised} ({calls} calls)"), true, ()),
        Err(seen) => screen.expect(promised, false, seen),
    }
}

/// Calls until every version of reviews has answered: the number of calls, or the first answer that is not complete.
pub(crate) fn tour(mut get: impl FnMut() -> Result<Answer>) -> Result<std::result::Result<usize, String>> {
    let mut versions = BTreeSet::new();
    for call in 1..=CALLS_MAX {
        let answer = get()?;
        let Some(version) = answer.as_ref().ok().and_then(complete) else { return Ok(Err(format!("{answer:?}"))) };
        versions.insert(version);
        if versions.len() == VERSIONS {
            return Ok(Ok(call));
        }
    }
    Ok(Err(format!("{CALLS_MAX} calls, answered by reviews {versions:?} alone")))
}

/// Shows that there was no answer.
pub(crate) fn refused(screen: &mut Screen, answer: &Answer) -> Result<()> {
    screen.expect("it is refused; the client sees:", answer.is_err(), answer)?;
    answer.as_ref().err().into_iter().for_each(|why| screen.quote(why));
    Ok(())
}

/// The version of reviews in an answer of productpage, where every service that was to be called has answered.
pub(crate) fn complete(page: &Value) -> Option<String> {
    let named = |value: &Value, name: &str| value["service"] == *name;
    let (details, reviews) = (called(page, "details")?, called(page, "reviews")?);
    let version = reviews["version"].as_str()?;
    let rated = version == "v1" || called(reviews, "ratings").is_some_and(|ratings| named(ratings, "ratings"));
    let all = named(page, "productpage") && named(details, "details") && named(reviews, "reviews") && rated;
    all.then(|| version.to_owned())
}

/// The answer of a called service within its caller's answer.
pub(crate) fn called<'a>(answer: &'a Value, service: &str) -> Option<&'a Value> {
    answer["calls"].get(url_of(service))
}
