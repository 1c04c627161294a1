//! Everything that can be wrong with what a door reads, as one enum: what is wrong is decided where it is known, and every
//! text that a user reads stands here.

use std::{io, sync::Arc};

use underpass_core::authz::{ParseHeaderNameError, ParsePathError};

use crate::{Field, Future, Known, Severity};

/// Lines of a file.
pub type Lines = Vec<u32>;

/// One reason. Texts from the manifest are printed as written, cut where they are long.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Fault {
    // ---- files and documents
    /// The operating system said no.
    #[error("cannot be read: {kind}")]
    Io {
        /// What it said.
        kind: io::ErrorKind,
    },
    /// No document says anything: a file that was cut short, a placeholder.
    #[error("{}", if *.gave { "is empty: what it gave is deleted only with the file (rm)" } else { "holds no object" })]
    Empty {
        /// It gave objects before, which are still served.
        gave: bool,
    },
    /// A file has a limit.
    #[error("is larger than {max} bytes")]
    FileTooLarge {
        /// The limit.
        max: u64,
    },
    /// Manifests are UTF-8.
    #[error("is no UTF-8 text, from byte {at} on")]
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
        "the directory has more than {max} manifests: further ones are not read, and what is gone stays until there are fewer"
    )]
    TooManyFiles {
        /// The limit.
        max: usize,
    },
    /// The depth of folders has a limit.
    #[error("folders are nested deeper than {max}; what is inside is not read")]
    FoldersTooDeep {
        /// The limit.
        max: usize,
    },
    /// The YAML parser, or one of its budgets, said no.
    #[error("{message}")]
    Syntax {
        /// What it said.
        message: Arc<str>,
    },
    /// A key stands twice in one mapping.
    #[error("this key stands twice, first in line {first_line}")]
    DuplicateKey {
        /// Where it stands again.
        line: u32,
        /// Where it stands first.
        first_line: u32,
    },
    /// A list or a scalar.
    #[error("a manifest is a mapping with apiVersion, kind and metadata; this is {found}")]
    NotAMapping {
        /// What it is.
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
        /// What is.
        served: &'static str,
    },
    /// A kind of ours under a group that was probably meant to be its own.
    #[error("`{}` has no {kind}: did you mean `{served}`?", cut(.found))]
    UnknownGroup {
        /// The kind.
        kind: &'static str,
        /// The apiVersion as written.
        found: Arc<str>,
        /// What is served.
        served: &'static str,
    },
    /// A kind that its API group does not have.
    #[error("`{}` is no kind of this API group{}", cut(.found), hint(*.meant).unwrap_or_default())]
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
    #[error("stands in {file}{} already; that one counts", at_line(*.line))]
    DuplicateObject {
        /// Where the one stands that counts.
        file: Arc<str>,
        /// Its line.
        line: Option<u32>,
    },
    /// More of them than are worth a line each.
    #[error("and {count} more")]
    More {
        /// How many are left out.
        count: usize,
    },
    /// `apiVersion` of a known kind. A warning, because nothing is lost: an API server refuses it.
    #[error("`{}` does not exist: a cluster refuses it; write {}", cut(.found), .known.api_version())]
    KnownVersion {
        /// As written.
        found: Arc<str>,
        /// The kind.
        known: &'static Known,
    },
    /// An object that configures a mesh and is not served.
    #[error("{}: {}", match .known.future { Future::Later => "known, not yet served", Future::Never => "known, will not be served" }, .known.meanwhile.says)]
    KindNotServed {
        /// What is known about it.
        known: &'static Known,
    },
    /// A field, label or annotation without effect, or with another one than elsewhere.
    #[error("{}{}", .field.says, further(.also))]
    Field {
        /// What is known about it.
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
    #[error("is no Kubernetes object (no apiVersion, kind, metadata, spec): ignored{}", .looks.map(|l| format!("; it looks like {l}")).unwrap_or_default())]
    NoObject {
        /// What it looks like.
        looks: Option<&'static str>,
    },
    /// A template of a chart, which is no YAML.
    #[error("is no valid YAML, and looks like a template of a chart: render it first (helm template)")]
    Template,

    // ---- shapes
    /// A field of a policy that nobody defined.
    #[error("unknown field{}", hint(*.meant).unwrap_or_else(|| format!("; known are {}", list(.known))))]
    UnknownField {
        /// The nearest one.
        meant: Option<&'static str>,
        /// All that are.
        known: &'static [&'static str],
    },
    /// A field that a newer version of the API defines; the object is served without it.
    #[error("unknown field, probably of a newer version of its API: passed over")]
    NewerField,
    /// The same in a policy, which is not.
    #[error("unknown field, probably of a newer version of its API: without it the policy might allow more")]
    NewerPolicyField,
    /// A plain scalar that YAML reads as something else than text.
    #[error("YAML reads this as {found}; text is expected: write it in quotes")]
    Unquoted {
        /// What YAML reads.
        found: Arc<str>,
    },
    /// Something else than expected.
    #[error("is {found}; expected is {expected}")]
    WrongType {
        /// What it is.
        found: Arc<str>,
        /// What it must be.
        expected: Arc<str>,
    },
    /// A key without a value, where that could be read as "anything".
    #[error("has no value: write one or leave the key out")]
    Null,

    // ---- values
    /// A name of an object or a namespace.
    #[error("`{}` is no valid name: {rule}", cut(.found))]
    Name {
        /// As written.
        found: Arc<str>,
        /// What a valid one is.
        rule: &'static str,
    },
    /// The key of a label or an annotation.
    #[error(
        "is no valid key: an optional DNS prefix and `/`, then up to 63 of A-Z a-z 0-9 - _ . (not at the ends - _ .)"
    )]
    LabelKey,
    /// The value of a label.
    #[error("`{}` is no label value: up to 63 of A-Z a-z 0-9 - _ . (not at the ends - _ .)", cut(.found))]
    LabelValue {
        /// As written.
        found: Arc<str>,
    },
    /// `metadata.uid`.
    #[error("`{}` is no uid: up to 128 of A-Z a-z 0-9 -", cut(.found))]
    Uid {
        /// As written.
        found: Arc<str>,
    },
    /// An IP address.
    #[error("`{}` is no IP address", cut(.found))]
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
    #[error("`{}` is no IP address and no CIDR", cut(.found))]
    Cidr {
        /// As written.
        found: Arc<str>,
    },
    /// A port number.
    #[error("`{}` is no port: a number from 1 to 65535", cut(.found))]
    Port {
        /// As written.
        found: Arc<str>,
    },
    /// The name of a container's port.
    #[error("`{}` is no port name: up to 15 of a-z 0-9 -, with a letter", cut(.found))]
    PortName {
        /// As written.
        found: Arc<str>,
    },
    /// RFC 3339.
    #[error("`{}` is no time like 2026-01-31T23:59:59Z", cut(.found))]
    Time {
        /// As written.
        found: Arc<str>,
    },
    /// One of a closed set.
    #[error("`{}` is none of {}", cut(.found), list(.known))]
    Value {
        /// As written.
        found: Arc<str>,
        /// The set.
        known: &'static [&'static str],
    },
    /// A service account in a policy.
    #[error("`{}` is no service account: write `namespace/name`, or `name` for the policy's namespace", cut(.found))]
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
    #[error("port {port} stands twice")]
    DuplicatePort {
        /// The port.
        port: u16,
    },

    // ---- policies
    /// A list that asks for nothing: read as "anything" it would widen access.
    #[error("the list is empty: it would match nothing or anything; leave the field out or name values")]
    EmptyList,
    /// An empty text in a list.
    #[error("is empty")]
    EmptyValue,
    /// `source: {}` and the like.
    #[error("asks for nothing: name at least one field of {what}")]
    EmptyMatch {
        /// What it is.
        what: &'static str,
    },
    /// A `when` key that Istio does not define.
    #[error("`{}` is no attribute that a condition can ask for{}", cut(.found), hint(*.meant).unwrap_or_default())]
    WhenKey {
        /// As written.
        found: Arc<str>,
        /// The nearest one.
        meant: Option<&'static str>,
    },
    /// `request.headers[NAME]`.
    #[error("`{}` names no header: {reason}", cut(.found))]
    HeaderName {
        /// As written.
        found: Arc<str>,
        /// Why.
        reason: ParseHeaderNameError,
    },
    /// Of `paths`.
    #[error("`{}` is no template of a path: {reason}", cut(.found))]
    PathTemplate {
        /// As written.
        found: Arc<str>,
        /// Why.
        reason: ParsePathError,
    },
    /// `CUSTOM` and `AUDIT`.
    #[error("{action} is not served at L4: use ALLOW or DENY")]
    ActionNotServed {
        /// As written.
        action: &'static str,
    },
    /// `provider` beside another action.
    #[error("only action CUSTOM has a provider")]
    Provider,
    /// Two fields that exclude each other.
    #[error("stands beside `{other}`: only one of the two can be given")]
    Exclusive {
        /// The other one.
        other: &'static str,
    },
    /// `targetRefs` reach their own namespace only.
    #[error("`{}` is another namespace: a policy is about targets of its own namespace", cut(.found))]
    OtherNamespace {
        /// As written.
        found: Arc<str>,
    },

    /// It would never match: a `not` or a DENY with it would let everybody pass.
    #[error("principals are written without `spiffe://`: write `{}`", cut(.bare))]
    SpiffePrefix {
        /// What to write.
        bare: Arc<str>,
    },

    /// Nothing has a star in its name: it would never match.
    #[error(
        "`{}` has a `*` that is not at one of its ends, where it is read as it is and never matches: write `*`, `start*` or `*end`{}",
        cut(.found),
        if *.both { ", or one value for each" } else { "" }
    )]
    Star {
        /// As written.
        found: Arc<str>,
        /// It has one at both ends.
        both: bool,
    },

    // ---- warnings
    /// A wish that nobody can read: it is passed over.
    #[error("`{}` is none of {}: {instead}", cut(.found), list(.known))]
    ValueIgnored {
        /// As written.
        found: Arc<str>,
        /// The set.
        known: &'static [&'static str],
        /// What happens instead.
        instead: &'static str,
    },
    /// A field of Kubernetes' kinds that nobody defined, near one that is read.
    #[error("unknown field, passed over: did you mean `{meant}`?")]
    PassedOver {
        /// The nearest one.
        meant: &'static str,
    },
    /// `underpass.dev/weight`.
    #[error("`{}` is no weight: a number from 0 to {max}; it counts as {instead}", cut(.found))]
    Weight {
        /// As written.
        found: Arc<str>,
        /// The greatest.
        max: u16,
        /// What counts.
        instead: u16,
    },
    /// A field of a served object that is not served.
    #[error("known, not yet served: {instead}")]
    FieldNotServed {
        /// What happens instead.
        instead: &'static str,
    },
}

impl Fault {
    /// How bad it is.
    #[must_use]
    pub const fn severity(&self) -> Severity {
        match self {
            Self::KindNotServed { known } => known.meanwhile.severity,
            Self::Field { field, .. } => field.severity,
            Self::Series { .. } | Self::NoObject { .. } | Self::Empty { gave: false } => Severity::Notice,
            Self::FieldNotServed { .. }
            | Self::ForeignGroup { .. }
            | Self::KnownVersion { .. }
            | Self::ValueIgnored { .. }
            | Self::PassedOver { .. }
            | Self::NewerField
            | Self::Weight { .. } => Severity::Warning,
            _ => Severity::Error,
        }
    }
}

impl Fault {
    /// What to do about it, where that is more than the text says.
    #[must_use]
    pub const fn help(&self) -> Option<&'static str> {
        match self {
            Self::KindNotServed { known } => Some(known.instead),
            Self::Series { .. } => Some("docs/metrics.md lists what there is"),
            _ => None,
        }
    }
}

fn further(lines: &[u32]) -> String {
    const MOST: usize = 5;
    let some: Vec<_> = lines.iter().take(MOST).map(ToString::to_string).collect();
    let more = if lines.len() > MOST { " ..." } else { "" };
    match lines.len() {
        0 => String::new(),
        1 => format!(" (also in line {})", some.join("")),
        _ => format!(" (also in lines {}{more})", some.join(", ")),
    }
}

fn hint(meant: Option<&'static str>) -> Option<String> {
    meant.map(|m| format!(": did you mean `{m}`?"))
}

fn at_line(line: Option<u32>) -> String {
    line.map_or_else(String::new, |l| format!(":{l}"))
}

fn list(known: &[&str]) -> String {
    known.join(", ")
}

/// Enough of a text to find it again; a manifest of megabytes makes no message of megabytes.
fn cut(text: &str) -> String {
    const MOST: usize = 80;
    let mut out: String = text.chars().take(MOST).collect();
    if text.chars().nth(MOST).is_some() {
        out.push('…');
    }
    out
}
