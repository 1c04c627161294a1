//! The faults of resources that a control plane sends. Their own file because no user has written these messages: the
//! texts are for those who run the control plane.

use std::sync::Arc;

/// The reason of a problem of a resource.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ResourceFault {
    /// The bytes are no message of its type.
    #[error("cannot be read: {message}")]
    Unreadable {
        /// The decoder's message.
        message: Arc<str>,
    },
    /// Neither a workload nor a service.
    #[error("is neither a workload nor a service")]
    UnknownType,
    /// Name and content disagree.
    #[error("its content is that of `{}`", crate::fault_text::cut(.found))]
    OtherName {
        /// The name that the content has.
        found: Arc<str>,
    },
    /// A field that a newer version of the API defines, in a policy.
    #[error("has field {number}, probably of a newer version of its API: without it the policy might allow more")]
    UnknownField {
        /// Its number.
        number: u32,
    },
    /// A value that a newer version of the API defines.
    #[error("is {found}, probably of a newer version of its API: without it the policy might allow more")]
    UnknownValue {
        /// Its number.
        found: i32,
    },
    /// A pattern of a kind that a newer version of the API defines.
    #[error("is a pattern of an unknown kind")]
    UnknownPattern,
    /// What only an extension says.
    #[error("has extension `{}`: without it the policy might allow more", crate::fault_text::cut(.found))]
    UnknownExtension {
        /// Its name.
        found: Arc<str>,
    },
    /// A rule without matches, which matches everything.
    #[error("has no matches, which could mean nothing or anything")]
    NoMatches,
    /// A star that is no wildcard.
    #[error("`{}` has a star where no pattern has one", crate::fault_text::cut(.found))]
    Star {
        /// As it stands there.
        found: Arc<str>,
    },
    /// Neither IPv4 nor IPv6.
    #[error("has {bytes} bytes: an address has 4 or 16")]
    AddressLength {
        /// Its length.
        bytes: usize,
    },
    /// Of an address of that family.
    #[error("a prefix of {found} bits is longer than its address")]
    PrefixLength {
        /// Its length in bits.
        found: u32,
    },
    /// A policy has a limit.
    #[error("comes to more than {max} rules")]
    TooManyRules {
        /// The limit.
        max: usize,
    },
    /// Mesh-wide is what stands in the root namespace, and nothing else.
    #[error("control plane and agent disagree about the root namespace, which is `{root}` here")]
    RootNamespace {
        /// The agent's setting.
        root: Arc<str>,
    },
    /// A workload of another mesh.
    #[error("`{}` is no trust domain of this mesh: its certificate proves another identity, and calls of it are refused", crate::fault_text::cut(.found))]
    TrustDomain {
        /// The trust domain.
        found: Arc<str>,
    },
}
