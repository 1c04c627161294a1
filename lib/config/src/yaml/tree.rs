//! A parsed document: values with the lines they stand in. Keys are text, also those that YAML reads as other types,
//! because kubectl turns every document into JSON.

use std::{collections::BTreeMap, fmt};

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_saphyr::Spanned;

use crate::{Path, Segment};

/// A value and its line.
#[derive(Clone, Debug, PartialEq)]
pub struct Tree {
    /// The line, from 1; 0 where the parser does not know.
    pub line: u32,
    /// The value.
    pub value: Value,
}

/// The values of YAML, resolved as in YAML 1.1.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// `null`, `~` or nothing.
    Null,
    /// `true`, `yes`, `on` ...
    Bool(bool),
    /// A whole number.
    Int(i128),
    /// Any other number.
    Float(f64),
    /// Text.
    Text(String),
    /// A list.
    List(Vec<Tree>),
    /// A mapping in the order written, duplicates included.
    Map(Vec<(Key, Tree)>),
}

/// A key of a mapping.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Key {
    /// As JSON would have it.
    pub name: String,
    /// The line, from 1.
    pub line: u32,
}

/// A duplicate key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Duplicate {
    /// The key.
    pub path: Path,
    /// Its line.
    pub line: u32,
    /// The line of the first one.
    pub first_line: u32,
}

impl Value {
    /// For error messages.
    #[must_use]
    pub const fn describe(&self) -> &'static str {
        match self {
            Self::Null => "nothing",
            Self::Bool(_) => "a boolean",
            Self::Int(_) | Self::Float(_) => "a number",
            Self::Text(_) => "text",
            Self::List(_) => "a list",
            Self::Map(_) => "a mapping",
        }
    }
}

impl Tree {
    /// Nothing, nowhere.
    pub const NULL: Self = Self { line: 0, value: Value::Null };

    /// The value under a key, where this is a mapping that has it.
    #[must_use]
    pub fn field(&self, name: &str) -> Option<&Self> {
        match &self.value {
            Value::Map(entries) => entries.iter().find(|(k, _)| k.name == name).map(|(_, v)| v),
            _ => None,
        }
    }

    /// The text, where this is one.
    #[must_use]
    pub fn text(&self) -> Option<&str> {
        match &self.value {
            Value::Text(text) => Some(text),
            _ => None,
        }
    }

    /// The tree at a path.
    #[must_use]
    pub fn at(&self, path: &Path) -> Option<&Self> {
        path.segments().iter().try_fold(self, |tree, segment| match (segment, &tree.value) {
            (Segment::Field(name), _) => tree.field(name),
            (Segment::Index(i), Value::List(items)) => items.get(*i),
            (Segment::Index(_), _) => None,
        })
    }

    /// The line of a field; of the nearest thing around it where it does not exist.
    #[must_use]
    pub fn line_of(&self, path: &Path) -> u32 {
        let (mut here, mut line) = (self, self.line);
        for segment in path.segments() {
            let (next, at) = match (segment, &here.value) {
                (Segment::Field(name), Value::Map(entries)) => match entries.iter().find(|(k, _)| k.name == **name) {
                    Some((key, value)) => (value, key.line),
                    None => break,
                },
                (Segment::Index(i), Value::List(items)) => match items.get(*i) {
                    Some(item) => (item, item.line),
                    None => break,
                },
                _ => break,
            };
            (here, line) = (next, if at == 0 { line } else { at });
        }
        line
    }

    /// Every key that stands more than once in its mapping, in order.
    #[must_use]
    pub fn duplicates(&self) -> Vec<Duplicate> {
        let mut found = Vec::new();
        self.walk(&mut Vec::new(), &mut |at, tree| {
            let Value::Map(entries) = &tree.value else { return };
            let mut first: BTreeMap<&str, u32> = BTreeMap::new();
            for (key, _) in entries {
                let Some(first_line) = first.get(key.name.as_str()).copied() else {
                    first.insert(&key.name, key.line);
                    continue;
                };
                let path = at.iter().cloned().chain([Segment::Field(key.name.as_str().into())]).collect();
                found.push(Duplicate { path, line: key.line, first_line });
            }
        });
        found
    }

    /// The places of every key or list entry without a value, in order.
    #[must_use]
    pub fn nulls(&self) -> Vec<Path> {
        let mut found = Vec::new();
        self.walk(&mut Vec::new(), &mut |at, tree| {
            if tree.value == Value::Null {
                found.push(at.iter().cloned().collect());
            }
        });
        found
    }

    fn walk(&self, at: &mut Vec<Segment>, see: &mut impl FnMut(&[Segment], &Self)) {
        see(at, self);
        match &self.value {
            Value::List(items) => {
                for (i, item) in items.iter().enumerate() {
                    at.push(Segment::Index(i));
                    item.walk(at, see);
                    at.pop();
                }
            }
            Value::Map(entries) => {
                for (key, value) in entries {
                    at.push(Segment::Field(key.name.as_str().into()));
                    value.walk(at, see);
                    at.pop();
                }
            }
            _ => {}
        }
    }

    /// Lines of a document become lines of its file.
    pub(super) fn move_down(&mut self, lines: u32) {
        let moved = |line: u32| if line == 0 { 0 } else { line.saturating_add(lines) };
        self.line = moved(self.line);
        match &mut self.value {
            Value::List(items) => items.iter_mut().for_each(|i| i.move_down(lines)),
            Value::Map(entries) => {
                for (key, value) in entries {
                    key.line = moved(key.line);
                    value.move_down(lines);
                }
            }
            _ => {}
        }
    }
}

impl<'de> Deserialize<'de> for Tree {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let spanned = Spanned::<Value>::deserialize(d)?;
        Ok(Self { line: line(&spanned), value: spanned.value })
    }
}

impl<'de> Deserialize<'de> for Key {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let spanned = Spanned::<Value>::deserialize(d)?;
        let line = line(&spanned);
        let name = match spanned.value {
            Value::Null => "null".to_owned(),
            Value::Bool(b) => b.to_string(),
            Value::Int(n) => n.to_string(),
            Value::Float(n) => n.to_string(),
            Value::Text(text) => text,
            Value::List(_) | Value::Map(_) => {
                return Err(serde::de::Error::custom("a key must be a scalar"));
            }
        };
        Ok(Self { name, line })
    }
}

fn line<T>(spanned: &Spanned<T>) -> u32 {
    u32::try_from(spanned.referenced.line()).unwrap_or(0)
}

impl<'de> Deserialize<'de> for Value {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        d.deserialize_any(ValueVisitor)
    }
}

struct ValueVisitor;

impl<'de> Visitor<'de> for ValueVisitor {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a YAML value")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_none<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, b: bool) -> Result<Value, E> {
        Ok(Value::Bool(b))
    }

    fn visit_i64<E>(self, n: i64) -> Result<Value, E> {
        Ok(Value::Int(n.into()))
    }

    fn visit_u64<E>(self, n: u64) -> Result<Value, E> {
        Ok(Value::Int(n.into()))
    }

    fn visit_f64<E>(self, n: f64) -> Result<Value, E> {
        Ok(Value::Float(n))
    }

    fn visit_str<E>(self, text: &str) -> Result<Value, E> {
        Ok(Value::Text(text.to_owned()))
    }

    fn visit_string<E>(self, text: String) -> Result<Value, E> {
        Ok(Value::Text(text))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Value, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = seq.next_element()? {
            items.push(item);
        }
        Ok(Value::List(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        let mut entries = Vec::new();
        while let Some(key) = map.next_key::<Key>()? {
            entries.push((key, map.next_value()?));
        }
        Ok(Value::Map(entries))
    }
}
