//! CORS: the answer to a preflight, and what is added to the response of a request from another origin (WHATWG Fetch, "CORS
//! protocol"; as Envoy's filter does it).

use std::sync::Arc;

use super::RequestHead;
use crate::objects::CorsPolicy;

/// Headers of a response.
pub type CorsHeaders = Vec<(&'static str, String)>;

/// What a policy makes of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Cors {
    /// It is answered at once: a preflight.
    Preflight(CorsHeaders),
    /// It goes on, and its response has these as well.
    Passes(CorsHeaders),
}

pub(super) fn decide(policy: &CorsPolicy, head: &RequestHead<'_>) -> Cors {
    let origin = head.header("origin").filter(|origin| !origin.is_empty());
    let Some(origin) = origin else { return Cors::Passes(Vec::new()) };
    let is_preflight = head.method == "OPTIONS" && head.header("access-control-request-method").is_some();
    let allowed = policy.allow_origins.iter().any(|allowed| allowed.matches(&origin));
    if !allowed {
        let is_answered = is_preflight && policy.answers_unmatched;
        return if is_answered { Cors::Preflight(Vec::new()) } else { Cors::Passes(Vec::new()) };
    }
    let mut headers: CorsHeaders = vec![("access-control-allow-origin", String::from_utf8_lossy(&origin).into_owned())];
    if policy.allow_credentials {
        headers.push(("access-control-allow-credentials", "true".to_owned()));
    }
    let mut list = |name: &'static str, all: &[Arc<str>]| {
        headers.extend((!all.is_empty()).then(|| (name, all.join(","))));
    };
    if !is_preflight {
        list("access-control-expose-headers", &policy.expose_headers);
        return Cors::Passes(headers);
    }
    // With credentials a star stands for itself (Fetch, "CORS protocol and credentials"): what is asked for is allowed.
    let allowed = |all: &[Arc<str>], name: &str| match all {
        [star] if policy.allow_credentials && &**star == "*" => {
            head.header(name).map(|asked| String::from_utf8_lossy(&asked).into()).into_iter().collect()
        }
        all => all.to_vec(),
    };
    list("access-control-allow-methods", &allowed(&policy.allow_methods, "access-control-request-method"));
    list("access-control-allow-headers", &allowed(&policy.allow_headers, "access-control-request-headers"));
    headers.extend(policy.max_age.map(|age| ("access-control-max-age", age.as_secs().to_string())));
    Cors::Preflight(headers)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{
        super::{Source, TextMatch},
        *,
    };

    fn policy() -> CorsPolicy {
        let words = |text: &str| text.split(' ').map(Into::into).collect();
        CorsPolicy {
            allow_origins: vec![TextMatch::Exact("https://a.example".into())],
            allow_methods: words("GET PUT"),
            allow_headers: words("x-a x-b"),
            expose_headers: words("x-c"),
            max_age: Some(Duration::from_secs(86_400)),
            allow_credentials: true,
            answers_unmatched: false,
        }
    }

    fn ask(policy: &CorsPolicy, method: &str, headers: &[(&str, &[u8])]) -> String {
        let head = RequestHead {
            method,
            scheme: "http",
            authority: "a",
            path: "/",
            headers,
            port: 80,
            source: Source::default(),
        };
        let (what, headers) = match decide(policy, &head) {
            Cors::Preflight(headers) => ("preflight", headers),
            Cors::Passes(headers) => ("passes", headers),
        };
        let short = |name: &str| name.trim_start_matches("access-control-").to_owned();
        let all = headers.iter().map(|(name, value)| format!(" {}={value}", short(name)));
        what.to_owned() + &all.collect::<String>()
    }

    #[test]
    fn requests_of_other_origins() {
        const ASKS: (&str, &[u8]) = ("access-control-request-method", b"PUT");
        let [known, other] = ["https://a.example", "https://b.example"].map(|origin| ("origin", origin.as_bytes()));
        let preflight = "preflight allow-origin=https://a.example allow-credentials=true allow-methods=GET,PUT allow-headers=x-a,x-b max-age=86400";
        let simple = "passes allow-origin=https://a.example allow-credentials=true expose-headers=x-c";
        for (method, headers, want) in [
            ("OPTIONS", &[known, ASKS][..], preflight),
            ("GET", &[known], simple),
            // no preflight: nothing is asked for
            ("OPTIONS", &[known], simple),
            ("GET", &[known, ASKS], simple),
            ("GET", &[other], "passes"),
            ("OPTIONS", &[other, ASKS], "passes"),
            ("OPTIONS", &[ASKS], "passes"),
            ("GET", &[], "passes"),
        ] {
            assert_eq!(ask(&policy(), method, headers), want, "{method} {headers:?}");
        }
        let ignoring = CorsPolicy { answers_unmatched: true, ..policy() };
        assert_eq!(ask(&ignoring, "OPTIONS", &[other, ASKS]), "preflight");
        assert_eq!(ask(&ignoring, "GET", &[other]), "passes");
        let star = vec!["*".into()];
        let any = CorsPolicy { allow_methods: star.clone(), allow_headers: star, max_age: None, ..policy() };
        let asks_more = [known, ASKS, ("access-control-request-headers", b"x-d,x-e")];
        let with =
            "preflight allow-origin=https://a.example allow-credentials=true allow-methods=PUT allow-headers=x-d,x-e";
        assert_eq!(ask(&any, "OPTIONS", &asks_more), with);
        let nothing = "preflight allow-origin=https://a.example allow-credentials=true allow-methods=PUT";
        assert_eq!(ask(&any, "OPTIONS", &[known, ASKS]), nothing);
        let any = CorsPolicy { allow_credentials: false, ..any };
        let without = "preflight allow-origin=https://a.example allow-methods=* allow-headers=*";
        assert_eq!(ask(&any, "OPTIONS", &asks_more), without);
        let least = CorsPolicy { allow_origins: policy().allow_origins, ..CorsPolicy::default() };
        assert_eq!(ask(&least, "OPTIONS", &[known, ASKS]), "preflight allow-origin=https://a.example");
    }
}
