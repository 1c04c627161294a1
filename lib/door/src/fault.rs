//! The faults of objects that a door reads, as one enum: set where they are found, and worded for users here, once.

use std::{io, sync::Arc};

use underpass_core::authz::{ParseHeaderNameError, ParsePathError};

use crate::{
    Field, KnownKind, ResourceFault, RouteFault, Severity, Support,
    fault_text::{at_line, cut, further, hint, list},
};

/// Lines of a file.
pub type Lines = Vec<u32>;

/// The reason of a problem. Texts from the manifest are printed as written, cut where they are long.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Fault {
    // ---- files and documents
    /// An error of the operating system.
    #[error("cannot be read: {kind}")]
    Io {
        /// Its kind.
        kind: io::ErrorKind,
    },
    /// No document has content: a file that was cut short, a placeholder.
    #[error("{}", if *.gave { "is empty: its objects stay served until the file is deleted (rm)" } else { "holds no object" })]
    Empty {
        /// It had objects before, which are still served.
        gave: bool,
    },
    /// A file has a limit.
    #[error("is larger than {max} bytes")]
    FileTooLarge {
        /// The limit.
        max: u64,
    },
    /// Manifests are UTF-8.
    #[error("is not UTF-8 text: invalid from byte {at} on")]
    NotUtf8 {
        /// The first byte that is not.
        at: usize,
    },
    /// Documents of a file have a limit.
    #[error("has more than {max} documents; the others are not read")]
    TooManyDocuments {
        /// The limit.
        max: usize,
    },
    /// Manifests of a directory have a limit.
    #[error(
        "the directory has more than {max} manifests: further ones are not read, and deleted objects stay served until there are fewer"
    )]
    TooManyFiles {
        /// The limit.
        max: usize,
    },
    /// The depth of folders has a limit.
    #[error("folders are nested deeper than {max}; files inside are not read")]
    FoldersTooDeep {
        /// The limit.
        max: usize,
    },
    /// An error of the YAML parser, or of one of its budgets.
    #[error("{message}")]
    Syntax {
        /// Its message.
        message: Arc<str>,
    },
    /// A key stands twice in one mapping.
    #[error("duplicate key, first in line {first_line}")]
    DuplicateKey {
        /// The line of the second one.
        line: u32,
        /// The line of the first one.
        first_line: u32,
    },
    /// A list or a scalar.
    #[error("a manifest is a mapping with apiVersion, kind and metadata; this is {found}")]
    NotAMapping {
        /// Its type.
        found: &'static str,
    },
    /// `apiVersion`, `kind` or `metadata.name`.
    #[error("is missing")]
    Missing,
    /// A kind of ours in a version that does not exist.
    #[error("`{}` is not served; write {served}", cut(.found))]
    UnknownVersion {
        /// As written.
        found: Arc<str>,
        /// The version that is served.
        served: &'static str,
    },
    /// A kind of ours under a group that was probably meant to be its own.
    #[error("`{}` has no {kind}: did you mean `{served}`?", cut(.found))]
    UnknownGroup {
        /// The kind.
        kind: &'static str,
        /// The apiVersion as written.
        found: Arc<str>,
        /// The apiVersion that is served.
        served: &'static str,
    },
    /// A kind that its API group does not have.
    #[error("`{}` is not a kind of this API group{}", cut(.found), hint(*.meant).unwrap_or_default())]
    UnknownKind {
        /// As written.
        found: Arc<str>,
        /// The nearest one.
        meant: Option<&'static str>,
    },
    /// A policy's kind under an API group that is not Istio's.
    #[error("is ignored: only {kind} of security.istio.io is served, not of `{}`", cut(.found))]
    ForeignGroup {
        /// The kind.
        kind: &'static str,
        /// The apiVersion as written.
        found: Arc<str>,
    },
    /// Two manifests for one object.
    #[error("duplicate object: {file}{} has it too, and that one is served", at_line(*.line))]
    DuplicateObject {
        /// The file of the one that is served.
        file: Arc<str>,
        /// Its line.
        line: Option<u32>,
    },
    /// Further faults beyond the limit of listed ones.
    #[error("and {count} more")]
    More {
        /// The count of those left out.
        count: usize,
    },
    /// `apiVersion` of a known kind. A warning only: an API server refuses such an object.
    #[error("`{}` does not exist: a cluster refuses it; write {}", cut(.found), .known.api_version())]
    KnownVersion {
        /// As written.
        found: Arc<str>,
        /// The kind.
        known: &'static KnownKind,
    },
    /// An object that configures a mesh and is not served.
    #[error("{}: {}", match .known.future { Support::Later => "known, not yet served", Support::Never => "known, will not be served" }, .known.meanwhile.says)]
    KindNotServed {
        /// Its row of the table.
        known: &'static KnownKind,
    },
    /// A field, label or annotation without effect, or with another one than elsewhere.
    #[error("{}{}", .field.says, further(.also))]
    Field {
        /// Its row of the table.
        field: &'static Field,
        /// Further lines where it stands.
        also: Lines,
    },
    /// A metric that does not exist here.
    #[error("`{}` {says}", cut(.found))]
    Series {
        /// Its name.
        found: Arc<str>,
        /// Why.
        says: &'static str,
    },
    /// Values of a chart, a dashboard: a mapping that has nothing of an object.
    #[error("is not a Kubernetes object (no apiVersion, kind, metadata, spec): ignored{}", .looks.map(|l| format!("; it looks like {l}")).unwrap_or_default())]
    NoObject {
        /// Its probable kind.
        looks: Option<&'static str>,
    },
    /// A chart template, which is not YAML.
    #[error("is not valid YAML, and looks like a chart template: render it first (helm template)")]
    Template,

    // ---- API servers
    /// An API server gives no answer about the objects of a kind, or none that can be read.
    #[error("objects of kind {kind} cannot be read: {cause}")]
    KindUnreadable {
        /// The kind.
        kind: &'static str,
        /// The cause, in one line.
        cause: Arc<str>,
    },
    /// An API server does not have a kind.
    #[error("the API server does not have kind {kind}: its objects are read as soon as it does")]
    KindAbsent {
        /// The kind.
        kind: &'static str,
    },

    // ---- shapes
    /// An unknown field of a policy.
    #[error("unknown field{}", hint(*.meant).unwrap_or_else(|| format!("; known fields: {}", list(.known))))]
    UnknownField {
        /// The nearest one.
        meant: Option<&'static str>,
        /// All that are.
        known: &'static [&'static str],
    },
    /// A field that a newer version of the API defines; the object is served without it.
    #[error("unknown field, probably of a newer version of its API: ignored")]
    NewerField,
    /// The same in a policy, which is not.
    #[error("unknown field, probably of a newer version of its API: without it the policy might allow more")]
    NewerPolicyField,
    /// A plain scalar that YAML reads as another type than text.
    #[error("YAML reads this as {found}, expected text: write it in quotes")]
    Unquoted {
        /// The type that YAML reads.
        found: Arc<str>,
    },
    /// A value of another type than expected.
    #[error("is {found}, expected {expected}")]
    WrongType {
        /// Its type.
        found: Arc<str>,
        /// The expected type.
        expected: Arc<str>,
    },
    /// A key without a value, where that could be read as "anything".
    #[error("has no value: write one or leave the key out")]
    Null,

    // ---- values
    /// A name of an object or a namespace.
    #[error("`{}` is not a valid name: {rule}", cut(.found))]
    Name {
        /// As written.
        found: Arc<str>,
        /// The rule of valid ones.
        rule: &'static str,
    },
    /// The key of a label or an annotation.
    #[error(
        "is not a valid key: an optional DNS prefix and `/`, then up to 63 of A-Z a-z 0-9 - _ . (not at the ends - _ .)"
    )]
    LabelKey,
    /// The value of a label.
    #[error("`{}` is not a label value: up to 63 of A-Z a-z 0-9 - _ . (not at the ends - _ .)", cut(.found))]
    LabelValue {
        /// As written.
        found: Arc<str>,
    },
    /// `metadata.uid`.
    #[error("`{}` is not a uid: up to 128 of A-Z a-z 0-9 -", cut(.found))]
    Uid {
        /// As written.
        found: Arc<str>,
    },
    /// An IP address.
    #[error("`{}` is not an IP address", cut(.found))]
    Address {
        /// As written.
        found: Arc<str>,
    },
    /// An IP address that no pod or service can have.
    #[error("{found} cannot be the address of a pod, a node or a service")]
    LocalAddress {
        /// The address.
        found: std::net::IpAddr,
    },
    /// `ipBlocks`.
    #[error("`{}` is neither an IP address nor a CIDR", cut(.found))]
    Cidr {
        /// As written.
        found: Arc<str>,
    },
    /// A range of addresses behind another one.
    #[error("`{}` is a second range of this address family: write one of each", cut(.found))]
    SecondRange {
        /// As written.
        found: Arc<str>,
    },
    /// A port number.
    #[error("`{}` is not a port: a number from 1 to 65535", cut(.found))]
    Port {
        /// As written.
        found: Arc<str>,
    },
    /// The name of a container's port.
    #[error("`{}` is not a port name: up to 15 of a-z 0-9 -, with a letter", cut(.found))]
    PortName {
        /// As written.
        found: Arc<str>,
    },
    /// RFC 3339.
    #[error("`{}` is not a time: write one like 2026-01-31T23:59:59Z", cut(.found))]
    Time {
        /// As written.
        found: Arc<str>,
    },
    /// One of a closed set.
    #[error("`{}` is not one of {}", cut(.found), list(.known))]
    Value {
        /// As written.
        found: Arc<str>,
        /// The set.
        known: &'static [&'static str],
    },
    /// A service account in a policy.
    #[error("`{}` is not a service account: write `namespace/name`, or `name` for the policy's namespace", cut(.found))]
    ServiceAccount {
        /// As written.
        found: Arc<str>,
    },

    /// Addresses of one object.
    #[error("more than {max} addresses")]
    TooManyAddresses {
        /// The limit.
        max: usize,
    },
    /// Two ports of a service.
    #[error("duplicate port {port}")]
    DuplicatePort {
        /// The port.
        port: u16,
    },

    // ---- routes
    /// Of a VirtualService or a DestinationRule.
    #[error(transparent)]
    Route(#[from] RouteFault),

    // ---- policies
    /// An empty list: read as "anything" it would widen access.
    #[error("the list is empty, which could mean nothing or anything: leave the field out, or list values")]
    EmptyList,
    /// An empty text in a list.
    #[error("is empty")]
    EmptyValue,
    /// `source: {}` and the like.
    #[error("matches nothing: set at least one field of {what}")]
    EmptyMatch {
        /// The fields to choose from.
        what: &'static str,
    },
    /// A `when` key that Istio does not define.
    #[error("`{}` is not a known attribute for conditions{}", cut(.found), hint(*.meant).unwrap_or_default())]
    WhenKey {
        /// As written.
        found: Arc<str>,
        /// The nearest one.
        meant: Option<&'static str>,
    },
    /// `request.headers[NAME]`.
    #[error("`{}` is not an attribute of a header: {reason}", cut(.found))]
    HeaderName {
        /// As written.
        found: Arc<str>,
        /// Why.
        reason: ParseHeaderNameError,
    },
    /// Of `paths`.
    #[error("`{}` is not a path template: {reason}", cut(.found))]
    PathTemplate {
        /// As written.
        found: Arc<str>,
        /// Why.
        reason: ParsePathError,
    },
    /// Of a Gateway that is a waypoint.
    #[error("a waypoint needs a listener with protocol HBONE")]
    NoHboneListener,
    /// `provider` beside another action.
    #[error("only action CUSTOM has a provider")]
    Provider,
    /// Two fields that exclude each other.
    #[error("conflicts with `{other}`: set only one of the two")]
    Exclusive {
        /// The other one.
        other: &'static str,
    },
    /// `targetRefs` reach their own namespace only.
    #[error("`{}` is another namespace: a policy applies to targets of its own namespace only", cut(.found))]
    OtherNamespace {
        /// As written.
        found: Arc<str>,
    },

    /// It would never match: a `not` or a DENY with it would let all callers pass.
    #[error("principals are written without `spiffe://`: write `{}`", cut(.bare))]
    SpiffePrefix {
        /// The text to write.
        bare: Arc<str>,
    },

    /// No name has a star: it would never match.
    #[error(
        "`{}`: a `*` is a wildcard only once, at the beginning or the end; write `*`, `prefix*` or `*suffix`{}",
        cut(.found),
        if *.both { ", or one value for each" } else { "" }
    )]
    Star {
        /// As written.
        found: Arc<str>,
        /// It has one at both ends.
        both: bool,
    },

    /// Of a resource of a control plane.
    #[error(transparent)]
    Resource(#[from] ResourceFault),

    /// A preference with an unknown value: it is ignored.
    #[error("`{}` is not one of {}: {instead}", cut(.found), list(.known))]
    ValueIgnored {
        /// As written.
        found: Arc<str>,
        /// The set.
        known: &'static [&'static str],
        /// The effect instead.
        instead: &'static str,
    },
    /// An unknown field of Kubernetes' kinds, near one that is read.
    #[error("unknown field, ignored: did you mean `{meant}`?")]
    PassedOver {
        /// The nearest one.
        meant: &'static str,
    },
    /// `underpass.dev/weight`.
    #[error("`{}` is not a weight (a number from 0 to {max}): {instead} is used", cut(.found))]
    Weight {
        /// As written.
        found: Arc<str>,
        /// The greatest.
        max: u16,
        /// The weight that is used.
        instead: u16,
    },
    /// A field of a served object that is not served.
    #[error("known, not yet served: {instead}")]
    FieldNotServed {
        /// The effect instead.
        instead: &'static str,
    },
}

impl Fault {
    /// The severity of the problem.
    #[must_use]
    pub const fn severity(&self) -> Severity {
        match self {
            Self::KindNotServed { known } => known.meanwhile.severity,
            Self::Field { field, .. } => field.severity,
            Self::Series { .. } | Self::NoObject { .. } | Self::KindAbsent { .. } | Self::Empty { gave: false } => {
                Severity::Notice
            }
            Self::FieldNotServed { .. }
            | Self::ForeignGroup { .. }
            | Self::KnownVersion { .. }
            | Self::ValueIgnored { .. }
            | Self::PassedOver { .. }
            | Self::NewerField
            | Self::Resource(ResourceFault::TrustDomain { .. })
            | Self::Weight { .. } => Severity::Warning,
            _ => Severity::Error,
        }
    }

    /// Advice beyond the text.
    #[must_use]
    pub const fn help(&self) -> Option<&'static str> {
        match self {
            Self::KindNotServed { known } => Some(known.instead),
            Self::Series { .. } => Some("docs/metrics.md lists the metrics that exist"),
            _ => None,
        }
    }
}
