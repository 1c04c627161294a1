//! What is wrong with a manifest, for the one who wrote it: where it stands, which object, which field, why, and what
//! happens because of it. One line for people, one object for programs.

use std::{fmt, sync::Arc};

use serde::{Serialize, Serializer};
use underpass_core::{ObjectKey, ObjectName};

use crate::{Fault, Path};

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Known, and not yet served: nothing to mend.
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

/// What an error leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Effect {
    /// The object is not there.
    Absent,
    /// What was there before goes on serving.
    LastGood,
    /// A security policy without a version that could serve: all that it selects is refused until it is mended.
    Closed,
}

impl fmt::Display for Effect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Absent => "not served",
            Self::LastGood => "the last good version keeps serving",
            Self::Closed => "until it is mended, what it selects is refused",
        })
    }
}

/// One thing to tell the author of a manifest. Prints as one line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The file, relative to the directory.
    pub file: Arc<str>,
    /// Which of its documents, from 1; none: the file as a whole.
    pub document: Option<u32>,
    /// The line in the file, from 1, as near as it is known.
    pub line: Option<u32>,
    /// The object, where that could be read.
    pub object: Option<ObjectId>,
    /// The field; empty for the object as a whole.
    pub field: Path,
    /// Why.
    pub reason: Fault,
    /// What happens because of it, where it is an error.
    pub effect: Option<Effect>,
}

impl Problem {
    /// How bad it is: follows from the reason.
    #[must_use]
    pub const fn severity(&self) -> Severity {
        self.reason.severity()
    }

    pub(crate) fn of_file(file: &Arc<str>, reason: Fault) -> Self {
        let file = Arc::clone(file);
        Self { file, document: None, line: None, object: None, field: Path::default(), reason, effect: None }
    }

    pub(crate) fn order(&self, other: &Self) -> std::cmp::Ordering {
        let key = |p: &Self| (Arc::clone(&p.file), p.document, p.line);
        key(self).cmp(&key(other)).then_with(|| self.field.cmp(&other.field))
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        use fmt::Write as _;
        let f = &mut OneLine(f);
        write!(f, "{}: {}", self.severity(), self.file)?;
        if let Some(line) = self.line {
            write!(f, ":{line}")?;
        }
        if let Some(document) = self.document {
            write!(f, ": document {document}")?;
        }
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

/// Passes text on, control characters escaped: a manifest must not write a second line, or into a terminal.
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
        let mut out = s.serialize_struct("Problem", 9)?;
        out.serialize_field("severity", &self.severity())?;
        out.serialize_field("file", &self.file)?;
        out.serialize_field("document", &self.document)?;
        out.serialize_field("line", &self.line)?;
        out.serialize_field("object", &self.object.as_ref().map(ToString::to_string))?;
        out.serialize_field("field", &self.field.to_string())?;
        out.serialize_field("reason", &self.reason.to_string())?;
        out.serialize_field("effect", &self.effect)?;
        out.serialize_field("help", &self.reason.help())?;
        out.end()
    }
}
