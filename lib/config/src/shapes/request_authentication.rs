//! `RequestAuthentication`, `security.istio.io` v1 and v1beta1 (the same shape). `Option<Vec<_>>` wherever a list that is
//! empty means something else than one that is not there.

use serde::{Deserialize, de::IgnoredAny};

use super::{ObjectMeta, PolicyTargetReference, WorkloadSelector};

/// `RequestAuthentication`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct RequestAuthentication {
    /// `apiVersion`.
    pub api_version: String,
    /// `kind`.
    pub kind: String,
    /// `metadata`.
    pub metadata: ObjectMeta,
    /// `spec`.
    pub spec: RequestAuthenticationSpec,
    /// `status`, not read.
    pub status: Option<IgnoredAny>,
}

/// `spec` of a RequestAuthentication.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct RequestAuthenticationSpec {
    /// `selector`.
    pub selector: Option<WorkloadSelector>,
    /// `targetRef`.
    pub target_ref: Option<PolicyTargetReference>,
    /// `targetRefs`.
    pub target_refs: Option<Vec<PolicyTargetReference>>,
    /// `jwtRules`.
    pub jwt_rules: Vec<JwtRule>,
}

/// An entry of `jwtRules`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct JwtRule {
    /// `issuer`.
    pub issuer: String,
    /// `audiences`.
    pub audiences: Option<Vec<String>>,
    /// `jwksUri`, by its older name as well.
    #[serde(alias = "jwks_uri")]
    pub jwks_uri: Option<String>,
    /// `jwks`: JSON.
    pub jwks: Option<String>,
    /// `fromHeaders`.
    pub from_headers: Option<Vec<JwtHeader>>,
    /// `fromParams`.
    pub from_params: Option<Vec<String>>,
    /// `fromCookies`.
    pub from_cookies: Option<Vec<String>>,
    /// `outputPayloadToHeader`.
    pub output_payload_to_header: Option<String>,
    /// `forwardOriginalToken`.
    pub forward_original_token: Option<bool>,
    /// `outputClaimToHeaders`.
    pub output_claim_to_headers: Option<Vec<ClaimToHeader>>,
    /// `timeout`.
    pub timeout: Option<String>,
    /// `spaceDelimitedClaims`.
    pub space_delimited_claims: Option<Vec<String>>,
}

/// An entry of `fromHeaders`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct JwtHeader {
    /// `name`.
    pub name: String,
    /// `prefix`.
    pub prefix: Option<String>,
}

/// An entry of `outputClaimToHeaders`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct ClaimToHeader {
    /// `header`.
    pub header: String,
    /// `claim`.
    pub claim: String,
}
