//! JSON Web Tokens of requests (RFC 7519), by RequestAuthentication. Pure: reading the text of a token, fetching keys and
//! verifying a signature are a proxy's; everything else is decided here.
//!
//! ```text
//! objects --rules_at_waypoint, rules_at_endpoint--> rules                 (which count for a destination)
//! rules, RequestHead --find--> tokens, each with the rules that look there
//! token --(the proxy reads it)--> issuer --rule_of--> rule, keys --(the proxy verifies)--> check --> Token
//! rules whose keys are elsewhere --KeyBook--> when they are fetched, and which are kept    (the proxy fetches)
//! all of them --decide--> none, one, or 401; what the application gets: effects
//! ```
//! What must hold: a request without a token passes without a principal, and policy refuses it where it wants one; a
//! request with a token that is not good does not pass; and no header that a rule writes is ever the client's own.

mod book;
mod claims;
mod find;
mod keys;
mod verdict;

pub use self::{
    book::{KeyBook, KeyPlace, KeysOf, Pace},
    claims::{Claim, Claims, Token},
    find::{FoundToken, TokenPlace, find, rule_of, rules_at_endpoint, rules_at_waypoint, rules_that_select, withheld},
    keys::{Algorithm, Curve, Jwk, JwkText, Jwks, JwksMark, KeyFault, PublicKey, base64url},
    verdict::{Decision, Effects, TokenFault, check, decide, effects},
};
