//! Requests: what a waypoint decides about HTTP, without IO. Here are the conditions and hosts that routes are written
//! with; [`crate::objects`] have the routes.

mod host;
mod pattern;
mod text;

pub use self::{
    host::Host,
    pattern::{MAX_PATTERN_BYTES, ParsePatternError, Pattern, Substitution},
    text::{TextMatch, ValueMatch},
};
