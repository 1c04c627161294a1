//! Trees to shapes: a serde deserializer that is as strict as the API server. Text is text (a number or a boolean is
//! not), a key without a value is a field left out, and an error has the path in the object.

use std::{cell::RefCell, fmt, sync::Arc};

use serde::{
    de::{
        self, Deserialize, DeserializeSeed, Deserializer, IntoDeserializer, MapAccess, SeqAccess, Unexpected, Visitor,
    },
    forward_to_deserialize_any,
};

use super::{Key, Tree, Value};
use crate::{Fault, Path, Segment, hint::nearest, path::At};

/// The reason why a tree does not have the shape.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{path}: {fault}")]
pub struct ShapeError {
    /// The path.
    pub path: Path,
    /// The reason.
    pub fault: Fault,
}

/// A field that the shape does not have, near one that it has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnknownField {
    /// The path.
    pub path: Path,
    /// The one that was probably meant.
    pub meant: &'static str,
    /// All fields that the shape has there.
    pub known: &'static [&'static str],
}

/// Fields of Kubernetes that no shape has there and that are near one: no typos.
const NAMESAKES: [&str; 2] = ["appProtocol", "externalTrafficPolicy"];

/// Reads a shape.
///
/// # Errors
/// The first fault, with its path.
pub fn from_tree<'de, T: Deserialize<'de>>(tree: &'de Tree) -> Result<T, ShapeError> {
    with_unknown_fields(tree).map(|(shape, _)| shape)
}

/// Reads a shape that ignores other fields, and answers those of them that are probably misspelled.
///
/// # Errors
/// The first fault, with its path.
pub fn with_unknown_fields<'de, T: Deserialize<'de>>(tree: &'de Tree) -> Result<(T, Vec<UnknownField>), ShapeError> {
    let unknown = RefCell::default();
    let shape = T::deserialize(Reader { tree, at: &At::ROOT, unknown: &unknown })?;
    Ok((shape, unknown.into_inner()))
}

/// A tree with its path, and the unknown fields so far.
#[derive(Clone, Copy)]
struct Reader<'de, 'a> {
    tree: &'de Tree,
    at: &'a At<'a>,
    unknown: &'a RefCell<Vec<UnknownField>>,
}

impl ShapeError {
    fn new(fault: Fault) -> Self {
        Self { path: Path::default(), fault }
    }

    fn within(mut self, segment: Segment) -> Self {
        self.path.prefix(segment);
        self
    }
}

impl de::Error for ShapeError {
    fn custom<T: fmt::Display>(message: T) -> Self {
        Self::new(Fault::Syntax { message: message.to_string().into() })
    }

    fn invalid_type(found: Unexpected<'_>, expected: &dyn de::Expected) -> Self {
        let expected = match expected.to_string() {
            number if number == "i64" => "a whole number".into(),
            other => other.into(),
        };
        Self::new(Fault::WrongType { found: say(found), expected })
    }

    fn invalid_value(found: Unexpected<'_>, expected: &dyn de::Expected) -> Self {
        Self::invalid_type(found, expected)
    }

    fn unknown_field(field: &str, expected: &'static [&'static str]) -> Self {
        Self::new(Fault::UnknownField { meant: nearest(field, expected.iter().copied()), known: expected })
            .within(Segment::Field(field.into()))
    }
}

fn say(found: Unexpected<'_>) -> Arc<str> {
    match found {
        Unexpected::Bool(b) => format!("the boolean {b}").into(),
        Unexpected::Unsigned(n) => format!("the number {n}").into(),
        Unexpected::Signed(n) => format!("the number {n}").into(),
        Unexpected::Float(n) => format!("the number {n}").into(),
        Unexpected::Str(_) => "text".into(),
        Unexpected::Unit | Unexpected::Option => "nothing".into(),
        Unexpected::Seq => "a list".into(),
        Unexpected::Map => "a mapping".into(),
        Unexpected::Other(what) => what.into(),
        other => other.to_string().into(),
    }
}

impl Value {
    fn unexpected(&self) -> Unexpected<'_> {
        match self {
            Self::Null => Unexpected::Unit,
            Self::Bool(b) => Unexpected::Bool(*b),
            Self::Int(n) => match i64::try_from(*n) {
                Ok(n) => Unexpected::Signed(n),
                Err(_) => Unexpected::Other("a very large number"),
            },
            Self::Float(n) => Unexpected::Float(*n),
            Self::Text(text) => Unexpected::Str(text),
            Self::List(_) => Unexpected::Seq,
            Self::Map(_) => Unexpected::Map,
        }
    }
}

impl<'de, 'a> Reader<'de, 'a> {
    fn items(self, items: &'de [Tree]) -> Items<'de, 'a> {
        Items { rest: items.iter().enumerate(), around: self }
    }

    fn entries(self, entries: &'de [(Key, Tree)], skip_nulls: bool) -> Entries<'de, 'a> {
        Entries { rest: entries.iter(), current: None, skip_nulls, around: self }
    }

    fn find_unknown(self, entries: &[(Key, Tree)], known: &'static [&'static str]) {
        for (key, _) in entries {
            let name = key.name.as_str();
            if known.contains(&name) || NAMESAKES.contains(&name) {
                continue;
            }
            if let Some(meant) = nearest(name, known.iter().copied()) {
                self.unknown.borrow_mut().push(UnknownField { path: self.at.field(name).path(), meant, known });
            }
        }
    }
}

impl<'de> Deserializer<'de> for Reader<'de, '_> {
    type Error = ShapeError;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, ShapeError> {
        match &self.tree.value {
            Value::Null => visitor.visit_unit(),
            Value::Bool(b) => visitor.visit_bool(*b),
            Value::Int(n) => match i64::try_from(*n) {
                Ok(n) => visitor.visit_i64(n),
                Err(_) => visitor.visit_i128(*n),
            },
            Value::Float(n) => visitor.visit_f64(*n),
            Value::Text(text) => visitor.visit_borrowed_str(text),
            Value::List(items) => visitor.visit_seq(self.items(items)),
            Value::Map(entries) => visitor.visit_map(self.entries(entries, false)),
        }
    }

    fn deserialize_str<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, ShapeError> {
        match &self.tree.value {
            Value::Text(text) => visitor.visit_borrowed_str(text),
            // As in JSON for Go: null leaves the empty text.
            Value::Null => visitor.visit_borrowed_str(""),
            Value::Bool(_) | Value::Int(_) | Value::Float(_) => {
                Err(ShapeError::new(Fault::Unquoted { found: say(self.tree.value.unexpected()) }))
            }
            other => Err(de::Error::invalid_type(other.unexpected(), &"text")),
        }
    }

    fn deserialize_string<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, ShapeError> {
        self.deserialize_str(visitor)
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, ShapeError> {
        match &self.tree.value {
            Value::Null => visitor.visit_none(),
            _ => visitor.visit_some(self),
        }
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, ShapeError> {
        match &self.tree.value {
            Value::List(items) => visitor.visit_seq(self.items(items)),
            Value::Null => visitor.visit_seq(self.items(&[])),
            other => Err(de::Error::invalid_type(other.unexpected(), &"a list")),
        }
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, ShapeError> {
        match &self.tree.value {
            Value::Map(entries) => visitor.visit_map(self.entries(entries, false)),
            Value::Null => visitor.visit_map(self.entries(&[], false)),
            other => Err(de::Error::invalid_type(other.unexpected(), &"a mapping")),
        }
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, ShapeError> {
        match &self.tree.value {
            Value::Map(entries) => {
                self.find_unknown(entries, fields);
                visitor.visit_map(self.entries(entries, true))
            }
            Value::Null => visitor.visit_map(self.entries(&[], true)),
            other => Err(de::Error::invalid_type(other.unexpected(), &"a mapping")),
        }
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        visitor: V,
    ) -> Result<V::Value, ShapeError> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_ignored_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, ShapeError> {
        visitor.visit_unit()
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char bytes byte_buf unit unit_struct tuple tuple_struct
        enum identifier
    }
}

struct Items<'de, 'a> {
    rest: std::iter::Enumerate<std::slice::Iter<'de, Tree>>,
    around: Reader<'de, 'a>,
}

impl<'de> SeqAccess<'de> for Items<'de, '_> {
    type Error = ShapeError;

    fn next_element_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>, ShapeError> {
        let Some((i, tree)) = self.rest.next() else { return Ok(None) };
        seed.deserialize(Reader { tree, at: &self.around.at.index(i), ..self.around })
            .map(Some)
            .map_err(|e| e.within(Segment::Index(i)))
    }
}

struct Entries<'de, 'a> {
    rest: std::slice::Iter<'de, (Key, Tree)>,
    current: Option<&'de (Key, Tree)>,
    /// In a struct a key without a value is a field left out; in a map of texts it is an empty text.
    skip_nulls: bool,
    around: Reader<'de, 'a>,
}

impl<'de> MapAccess<'de> for Entries<'de, '_> {
    type Error = ShapeError;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, ShapeError> {
        let skip = self.skip_nulls;
        self.current = self.rest.find(|(_, value)| !(skip && value.value == Value::Null));
        let Some((key, _)) = self.current else { return Ok(None) };
        let key: de::value::StrDeserializer<'_, ShapeError> = key.name.as_str().into_deserializer();
        seed.deserialize(key).map(Some)
    }

    fn next_value_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<S::Value, ShapeError> {
        let Some((key, tree)) = self.current.take() else {
            return Err(de::Error::custom("a value was asked for before its key"));
        };
        let name = key.name.as_str();
        seed.deserialize(Reader { tree, at: &self.around.at.field(name), ..self.around })
            .map_err(|e| e.within(Segment::Field(name.into())))
    }
}
