//! RequestAuthentications as written. What they decide about a request is [`crate::jwt`].

use std::{sync::Arc, time::Duration};

use serde::Serialize;

use crate::{ObjectName, jwt::Jwks, world::Scope};

/// `security.istio.io RequestAuthentication`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct RequestAuthentication {
    /// namespace/name.
    pub name: ObjectName,
    /// The workloads, or the targets, whose requests it is about.
    pub scope: Scope,
    /// `spec.jwtRules`.
    pub rules: Vec<JwtRule>,
}

/// An entry of `spec.jwtRules`: one issuer of tokens.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct JwtRule {
    /// `issuer`: the claim `iss`.
    pub issuer: Arc<str>,
    /// `audiences`: the claim `aud` has one of them; none given: any.
    pub audiences: Vec<Arc<str>>,
    /// `jwks`, `jwksUri`.
    pub keys: KeySource,
    /// `fromHeaders`, `fromParams`, `fromCookies`, in this order; none given: the usual ones.
    pub places: Vec<TokenSource>,
    /// `forwardOriginalToken`: the application gets the token as well.
    pub forward_original_token: bool,
    /// `outputPayloadToHeader`, in lower case.
    pub payload_header: Option<Arc<str>>,
    /// `outputClaimToHeaders`.
    pub claim_headers: Vec<ClaimHeader>,
    /// `timeout` of fetching keys.
    pub timeout: Duration,
    /// `spaceDelimitedClaims`: beside `scope` and `permission`.
    pub space_delimited: Vec<Arc<str>>,
}

impl JwtRule {
    /// The time that fetching keys may take, where a rule does not say.
    pub const TIMEOUT: Duration = Duration::from_secs(5);
}

/// Where the keys of an issuer come from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub enum KeySource {
    /// `jwks`.
    Inline(Jwks),
    /// `jwksUri`.
    Uri(Arc<str>),
    /// Neither: what the issuer's `/.well-known/openid-configuration` names.
    Discovery,
}

/// Where a token may stand in a request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub enum TokenSource {
    /// In a header, behind a prefix.
    Header {
        /// In lower case.
        name: Arc<str>,
        /// What stands before the token; empty: nothing.
        prefix: Arc<str>,
    },
    /// In a parameter of the query.
    Param(Arc<str>),
    /// In a cookie.
    Cookie(Arc<str>),
}

/// An entry of `outputClaimToHeaders`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ClaimHeader {
    /// In lower case.
    pub header: Arc<str>,
    /// The names on the way to the claim: `a.b` is within `a`.
    pub claim: Vec<Arc<str>>,
}
