//! The faults of what waypoints enforce: of VirtualServices, DestinationRules and RequestAuthentications, whose values are of
//! more kinds than those of policies.

use std::sync::Arc;

use underpass_core::{http::ParsePatternError, jwt::KeyFault};

use crate::fault_text::cut;

/// The reason why a value of a route cannot be served.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RouteFault {
    /// A text of another form.
    #[error("`{}` is not {expected}", cut(.found))]
    Malformed {
        /// As written.
        found: Arc<str>,
        /// The form.
        expected: &'static str,
    },
    /// A number beyond its bounds.
    #[error("`{found}` is not a number from {least} to {most}")]
    OutOfRange {
        /// As written; rounded.
        found: i64,
        /// The least.
        least: i64,
        /// The greatest.
        most: i64,
    },
    /// A regular expression.
    #[error("`{}` is not an expression that can be served: {reason}", cut(.found))]
    Pattern {
        /// As written.
        found: Arc<str>,
        /// Why.
        reason: ParsePatternError,
    },
    /// Fields of which one must be set.
    #[error("set one of {of}")]
    OneOf {
        /// Them.
        of: &'static str,
    },
    /// Weights of several destinations.
    #[error("all weights are 0: no request could go anywhere")]
    NoWeight,
    /// Two entries of a list under one name.
    #[error("duplicate name `{}`", cut(.name))]
    DuplicateName {
        /// The name.
        name: Arc<str>,
    },
    /// A key of a set.
    #[error("keys[{index}].{} {fault}", .fault.member)]
    Key {
        /// Its position.
        index: usize,
        /// What is wrong with it.
        fault: KeyFault,
    },
    /// A set without a key.
    #[error("has no key for signatures: every token would be refused")]
    NoKey,
    /// Entries of a list have a limit.
    #[error("has more than {max} entries")]
    TooManyEntries {
        /// The limit.
        max: usize,
    },
}
