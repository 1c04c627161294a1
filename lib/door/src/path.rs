//! The path of a field in an object: `spec.rules[0].from[1].source.principals[2]`. Its own file because shapes,
//! converters and trees must mean the same field by it.

use std::fmt;

/// One step into an object.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Segment {
    /// A key of a mapping.
    Field(Box<str>),
    /// A position in a list, from 0.
    Index(usize),
}

/// The path of a field; empty for the object as a whole.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Path(Vec<Segment>);

impl Path {
    /// The steps, outermost first.
    #[must_use]
    pub fn segments(&self) -> &[Segment] {
        &self.0
    }

    /// The object as a whole.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// A path from its printed form: `spec.rules[0].from`, `metadata.labels[app.kubernetes.io/name]`. What is
    /// not well-formed is read as far as it is.
    #[must_use]
    pub fn parse(text: &str) -> Self {
        let mut segments = Vec::new();
        let mut rest = text;
        while !rest.is_empty() {
            let (word, after) = match rest.strip_prefix('[') {
                Some(inner) => inner.split_once(']').unwrap_or((inner, "")),
                None => rest.split_at(rest.find(['.', '[']).unwrap_or(rest.len())),
            };
            let index = word.parse().ok().filter(|_| rest.starts_with('['));
            segments.push(index.map_or_else(|| Segment::Field(word.into()), Segment::Index));
            rest = after.strip_prefix('.').unwrap_or(after);
        }
        Self(segments)
    }

    /// This path, seen from one step further out.
    pub fn prefix(&mut self, segment: Segment) {
        self.0.insert(0, segment);
    }

    /// This path, seen from `outer`.
    #[must_use]
    pub fn inside(mut self, outer: &Self) -> Self {
        self.0.splice(0..0, outer.0.iter().cloned());
        self
    }
}

impl FromIterator<Segment> for Path {
    fn from_iter<I: IntoIterator<Item = Segment>>(segments: I) -> Self {
        Self(segments.into_iter().collect())
    }
}

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, segment) in self.0.iter().enumerate() {
            match segment {
                Segment::Index(n) => write!(f, "[{n}]")?,
                Segment::Field(name) if name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_') => {
                    write!(f, "{}{name}", if i == 0 { "" } else { "." })?;
                }
                // keys of labels have dots and slashes of their own
                Segment::Field(name) => write!(f, "[{}]", name.escape_debug())?,
            }
        }
        Ok(())
    }
}

/// A path while descending, without allocating: only an error makes a [`Path`] of it.
#[derive(Clone, Copy, Debug)]
pub struct At<'a> {
    outer: Option<&'a At<'a>>,
    step: Step<'a>,
}

#[derive(Clone, Copy, Debug)]
enum Step<'a> {
    Root,
    Field(&'a str),
    Index(usize),
}

impl<'a> At<'a> {
    /// The object as a whole.
    pub const ROOT: At<'static> = At { outer: None, step: Step::Root };

    /// A key of the mapping that is here.
    #[must_use]
    pub fn field(&'a self, name: &'a str) -> Self {
        At { outer: Some(self), step: Step::Field(name) }
    }

    /// A position in the list that is here, from 0.
    #[must_use]
    pub fn index(&'a self, index: usize) -> Self {
        At { outer: Some(self), step: Step::Index(index) }
    }

    /// The same path, owned.
    #[must_use]
    pub fn path(&self) -> Path {
        let mut path = self.outer.map_or_else(Path::default, Self::path);
        match self.step {
            Step::Root => {}
            Step::Field(name) => path.0.push(Segment::Field(name.into())),
            Step::Index(i) => path.0.push(Segment::Index(i)),
        }
        path
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prints_as_written() {
        let root = At::ROOT;
        assert_eq!(root.path().to_string(), "");
        let (spec, metadata) = (root.field("spec"), root.field("metadata"));
        let (rules, labels) = (spec.field("rules"), metadata.field("labels"));
        let first = rules.index(0);
        assert_eq!(first.field("from").path().to_string(), "spec.rules[0].from");
        assert_eq!(
            labels.field("app.kubernetes.io/name").path().to_string(),
            "metadata.labels[app.kubernetes.io/name]"
        );
        for text in
            ["", "spec.rules[0].from", "metadata.labels[app.kubernetes.io/name]", "spec.portLevelMtls.9090.mode"]
        {
            assert_eq!(Path::parse(text).to_string(), text);
        }
        assert_eq!(Path::parse("a[").to_string(), "a.");
        let inner = rules.index(1).path();
        assert_eq!(inner.inside(&At::ROOT.field("items").path()).to_string(), "items.spec.rules[1]");
    }
}
