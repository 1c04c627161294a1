//! The fields of a shape, as its own `Deserialize` asks for them: what a schema is made of is what objects are read with,
//! and no field can be in the one and not in the other.

use std::fmt;

use serde::{
    de::{
        self, Deserialize, DeserializeSeed, Deserializer, IntoDeserializer as _, MapAccess, SeqAccess, Visitor,
        value::StrDeserializer,
    },
    forward_to_deserialize_any,
};

/// What a shape reads.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) enum Outline {
    /// Anything; its value is not read.
    #[default]
    Open,
    /// Text.
    Text,
    /// A list of such entries.
    List(Box<Outline>),
    /// Values by any key.
    Map(Box<Outline>),
    /// Values by these keys.
    Fields(Vec<(&'static str, Outline)>),
}

/// The shape has a field of a type that no policy has had so far: a number, an enum.
#[derive(Debug)]
pub(super) struct NoOutline(String);

/// The outline of a shape.
///
/// # Errors
/// Where it reads what an [`Outline`] cannot say.
pub(super) fn outline<'de, T: Deserialize<'de>>() -> Result<Outline, NoOutline> {
    let mut outline = Outline::Open;
    T::deserialize(Tracer(&mut outline)).map(|_| outline)
}

impl fmt::Display for NoOutline {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for NoOutline {}

impl de::Error for NoOutline {
    fn custom<T: fmt::Display>(message: T) -> Self {
        Self(message.to_string())
    }
}

/// Gives a shape one of everything that it asks for, and notes what that was.
struct Tracer<'o>(&'o mut Outline);

impl<'de> Deserializer<'de> for Tracer<'_> {
    type Error = NoOutline;

    fn deserialize_any<V: Visitor<'de>>(self, _: V) -> Result<V::Value, NoOutline> {
        Err(NoOutline("neither text nor a list, a map or a struct".to_owned()))
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, NoOutline> {
        let mut outlines = Vec::new();
        let value = visitor.visit_map(Fields { left: fields, outlines: &mut outlines })?;
        *self.0 = Outline::Fields(outlines);
        Ok(value)
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, NoOutline> {
        let (mut entry, mut is_left) = (Outline::Open, true);
        let value = visitor.visit_map(Entry { is_left: &mut is_left, outline: &mut entry })?;
        *self.0 = Outline::Map(Box::new(entry));
        Ok(value)
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, NoOutline> {
        let (mut entry, mut is_left) = (Outline::Open, true);
        let value = visitor.visit_seq(Entry { is_left: &mut is_left, outline: &mut entry })?;
        *self.0 = Outline::List(Box::new(entry));
        Ok(value)
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, NoOutline> {
        visitor.visit_some(self)
    }

    fn deserialize_str<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, NoOutline> {
        *self.0 = Outline::Text;
        visitor.visit_str("")
    }

    fn deserialize_string<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, NoOutline> {
        self.deserialize_str(visitor)
    }

    fn deserialize_ignored_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, NoOutline> {
        visitor.visit_unit()
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char bytes byte_buf unit unit_struct newtype_struct tuple
        tuple_struct enum identifier
    }
}

/// Every field of a struct, once.
struct Fields<'o> {
    left: &'static [&'static str],
    outlines: &'o mut Vec<(&'static str, Outline)>,
}

impl<'de> MapAccess<'de> for Fields<'_> {
    type Error = NoOutline;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, NoOutline> {
        let Some((name, left)) = self.left.split_first() else { return Ok(None) };
        self.left = left;
        self.outlines.push((name, Outline::Open));
        let name: StrDeserializer<'_, NoOutline> = (*name).into_deserializer();
        seed.deserialize(name).map(Some)
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, NoOutline> {
        let mut other = Outline::Open;
        let outline = self.outlines.last_mut().map_or(&mut other, |(_, outline)| outline);
        seed.deserialize(Tracer(outline))
    }
}

/// One entry of a list, or of a map.
struct Entry<'o> {
    is_left: &'o mut bool,
    outline: &'o mut Outline,
}

impl<'de> SeqAccess<'de> for Entry<'_> {
    type Error = NoOutline;

    fn next_element_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>, NoOutline> {
        if !std::mem::take(self.is_left) {
            return Ok(None);
        }
        seed.deserialize(Tracer(self.outline)).map(Some)
    }
}

impl<'de> MapAccess<'de> for Entry<'_> {
    type Error = NoOutline;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, NoOutline> {
        if !std::mem::take(self.is_left) {
            return Ok(None);
        }
        let key: StrDeserializer<'_, NoOutline> = "".into_deserializer();
        seed.deserialize(key).map(Some)
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, NoOutline> {
        seed.deserialize(Tracer(self.outline))
    }
}
