//! Problems of objects, for their authors: source, object, field, reason and effect. One line for people, one object
//! for programs.

use std::{fmt, sync::Arc};

use serde::{Serialize, Serializer};
use underpass_core::{ObjectKey, ObjectName};

use crate::{Fault, Path};

/// The severity of a problem.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Known, and not yet served: nothing to fix.
    Notice,
    /// Served, but not as its author may think.
    Warning,
    /// Not served.
    Error,
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Notice => "notice",
            Self::Warning => "warning",
            Self::Error => "error",
        })
    }
}

/// Kind and name of any object, of the mesh's or not.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ObjectId {
    /// The kind as written.
    pub kind: Arc<str>,
    /// The name; its namespace is empty where the kind is cluster-scoped.
    pub name: ObjectName,
}

impl fmt::Display for ObjectId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.kind, self.name)
    }
}

impl From<&ObjectKey> for ObjectId {
    fn from(key: &ObjectKey) -> Self {
        Self { kind: key.kind.as_str().into(), name: key.name.clone() }
    }
}

/// The effect of an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Effect {
    /// The object is not served.
    Absent,
    /// The last good version stays served.
    LastGood,
    /// A security policy without a good version: connections to all that it selects are refused until it is fixed.
    Closed,
}

impl fmt::Display for Effect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Absent => "not served",
            Self::LastGood => "the last good version stays served",
            Self::Closed => "connections to what it selects are refused until it is fixed",
        })
    }
}

/// The source of a problem. Ordered as problems are listed: by file, document and line.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Source {
    /// A manifest.
    File {
        /// The file, relative to the directory.
        file: Arc<str>,
        /// The document, from 1; none: the file as a whole.
        document: Option<u32>,
        /// The line in the file, from 1, as near as it is known.
        line: Option<u32>,
    },
    /// An object of an API server, which the problem names, or a kind as a whole.
    ApiServer {
        /// The `resourceVersion` that was read; empty where nothing was read yet.
        resource_version: Arc<str>,
    },
    /// A resource of a control plane.
    ControlPlane {
        /// Its name there.
        resource: Arc<str>,
    },
}

impl Source {
    /// A file as a whole.
    #[must_use]
    pub fn file(file: &Arc<str>) -> Self {
        Self::File { file: Arc::clone(file), document: None, line: None }
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File { file, document, line } => {
                f.write_str(file)?;
                line.map_or(Ok(()), |line| write!(f, ":{line}"))?;
                document.map_or(Ok(()), |document| write!(f, ": document {document}"))
            }
            Self::ApiServer { resource_version } if resource_version.is_empty() => f.write_str("API server"),
            Self::ApiServer { resource_version } => write!(f, "API server: version {resource_version}"),
            Self::ControlPlane { resource } => write!(f, "control plane: {resource}"),
        }
    }
}

/// A problem of an object. Prints as one line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The source.
    pub source: Source,
    /// The object, where that could be read.
    pub object: Option<ObjectId>,
    /// The field; empty for the object as a whole.
    pub field: Path,
    /// The reason.
    pub reason: Fault,
    /// The effect, if it is an error.
    pub effect: Option<Effect>,
}

impl Problem {
    /// The severity: follows from the reason.
    #[must_use]
    pub const fn severity(&self) -> Severity {
        self.reason.severity()
    }

    /// Of all that the source names.
    #[must_use]
    pub fn new(source: Source, reason: Fault) -> Self {
        Self { source, object: None, field: Path::default(), reason, effect: None }
    }

    /// The order of a list: by source and field.
    #[must_use]
    pub fn order(&self, other: &Self) -> std::cmp::Ordering {
        self.source.cmp(&other.source).then_with(|| self.field.cmp(&other.field))
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        use fmt::Write as _;
        let f = &mut OneLine(f);
        write!(f, "{}: {}", self.severity(), self.source)?;
        if let Some(object) = &self.object {
            write!(f, ": {object}")?;
        }
        if !self.field.is_empty() {
            write!(f, ": {}", self.field)?;
        }
        write!(f, ": {}", self.reason)?;
        match self.effect {
            Some(effect) => write!(f, " ({effect})"),
            None => Ok(()),
        }
    }
}

/// Passes text on, control characters escaped: an object must not write a second line, or into a terminal.
struct OneLine<'a, 'f>(&'a mut fmt::Formatter<'f>);

impl fmt::Write for OneLine<'_, '_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        text.chars().try_for_each(|c| match c.is_control() {
            true => write!(self.0, "{}", c.escape_default()),
            false => self.0.write_char(c),
        })
    }
}

impl Serialize for Problem {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        use serde::ser::SerializeStruct as _;
        let fields = if matches!(self.source, Source::File { .. }) { 9 } else { 7 };
        let mut out = s.serialize_struct("Problem", fields)?;
        out.serialize_field("severity", &self.severity())?;
        match &self.source {
            Source::File { file, document, line } => {
                out.serialize_field("file", file)?;
                out.serialize_field("document", document)?;
                out.serialize_field("line", line)?;
            }
            Source::ApiServer { resource_version } => out.serialize_field("resource_version", resource_version)?,
            Source::ControlPlane { resource } => out.serialize_field("resource", resource)?,
        }
        out.serialize_field("object", &self.object.as_ref().map(ToString::to_string))?;
        out.serialize_field("field", &self.field.to_string())?;
        out.serialize_field("reason", &self.reason.to_string())?;
        out.serialize_field("effect", &self.effect)?;
        out.serialize_field("help", &self.reason.help())?;
        out.end()
    }
}

#[cfg(test)]
mod tests {
    use expect_test::{Expect, expect};
    use underpass_core::{Kind, testing::name};

    use super::*;

    fn problem(source: Source) -> Problem {
        let object = ObjectId::from(&ObjectKey::new(Kind::AuthorizationPolicy, name("a/p")));
        let (object, field) = (Some(object), Path::parse("spec.rules[0].from"));
        Problem { object, field, effect: Some(Effect::Closed), ..Problem::new(source, Fault::EmptyList) }
    }

    fn at(file: &str, document: Option<u32>, line: Option<u32>) -> Source {
        Source::File { file: file.into(), document, line }
    }

    #[test]
    fn each_source_is_named() {
        let check = |source: Source, text: Expect, json: Expect| {
            let problem = problem(source);
            text.assert_eq(&problem.to_string());
            json.assert_eq(&serde_json::to_string(&problem).unwrap());
        };
        check(
            at("a.yaml", Some(2), Some(7)),
            expect![
                "error: a.yaml:7: document 2: AuthorizationPolicy a/p: spec.rules[0].from: the list is empty, which could mean nothing or anything: leave the field out, or list values (connections to what it selects are refused until it is fixed)"
            ],
            expect![[
                r#"{"severity":"error","file":"a.yaml","document":2,"line":7,"object":"AuthorizationPolicy a/p","field":"spec.rules[0].from","reason":"the list is empty, which could mean nothing or anything: leave the field out, or list values","effect":"closed","help":null}"#
            ]],
        );
        check(
            Source::ApiServer { resource_version: "4711".into() },
            expect![
                "error: API server: version 4711: AuthorizationPolicy a/p: spec.rules[0].from: the list is empty, which could mean nothing or anything: leave the field out, or list values (connections to what it selects are refused until it is fixed)"
            ],
            expect![[
                r#"{"severity":"error","resource_version":"4711","object":"AuthorizationPolicy a/p","field":"spec.rules[0].from","reason":"the list is empty, which could mean nothing or anything: leave the field out, or list values","effect":"closed","help":null}"#
            ]],
        );
        check(
            Source::ControlPlane { resource: "a/p".into() },
            expect![
                "error: control plane: a/p: AuthorizationPolicy a/p: spec.rules[0].from: the list is empty, which could mean nothing or anything: leave the field out, or list values (connections to what it selects are refused until it is fixed)"
            ],
            expect![[
                r#"{"severity":"error","resource":"a/p","object":"AuthorizationPolicy a/p","field":"spec.rules[0].from","reason":"the list is empty, which could mean nothing or anything: leave the field out, or list values","effect":"closed","help":null}"#
            ]],
        );
    }

    #[test]
    fn nothing_writes_a_second_line() {
        let source = Source::ControlPlane { resource: "a\n\u{1b}[2J".into() };
        let line = Problem::new(source, Fault::Name { found: "x\ry".into(), rule: "" }).to_string();
        assert!(!line.contains(char::is_control), "{line:?}");
        assert!(line.contains("a\\n") && line.contains("x\\ry"), "{line:?}");
    }

    #[test]
    fn the_whole_comes_before_its_parts() {
        let in_order = [
            at("a.yaml", None, None),
            at("a.yaml", Some(1), None),
            at("a.yaml", Some(1), Some(9)),
            at("a.yaml", Some(2), Some(3)),
            at("b.yaml", None, None),
            Source::ApiServer { resource_version: "1".into() },
            Source::ControlPlane { resource: "a".into() },
        ];
        assert!(in_order.is_sorted());
        let mut fields = ["spec.rules[1]", "", "spec.rules[0]"]
            .map(|field| Problem { field: Path::parse(field), ..problem(at("a.yaml", Some(1), Some(1))) });
        fields.sort_by(Problem::order);
        assert_eq!(fields.map(|p| p.field.to_string()), ["", "spec.rules[0]", "spec.rules[1]"]);
    }
}
